"""The error of a volume in space, on the surface of the truth."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from medsegdiff.compare.analysis.drawing import OVER, UNDER, WIDTH
from medsegdiff.compare.analysis.pictures import Snapshot
from medsegdiff.figures import new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_FACES = 40_000
"""Triangles of a surface, beyond which it is drawn from coarser cells."""


def surface_figure(snapshot: Snapshot) -> Figure | None:
    """The surface of the truth, coloured by the signed distance to that of the prediction (Fu et al. 2023, Figure 6).

    All classes are one structure. Blue: the truth lies outside of the prediction, which misses it; orange: the
    prediction goes beyond the truth. None in 2-D, and where truth or prediction is empty or all there is.
    """
    truth, prediction = snapshot.truth > 0, snapshot.prediction > 0
    if truth.ndim == 2 or not truth.any() or not prediction.any() or truth.all() or prediction.all():
        return None
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, Normalize
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    vertices, faces, distance = surface_error(truth, prediction, snapshot.spacing)
    most = max(float(np.quantile(np.abs(distance), 0.99)), float(min(snapshot.spacing)))
    colours = ScalarMappable(
        Normalize(-most, most), LinearSegmentedColormap.from_list("error", [OVER, "#f4f1ec", UNDER])
    )
    with styled():
        figure = new_figure(WIDTH, 2.9)
        views = ((20, -60), (20, 120))
        corners = vertices[faces]  # (faces, 3, 3)
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
        for number, (elevation, azimuth) in enumerate(views, start=1):
            ax: Any = figure.add_subplot(1, len(views), number, projection="3d")
            rgba = colours.to_rgba(distance[faces].mean(axis=1))
            rgba[:, :3] *= (0.75 + 0.25 * np.abs(normals @ _direction(elevation + 25, azimuth - 35)))[:, None]
            rgba = np.clip(rgba, 0, 1)
            ax.add_collection3d(Poly3DCollection(corners, facecolors=rgba, edgecolors=rgba, linewidths=0.3))
            low, high = vertices.min(axis=0), vertices.max(axis=0)
            ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
            ax.set_box_aspect(high - low, zoom=1.25)
            ax.view_init(elevation, azimuth)
            ax.set_axis_off()
        bar = figure.colorbar(colours, ax=figure.axes, shrink=0.75, aspect=16, pad=0.02)
        bar.set_label("mm: beyond the truth (−), missed (+)", fontsize=8)
        bar.outline.set_visible(False)
    return figure


def surface_error(
    truth: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing: tuple[float, ...]
) -> tuple[NDArray[np.float64], NDArray[np.integer], NDArray[np.float64]]:
    """The surface of the truth and how far each of its points lies from the surface of the prediction.

    Args:
        truth: mask (X, Y, Z), neither empty nor full.
        prediction: mask (X, Y, Z), neither empty nor full.
        spacing: of the voxels, in mm.

    Returns:
        Vertices (V, 3) in mm, faces (F, 3) as numbers of vertices, and signed distances (V,) in mm to the next vertex
        of the prediction's surface, above 0 where the vertex lies outside of the prediction.
    """
    # Cut to the structures, which are mostly a small part of a volume.
    found = np.argwhere(truth | prediction)
    low = found.min(axis=0)
    box = tuple(slice(a, b + 1) for a, b in zip(low, found.max(axis=0), strict=True))
    vertices, faces = _surface(truth[box], spacing, step=1)
    if (step := math.isqrt(len(faces) // _MOST_FACES)) > 1:
        with contextlib.suppress(RuntimeError):  # nothing is left of a thin sheet in steps that are thicker
            vertices, faces = _surface(truth[box], spacing, step=step)
    other, _ = _surface(prediction[box], spacing, step=1)
    distance, _ = KDTree(other).query(vertices)  # (V,)
    inside = ndimage.map_coordinates(prediction[box].astype(np.float32), (vertices / spacing).T, order=1) > 0.5
    return vertices + low * np.asarray(spacing), faces, np.where(inside, -distance, distance)


def _surface(
    mask: NDArray[np.bool_], spacing: tuple[float, ...], *, step: int
) -> tuple[NDArray[np.float64], NDArray[np.integer]]:
    """Vertices (V, 3) in mm from the first voxel of a mask, and faces (F, 3)."""
    from skimage.measure import marching_cubes

    # A rim of background closes the surface where the structure reaches the edge.
    vertices, faces, _, _ = marching_cubes(np.pad(mask, step).astype(np.float32), 0.5, spacing=spacing, step_size=step)
    return vertices - step * np.asarray(spacing), faces


def _direction(elevation: float, azimuth: float) -> NDArray[np.float64]:
    """Unit vector (3,) that points to a viewer at these degrees."""
    e, a = np.deg2rad(elevation), np.deg2rad(azimuth)
    return np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
