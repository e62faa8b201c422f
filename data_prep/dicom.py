"""Your own DICOM studies to NIfTI: one file a volume, and one line for whatever is no volume.

    python -m data_prep.dicom SOURCE... --output DIR [--series PATTERN] [--modality MR]
    python -m data_prep.dicom SOURCE... --list

A SOURCE is a folder, an archive (zip, tar, tar.gz) or a file; files need no suffix. By default every series of images
is converted but localisers, secondary captures, single slices and pictures without a place in the patient. Series that
hold several time points, echoes or stacks are split. Refused, in one line each that says what is wrong and where, are
series with a tilted gantry, missing or uneven slices, several orientations or sizes, slices that repeat a place, and
colours. DIR gets the volumes and `series.json`, which says what came from which series, and what did not and why.

Names carry no patient: the case is a number, and words of the headers that name a patient or an examination are
taken out of descriptions. `series.json` holds SeriesInstanceUIDs, which lead back to the study where it is stored.
"""

from __future__ import annotations

import argparse
import gzip
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from data_prep.dicom_study import Study, open_study
from data_prep.folders import require_new
from medsegdiff import __version__
from medsegdiff.data.dicom.pixels import read_voxels
from medsegdiff.data.dicom.plan import Item
from medsegdiff.data.splits import write_json
from medsegdiff.errors import USER_ERROR_EXIT_CODE, DataError, MedSegDiffError, one_line
from medsegdiff.files import written_whole

INDEX_FILE = "series.json"
_ADVICE = "free space, or name another --output folder"
_SCANNER = 1  # NIfTI's code for coordinates of the scanner
_GZIP_LEVEL = 1  # more takes several times as long for a tenth of the size


def convert(
    sources: Sequence[str | Path],
    output: str | Path,
    *,
    series: Sequence[str] = (),
    modalities: Sequence[str] = (),
    keep_ids: bool = False,
) -> Study:
    """Write every volume of `sources` that is asked for and sound, and the index, to the new folder `output`.

    Volumes are stored as they are in space, without resampling: voxels in the order of columns, rows and slices, values
    rescaled as the headers say, the affine in RAS. Each file appears whole.

    Args:
        sources: folders, archives or files.
        output: a folder that is empty or does not exist.
        series: shell patterns of descriptions or SeriesInstanceUIDs; none for all volumes.
        modalities: such as MR; none for all.
        keep_ids: put the PatientID into names and index, and leave descriptions as they are.

    Returns:
        What was converted, refused and skipped.

    Raises:
        DataError: a source that is missing or cannot be read, none with a series to convert, or an output that is not
            empty or cannot be written.
    """
    output = Path(output)
    require_new(output)
    with open_study(sources, series=series, modalities=modalities, keep_ids=keep_ids) as study:
        if not study.converted and study.is_whole:
            reasons = "; ".join(f"{item.name}: {item.skipped}" for item in study.skipped[:3])
            msg = (
                f"{', '.join(map(str, sources))}: got {len(study.items)} series and none to convert ({reasons}); "
                "allowed is one or more; see --list, and name what you want with --series or --modality"
            )
            raise DataError(msg)
        done: list[Item] = []
        try:
            for item in tqdm(study.items, desc="converting", unit="volume", disable=None):
                done.append(_convert(item, output))
        finally:
            # What was done until an interruption is worth an index too.
            study = replace(study, items=tuple(done))
            write_json(output / INDEX_FILE, _index(study, keep_ids=keep_ids))
    return study


