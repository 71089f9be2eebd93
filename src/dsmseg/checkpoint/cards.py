"""The cards that lie beside weights: what they are, what they were made from, and how they are to be used."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, model_validator

from dsmseg import __version__
from dsmseg.baselines import Method
from dsmseg.model import Ablation, Prompt, Readings
from dsmseg.taxonomy import ORGANS, TUMORS

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Hounsfield = Annotated[float, Field(allow_inf_nan=False)]
WindowSize = Annotated[int, Field(ge=32, multiple_of=32)]
Name = Annotated[str, Field(pattern=r"^[\w][\w.+-]*$")]
Checksum = Annotated[str, Field(pattern="^([0-9a-f]{64})?$")]


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


class TrainingData(BaseModel):
    """One data set that the weights were trained on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    licence: str
    source: str


class Card(BaseModel):
    """The model card: all that is needed to use the weights, and to judge them.

    ``organs`` and ``tumors`` name the classes that the weights were trained for. ``hu_windows`` holds (low, high) in
    HU, one for each input channel, scaled to 0..1 and clipped. ``window`` is the inference tile in voxels of
    ``spacing_mm``. ``method`` is DSM or a baseline, which has one stage that learns what DSM's Stage 2 does;
    ``ablation`` is DSM's row of Table 5, ``prompt`` where its mask prompts point, ``readings`` how the network reads what
    the paper leaves open.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    version: str
    preset: Literal["small", "starter", "base", "paper"]
    stage: Literal[1, 2]
    method: Method = "dsm"
    ablation: Ablation = "full"
    prompt: Prompt = "anomalies"
    readings: Readings = Readings()
    organs: tuple[str, ...]
    tumors: tuple[str, ...]
    text_encoder: str
    spacing_mm: tuple[Positive, Positive, Positive]
    hu_windows: tuple[tuple[Hounsfield, Hounsfield], ...] = Field(min_length=1)
    window: tuple[WindowSize, WindowSize, WindowSize]
    training_data: tuple[TrainingData, ...]
    licence: str
    figures: dict[str, JsonValue]
    sha256: Checksum = ""
    dsmseg_version: str = __version__
    created: AwareDatetime = Field(default_factory=_now)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        _refuse_strangers(self.organs, (organ.name for organ in ORGANS), "organ")
        _refuse_strangers(self.tumors, (tumor.name for tumor in TUMORS), "tumor")
        if self.stage == 1 and self.tumors:
            raise ValueError("Stage 1 has no tumors")
        if self.method != "dsm" and (self.stage, self.ablation) != (2, "full"):
            raise ValueError("a baseline has neither stages nor rows of Table 5")
        if any(low >= high for low, high in self.hu_windows):
            raise ValueError("a HU window must be (low, high) with low < high")
        return self


class BackboneCard(BaseModel):
    """The card of an imported backbone: a start for training, which segments nothing by itself.

    ``holds`` says which half the tensors fill. ``source`` is the name of the file that was imported, and
    ``left_away`` names the tensors of it that a backbone has no place for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["backbone"] = "backbone"
    name: Name
    architecture: Literal["swin_unetr"] = "swin_unetr"
    feature_size: Annotated[int, Field(ge=12, multiple_of=12)]
    input_channels: Annotated[int, Field(ge=1)]
    holds: Literal["encoder and decoder", "encoder"]
    source: str
    source_sha256: Checksum
    left_away: tuple[str, ...]
    licence: str
    sha256: Checksum = ""
    dsmseg_version: str = __version__
    created: AwareDatetime = Field(default_factory=_now)


def _refuse_strangers(names: tuple[str, ...], known: Iterable[str], kind: str) -> None:
    if strangers := sorted(set(names) - set(known)):
        raise ValueError(f"no such {kind}: {', '.join(strangers)}")
