"""A panel of a picture: one slice in radiological convention, the outlines of its classes, letters and a scale."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dsmseg.errors import InputError
from dsmseg.report.views import View
from dsmseg.taxonomy import CLASSES, StructureClass

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BACKGROUND = "#0b0e13"
PANEL = "#000000"
TEXT = "#e8ebf0"
FAINT = "#8a93a3"
SCALE_BAR_MM = 50.0


def new_figure(width: float, height: float) -> "Figure":
    """Give an empty figure of a size in inches, without a window.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "a picture needs matplotlib, which is not installed", mend='Install it: pip install "dsmseg[report]"'
        ) from error
    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    return figure


def color_of(known: StructureClass) -> tuple[float, float, float]:
    """Give the color of a class, each channel 0 to 1."""
    red, green, blue = known.color
    return red / 255, green / 255, blue / 255


def draw_view(axes: "Axes", view: View, panel_mm: float) -> None:
    """Draw a slice with the outlines of its classes, in the middle of a panel ``panel_mm`` high."""
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
    axes.contourf(across, up, padded.T, levels=[level, 2.0], colors=[color_of(known)], alpha=0.45 if tumor else 0.2)
    axes.contour(across, up, padded.T, levels=[level], colors=[color_of(known)], linewidths=1.7 if tumor else 1.4)


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
