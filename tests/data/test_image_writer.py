from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImaged

from medsegdiff.data.image_writer import GridWriter
from medsegdiff.errors import DataError
from medsegdiff.notice import short_notice

AFFINE = np.diag([0.8, 0.9, 2.5, 1.0])


def _result(tmp_path, channels=1, shift=0.0):
    original = nibabel.Nifti1Image(np.zeros((5, 4, 3), np.float32), AFFINE)
    original.set_sform(AFFINE, 4)
    nibabel.save(original, tmp_path / "case.1.nii.gz")
    meta = {"filename_or_obj": str(tmp_path / "case.1.nii.gz"), "original_affine": AFFINE, "spatial_shape": (5, 4, 3)}
    affine = torch.as_tensor(AFFINE) + shift
    return MetaTensor(torch.rand(channels, 5, 4, 3) + 1, affine=affine, meta=meta)


def _save(tmp_path, result, **options):
    settings = {"output_postfix": "", "separate_folder": False, "print_log": False, "writer": GridWriter, **options}
    SaveImaged("pred", output_dir=tmp_path / "out", **settings)({"pred": result})
    return nibabel.load(
        tmp_path / "out" / f"case.1{'_' * bool(settings['output_postfix'])}{settings['output_postfix']}.nii.gz"
    )


def test_monai_saves_through_it_with_the_header_of_the_original(tmp_path):
    result = _result(tmp_path, shift=1e-6)
    saved = _save(tmp_path, result)
    np.testing.assert_array_equal(saved.get_fdata(), result[0])
    np.testing.assert_array_equal(saved.affine, nibabel.load(tmp_path / "case.1.nii.gz").affine)
    assert int(saved.header["sform_code"]) == 4
    assert saved.header["descrip"].item() == short_notice().encode()


def test_channels_go_to_the_last_axis(tmp_path):
    result = _result(tmp_path, channels=3)
    saved = _save(tmp_path, result, output_postfix="probabilities")
    assert saved.shape == (5, 4, 3, 3) and saved.get_data_dtype() == np.float32


def test_a_whole_number_type_makes_a_label_map(tmp_path):
    assert _save(tmp_path, _result(tmp_path), output_dtype=np.uint8).get_data_dtype() == np.uint8


def test_a_result_on_another_grid_keeps_its_own(tmp_path):
    saved = _save(tmp_path, _result(tmp_path, shift=0.1))
    np.testing.assert_allclose(saved.affine[:3], (AFFINE + 0.1)[:3], atol=1e-6)


def test_without_data_there_is_nothing_to_write(tmp_path):
    with pytest.raises(DataError, match="there is nothing to write"):
        GridWriter().write(tmp_path / "a.nii.gz", verbose=False)
