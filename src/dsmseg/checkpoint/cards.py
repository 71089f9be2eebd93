"""The cards that lie beside weights: what they are, what they were made from, and how they are to be used."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, model_validator

from dsmseg import __version__
from dsmseg.baselines import Method
from dsmseg.model import Ablation, Prompt, Readings
from dsmseg.taxonomy import ORGANS, TUMORS, StructureClass

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


class OperatingPoint(BaseModel):
    """What of a tumor's probability becomes a lesion, and what that did on validation scans.

    A voxel is labelled where the probability is above ``threshold``; of the lesions, those of at least
    ``least_volume_ml`` and a mean probability of at least ``least_score`` stay. ``sensitivity`` is the share of the
    ``lesions`` that were found, None where there were none, ``planted`` of them drawn ones that were put into scans;
    ``false_lesions`` is a scan, of ``cases`` scans with and without tumors. A class that is not ``searched`` is left
    out unless it is asked for by name; ``reason`` says why.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    least_volume_ml: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    least_score: Annotated[float, Field(ge=0, le=1)] = 0.0
    sensitivity: Annotated[float, Field(ge=0, le=1)] | None = None
    false_lesions: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    cases: Annotated[int, Field(ge=0)] = 0
    lesions: Annotated[int, Field(ge=0)] = 0
    planted: Annotated[int, Field(ge=0)] = 0
    searched: bool = True
    reason: str = ""

    @property
    def filters(self) -> int:
        """How much more than a threshold it takes: 0, 1 or 2."""
        return (self.least_volume_ml > 0) + (self.least_score > 0)

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if not self.searched and not self.reason:
            raise ValueError("a class that is not searched needs a reason")
        return self


class Card(BaseModel):
    """The model card: all that is needed to use the weights, and to judge them.

    ``organs`` and ``tumors`` name the classes that the weights were trained for. ``hu_windows`` holds (low, high) in
    HU, one for each input channel, scaled to 0..1 and clipped. ``window`` is the inference tile in voxels of
    ``spacing_mm``. ``method`` is DSM or a baseline, which has one stage that learns what DSM's Stage 2 does;
    ``ablation`` is DSM's row of Table 5, ``prompt`` where its mask prompts point, ``readings`` how the network reads
    what the paper leaves open. ``operating_points`` are those of tumors, by name; one without is labelled above 0.5.
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
    operating_points: dict[str, OperatingPoint] = {}
    sha256: Checksum = ""
    dsmseg_version: str = __version__
    created: AwareDatetime = Field(default_factory=_now)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        _refuse_strangers(self.organs, (organ.name for organ in ORGANS), "organ")
        _refuse_strangers(self.tumors, (tumor.name for tumor in TUMORS), "tumor")
        _refuse_strangers(tuple(self.operating_points), (tumor.name for tumor in TUMORS), "tumor")
        if self.stage == 1 and self.tumors:
            raise ValueError("Stage 1 has no tumors")
        if self.method != "dsm" and (self.stage, self.ablation) != (2, "full"):
            raise ValueError("a baseline has neither stages nor rows of Table 5")
        if any(low >= high for low, high in self.hu_windows):
            raise ValueError("a HU window must be (low, high) with low < high")
        return self

    @property
    def unseen(self) -> tuple[StructureClass, ...]:
        """The kinds of tumor that the weights answer for though no label ever showed them.

        Those whose main host they know; none for weights without the branch that tells what looks like any tumor.
        """
        answers = self.method == "dsm" and self.stage == 2 and self.readings.deviation
        others = [one for one in TUMORS if one.name not in self.tumors]
        return tuple(one for one in others if answers and one.hosts[0] in self.organs)

    def point(self, tumor: str) -> OperatingPoint:
        """Give the operating point of a tumor."""
        return self.operating_points.get(tumor, OperatingPoint())


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
