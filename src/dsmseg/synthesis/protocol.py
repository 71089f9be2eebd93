"""The paper's protocol with virtual data sets: which there are, what each annotates, and the plan of every case.

Each is like a public data set: it annotates the same classes, merges the same sides, and takes the same part in
training. What differs, and all numbers, is in ``protocol.toml``. The plan of a case follows from the benchmark's scale
and seed, its data set and its number alone; no body is in two benchmarks, since another scale splits otherwise.

Tumors are stratified: in every part the cases share out the kind's variants in proportion to how often these occur, and
each variant takes the bins of diameter in turn, so that no part tests or trains on what the other never shows.
"""

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any, Literal, get_args

from numpy.random import Generator

from dsmseg.datasets.description import Description, Part, by_name
from dsmseg.datasets.splits import Assignment
from dsmseg.errors import InputError
from dsmseg.synthesis.noise import generator, seed_of
from dsmseg.synthesis.tumors.kinds import variants_of
from dsmseg.taxonomy import find

Scale = Literal["mini", "small", "full"]

_PARTS: tuple[Part, ...] = get_args(Part)
_OF_TABLE_1 = _PARTS[:3]  # the paper has no part for validation
_BYTES_A_GB = 1 << 30


@dataclass(frozen=True, slots=True)
class Label:
    """A label of a label map, and the ids of the classes that it holds: one, or both sides of an organ."""

    name: str
    classes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class VirtualSet:
    """A virtual data set, see protocol.toml. like: the public one that it mirrors.

    healthy: by part, every so many-th case grows no tumor; a part that is not there has none such.
    """

    name: str
    like: Description
    coverage: tuple[str, ...]
    phases: tuple[str, ...]
    tumors: tuple[str, ...] = ()
    healthy: Mapping[Part, int] = field(default_factory=dict)

    @property
    def labels(self) -> tuple[Label, ...]:
        """The labels 1, 2, ... of its label maps: organs first, since a tumor is drawn over its host."""
        single = [Label(name, (find(name).id,)) for name in self.like.classes]
        organs = [one for one in single if find(one.name).kind == "organ"]
        merged = [Label(one.rule, (find(one.right).id, find(one.left).id)) for one in self.like.separated]
        return (*organs, *merged, *(one for one in single if one not in organs))


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a scale says: spacings in mm, bytes of memory a case, and counts by data set and part."""

    in_plane_mm: tuple[float, float]
    slice_mm: tuple[float, ...]
    memory: int
    counts: Mapping[str, Mapping[Part, int]]


@dataclass(frozen=True, slots=True)
class Protocol:
    """All of protocol.toml."""

    version: int
    tries: int
    supervised: float
    diameters_mm: tuple[float, ...]
    datasets: tuple[VirtualSet, ...]
    scales: Mapping[str, Sizes] = field(repr=False)

    @property
    def unseen(self) -> frozenset[str]:
        """The kinds of tumor that are never in training: those that the inference sets grow."""
        return frozenset(tumor for one in self.datasets if one.like.table_1.inference for tumor in one.tumors)


@dataclass(frozen=True, slots=True)
class PlannedCase:
    """One case: its place in the benchmark, and what its body is to be.

    seeds: of the body; the second and later ones are for when the first does not show what the case is for. spacing:
    mm. phase, coverage, tumors, variant, diameter_mm: as `dsmseg.synthesis.cases.CasePlan` says.
    """

    dataset: str
    case: str
    part: Part
    supervised: str
    seeds: tuple[int, ...]
    coverage: str
    spacing: tuple[float, float, float]
    phase: str
    tumors: tuple[str, ...]
    variant: str | None
    diameter_mm: float | None
    labels: tuple[Label, ...]
    version: int

    @property
    def hash(self) -> str:
        """A checksum of all that decides its files."""
        content = {name: value for name, value in asdict(self).items() if name not in ("part", "supervised")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def protocol() -> Protocol:
    """Give the protocol that comes with the package."""
    content = tomllib.loads(files("dsmseg.synthesis").joinpath("protocol.toml").read_text(encoding="utf-8"))
    datasets = tuple(_virtual_set(entry) for entry in content["dataset"])
    scales = {name: _sizes(entry, datasets) for name, entry in content["scales"].items()}
    return Protocol(
        content["version"],
        content["tries"],
        content["supervised"],
        tuple(content["diameters_mm"]),
        datasets,
        scales,
    )


def sizes(scale: str) -> Sizes:
    """Give what a scale says.

    Raises:
        InputError: there is no such scale.
    """
    scales = protocol().scales
    if scale not in scales:
        raise InputError(f"no scale is called '{scale}'", mend=f"There are: {', '.join(scales)}.")
    return scales[scale]


def plan_cases(scale: str, seed: int) -> tuple[PlannedCase, ...]:
    """Plan all cases of a benchmark, by data set and number.

    Raises:
        InputError: there is no such scale.
    """
    counts = sizes(scale).counts
    return tuple(
        _plan(one, number, _Place(part, index), scale, seed)
        for one in protocol().datasets
        for number, (part, index) in enumerate(
            ((part, index) for part in _PARTS for index in range(counts[one.name][part])), start=1
        )
    )


def split_rows(plans: Iterable[PlannedCase]) -> tuple[Assignment, ...]:
    """Give the row of each case in the benchmark's splits.csv. No scan is there twice: ``clean`` is ``paper``."""
    return tuple(
        Assignment(one.dataset, one.case, paper=one.part, clean=one.part, supervised=one.supervised) for one in plans
    )


