"""A picture of a segmented scan: three orthogonal slices with outlines, and each structure's volume."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dsmseg.files import write_atomically
from dsmseg.report.panels import FAINT, TEXT, color_of, draw_view, new_figure
from dsmseg.report.views import count_by_slice, orthogonal_views
from dsmseg.taxonomy import CLASSES, StructureClass
from dsmseg.volume import Volume

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH_INCHES = 13.0
DPI = 150
GAP = 0.012
HEADER_INCHES = 0.62
ROW_INCHES = 0.27
LEGEND_COLUMNS = 4
LEGEND_GAP = 0.04
TIMES = " \N{MULTIPLICATION SIGN} "


def overview(
    volume: Volume,
    labels: NDArray[np.integer],
    path: Path,
    *,
    tumors: NDArray[np.integer] | None = None,
    title: str | None = None,
) -> None:
    """Write a PNG of the axial, coronal and sagittal slice that show most, in radiological convention.

    Args:
        volume: the scan, HU on a RAS grid.
        labels: taxonomy ids (X, Y, Z) on that grid.
        path: where the PNG goes.
        tumors: a second layer of taxonomy ids; a tumor is drawn over its organ.
        title: a line above the picture.

    Raises:
        InputError: matplotlib is not installed.
        OutputError: ``path`` cannot be written to.
    """
    figure = _draw(volume, [labels] if tumors is None else [labels, tumors], title)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=DPI))


def _draw(volume: Volume, layers: list[NDArray[np.integer]], title: str | None) -> "Figure":
    views = orthogonal_views(volume, layers)
    volumes = _volumes(layers, volume.grid.voxel_volume_ml)
    usable = WIDTH_INCHES * (1 - (len(views) + 1) * GAP)
    inches_per_mm = usable / sum(view.size_mm[0] for view in views)
    panel_mm = max(view.size_mm[1] for view in views)
    rows = -(-len(volumes) // LEGEND_COLUMNS)
    footer = ROW_INCHES * (rows + 1.4)
    height = HEADER_INCHES + panel_mm * inches_per_mm + footer
    figure = new_figure(WIDTH_INCHES, height)
    left = GAP
    for view in views:
        width = view.size_mm[0] * inches_per_mm / WIDTH_INCHES
        axes = figure.add_axes((left, footer / height, width, panel_mm * inches_per_mm / height))
        draw_view(axes, view, panel_mm)
        left += width + GAP
    _write_header(figure, volume, title, height)
    _write_legend(figure, volumes, height, footer)
    return figure


def _volumes(layers: list[NDArray[np.integer]], voxel_volume_ml: float) -> list[tuple[StructureClass, float]]:
    counts = sum(count_by_slice(layer, 2).sum(axis=0) for layer in layers)
    return [(known, counts[known.id] * voxel_volume_ml) for known in CLASSES if counts[known.id]]


def _write_header(figure: "Figure", volume: Volume, title: str | None, height: float) -> None:
    middle = 1 - HEADER_INCHES / 2 / height
    size = TIMES.join(str(count) for count in volume.array.shape)
    spacing = TIMES.join(f"{step:.3g}" for step in volume.spacing)
    figure.text(GAP, middle, title or "dsmseg", color=TEXT, fontsize=14, fontweight="bold", va="center")
    figure.text(1 - GAP, middle, f"{size} voxels of {spacing} mm", color=FAINT, fontsize=9, ha="right", va="center")


def _write_legend(figure: "Figure", volumes: list[tuple[StructureClass, float]], height: float, footer: float) -> None:
    from matplotlib.patches import Rectangle

    rows = -(-len(volumes) // LEGEND_COLUMNS)
    column = (1 - 2 * GAP + LEGEND_GAP) / LEGEND_COLUMNS
    for place, (known, amount) in enumerate(volumes):
        left = GAP + place // rows * column
        middle = (footer - ROW_INCHES * (place % rows + 1)) / height
        side = 0.105
        figure.add_artist(
            Rectangle(
                (left, middle - side / 2 / height),
                side / WIDTH_INCHES,
                side / height,
                transform=figure.transFigure,
                facecolor=color_of(known),
            )
        )
        figure.text(left + 0.014, middle, known.name, color=TEXT, fontsize=9.5, va="center")
        figure.text(
            left + column - LEGEND_GAP, middle, _milliliters(amount), color=FAINT, fontsize=9.5, ha="right", va="center"
        )
    note = (
        "Research software, not a medical device"
        if volumes
        else "Nothing found. Research software, not a medical device"
    )
    figure.text(1 - GAP, ROW_INCHES * 0.42 / height, note, color=FAINT, fontsize=7.5, ha="right", va="center")


def _milliliters(amount: float) -> str:
    return f"{amount:.1f} ml" if amount < 10 else f"{amount:,.0f} ml"
