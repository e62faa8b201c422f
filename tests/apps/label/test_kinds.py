from __future__ import annotations

import pytest

from medsegdiff.apps.label.kinds import check_kind
from medsegdiff.errors import DataError


@pytest.mark.parametrize(
    ("modality", "kind"),
    [("MR", "MR"), ("CT", "CT"), ("DX", "CR"), ("CR", "DX"), ("SM", "H&E"), ("OT", ""), ("US", "US")],
)
def test_a_bundle_is_asked_about_images_as_it_learnt_from(modality, kind):
    check_kind(modality, kind, "bundle")


@pytest.mark.parametrize(("modality", "kind", "allowed"), [("CT", "MR", "MR"), ("", "CT", "CT"), ("MR", "CR", "DX")])
def test_a_series_of_another_kind_is_refused(modality, kind, allowed):
    with pytest.raises(DataError, match=f"modality {modality or 'none'}; knees segments .*{allowed}"):
        check_kind(modality, kind, "knees")
