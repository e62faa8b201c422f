from __future__ import annotations

from medsegdiff import __version__
from medsegdiff.notice import short_notice


def test_the_short_notice_fits_a_nifti_header_whatever_the_bundle_is_called():
    assert short_notice("hippocampus") == f"research use only; medsegdiff {__version__} hippocampus"
    assert short_notice() == f"research use only; medsegdiff {__version__}"
    for length in (20, 21):
        notice = short_notice("a" * length + "ß" * 40)  # of two bytes, none of which is cut in half
        assert 78 <= len(notice.encode()) <= 79
