"""A network that is measured instead of taught: standardized max logits (SML), whose statistics are all that it learns.

The steps are those of a run like any other, with its batches, state, log and weights; only no gradient is taken.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch

from dsmseg.baselines import StandardizedMaxLogits
from dsmseg.training.course_settings import Stage
from dsmseg.training.learner import Learner
from dsmseg.training.patches import Batch
from dsmseg.training.recipe import Recipe
from dsmseg.training.sources import Data

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Measurer(Learner):
    """Gathers the statistics of ``StandardizedMaxLogits``."""

    def __init__(self, fabric: "Fabric", recipe: Recipe, number: Literal[1, 2], stage: Stage, data: Data) -> None:
        """Take a stage without its moving average: statistics are means already."""
        super().__init__(fabric, recipe, number, stage.model_copy(update={"average": 0.0}), data)

    def step(self, batches: Sequence[Batch], step: int) -> dict[str, float]:
        """Measure this process's part of a step's batches, and add what all processes measured.

        Gives how many classes, background included, have been predicted, and the mean of their largest logits.
        """
        network = self.network
        if not isinstance(network, StandardizedMaxLogits):
            raise TypeError(f"{type(network).__name__} has no statistics")
        network.eval()
        for batch in batches:
            with self.fabric.autocast():
                moments = network.moments(batch.image.contiguous(memory_format=torch.channels_last_3d))
            network.add(torch.as_tensor(self.fabric.all_reduce(moments, reduce_op="sum")))
        self.average.update(step)
        measured = network.count > 0
        return {"classes measured": int(measured.sum()), "largest logit": float(network.mean[measured].mean())}


def learner_of(fabric: "Fabric", recipe: Recipe, number: Literal[1, 2], stage: Stage, data: Data) -> Learner:
    """Give what learns in a stage of a recipe."""
    kind = Measurer if recipe.method == "sml" else Learner
    return kind(fabric, recipe, number, stage, data)
