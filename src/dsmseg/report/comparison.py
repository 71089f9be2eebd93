"""A picture of a prediction below its reference, in the same three slices."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsmseg.files import write_atomically
from dsmseg.report.panels import FAINT, TEXT, draw_view, new_figure
from dsmseg.report.views import orthogonal_views
from dsmseg.volume import Volume

_WIDTH_INCHES = 11.0
_DPI = 110
_GAP = 0.012
_TITLE_INCHES = 0.5


def comparison(
    volume: Volume,
    reference: Sequence[NDArray[np.integer]],
    prediction: Sequence[NDArray[np.integer]],
    path: Path,
    *,
    title: str,
) -> None:
    """Write a PNG of the slices that show most of both, in radiological convention: above the reference.

    Args:
        volume: the scan, HU on a RAS grid. reference, prediction: label maps (X, Y, Z) of taxonomy ids on that grid.
        path: where the PNG goes. title: a line above the picture.

    Raises:
        InputError: matplotlib is not installed.
        OutputError: ``path`` cannot be written to.
    """
    both = [*reference, *prediction]
    rows = {"reference": reference, "prediction": prediction}
    drawn = {name: orthogonal_views(volume, layers, both) for name, layers in rows.items()}
    views = drawn["reference"]
    inches_per_mm = _WIDTH_INCHES * (1 - (len(views) + 1) * _GAP) / sum(view.size_mm[0] for view in views)
    panel_mm = max(view.size_mm[1] for view in views)
    panel = panel_mm * inches_per_mm
    height = _TITLE_INCHES + len(rows) * (panel + _TITLE_INCHES / 2)
    figure = new_figure(_WIDTH_INCHES, height)
    figure.text(_GAP, 1 - _TITLE_INCHES / 2 / height, title, color=TEXT, fontsize=12, fontweight="bold", va="center")
    for number, (name, of_row) in enumerate(drawn.items(), start=1):
        bottom = height - _TITLE_INCHES - number * (panel + _TITLE_INCHES / 2)
        left = _GAP
        for view in of_row:
            width = view.size_mm[0] * inches_per_mm / _WIDTH_INCHES
            draw_view(figure.add_axes((left, bottom / height, width, panel / height)), view, panel_mm)
            left += width + _GAP
        middle = bottom + panel + _TITLE_INCHES / 4
        figure.text(_GAP, middle / height, name, color=FAINT, fontsize=10, va="center")
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=_DPI))