def survey(sources: Sequence[str | Path], *, series: Sequence[str] = (), modalities: Sequence[str] = ()) -> Study:
    """What `convert` would find, from the headers alone; arguments and errors as there."""
    with open_study(sources, series=series, modalities=modalities) as study:
        return study


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, 2 for what the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.dicom", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", type=Path, help="folder, archive or file")
    to_do = parser.add_mutually_exclusive_group(required=True)
    to_do.add_argument("--output", type=Path, help="new or empty folder")
    to_do.add_argument("--list", action="store_true", help="only say what there is")
    parser.add_argument(
        "--series",
        action="append",
        default=[],
        metavar="PATTERN",
        help="convert only series whose description or SeriesInstanceUID is this, such as 't2*'; may be repeated",
    )
    parser.add_argument(
        "--modality", action="append", default=[], help="convert only series of this, such as MR; may be repeated"
    )
    parser.add_argument("--keep-ids", action="store_true", help="put the PatientID into names and index")
    options = parser.parse_args(arguments)
    try:
        if options.list:
            _print_list(survey(options.sources, series=options.series, modalities=options.modality))
            return 0
        study = convert(
            options.sources,
            options.output,
            series=options.series,
            modalities=options.modality,
            keep_ids=options.keep_ids,
        )
    except MedSegDiffError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return USER_ERROR_EXIT_CODE
    refused = len(study.refused) + len(study.damaged)
    print(
        f"{options.output}: converted {len(study.converted)} volumes, refused {refused}, skipped {len(study.skipped)}, "
        f"see {INDEX_FILE}"
    )
    for line in [*(f"{item.name}: {item.refused}" for item in study.refused), *study.damaged]:
        print(f"  refused {line}")
    for item in study.skipped:
        print(f"  skipped {item.name}: {item.skipped}")
    return 0 if study.is_whole else USER_ERROR_EXIT_CODE


def _convert(item: Item, output: Path) -> Item:
    """The item, refused if its pixels cannot be read."""
    if item.grid is None:
        return item
    try:
        voxels = read_voxels(item.grid)
    except DataError as error:
        return replace(item, grid=None, refused=one_line(error))
    _write_nifti(voxels, output / f"{item.name}.nii.gz", affine=item.grid.affine)
    return item


def _write_nifti(voxels: NDArray[Any], path: Path, *, affine: NDArray[np.float64]) -> None:
    image = nibabel.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=_SCANNER)
    image.set_qform(affine, code=_SCANNER)
    with (
        written_whole(path, advice=_ADVICE) as partial,
        partial.open("wb") as file,
        # Without name and time in its header, the same study gives the same file.
        gzip.GzipFile(filename="", mode="wb", compresslevel=_GZIP_LEVEL, fileobj=file, mtime=0) as packed,
    ):
        image.to_stream(packed)


def _index(study: Study, *, keep_ids: bool) -> dict[str, Any]:
    return {
        "version": __version__,
        "converted": [{"file": f"{item.name}.nii.gz", **_facts(item, keep_ids=keep_ids)} for item in study.converted],
        "refused": [
            *({"name": item.name, **_facts(item, keep_ids=keep_ids), "reason": item.refused} for item in study.refused),
            *({"reason": line} for line in study.damaged),
        ],
        "skipped": [
            {"name": item.name, **_facts(item, keep_ids=keep_ids), "reason": item.skipped} for item in study.skipped
        ],
        "copies": study.copies,
        "not_dicom": study.ignored,
    }


def _facts(item: Item, *, keep_ids: bool) -> dict[str, Any]:
    facts = {
        "case": item.case,
        **({"patient_id": item.header.patient_id} if keep_ids else {}),
        "series_instance_uid": item.header.series_uid,
        "series_number": item.header.series_number,
        "description": item.description,
        "modality": item.header.modality,
        "part": item.part,
        "slices": item.slices,
    }
    if item.grid is None:
        return facts
    return facts | {
        "shape": list(item.grid.shape),
        "spacing": [round(edge, 6) for edge in item.grid.spacing],
        "orientation": "".join(nibabel.aff2axcodes(item.grid.affine)),
    }


def _print_list(study: Study) -> None:
    for item in study.items:
        state = f"skipped: {item.skipped}" if item.skipped else f"refused: {item.refused}"
        if item.grid is not None:
            size, edges = ("×".join(f"{n:.4g}" for n in numbers) for numbers in (item.grid.shape, item.grid.spacing))
            state = f"{size} voxels of {edges} mm"
        uid = item.header.series_uid or "without UID"
        print(f"{item.name}  {item.header.modality}  {item.description!r}  {uid}  {item.slices} slices  {state}")
    for line in study.damaged:
        print(f"refused: {line}")
    print(
        f"{len(study.converted)} volumes to convert, {len(study.refused) + len(study.damaged)} to refuse, "
        f"{len(study.skipped)} to skip; {study.copies} copies, {study.ignored} files that are not DICOM"
    )


if __name__ == "__main__":
    sys.exit(main())
