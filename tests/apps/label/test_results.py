from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medsegdiff.apps.label.results import write_result
from medsegdiff.data.reading import read_image
from medsegdiff.errors import DataError, SpecError
from tests.apps.label.conftest import save

TURNED = np.array([[0.0, -1.2, 0, 5], [0.8, 0, 0, -3], [0, 0, 2.0, 9], [0, 0, 0, 1]])
LABEL = np.random.default_rng(0).integers(0, 3, (5, 6, 7))


@pytest.mark.parametrize("suffix", [".nrrd", ".nii.gz", ".nii"])
@pytest.mark.parametrize("affine", [np.diag([-1.0, -1.0, 3.0, 1.0]), TURNED], ids=["lps", "turned"])
def test_a_label_map_keeps_its_grid(tmp_path, suffix, affine):
    image = save(tmp_path / "a.nii.gz", LABEL.astype(np.float32), affine)
    path = write_result(LABEL, affine, image=image, request={"result_extension": suffix})
    raw = read_image(path)
    path.unlink()
    assert path.name.endswith(suffix)
    assert raw.dtype == np.uint8
    np.testing.assert_array_equal(raw.array, LABEL)
    np.testing.assert_allclose(raw.affine, affine, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "suffix"), [("a.nii", ".nii"), ("a.nrrd", ".nrrd"), ("a.mha", ".nrrd"), ("a.png", ".png")]
)
def test_without_a_wish_the_format_suits_the_image(tmp_path, image, suffix):
    label = LABEL[..., 0] if suffix == ".png" else LABEL
    save(tmp_path / "a.nii", label.astype(np.float32), np.eye(4))
    path = write_result(label, np.eye(4), image=tmp_path / image, request={})
    raw = read_image(path)
    path.unlink()
    assert path.suffix == suffix
    np.testing.assert_array_equal(raw.array, label)


def test_the_file_says_what_it_is_for_and_what_made_it(tmp_path):
    for suffix in (".nrrd", ".nii.gz"):
        request = {"result_extension": suffix}
        path = write_result(LABEL, np.eye(4), image=tmp_path / "a.nrrd", request=request, bundle="hippocampus")
        if suffix == ".nrrd":
            notice = sitk.ReadImage(str(path)).GetMetaData("notice")
        else:
            notice = nibabel.load(path).header["descrip"].item().decode()
        path.unlink()
        assert notice.startswith("research use only; medsegdiff")
        assert notice.endswith("hippocampus")


def test_what_cannot_be_written_is_told_and_leaves_no_file(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    with pytest.raises(SpecError, match="result_extension"):
        write_result(LABEL, np.eye(4), image=tmp_path / "a.nii", request={"result_extension": ".exe"})
    with pytest.raises(DataError, match="cannot be written"):  # like an image that has gone
        write_result(LABEL, np.eye(4), image=tmp_path / "gone.nii", request={})
    assert not list(scratch.iterdir())
    with pytest.raises(DataError, match="300 classes"):
        write_result(LABEL + 298, np.eye(4), image=tmp_path / "a.nii", request={})
