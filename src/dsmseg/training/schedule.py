"""The learning rate of a step: a warm-up, then a plateau with a cool-down (decision 0006) or a cosine (§ 5.3)."""

import math
from dataclasses import dataclass
from typing import Literal

from dsmseg.training.course_settings import Stage


@dataclass(frozen=True, slots=True)
class Schedule:
    """A stage's course in steps."""

    steps: int
    learning_rate: float
    shape: Literal["plateau", "cosine"]
    warm_up: int
    cool_down: int
    branch_first: int = 0

    @classmethod
    def of(cls, stage: Stage, epoch: int) -> "Schedule":
        """Give the course of a stage whose epochs have so many steps."""
        return cls(
            steps=stage.length.steps(epoch),
            learning_rate=stage.learning_rate,
            shape=stage.schedule,
            warm_up=stage.warm_up.steps(epoch),
            cool_down=stage.cool_down.steps(epoch),
            branch_first=stage.branch_first.steps(epoch),
        )

    def rate(self, step: int) -> float:
        """Give the learning rate of a step."""
        rising = (step + 1) / max(1, self.warm_up)
        if self.shape == "cosine":
            over = (step - self.warm_up) / max(1, self.steps - self.warm_up)
            return self.learning_rate * min(rising, 0.5 + 0.5 * math.cos(math.pi * min(1.0, max(0.0, over))))
        return self.learning_rate * min(1.0, rising, (self.steps - step) / max(1, self.cool_down))

    def cools(self, step: int) -> bool:
        """Tell whether batch normalization keeps its running statistics: in the last quarter of the cool-down.

        By then the rate is a quarter of that of the plateau. Kept at the full rate, the network is no longer the one
        that was trained, and organs are lost before it has settled (docs/decisions/0044).
        """
        return step >= self.steps - -(-self.cool_down // 4)
