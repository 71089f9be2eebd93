"""Averaged weights on held-out cases while they are learned: figures for the log, the best weights, operating points.

They are tried in a network of their own, so that neither the statistics of norms, nor modes, nor random numbers of the
training are touched: a run learns the same with and without validation.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsmseg import checkpoint
from dsmseg.checkpoint import Card, Checkpoint
from dsmseg.checkpoint.storage import card_path
from dsmseg.datasets.labelled import LabelledCase, labelled_cases, spread, stored_cases
from dsmseg.evaluation.validation import Progress, Validation, validate
from dsmseg.inference.runtime import choose_runtime
from dsmseg.training.recipe import Recipe
from dsmseg.training.tumors import absent_in

_TRIED, _HELD_OUT, _SCORE = "validation", "held-out cases", "score"


def open_held_out(recipe: Recipe) -> list[LabelledCase]:
    """Find the cases that a recipe names for validation; none where it names none.

    Raises:
        InputError: a folder or store cannot be read, or holds no such case.
    """
    plan = recipe.validation
    if plan is None:
        return []
    if plan.scans is not None:
        return labelled_cases(recipe.data / plan.scans)
    store = plan.store or recipe.store
    if store is None:
        raise ValueError("a recipe's validation names scans or a store")
    splits = None if store.splits is None else recipe.data / store.splits
    absent = partial(absent_in, store)
    return stored_cases(recipe.data / store.path, protocol=store.protocol, splits=splits, absent=absent)


def best_of(weights: Path) -> Path:
    """Give the place of the best of the weights that a stage ends with at ``weights``."""
    return weights.with_stem(f"{weights.stem}_best")


class Validator:
    """Tries weights on held-out cases, and keeps the best: those with the highest mean of three figures.

    These are the mean Dice of organs, that of tumors, and the mean lesion sensitivity, both at one false lesion a scan
    (`Validation.score`); of equal ones the earlier stay. What has been the best stands on its card.
    """

    def __init__(self, recipe: Recipe, cases: list[LabelledCase], device: torch.device) -> None:
        self.plan, self.cases = recipe.validation, cases
        self.runtime = replace(choose_runtime(device.type), device=device)
        self._best, self._score = Path(), -1.0

    def begin(self, best: Path, *, goes_on: bool) -> None:
        """Begin a stage whose best weights are kept at ``best``, or go on with it: what lies there then counts."""
        self._best, self._score = best, -1.0
        if goes_on and best.exists() and card_path(best).exists():
            tried: Any = checkpoint.load(best).card.figures.get(_TRIED, {})
            self._score = tried[_SCORE]

    def is_due(self, steps: int) -> bool:
        """Tell whether weights are tried after so many steps."""
        return self.plan is not None and self.plan.every > 0 and steps % self.plan.every == 0

    def try_out(self, state: dict[str, Tensor], card: Card) -> dict[str, float]:
        """Try weights on some cases, and keep them if they are the best so far; give the figures.

        Raises:
            InputError: a case cannot be read.
            OutputError: the weights cannot be written.
        """
        cases = spread(self.cases, self.plan.cases if self.plan else None)
        found = self._look(state, card, cases)
        if found.score > self._score:
            checkpoint.save(self._best, state, _with_figures(card, _TRIED, found))
            self._score = found.score
        return found.figures()

    def finish(self, weights: Path, *, progress: Progress | None = None) -> None:
        """Try the last weights and the best on all cases, and write figures and operating points on their cards.

        ``progress`` is called after each case; what it raises ends this.

        Raises:
            InputError: a case cannot be read.
            OutputError: a card cannot be written.
        """
        if not self.cases:
            return
        for path in (weights, self._best):
            if path.exists():
                loaded = checkpoint.load(path)
                found = self._look(loaded.state, loaded.card, self.cases, unseen=True, progress=progress)
                checkpoint.replace_card(path, found.on(_with_figures(loaded.card, _HELD_OUT, found)))

    def _look(
        self,
        state: dict[str, Tensor],
        card: Card,
        cases: list[LabelledCase],
        *,
        unseen: bool = False,
        progress: Progress | None = None,
    ) -> Validation:
        with torch.random.fork_rng(devices=[]):  # a network draws its first weights, which no run is to notice
            network = checkpoint.network(Checkpoint(card, state, self._best))
        planted = self.plan.planted if self.plan else 0
        return validate(network, card, cases, self.runtime, unseen=unseen, planted=planted, progress=progress)


def _with_figures(card: Card, name: str, found: Validation) -> Card:
    told = {"cases": found.cases} | {key: round(value, 4) for key, value in found.means.items()} | {_SCORE: found.score}
    return card.model_copy(update={"figures": card.figures | {name: told}})
