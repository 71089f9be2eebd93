"""A picture of a segmented scan: three orthogonal slices with outlines, and each structure's volume."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dsmseg.errors import InputError
from dsmseg.files import write_atomically
from dsmseg.report.views import View, count_by_slice, orthogonal_views
from dsmseg.taxonomy import CLASSES, StructureClass
from dsmseg.volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BACKGROUND = "#0b0e13"
PANEL = "#000000"
TEXT = "#e8ebf0"
FAINT = "#8a93a3"
WIDTH_INCHES = 13.0
DPI = 150
GAP = 0.012
HEADER_INCHES = 0.62
ROW_INCHES = 0.27
LEGEND_COLUMNS = 4
LEGEND_GAP = 0.04
SCALE_BAR_MM = 50.0
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
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "a picture needs matplotlib, which is not installed", mend='Install it: pip install "dsmseg[report]"'
        ) from error
    views = orthogonal_views(volume, layers)
    volumes = _volumes(layers, volume.grid.voxel_volume_ml)
    usable = WIDTH_INCHES * (1 - (len(views) + 1) * GAP)
    inches_per_mm = usable / sum(view.size_mm[0] for view in views)
    panel_mm = max(view.size_mm[1] for view in views)
    rows = -(-len(volumes) // LEGEND_COLUMNS)
    footer = ROW_INCHES * (rows + 1.4)
    height = HEADER_INCHES + panel_mm * inches_per_mm + footer
    figure = Figure(figsize=(WIDTH_INCHES, height), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    left = GAP
    for view in views:
        width = view.size_mm[0] * inches_per_mm / WIDTH_INCHES
        axes = figure.add_axes((left, footer / height, width, panel_mm * inches_per_mm / height))
        _draw_view(axes, view, panel_mm)
        left += width + GAP
    _write_header(figure, volume, title, height)
    _write_legend(figure, volumes, height, footer)
    return figure


def _volumes(layers: list[NDArray[np.integer]], voxel_volume_ml: float) -> list[tuple[StructureClass, float]]:
    counts = sum(count_by_slice(layer, 2).sum(axis=0) for layer in layers)
    return [(known, counts[known.id] * voxel_volume_ml) for known in CLASSES if counts[known.id]]


def _color(known: StructureClass) -> tuple[float, float, float]:
    red, green, blue = known.color
    return red / 255, green / 255, blue / 255


def _draw_view(axes: "Axes", view: View, panel_mm: float) -> None:
    width, height = view.size_mm
    axes.set_facecolor(PANEL)
    axes.imshow(
        view.brightness.T,
        cmap="gray",
        vmin=0,
        vmax=1,
        origin="lower",
        interpolation="bicubic",
        extent=(0, width, 0, height),
        aspect="auto",
    )
    for known in CLASSES:
        if known.id in view.masks:
            _outline(axes, view.masks[known.id], view.size_mm, known)
    blank = (panel_mm - height) / 2
    # RAS indices grow to the patient's right and front; both belong at the left of the picture.
    axes.set_xlim(width, 0)
    axes.set_ylim(-blank, height + blank)
    axes.set_axis_off()
    axes.add_artist(axes.patch)
    axes.patch.set_zorder(-1)
    _write_marks(axes, view)


def _outline(axes: "Axes", mask: NDArray[np.float32], size_mm: tuple[float, float], known: StructureClass) -> None:
    # Smoothing lowers the peak of what is thinner than it: half the peak keeps its outline.
    level = 0.5 * min(1.0, float(mask.max()))
    # A rim of zeros closes the outline of a structure that the picture's edge cuts.
    padded = np.pad(mask, 1)
    across, up = (
        (np.arange(count + 2) - 0.5) * length / count for count, length in zip(mask.shape, size_mm, strict=True)
    )
    tumor = known.kind == "tumor"
    axes.contourf(across, up, padded.T, levels=[level, 2.0], colors=[_color(known)], alpha=0.45 if tumor else 0.2)
    axes.contour(across, up, padded.T, levels=[level], colors=[_color(known)], linewidths=1.7 if tumor else 1.4)


def _write_marks(axes: "Axes", view: View) -> None:
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=2.2, foreground=PANEL)]
    style: dict[str, Any] = {"transform": axes.transAxes, "color": TEXT, "path_effects": halo, "va": "center"}
    left, right, top, bottom = view.marks
    for across, up, letter in ((0.02, 0.5, left), (0.98, 0.5, right), (0.5, 0.975, top), (0.5, 0.025, bottom)):
        axes.text(across, up, letter, fontsize=9, fontweight="bold", ha="center", **style)
    axes.text(0.013, 0.975, view.name, fontsize=9, ha="left", **style)
    share = SCALE_BAR_MM / view.size_mm[0]
    if share < 0.9:
        axes.plot(
            [0.985 - share, 0.985],
            [0.025, 0.025],
            color=TEXT,
            linewidth=1.6,
            path_effects=halo,
            transform=axes.transAxes,
        )
        axes.text(0.985 - share / 2, 0.05, "5 cm", fontsize=8, ha="center", **style)


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
                facecolor=_color(known),
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
