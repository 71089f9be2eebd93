"""What the sections of a recipe have in common: numbers within bounds, lengths, and that no key is unknown."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=32, multiple_of=32)]


@dataclass(frozen=True, slots=True)
class Length:
    """How long something lasts: so many steps or epochs. An epoch is as many patches as there are training cases."""

    count: int
    unit: Literal["steps", "epochs"]

    def steps(self, epoch: int) -> int:
        """Count the steps, where an epoch takes ``epoch`` of them."""
        return self.count * (epoch if self.unit == "epochs" else 1)

    def __str__(self) -> str:
        """Write it as a recipe does."""
        return f"{self.count} {self.unit}"


def _length(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        value = f"{value} steps"
    if isinstance(value, str) and (found := re.fullmatch(r"(\d+) (step|epoch)s?", value.strip())):
        return Length(int(found[1]), "steps" if found[2] == "step" else "epochs")
    if isinstance(value, Length):
        return value
    raise ValueError("write how long as '3000 steps' or '50 epochs'")


HowLong = Annotated[Length, BeforeValidator(_length), PlainSerializer(str)]


class Section(BaseModel):
    """A part of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)
