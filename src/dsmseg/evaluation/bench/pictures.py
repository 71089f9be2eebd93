"""What the methods found, side by side, in the manner of Figures 4 and 5: a row a tumor, a column a method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from numpy.typing import NDArray

from dsmseg.files import write_atomically
from dsmseg.report.panels import FAINT, TEXT, draw_view, new_figure
from dsmseg.report.views import View, orthogonal_views
from dsmseg.taxonomy import StructureClass, find
from dsmseg.volume import Volume

Mask = Bool[NDArray[np.bool_], "x y z"]

SENSITIVITY = 0.95  # of FPR95

_PANEL_INCHES = 2.6
_GAP_INCHES = 0.06
_TITLE_INCHES = 0.3
_LEFT_INCHES = 0.3
_DPI = 110


@dataclass(frozen=True, slots=True)
class Found:
    """What a method says of a tumor. mask: where it is. reach: what it takes to hold 95 % of it, see `reach_of`."""

    mask: Mask
    reach: Mask


def reach_of(scores: Float32[NDArray[np.float32], "x y z"], reference: Mask, body: Mask) -> Mask:
    """Give the voxels of the body that score as high as 95 % of the reference do: its part outside of it is FPR95."""
    least = np.quantile(scores[reference], 1 - SENSITIVITY, method="lower")
    reach: Mask = (scores >= least) & body
    return reach


@dataclass(frozen=True, slots=True)
class Shown:
    """A row of the picture: a case with a tumor, and what each method says of it, by the method's title."""

    title: str
    scan: Volume
    tumor: StructureClass
    reference: Mask
    found: Mapping[str, Found]


def draw_side_by_side(path: Path, rows: Sequence[Shown]) -> None:
    """Write a PNG: the axial slice that shows most of each tumor, in radiological convention, the reference first.

    Masks are filled in the tumor's color; the reach lies below them in its host's.

    Raises:
        InputError: matplotlib is not installed.
        OutputError: ``path`` cannot be written to.
    """
    titles = ["reference", *rows[0].found]
    width = _LEFT_INCHES + len(titles) * (_PANEL_INCHES + _GAP_INCHES)
    views = [
        [_axial(row, row.reference), *(_axial(row, one.mask, one.reach) for one in row.found.values())] for row in rows
    ]
    scale = [_PANEL_INCHES / of_row[0].size_mm[0] for of_row in views]
    heights = [of_row[0].size_mm[1] * inches for of_row, inches in zip(views, scale, strict=True)]
    height = _TITLE_INCHES + sum(heights) + _GAP_INCHES * len(rows)
    figure = new_figure(width, height)
    for number, title in enumerate(titles):
        middle = _LEFT_INCHES + number * (_PANEL_INCHES + _GAP_INCHES) + _PANEL_INCHES / 2
        figure.text(middle / width, 1 - _TITLE_INCHES / 2 / height, title, color=TEXT, ha="center", va="center")
    top = height - _TITLE_INCHES
    for row, of_row, panel in zip(rows, views, heights, strict=True):
        bottom = top - panel
        style: dict[str, Any] = {"rotation": 90, "color": FAINT, "ha": "center", "va": "center"}
        figure.text(_LEFT_INCHES / 2 / width, (bottom + panel / 2) / height, row.title, fontsize=9, **style)
        for number, view in enumerate(of_row):
            left = _LEFT_INCHES + number * (_PANEL_INCHES + _GAP_INCHES)
            place = (left / width, bottom / height, _PANEL_INCHES / width, panel / height)
            draw_view(figure.add_axes(place), view, view.size_mm[1])
        top = bottom - _GAP_INCHES
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=_DPI))


def _axial(row: Shown, mask: Mask, reach: Mask | None = None) -> View:
    def labelled(where: Mask, one: StructureClass) -> UInt8[NDArray[np.uint8], "x y z"]:
        return where.astype(np.uint8) * np.uint8(one.id)

    below = [] if reach is None else [labelled(reach, find(row.tumor.hosts[0]))]
    return orthogonal_views(row.scan, [*below, labelled(mask, row.tumor)], [labelled(row.reference, row.tumor)])[0]
