"""Pictures of the best, the median and the worst case of each group of structures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dsmseg.evaluation.evaluate import Evaluation
from dsmseg.evaluation.labels import Structure, is_tumor
from dsmseg.evaluation.maps import LabelMaps
from dsmseg.evaluation.measuring import CaseTask, load_case
from dsmseg.evaluation.tables import case_means
from dsmseg.files import replacing_folder
from dsmseg.volume import Volume, read_scan

_TISSUE_HU, _AIR_HU = 40.0, -1000.0
_GROUPS: tuple[Literal["organs", "tumors"], ...] = ("organs", "tumors")


def draw_pictures(directory: Path, evaluation: Evaluation) -> list[Path]:
    """Draw ``<group>_best.png``, ``_median`` and ``_worst``, by the mean DSC of a case; of one case ``_only``.

    A folder of an earlier run is replaced. Behind the outlines lies the scan where it is known, else a gray ground.

    Raises:
        InputError: matplotlib is not installed.
        OutputError: the folder cannot be written to.
    """
    tasks = {task.reference.name: task for task in evaluation.plan.tasks}
    with replacing_folder(directory) as folder:
        for group in _GROUPS:
            means = case_means(row for row in evaluation.rows if row.group == group)
            ranked = sorted((found["dsc"], case) for case, found in means.items() if "dsc" in found)
            for what, (dsc, case) in _chosen(ranked).items():
                _draw(folder / f"{group}_{what}.png", tasks[case], group, f"{case}: {group}, {what}, DSC {dsc:.3f}")
        names = sorted(path.name for path in folder.iterdir())
    return [directory / name for name in names]


def _chosen(ranked: Sequence[tuple[float, str]]) -> dict[str, tuple[float, str]]:
    """Give worst, median and best of cases in rising order; fewer where there are fewer cases."""
    if len(ranked) < 2:
        return {"only": ranked[0]} if ranked else {}
    places = {"best": len(ranked) - 1, "worst": 0, "median": (len(ranked) - 1) // 2}
    chosen: dict[str, tuple[float, str]] = {}
    for what, place in places.items():
        if ranked[place] not in chosen.values():
            chosen[what] = ranked[place]
    return chosen


def _draw(path: Path, task: CaseTask, group: str, title: str) -> None:
    from dsmseg.report.comparison import comparison

    case = load_case(task)
    structures = [one for one in task.structures if is_tumor(one) == (group == "tumors")]
    reference, prediction = (_label_map(maps, structures) for maps in (case.reference, case.prediction))
    if task.scan is not None:
        scan = read_scan(task.scan)
    else:
        ground = np.full(case.grid.shape, _AIR_HU, np.float32)
        ground[_margin(reference | prediction)] = _TISSUE_HU
        scan = Volume.from_own(ground, case.grid.affine)
    comparison(scan, [reference], [prediction], path, title=title)


def _label_map(maps: LabelMaps, structures: Sequence[Structure]) -> NDArray[np.uint8]:
    """Draw structures into one map, the first id of each; of several in a voxel the last one shows."""
    labels = np.zeros(maps.shape[::-1], np.uint8).T
    for structure in structures:
        if box := maps.box(structure):
            labels[box][maps.mask(structure, box)] = structure[0]
    return labels


def _margin(labels: NDArray[np.uint8]) -> tuple[slice, ...]:
    """Give a box around what is labelled, a fifth of the grid wider on each side."""
    sides = []
    for axis, size in enumerate(labels.shape):
        inside = np.flatnonzero(labels.any(axis=tuple({0, 1, 2} - {axis})))
        first, last = (int(inside[0]), int(inside[-1])) if inside.size else (0, size - 1)
        sides.append(slice(max(0, first - size // 5), last + 1 + size // 5))
    return tuple(sides)
