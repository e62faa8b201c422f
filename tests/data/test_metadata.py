"""MONAI's metadata on results."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer
from monai.transforms import Compose, Invertd, Orientationd, SpatialPadd

from medsegdiff.data.metadata import like_inputs
from medsegdiff.methods import RunSpec, build_segmenter


def test_plain_tensors_stay_plain():
    assert type(like_inputs(torch.ones(1), torch.ones(1))) is torch.Tensor


@pytest.mark.parametrize("method", ["recycling", "supervised"])
def test_what_a_segmenter_gives_to_stock_inferers_can_be_inverted(method):
    options = {"channels": [8, 8], "num_res_blocks": 0}
    spec = RunSpec("toy", method, "small", 3, 1, ["background", "organ"], [8, 8, 8], options=options)
    forth = Compose([Orientationd("image", axcodes="RAS", labels=None), SpatialPadd("image", (9, 9, 9))])
    affine = torch.diag(torch.tensor([-1.0, 2.0, 1.0, 1.0]))
    image = MetaTensor(torch.randn(1, 5, 6, 7), affine=affine, meta={"filename_or_obj": "a.nii.gz"})
    item = forth({"image": image})
    item["pred"] = SimpleInferer()(item["image"][None], build_segmenter(spec))[0]
    back = Invertd("pred", transform=forth, orig_keys="image", nearest_interp=False)(item)["pred"]
    assert back.shape == (2, 5, 6, 7)
    torch.testing.assert_close(back.affine, image.affine)