def stages() -> dict[str, tuple[int, ...]]:
    """Give the stages of training that each virtual data set is for."""
    return {one.name: one.like.table_1.stages for one in protocol().datasets}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a case stands: its part, and how many of that part come before it."""

    part: Part
    index: int

    def among_grown(self, one: VirtualSet) -> int | None:
        """Count the cases with tumors that come before it in its part; None where it grows none."""
        every = one.healthy.get(self.part)
        if not one.tumors or (every is not None and (self.index + 1) % every == 0):
            return None
        return self.index if every is None else self.index - self.index // every


def _plan(one: VirtualSet, number: int, place: _Place, scale: str, seed: int) -> PlannedCase:
    key = ("benchmark", scale, seed, one.name, number)
    random, size = generator(*key, "plan"), sizes(scale)
    low, high = size.in_plane_mm
    in_plane = round(float(random.uniform(low, high)), 3)
    between = float(random.choice(size.slice_mm))
    phase, grown = str(random.choice(one.phases)), place.among_grown(one)
    variant, diameter = (None, None) if grown is None else _stratum(one.tumors[0], grown, random)
    return PlannedCase(
        dataset=one.name,
        case=f"body_{number:04d}",
        part=place.part,
        supervised=_supervised(number, size.counts[one.name]["inference"]),
        seeds=tuple(seed_of(generator(*key, "body", attempt)) for attempt in range(protocol().tries)),
        coverage=one.coverage[(number - 1) % len(one.coverage)],
        spacing=(in_plane, in_plane, between),
        phase=phase,
        tumors=() if grown is None else one.tumors,
        variant=variant,
        diameter_mm=diameter,
        labels=one.labels,
        version=protocol().version,
    )


def _stratum(tumor: str, grown: int, random: Generator) -> tuple[str, float]:
    """Give the variant and the diameter in mm of a part's case with tumors, ``grown`` of which come before it."""
    variants = variants_of(find(tumor))
    number, before = _turn([one.weight for one in variants], grown)
    bins = diameter_bins(variants[number].diameter[2:])
    low, high = bins[(before + number) % len(bins)]  # neighbors in turn begin at other bins
    return variants[number].name, round(low * (high / low) ** float(random.random()), 3)


def _turn(weights: Sequence[float], place: int) -> tuple[int, int]:
    """Share out places in proportion to ``weights``: give whose a place is, and how many it has before that one.

    Each place goes to the one that is furthest behind its share, so that any row of places, from the first on, is in
    proportion as nearly as whole numbers can be.
    """
    shares, taken = [one / sum(weights) for one in weights], [0] * len(weights)
    for count in range(1, place + 2):
        behind = [share * count - has for share, has in zip(shares, taken, strict=True)]
        chosen = behind.index(max(behind))
        taken[chosen] += 1
    return chosen, taken[chosen] - 1


def diameter_bins(possible: Sequence[float]) -> list[tuple[float, float]]:
    """Give what the protocol's bins of diameter (mm) share with the range that is possible, empty ones left out."""
    low, high = possible
    cut = [(max(start, low), min(end, high)) for start, end in pairwise(protocol().diameters_mm)]
    return [(start, end) for start, end in cut if start < end]


def _supervised(number: int, inference: int) -> str:
    """Give a case's part in Table 4, of a set with so many cases for inference (0: it takes no part)."""
    if inference == 0:
        return ""
    tested = max(1, round(protocol().supervised * inference))
    return "testing" if number <= tested else "training"


def _virtual_set(entry: Mapping[str, Any]) -> VirtualSet:
    return VirtualSet(
        name=entry["name"],
        like=by_name(entry["like"]),
        coverage=tuple(entry["coverage"]),
        phases=tuple(entry["phases"]),
        tumors=tuple(entry.get("tumors", ())),
        healthy=entry.get("healthy", {}),
    )


def _sizes(entry: Mapping[str, Any], datasets: Iterable[VirtualSet]) -> Sizes:
    low, high = entry["in_plane_mm"]
    of_table_1 = {one.name: [getattr(one.like.table_1, part) for part in _OF_TABLE_1] for one in datasets}
    counts: dict[str, Mapping[Part, int]] = {
        name: dict(zip(_PARTS, [*numbers, entry["validation"].get(name, 0)], strict=True))
        for name, numbers in entry.get("counts", of_table_1).items()
    }
    return Sizes((low, high), tuple(entry["slice_mm"]), int(entry["memory_gb"] * _BYTES_A_GB), counts)
