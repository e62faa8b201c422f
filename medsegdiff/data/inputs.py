"""Which images to segment: from what the user names to one path and one name a case."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.utils import ensure_tuple

from medsegdiff.data.modalities import Modalities, group_modalities, image_name
from medsegdiff.data.reading import IMAGE_SUFFIXES, case_name, image_suffix
from medsegdiff.errors import DataError

# Folders of the Medical Segmentation Decathlon that hold images to segment, the unlabelled ones first.
MSD_FOLDERS = ("imagesTs", "imagesTr", "images")


def find_images(path: str | Path) -> list[Path]:
    """The images that a path stands for, each one case.

    A file stands for itself; a folder of DICOM files for the one series in it; another folder for the images in it,
    or, where it has none, for those in its `imagesTs`, else `imagesTr`, else `images`. Hidden files are left out.

    Args:
        path: a file or folder.

    Returns:
        Paths of image files, or of one folder with a DICOM series, sorted by name.

    Raises:
        DataError: nothing is there, the folder holds no image, or both images and DICOM files.
    """
    path = Path(path)
    if not path.is_dir():
        if not path.exists():
            msg = f"{path}: there is no such file or folder; give the path of an image or of a folder of images"
            raise DataError(msg)
        return [path]
    images, dicom = _images_in(path), _has_dicom(path)
    if images and dicom:
        msg = (
            f"{path}: got a folder with both DICOM files and {len(images)} other images; allowed is one or the other; "
            "give the images by their paths, or put the series into a folder of its own"
        )
        raise DataError(msg)
    if dicom:
        return [path]
    for folder in MSD_FOLDERS:
        images = images or _images_in(path / folder)
    if not images:
        msg = (
            f"{path}: got a folder without images; allowed are {', '.join(IMAGE_SUFFIXES)} files or one DICOM series "
            "in it or in its imagesTs, imagesTr or images; check the path"
        )
        raise DataError(msg)
    return images


def find_cases(
    path: str | Path, modalities: Modalities | None = None, *, misfits: list[DataError] | None = None
) -> list[list[Path]]:
    """The files of each case that a path stands for: one file, or one folder with a DICOM series, or one a channel.

    Args:
        path: a file or folder, see `find_images`.
        modalities: names of the channels, for images that have a file a channel, see `group_modalities`; such files
            may lie in the folder or in a folder for each case.
        misfits: takes what is wrong with single cases, see `group_modalities`.

    Raises:
        DataError: see `find_images` and `group_modalities`.
    """
    if modalities and Path(path).is_dir():
        folders = [Path(path), *sorted(folder for folder in Path(path).iterdir() if folder.is_dir())]
        files, known = [file for folder in folders for file in _images_in(folder)], len(misfits or ())
        cases = group_modalities(files, modalities, misfits=misfits)
        if cases or len(misfits or ()) > known:
            return list(cases.values())
    return [[image] for image in find_images(path)]


def image_datalist(dataset_dir: str | Path | None, modalities: Modalities | None = None) -> list[dict[str, Any]]:
    """The images of a folder as MONAI's data list, `{"image": path}` each; empty where no folder is given.

    Empty, so that a bundle can be inspected without data; its run asks `require_images` first.

    Args:
        dataset_dir: a folder, or the path of one image.
        modalities: see `find_cases`; where an image has a file a channel, "image" is a list of paths.

    Raises:
        DataError: see `find_cases`.
    """
    if dataset_dir is None:
        return []
    cases = find_cases(dataset_dir, modalities)
    return [{"image": str(files[0]) if len(files) == 1 else [str(file) for file in files]} for files in cases]


def require_images(
    dataset_dir: str | Path | None, output_dir: str | Path, modalities: Modalities | None = None
) -> None:
    """Refuse to run without images, or where a result would replace an image or another result.

    Raises:
        DataError: no folder is given, none with images, images of one name, or `output_dir` is where they lie.
    """
    if dataset_dir is None:
        msg = "no images to segment; give --dataset_dir a folder of images, or the path of one image"
        raise DataError(msg)
    images = [Path(ensure_tuple(item["image"])[0]) for item in image_datalist(dataset_dir, modalities)]
    for image, name in zip(images, unique_names(images), strict=True):
        if name != case_name(image):
            msg = f"{image}: got a second case of this name, whose result would replace the first; rename one of them"
            raise DataError(msg)
    if any(image.is_file() and image.parent.resolve() == Path(output_dir).resolve() for image in images):
        msg = f"{output_dir}: this is the folder of the images, which results would replace; name another --output_dir"
        raise DataError(msg)


def unique_names(paths: Sequence[Path], modalities: Modalities | None = None) -> list[str]:
    """A name for each case: the file's without suffix, with the names of its folders before it where those clash.

    `a/t1.nii.gz` and `b/t1.nii.gz` become `a_t1` and `b_t1`.

    Args:
        paths: the file of each case, or the first of its files.
        modalities: names of the channels, which are taken off the names of files, see `image_name`.

    Raises:
        DataError: two paths that no folder tells apart.
    """
    # Links keep their own names: what they lead to is often called after its content (git-annex).
    absolute = [Path(os.path.abspath(path)) for path in paths]
    depths = [0] * len(paths)
    own_names = [image_name(path, modalities) for path in absolute]
    names = list(own_names)
    while clashing := [index for index, name in enumerate(names) if names.count(name) > 1]:
        for index in clashing:
            depths[index] += 1
            folders = absolute[index].parent.parts[1:]
            if depths[index] > len(folders):
                twins = [str(paths[other]) for other in clashing if names[other] == names[index]]
                msg = (
                    f"got {' and '.join(twins)}, whose results would have one name; allowed is one input a name; "
                    "rename one, or segment them into different folders"
                )
                raise DataError(msg)
            names[index] = "_".join([*folders[-depths[index] :], own_names[index]])
    return names


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and image_suffix(path) is not None and not path.name.startswith(".")
    )


def _has_dicom(folder: Path) -> bool:
    from medsegdiff.data.dicom.headers import is_dicom

    return any(
        is_dicom(path)
        for path in folder.iterdir()
        if path.is_file() and image_suffix(path) is None and not path.name.startswith(".")
    )
