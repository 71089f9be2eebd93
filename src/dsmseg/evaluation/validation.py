"""Weights on held-out scans: organs' Dice, tumors' Dice and lesion sensitivity, and the operating points they make.

Each scan is segmented once, the way predict does, and measured on the working grid. What stays of it are a few numbers
and its candidate lesions, so that any number of scans needs the memory of one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils import convert_conv3d_weight_memory_format

from dsmseg import checkpoint
from dsmseg.checkpoint import Card, OperatingPoint
from dsmseg.datasets.labelled import Labelled, LabelledCase, spread
from dsmseg.datasets.labelling import class_table, unknown_codes
from dsmseg.errors import InputError, WeightsError
from dsmseg.evaluation.candidates import Candidates, find_candidates, joined
from dsmseg.evaluation.operating_points import (
    AT_MOST_FALSE,
    FALSE_OF_UNSEEN,
    FALSE_PER_SCAN,
    LEAST_VOLUMES_ML,
    best,
    operating_point,
    outcomes,
    point_without_lesions,
    sensitivity_at,
)
from dsmseg.evaluation.overlap import count_overlap
from dsmseg.evaluation.planting import plant
from dsmseg.inference.runtime import Runtime, choose_runtime
from dsmseg.inference.working_maps import WorkingMaps, working_maps
from dsmseg.synthesis.noise import generator
from dsmseg.taxonomy import StructureClass, by_id, find
from dsmseg.volume import Volume, resample_onto

Value = TypeVar("Value")
_Number = TypeVar("_Number", bound=np.generic)

MOST_FOR_UNSEEN = 12
"""Cases that kinds without any label are computed on: many kinds, of which false lesions alone are counted."""

Progress = Callable[[int, int], None]
"""Is called with (cases done, cases in all)."""


@dataclass(frozen=True, slots=True, eq=False)
class CaseFindings:
    """What stays of one case.

    Attributes:
        organs: Dice of what the reference shows, by name; both sides of an organ where it merges them.
        tumors: candidates of each class that the reference annotates, by name.
        unseen: of each kind that no label showed the weights and that the scan is known to lack, by name.
        planted: it is a copy of a case, into which tumors were put: see `plant`.
    """

    organs: dict[str, float]
    tumors: dict[str, Candidates]
    unseen: dict[str, Candidates] = field(default_factory=dict)
    planted: bool = False


@dataclass(frozen=True, slots=True)
class TumorFigures:
    """Of one class: the lesions of the cases, and at one false lesion a scan the share found and the mean Dice."""

    lesions: int
    sensitivity: float
    dice: float


@dataclass(frozen=True, slots=True)
class Validation:
    """What weights do on the cases.

    Attributes:
        cases: how many.
        organs: mean Dice over the cases that show an organ, by name.
        tumors: of each class that a case shows, by name.
        points: of each class that a case annotates, by name.
    """

    cases: int
    organs: dict[str, float] = field(default_factory=dict)
    tumors: dict[str, TumorFigures] = field(default_factory=dict)
    points: dict[str, OperatingPoint] = field(default_factory=dict)

    @classmethod
    def of(cls, findings: Sequence[CaseFindings], false_per_scan: float = FALSE_PER_SCAN) -> "Validation":
        """Put cases together."""
        organs = {name: fmean(values) for name, values in _by_name(one.organs for one in findings).items()}
        candidates = {name: joined(ones) for name, ones in _by_name(one.tumors for one in findings).items()}
        tumors = {name: _figures(one) for name, one in candidates.items() if one.lesions}
        drawn = _by_name(one.tumors for one in findings if one.planted)
        points = {
            name: operating_point(one, false_per_scan).model_copy(
                update={"planted": sum(each.lesions for each in drawn.get(name, []))}
            )
            for name, one in candidates.items()
        }
        unseen = {name: joined(ones) for name, ones in _by_name(one.unseen for one in findings).items()}
        points |= {
            name: point_without_lesions(one, FALSE_OF_UNSEEN, LEAST_VOLUMES_ML[-1]) for name, one in unseen.items()
        }
        return cls(sum(not one.planted for one in findings), organs, tumors, points)

    @property
    def means(self) -> dict[str, float]:
        """Means over classes: of those of the three figures that there is anything to tell of."""
        groups = {
            "dice of organs": list(self.organs.values()),
            "dice of tumors": [one.dice for one in self.tumors.values()],
            "lesion sensitivity": [one.sensitivity for one in self.tumors.values()],
        }
        return {name: fmean(values) for name, values in groups.items() if values}

    @property
    def score(self) -> float:
        """The mean of `means`, by which weights are called the best."""
        return fmean(self.means.values()) if self.means else 0.0

    def on(self, card: Card) -> Card:
        """Give a card with these points; those of other classes stay."""
        return card.model_copy(update={"operating_points": card.operating_points | self.points})

    def figures(self) -> dict[str, float]:
        """Give all as a log holds it."""
        rows = {f"validation {name}": value for name, value in self.means.items()}
        rows |= {f"validation dice of {name}": value for name, value in self.organs.items()}
        for name, one in self.tumors.items():
            rows |= {f"validation dice of {name}": one.dice, f"validation sensitivity of {name}": one.sensitivity}
        return rows | {"validation score": self.score}


def validate(
    network: nn.Module,
    card: Card,
    cases: Sequence[LabelledCase],
    runtime: Runtime,
    *,
    unseen: bool = False,
    planted: int = 0,
    progress: Progress | None = None,
) -> Validation:
    """Segment and measure the cases.

    Args:
        network: filled with the weights of ``card``; it is left on the runtime's device, in evaluation mode.
        card: of the weights.
        cases: held-out, with labels.
        runtime: device and precision.
        unseen: kinds that no label showed the weights are computed too, on some of the cases, for their points.
        planted: so many copies of each case, with a tumor of each kind that it lacks put in, are measured beside it.
        progress: is called after each case.

    Raises:
        InputError: a case cannot be read or used.
    """
    placed = convert_conv3d_weight_memory_format(network.to(runtime.device).eval(), torch.channels_last_3d)
    findings = []
    asked = {id(case) for case in spread(cases, MOST_FOR_UNSEEN)} if unseen else set()
    for done, case in enumerate(cases, start=1):
        kinds = card.unseen if id(case) in asked else ()
        labelled = case.read()
        findings.append(look_at(labelled, placed, card, runtime, kinds))
        for number in range(planted):
            copy = plant(labelled, card, generator("planted", case.name, number))
            if copy is not None:
                findings.append(replace(look_at(copy, placed, card, runtime), planted=True))
        if progress is not None:
            progress(done, len(cases))
    return Validation.of(findings)


def calibrate(
    weights: str | Path,
    cases: Sequence[LabelledCase],
    *,
    planted: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Card:
    """Choose operating points on held-out cases, and write them on the card of ``weights``, which stay as they are.

    Points of classes that no case annotates stay too. ``planted`` as for `validate`.

    Raises:
        WeightsError: the weights are missing, damaged or know no tumor.
        InputError: a case cannot be read or used, or none annotates a tumor that the weights know.
        OutputError: the card cannot be written.
    """
    loaded = checkpoint.load(weights)
    if not loaded.card.tumors:
        mend = "Name weights of a Stage 2."
        raise WeightsError("knows no tumor, so there is nothing to choose", where=loaded.path, mend=mend)
    network, runtime = checkpoint.network(loaded), choose_runtime(device)
    found = validate(network, loaded.card, cases, runtime, unseen=True, planted=planted, progress=progress)
    if not found.points:
        what = f"none of the {len(cases)} cases annotates a tumor that the weights know"
        raise InputError(what, where=loaded.path, mend=f"They know: {', '.join(loaded.card.tumors)}.")
    card = found.on(loaded.card)
    checkpoint.replace_card(loaded.path, card)
    return card


def look_at(
    case: Labelled, network: nn.Module, card: Card, runtime: Runtime, kinds: Sequence[StructureClass] = ()
) -> CaseFindings:
    """Segment and measure one case. ``kinds``: of `Card.unseen`; those that the scan lacks are looked for."""
    lacking = [one for one in kinds if one.id in case.absent]
    maps = working_maps(network, card, case.image, runtime, unseen=lacking)
    reference = _Reference.on(maps, case)
    organs = {name: value for name, value in _organ_dice(maps, reference, card) if value is not None}
    tumors = {
        name: find_candidates(reference.known(scores), reference.mask(find(name).id), maps.grid.voxel_volume_ml)
        for name, scores in maps.tumors.items()
        if find(name).id in reference.annotated
    }
    voxel_ml = maps.grid.voxel_volume_ml
    unseen = {one.name: find_candidates(maps.tumors[one.name], None, voxel_ml) for one in lacking}
    return CaseFindings(organs, tumors, unseen)


@dataclass(frozen=True, slots=True, eq=False)
class _Reference:
    """What is known of a case, on the working grid; see `ClassLabels`."""

    codes: NDArray[np.integer]
    table: Bool[NDArray[np.bool_], "code class"]
    unknown: Bool[NDArray[np.bool_], "code"]
    annotated: frozenset[int]
    merged: tuple[tuple[int, int], ...]

    @classmethod
    def on(cls, maps: WorkingMaps, case: Labelled) -> "_Reference":
        """Bring labels to the working grid, each voxel the nearest."""
        labels, image = case.labels, case.image
        codes = resample_onto(Volume(labels.codes, image.affine, image.grid), maps.grid, nearest=True).array
        known = frozenset(labels.annotated)
        return cls(codes, class_table(labels.sets), unknown_codes(labels.sets), known, labels.merged)

    def mask(self, class_id: int) -> Bool[NDArray[np.bool_], "x y z"]:
        """Mark the voxels of a class."""
        marked: NDArray[np.bool_] = self.table[:, class_id - 1][self.codes]
        return marked

    def known(self, values: NDArray[_Number]) -> NDArray[_Number]:
        """Give values of the working grid that are 0 where the labels tell nothing: there is no right or wrong."""
        return np.where(self.unknown[self.codes], values.dtype.type(0), values) if self.unknown.any() else values


def _organ_dice(maps: WorkingMaps, reference: _Reference, card: Card) -> Iterator[tuple[str, float | None]]:
    """Give the Dice of each organ that the weights know and the case shows; of merged sides, of both together."""
    merged = {side: pair for pair in reference.merged for side in pair}
    known = {find(name).id for name in card.organs} & reference.annotated
    structures = {merged.get(one, (one,)) for one in known}
    for sides in sorted(one for one in structures if known.issuperset(one)):
        mask = np.logical_or.reduce([reference.mask(one) for one in sides])
        if mask.any():
            found = reference.known(np.isin(maps.organs, sides))
            yield " + ".join(by_id(one).name for one in sides), count_overlap(mask, found).dsc


def _figures(candidates: Candidates) -> TumorFigures:
    tried = list(outcomes(candidates))
    chosen = best(tried, candidates.lesions, AT_MOST_FALSE)
    dice = 0.0 if chosen is None else chosen.dice
    return TumorFigures(candidates.lesions, sensitivity_at(tried, AT_MOST_FALSE), dice)


def _by_name(rows: Iterable[dict[str, Value]]) -> dict[str, list[Value]]:
    """Gather what several have under the same name, in the order of the first."""
    gathered: dict[str, list[Value]] = {}
    for row in rows:
        for name, value in row.items():
            gathered.setdefault(name, []).append(value)
    return gathered
