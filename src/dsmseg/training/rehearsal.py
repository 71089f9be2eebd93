"""A rehearsal of a run: data are opened, a few steps done, time and memory told; nothing is kept."""

import time
from collections import Counter
from typing import Any

from dsmseg import resources
from dsmseg.taxonomy import by_id
from dsmseg.training.card import describe
from dsmseg.training.launching import launch
from dsmseg.training.measuring import learner_of
from dsmseg.training.recipe import Recipe
from dsmseg.training.sources import drawn, loader, open_data
from dsmseg.training.validation import open_held_out

_STEPS = 6  # the first compiles and fills caches: the others tell the time


def rehearse(recipe: Recipe) -> dict[str, Any]:
    """Do a few steps of each stage, and tell what the run would be, as JSON holds it.

    Raises:
        InputError: what `train` would raise before its first steps.
        WeightsError: the same.
    """
    held_out = open_held_out(recipe)
    fabric = launch(recipe.hardware)
    stages: dict[str, Any] = {}
    for number, stage in recipe.stages:
        data = open_data(recipe, number)
        describe(recipe, number, data, steps=0)
        learner = learner_of(fabric, recipe, number, stage, data)
        if recipe.start is not None and number == recipe.stages[0][0]:
            learner.start_from(recipe.start)
        batches = drawn(loader(data, recipe, range(_STEPS), rank=fabric.global_rank, ranks=fabric.world_size))
        ended = []
        terms: dict[str, float] = {}
        for step, own in enumerate(batches):
            terms = learner.step([batch.on(fabric.device) for batch in own], step)
            ended.append(time.perf_counter())
        seconds = (ended[-1] - ended[0]) / (len(ended) - 1)  # what the data take included
        steps = learner.schedule.steps
        stages[f"stage {number}"] = {
            "cases": dict(sorted(Counter(case.record.dataset for case in data.cases).items())) or "none from a store",
            "classes": [one.name for one in map(by_id, sorted(data.annotated)) if number == 2 or one.kind == "organ"],
            "steps": steps,
            "million_parameters": round(sum(one.numel() for one in learner.network.parameters()) / 1e6, 2),
            "loss": {name: round(value, 3) for name, value in terms.items()},
            "seconds_a_step": round(seconds, 3),
            "hours": round(steps * seconds / 3600, 2),
        }
    tried = {} if recipe.validation is None else {"held_out_cases": len(held_out)}
    return {"name": recipe.name, **stages, **tried, "peak_memory_gb": round(resources.peak_memory() / 1e9, 2)}
