"""Cases whose images and labels have the same names in two folders beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from data_prep.conversion import IMAGES, LABELS, Misfit
from data_prep.volumes import VolumeCase
from medsegdiff.data.datalist import Pairing, pair_files


def paired_volumes(
    files: Mapping[str, Path], *, modality: str, images: str = IMAGES, labels: str = LABELS, part: str | None = None
) -> tuple[list[VolumeCase], list[Misfit]]:
    """The cases of two folders, and files that are no case.

    Args:
        files: of the source, by their names in it.
        modality: of the images.
        images: name of the folder of images; of several, the one that lies least deep counts.
        labels: of the folder of labels beside it.
        part: that the publication names for them.
    """
    # With one folder alone, its files are at least named as misfits.
    root = common_root(files, images, labels) or common_root(files, images) or common_root(files, labels)
    if root is None:
        return [], []
    pairing = pair_files(root / images, root / labels)
    cases = [
        VolumeCase(name=name, images={modality: image}, label=label, part=part)
        for name, (image, label) in pairing.pairs.items()
    ]
    return cases, _not_one_pair(pairing)


def common_root(files: Mapping[str, Path], *folders: str) -> Path | None:
    """The folder that holds all of these folders, if any does; of several, the one that lies least deep."""
    holders: dict[PurePosixPath, set[str]] = {}
    paths: dict[PurePosixPath, Path] = {}
    for name, path in files.items():
        folder = PurePosixPath(name).parent
        if folder.name in folders:
            holders.setdefault(folder.parent, set()).add(folder.name)
            paths[folder.parent] = path.parent.parent
    roots = [root for root, held in holders.items() if held.issuperset(folders)]
    return paths[min(roots, key=lambda root: (len(root.parts), root))] if roots else None


def _not_one_pair(pairing: Pairing) -> list[Misfit]:
    repeated = {case: ", ".join(map(str, paths)) for case, paths in pairing.repeated.items()}
    return [
        *(Misfit(case, f"{path}: an image without a label") for case, path in pairing.images_without_label.items()),
        *(Misfit(case, f"{path}: a label without an image") for case, path in pairing.labels_without_image.items()),
        *(Misfit(case, f"{paths}: several files of one case") for case, paths in repeated.items()),
    ]
