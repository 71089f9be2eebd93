"""What a train step costs beside its forward and backward passes: data, optimizer and average included; JSON lines.

``python benchmarks/training.py recipes/mini.yaml --data FOLDER`` where FOLDER holds the recipe's store. One line a step
is the trace (seconds waited for data, seconds of the step), the last one sums up.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from dsmseg.training import load_recipe
from dsmseg.training.launching import launch
from dsmseg.training.learner import Learner
from dsmseg.training.objective import losses
from dsmseg.training.sources import drawn, loader, open_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path, nargs="?")
    parser.add_argument("--data", type=Path, default=Path(), help="the folder that the recipe's paths start from")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    if arguments.recipe is None:
        print(json.dumps({"what": "training", "skipped": "name a recipe and the folder of its store: --data"}))
        return
    recipe = load_recipe(arguments.recipe, [f"data={arguments.data}", *arguments.set])
    fabric = launch(recipe.hardware)
    for number, stage in recipe.stages:
        data = open_data(recipe, number)
        learner = Learner(fabric, recipe, number, stage, data)
        batches = drawn(loader(data, recipe, range(arguments.steps), rank=0, ranks=1))
        rows = []
        asked = time.perf_counter()
        for step, own in enumerate(batches):
            waited = time.perf_counter() - asked
            learner.step(own, step)
            whole = time.perf_counter() - asked
            started = time.perf_counter()
            for batch in own:  # the same batch again: forward, losses and backward alone
                terms = losses(learner.module(batch.image), batch.labels, recipe.loss)
                fabric.backward(sum(terms.values()))
            passes = time.perf_counter() - started
            learner.optimizer.zero_grad(set_to_none=True)
            row = {"stage": number, "step": step, "waited": waited, "step_seconds": whole, "passes_seconds": passes}
            print(json.dumps({name: round(value, 4) for name, value in row.items()}), flush=True)
            rows.append(row)
            asked = time.perf_counter()
        settled = rows[len(rows) // 4 :]
        whole, passes, waited = (
            statistics.median(row[name] for row in settled) for name in ("step_seconds", "passes_seconds", "waited")
        )
        summary = {"step_over_passes": round(whole / passes, 3), "waited_share": round(waited / whole, 4)}
        print(json.dumps({"stage": number, "median_step_seconds": round(whole, 3), **summary}), flush=True)


if __name__ == "__main__":
    main()
