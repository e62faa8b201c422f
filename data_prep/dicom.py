"""Your own DICOM studies to NIfTI: one file a volume, and one line for whatever is no volume.

    python -m data_prep.dicom SOURCE... --output DIR [--series PATTERN] [--modality MR] [--label NAME]
    python -m data_prep.dicom SOURCE... --list

A SOURCE is a folder, an archive (zip, tar, tar.gz) or a file; files need no suffix. By default every series of images
is converted but localisers, secondary captures, single slices and pictures without a place in the patient. Series that
hold several time points, echoes or stacks are split. Refused, in one line each that says what is wrong and where, are
series with a tilted gantry, missing or uneven slices, several orientations or sizes, slices that repeat a place, and
colours. DIR gets the volumes and `series.json`, which says what came from which series, and what did not and why.

Segmentations (DICOM-SEG) and contours (RTSTRUCT) among the sources become labels: a volume with labels goes into
`imagesTr`, its label map into `labelsTr`, and `dataset.json` tells the classes, ready for training. Every structure is
a class under its name, or with --label those that are named, in that order, a later one over an earlier:

    python -m data_prep.dicom SOURCE... --output DIR --modality CT --label liver --label "tumour=GTV*,*lesion*"

Of a fractional segmentation voxels count that are covered by half or more. Contours count in the slices in which they
lie; a contour within another of its structure is a hole. Refused are structures that overlap or share a name (without
--label), those on another grid than their series, between its slices or outside of it, and those without their series.

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

from data_prep.conversion import LABELS
from data_prep.dicom_index import describe, describe_labelled, file_of
from data_prep.dicom_labels import LabelClass, Labelling
from data_prep.dicom_study import Study, open_study
from data_prep.folders import require_new
from medsegdiff.data.datalist import DATASET_FILE
from medsegdiff.data.dicom.annotation import ANNOTATIONS
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
    labels: Sequence[str] = (),
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
        labels: the classes of labels, `NAME` or `NAME=PATTERN,PATTERN`; none for every structure that is found.
        keep_ids: put the PatientID into names and index, and leave descriptions as they are.

    Returns:
        What was converted, refused and skipped.

    Raises:
        SpecError: a label that names no structure.
        DataError: a source that is missing or cannot be read, none with a series to convert, or an output that is not
            empty or cannot be written.
    """
    output = Path(output)
    classes = [LabelClass.parse(text) for text in labels]
    require_new(output)
    with open_study(sources, series=series, modalities=modalities, keep_ids=keep_ids) as study:
        if not study.converted and study.is_whole:
            reasons = "; ".join(f"{item.name}: {item.skipped}" for item in study.skipped[:3])
            msg = (
                f"{', '.join(map(str, sources))}: got {len(study.items)} series and none to convert ({reasons}); "
                "allowed is one or more; see --list, and name what you want with --series or --modality"
            )
            raise DataError(msg)
        labelling = Labelling(study, classes)
        done: list[Item] = []
        labelled: dict[str, dict[str, int]] = {}
        try:
            for item in tqdm(study.items, desc="converting", unit="volume", disable=None):
                done.append(_convert(item, output, labelling, labelled))
        finally:
            # What was done until an interruption is worth an index too.
            study = replace(study, items=tuple(_with_outcome(item, labelling) for item in done))
            write_json(output / INDEX_FILE, describe(study, labelling, labelled, keep_ids=keep_ids))
        if labelled:
            write_json(output / DATASET_FILE, describe_labelled(study, labelling.class_names, labelled))
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
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME[=PATTERN,...]",
        help="a class of labels and the names of its structures; may be repeated, a later class lies over an earlier",
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
            labels=options.label,
            keep_ids=options.keep_ids,
        )
    except MedSegDiffError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return USER_ERROR_EXIT_CODE
    refused = len(study.refused) + len(study.damaged)
    pairs = sum(1 for _ in (options.output / LABELS).glob("*"))
    print(
        f"{options.output}: converted {len(study.converted)} volumes{f' ({pairs} with labels)' if pairs else ''}, "
        f"refused {refused}, skipped {len(study.skipped)}, see {INDEX_FILE}"
    )
    for line in [*(f"{item.name}: {item.refused}" for item in study.refused), *study.damaged]:
        print(f"  refused {line}")
    for item in study.skipped:
        print(f"  skipped {item.name}: {item.skipped}")
    return 0 if study.is_whole else USER_ERROR_EXIT_CODE


def _convert(item: Item, output: Path, labelling: Labelling, labelled: dict[str, dict[str, int]]) -> Item:
    """The item, refused if its pixels cannot be read; adds the voxels of each class to `labelled` if it has labels."""
    if item.grid is None:
        return item
    try:
        voxels = read_voxels(item.grid)
    except DataError as error:
        return replace(item, grid=None, refused=one_line(error))
    label = labelling.of(item)
    if label is None:
        _write_nifti(voxels, output / file_of(item, labelled), affine=item.grid.affine)
        return item
    counts = np.bincount(label.ravel(), minlength=len(labelling.class_names)).tolist()
    labelled[item.name] = dict(zip(labelling.class_names[1:], counts[1:], strict=True))
    # The label first: an image without its label would be taken for one to be segmented.
    _write_nifti(label, output / LABELS / f"{item.name}.nii.gz", affine=item.grid.affine)
    _write_nifti(voxels, output / file_of(item, labelled), affine=item.grid.affine)
    return item


def _with_outcome(item: Item, labelling: Labelling) -> Item:
    """An item of structures, by what became of them; another as it is."""
    if item.header.modality not in ANNOTATIONS or item.refused:
        return item
    skipped, refused, _ = labelling.outcome(item)
    return replace(item, skipped=skipped, refused=refused)


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


def _print_list(study: Study) -> None:
    names: dict[str, list[str]] = {}
    for file in study.label_files:
        names.setdefault(file.item, []).extend(map(study.shown, file.annotation.names))
    for item in study.items:
        state = f"skipped: {item.skipped}" if item.skipped else f"refused: {item.refused}"
        if not item.skipped and not item.refused and item.grid is None:
            state = f"labels: {', '.join(names[item.name])}"
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
