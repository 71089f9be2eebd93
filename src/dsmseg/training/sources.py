"""Where a stage's batches come from: the recipe's store, bodies and phantoms, drawn by loader processes."""

import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch.utils.data import DataLoader

from dsmseg.datasets.protocols import choose_cases
from dsmseg.datasets.store import Store, StoredCase
from dsmseg.errors import DsmsegError, InputError
from dsmseg.synthesis.anatomy import phantom_anatomy, totalsegmentator
from dsmseg.synthesis.bodies import PatchPlan, read_body
from dsmseg.synthesis.tumors.nodules import read_nodules
from dsmseg.synthesis.tumors.patches import TumorPlan
from dsmseg.synthesis.warp import WarpRange
from dsmseg.taxonomy import TUMORS, find
from dsmseg.training.data_settings import NO_AUGMENTATION, healthy_organs
from dsmseg.training.patches import Batch, Batches, DrawnPatches, Source, StoredPatches
from dsmseg.training.recipe import Recipe
from dsmseg.training.tumors import absent_in


@dataclass(frozen=True, slots=True)
class Data:
    """What a stage learns from: sources with their part of each batch, the cases of the store, annotated classes."""

    sources: tuple[tuple[Source, int], ...]
    cases: tuple[StoredCase, ...]
    annotated: frozenset[int]

    def epoch(self, batch: int) -> int:
        """Count the steps of an epoch: as many patches as there are cases; without a store, one step."""
        return max(1, -(-len(self.cases) // batch))


def open_data(recipe: Recipe, stage: Literal[1, 2]) -> Data:
    """Open what a stage learns from.

    Raises:
        InputError: a store, a table of splits or a body cannot be read, or holds nothing for this stage.
    """
    sources: list[tuple[Source, int]] = []
    annotated: set[int] = set()
    cases = _cases(recipe, stage)
    batch = recipe.batch
    plan = _tumor_plan(recipe)
    if batch.stored:
        hosts = _hosts(cases, plan) if stage == 2 and recipe.sampling.near_hosts else frozenset()
        limits = NO_AUGMENTATION if recipe.method == "sml" else recipe.augmentation
        stored = StoredPatches(
            cases, size=recipe.patch.size, hu_windows=recipe.hu_windows, limits=limits,
            balance=recipe.sampling.balance(hosts), batch=batch.stored, seed=recipe.seed + stage, tumors=plan,
            absent=partial(absent_in, recipe.store),
        )  # fmt: skip
        sources.append((stored, batch.stored))
        annotated.update(one for case in cases for one in case.record.annotated)
    if batch.real + batch.synthetic:
        sources.append((_drawn(recipe, stage, plan), batch.real + batch.synthetic))
        anatomy = phantom_anatomy() if batch.phantoms else totalsegmentator()
        annotated.update(anatomy.annotated_organs)
    if plan is not None:
        annotated.update(kind.id for kind in plan.kinds)
    return Data(tuple(sources), cases, frozenset(annotated) & recipe.learned())


def loader(
    data: Data, recipe: Recipe, steps: range, *, rank: int, ranks: int
) -> "DataLoader[list[Batch] | DsmsegError]":
    """Give a loader of a process's batches of ``steps``, in their order."""
    hardware = recipe.hardware
    batches = Batches(
        data.sources,
        learned=recipe.learned(),
        mixed=recipe.batch.mixed,
        seed=recipe.seed,
        parts=hardware.accumulate,
        rank=rank,
        ranks=ranks,
    )
    return DataLoader(
        batches,
        batch_size=None,
        sampler=steps,
        num_workers=hardware.workers,
        worker_init_fn=_begin_worker,
        generator=torch.Generator(),  # an iterator draws a seed, which no batch depends on
    )


def drawn(batches: "DataLoader[list[Batch] | DsmsegError]") -> Iterator[list[Batch]]:
    """Give the loader's batches.

    Raises:
        DsmsegError: a case or a body cannot be read.
        InputError: a loader process died.
    """
    row = iter(batches)
    if threading.current_thread() is threading.main_thread():
        # PyTorch's handler would raise in the middle of a step; without it the next request finds the dead process.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    while True:
        try:
            found = next(row)
        except StopIteration:
            return
        except RuntimeError as error:
            if "exited unexpectedly" not in str(error) and "killed by signal" not in str(error):
                raise
            what = f"a process that drew patches died ({str(error).splitlines()[0]})"
            mend = "Memory may have run out: set hardware.workers=0, then go on with --resume."
            raise InputError(what, mend=mend) from error
        if isinstance(found, DsmsegError):
            raise found
        yield found


def _cases(recipe: Recipe, stage: Literal[1, 2]) -> tuple[StoredCase, ...]:
    if recipe.store is None or not recipe.batch.stored:
        return ()
    where = recipe.data / recipe.store.path
    splits = None if recipe.store.splits is None else recipe.data / recipe.store.splits
    protocol = recipe.store.protocol
    of_stage = None if protocol == "supervised" else stage  # § 6.3 trains on sets that Table 1 has for no stage
    choice = choose_cases(Store.open(where), protocol, "training", stage=of_stage, splits=splits)
    learned = recipe.learned()
    cases = tuple(case for case in choice.cases if learned & set(case.record.annotated))
    if not cases:
        what = f"holds no case to train Stage {stage} on (protocol {recipe.store.protocol})"
        raise InputError(what, where=where, mend="Prepare data sets of Table 1, or name your own splits: store.splits.")
    spacing = {case.settings.spacing_mm for case in cases}
    if spacing != {(recipe.patch.spacing,) * 3}:
        found = ", ".join(" x ".join(f"{one:g}" for one in each) for each in spacing)
        what = f"holds voxels of {found} mm, the recipe wants {recipe.patch.spacing:g}"
        raise InputError(what, where=where, mend="Set patch.spacing, or prepare with another --spacing.")
    return cases


def _tumor_plan(recipe: Recipe) -> TumorPlan | None:
    if recipe.tumors is None:
        return None
    plan = recipe.tumors.plan
    if recipe.tumors.nodules is None:
        return plan
    return replace(plan, nodules=read_nodules(recipe.data / recipe.tumors.nodules, recipe.tumors.exclude))


def _hosts(cases: Sequence[StoredCase], plan: TumorPlan | None) -> frozenset[int]:
    """Give the ids of the organs that can hold a kind of tumor that is labelled or put in."""
    labelled = {one for case in cases for one in case.record.annotated}
    kinds = {kind for kind in TUMORS if kind.id in labelled} | set(plan.kinds if plan else ())
    return frozenset(find(name).id for kind in kinds for name in kind.hosts)


def _drawn(recipe: Recipe, stage: Literal[1, 2], plan: TumorPlan | None) -> DrawnPatches:
    anatomy = totalsegmentator()
    bodies = [
        read_body(recipe.data / one.labels, one.image and recipe.data / one.image, anatomy, healthy=healthy_organs(one))
        for one in recipe.bodies
    ]
    patch = recipe.patch
    warp = WarpRange(rotation=patch.rotation, scale=patch.scale, stretch=patch.stretch, elastic=patch.elastic)
    full = PatchPlan(size=patch.size, spacing=patch.spacing, warp=warp, phases=patch.phases)
    if plan is not None and recipe.tumors is not None:
        hosts = _hosts((), plan)
        share = 1.0 if stage == 2 and recipe.sampling.near_hosts else recipe.tumors.near
        full = replace(full, near=tuple(sorted(hosts)), near_share=share)
    return DrawnPatches(
        bodies,
        plan=_Plan(full, replace(full, truncation=patch.truncation), patch.truncation_from),
        hu_windows=recipe.hu_windows,
        real=recipe.batch.real,
        phantoms=recipe.batch.phantoms,
        reuse=recipe.batch.reuse,
        seed=recipe.seed,
        tumors=plan,
    )


@dataclass(frozen=True, slots=True)
class _Plan:
    """The plan of a step's patches: thin slabs come from a step on."""

    full: PatchPlan
    thin: PatchPlan
    thin_from: int

    def __call__(self, step: int) -> PatchPlan:
        return self.thin if step >= self.thin_from else self.full


def _begin_worker(_: int) -> None:
    """Leave Ctrl-C to the process that trains, and the other cores too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
