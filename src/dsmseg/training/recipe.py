"""A training run as a table of settings: everything that decides its result, checked before anything is computed."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from dsmseg.baselines import Method
from dsmseg.datasets.patches import Balance
from dsmseg.datasets.splits import Protocol
from dsmseg.errors import InputError
from dsmseg.model import PRESETS, Ablation, DSMConfig, Prompt, Readings, ablated
from dsmseg.synthesis.tumors.kinds import tumor_class
from dsmseg.synthesis.tumors.patches import TumorPlan
from dsmseg.taxonomy import ORGANS, TUMORS, find, find_all

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=32, multiple_of=32)]
STAGE_1_PARTS = ("backbone", "organ_decoder", "organ_head", "presence_head")
STAGE_2_PARTS = ("tumor_decoder", "tumor_head", "tumor_presence_head", "deviation_branch", "text_alignment")
PARTS = (*STAGE_1_PARTS, *STAGE_2_PARTS)
BASELINE_PARTS = ("backbone",)


_USUAL = Balance()


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


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BodySource(_Section):
    """A labelled body to learn from: a TotalSegmentator label map and, where it has one, its CT.

    healthy: organs in which the CT is known to hold no tumor and no cyst; "all" for all. Tumors are put into these
    alone. A body that is painted from its label map is healthy wherever the map has no cyst.
    """

    labels: Path
    image: Path | None = None
    name: str
    licence: str
    source: str
    healthy: tuple[str, ...] = ()


class Store(_Section):
    """Prepared scans to learn from.

    path: what `dsmseg datasets prepare` wrote. protocol: which of its scans are for training. splits: a table of parts
    and stages of their own, such as a synthetic benchmark's; without it the public data sets'. healthy: data sets
    whose scans are known to hold no tumor and no cyst but those that are labelled; those of the synthetic benchmark
    need not be named.
    """

    path: Path
    protocol: Protocol = "paper"
    splits: Path | None = None
    healthy: tuple[str, ...] = ()


class Sampling(_Section):
    """How often what is drawn from a store; see `dsmseg.datasets.patches.Balance`."""

    dataset_power: Fraction = _USUAL.dataset_power
    with_tumors: Positive = _USUAL.with_tumors
    anywhere: NotNegative = _USUAL.anywhere
    organ: NotNegative = _USUAL.organ
    tumor: NotNegative = _USUAL.tumor


class AugmentationRange(_Section):
    """What may happen to a patch from a store. Each ``_chance`` is how often.

    rotation: degrees about each axis, both ways. scale: size in the patch relative to that in the scan. elastic: the
    largest standard deviation of the displacement, in voxels, of a smooth field with nodes every ``elastic_nodes``
    voxels. brightness: standard deviation of what is added to the image in [0, 1]. gamma: exponent.

    The defaults are those of nnU-Net (Isensee et al. 2021, supplement: rotation, scaling, gamma; brightness as in its
    additive variant); elastic deformation, which it leaves off, is mild.
    """

    rotation: NotNegative = 30.0
    rotation_chance: Fraction = 0.2
    scale: tuple[Positive, Positive] = (0.7, 1.4)
    scale_chance: Fraction = 0.2
    elastic: NotNegative = 4.0
    elastic_nodes: Positive = 12.0
    elastic_chance: Fraction = 0.2
    brightness: NotNegative = 0.1
    brightness_chance: Fraction = 0.15
    gamma: tuple[Positive, Positive] = (0.7, 1.5)
    gamma_chance: Fraction = 0.3


class Tumors(_Section):
    """Tumors that are put into patches as they are drawn, where the scan is known to have none of their kind.

    kinds: classes that may be drawn; of these, those known to be absent are learned as absent. All other kinds are
    never drawn: what is to stay unseen is left out here. chance: share of the patches with a host of such a kind that
    get tumors; the others stay healthy. most: growths in such a patch, one to so many. generic: share of the tumors of
    solid organs that are an early lesion, which looks alike in all of them. distractors: share of the patches that get
    what looks like a tumor of their organ and is none, such as a liver cyst or a clip. diameters: mm, from and to,
    drawn evenly in their logarithm; without it, sizes are those measured (kinds.toml). even_variants: all variants of
    a kind are drawn alike, not as often as they occur.
    nodules: a folder of real lung nodules, below the folder ``data`` (docs/synthesis.md), which are this share of the
    lung tumors: ``pasted``. exclude: patients whose nodules are left out. near: share of the drawn patches (not of the
    stored ones) that lie near a host of one of the kinds; the others lie near any organ.
    """

    kinds: Annotated[tuple[str, ...], Field(min_length=1)]
    chance: Fraction = 0.5
    most: Count = 1
    generic: Fraction = 0.3
    distractors: Fraction = 0.25
    diameters: tuple[Positive, Positive] | None = None
    even_variants: bool = False
    nodules: Path | None = None
    pasted: Fraction = 0.5
    exclude: tuple[str, ...] = ()
    near: Fraction = 0.5

    @property
    def plan(self) -> TumorPlan:
        """Give what is put into patches, but for real nodules.

        Raises:
            InputError: a name is no kind of tumor.
        """
        return TumorPlan(
            kinds=tuple(tumor_class(name) for name in self.kinds),
            chance=self.chance,
            most=self.most,
            generic=self.generic,
            distractors=self.distractors,
            diameters=self.diameters,
            even_variants=self.even_variants,
            pasted=self.pasted,
        )

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.diameters and self.diameters[0] > self.diameters[1]:
            raise ValueError("tumors.diameters goes from a smaller to a larger one")
        return self


NO_AUGMENTATION = AugmentationRange(
    rotation_chance=0.0, scale_chance=0.0, elastic_chance=0.0, brightness_chance=0.0, gamma_chance=0.0
)


class Patch(_Section):
    """Size in voxels, spacing in mm, and how bodies and phantoms are deformed: degrees, relative size, mm.

    truncation: how often a patch of them is a thin slab, from step ``truncation_from`` on. phases: how often they are
    drawn without contrast, in the arterial and in the venous phase, relative to each other; most tumors show best in
    one of them.
    """

    size: tuple[Side, Side, Side] = (64, 64, 64)
    spacing: Positive = 3.0
    rotation: NotNegative = 10.0
    scale: tuple[Positive, Positive] = (0.8, 1.25)
    stretch: Fraction = 0.1
    elastic: NotNegative = 6.0
    truncation: Fraction = 0.0
    truncation_from: Natural = 0
    phases: tuple[NotNegative, NotNegative, NotNegative] = (1, 1, 1)

    @model_validator(mode="after")
    def _has_a_phase(self) -> Self:
        if not sum(self.phases):
            raise ValueError("patch.phases are all 0: give at least one phase of contrast a share")
        return self


class Batch(_Section):
    """Patches of one step, of all processes together: from the store, from real CT of bodies, synthetic ones.

    phantoms: the share of the synthetic ones that are phantoms; the others are deformed bodies.
    reuse: how often a real or synthetic patch is used. mixed: share of the patches that get a box of another one of
    the same step, labels with it; only what both know stays known.
    """

    stored: Natural = 0
    real: Natural = 0
    synthetic: Natural = 0
    phantoms: Fraction = 0.0
    reuse: Count = 3
    mixed: Fraction = 0.0

    @property
    def size(self) -> int:
        """Count the patches."""
        return self.stored + self.real + self.synthetic


class Loss(_Section):
    """Weights of the terms.

    cross_entropy: of Eq. 12 beside Eq. 11. tumor: of the tumors' masks beside the organs' (not where queries are
    matched). response, presence: of the two losses beside Eq. 13. alignment: of -log p of Eq. 20, which the paper has
    in its text only ("the similarities should be maximized"); 0 is Eq. 20 in the target of the cross-entropy alone.

    certainty: what p is in that target, diag(p) Y (§ 4.2.4). "learned": gradients reach p, the equations to the letter.
    "given": a target like any other, that no gradient passes. "none": the target is Y. Where a mask is still empty, a
    gradient through p lowers p, and with it the target of what should be found. The letter, "learned" without
    alignment, unlearns the organs; the defaults are what measured best (docs/decisions/0018).

    dice_over: Dice of a class is taken over all patches of a step together, or patch by patch (the letter).
    organ_share, tumor_share: in the cross-entropy, the voxels of a class that is in a patch weigh as if they filled at
    least this share of it; 0 is the letter. A tumor of 1 cm fills a thousandth of a patch (docs/decisions/0027).

    any_tumor: of what tells how much a voxel looks like a tumor of whatever organ, beside the tumors' masks.

    responds_to: what an organ's responses are to mark. "organ": all of it, its tumors too, as its mask does. "healthy":
    without the voxels of labelled tumors, so that the anomaly (Eq. 14) is high there; the organ's mask keeps them.
    """

    cross_entropy: NotNegative = 20.0
    tumor: NotNegative = 1.0
    response: NotNegative = 0.5
    presence: NotNegative = 0.1
    alignment: NotNegative = 0.1
    certainty: Literal["learned", "given", "none"] = "none"
    dice_over: Literal["batch", "patch"] = "batch"
    organ_share: Fraction = 0.0
    tumor_share: Fraction = 0.1
    any_tumor: NotNegative = 4.0
    responds_to: Literal["organ", "healthy"] = "organ"


class Stage(_Section):
    """The course of one stage: AdamW, a warm-up, then a cosine to zero or a plateau that ends in a line to zero.

    clip_norm: of the whole gradient; 12 is nnU-Net's.
    cool_down: of the plateau. Batch normalization keeps its running statistics over the last ``cool_down`` steps, so
    that the network is trained as it is used. average: decay of the moving average that becomes the weights; 0: none.
    freeze: parts that keep their weights in this stage, beside those of the recipe. Stage 2 then leaves to organs what
    Stage 1 has learned, and a step takes less than half of the time.
    """

    length: HowLong
    learning_rate: Positive = 1e-3
    schedule: Literal["plateau", "cosine"] = "plateau"
    warm_up: HowLong = Length(200, "steps")
    cool_down: HowLong = Length(1500, "steps")
    weight_decay: NotNegative = 1e-2
    clip_norm: Positive = 12.0
    average: Fraction = 0.999
    freeze: tuple[Literal[PARTS], ...] = ()  # type: ignore[valid-type]

    @model_validator(mode="after")
    def _lasts(self) -> Self:
        if self.length.count < 1:
            raise ValueError("a stage lasts at least 1 step")
        return self


class Hardware(_Section):
    """What computes. Nothing here changes what is learned, but for rounding.

    devices: processes on each machine, or GPUs; nodes: machines. strategy: auto, ddp or fsdp. accumulate: parts that a
    step's batch is worked through in. checkpointing: activations are computed again instead of kept. workers:
    processes that draw patches. precision: auto is bf16 where the processor or GPU has instructions for it; a processor
    that has none takes some ten times as long to imitate it.
    """

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Count = 1
    nodes: Count = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    accumulate: Count = 1
    checkpointing: bool = False
    compile: bool = False
    workers: Natural = 1


class Reporting(_Section):
    """What is written while it runs, every so many steps; 0 for never."""

    log_every: Count = 20
    state_every: Count = 250
    pictures_every: Natural = 0
    tensorboard: bool = False
    mlflow: bool = False


class Validation(_Section):
    """Held-out cases that the averaged weights are tried on, see docs/training.md. They change nothing that is learned.

    every: steps from one validation to the next; 0: at the end alone. cases: at most so many each time, evenly taken
    from all; at the end all are taken, for the operating points. scans: a folder of scans with label maps, in nnU-Net's
    layout or a public data set's. store: another store than the recipe's. Without either, it is the recipe's store;
    of a store, the cases that its splits have for validation.
    """

    every: Natural = 500
    cases: Count = 8
    scans: Path | None = None
    store: Store | None = None


class Recipe(_Section):
    """One training run: Stage 1, Stage 2, or one after the other.

    method: DSM, or a baseline of Tables 2-4 (docs/baselines.md). A baseline learns organs and tumors in one stage,
    whose course is ``stage_2``; ``sml`` only measures there, on ``swin_unetr`` weights that ``start`` names. ablation:
    DSM's row of Table 5, by what it leaves out. prompt: where the mask prompts of Stage 2 point: to what no organ query
    answers for (Eq. 15), or to the organs and a voxel around them. readings: of what the paper leaves open, see
    `dsmseg.model.Readings`.
    data: the folder that the paths of store, splits, bodies and text start from. start: weights to start from instead
    of chance, packaged ones by name; with ``stage_1`` left out, Stage 2 goes on from them. backbone: what `dsmseg
    weights import` has written, to start from.
    text: a safetensors table of the 45 prompts' embeddings, for presets whose text encoder is not packaged.
    classes: only these are learned, of those that the data annotate; none for all. freeze: parts that keep their
    weights.
    """

    name: str
    version: str
    licence: str
    preset: Literal["small", "starter", "base", "paper"]
    method: Method = "dsm"
    ablation: Ablation = "full"
    prompt: Prompt = "anomalies"
    readings: Readings = Readings()
    seed: Natural = 0
    hu_windows: tuple[tuple[float, float], ...] = ((-175.0, 250.0), (-1000.0, 1000.0))
    data: Path = Path()
    store: Store | None = None
    bodies: tuple[BodySource, ...] = ()
    patch: Patch = Patch()
    batch: Batch
    sampling: Sampling = Sampling()
    augmentation: AugmentationRange = AugmentationRange()
    tumors: Tumors | None = None
    loss: Loss = Loss()
    stage_1: Stage | None = None
    stage_2: Stage | None = None
    start: Path | None = None
    backbone: Path | None = None
    text: Path | None = None
    classes: tuple[str, ...] = ()
    freeze: tuple[Literal[PARTS], ...] = ()  # type: ignore[valid-type]
    validation: Validation | None = None
    hardware: Hardware = Hardware()
    reporting: Reporting = Reporting()

    @property
    def network(self) -> DSMConfig:
        """Give the configuration of the network, in its last stage."""
        return replace(ablated(PRESETS[self.preset], self.ablation), prompt=self.prompt, readings=self.readings)

    @property
    def reads_text(self) -> bool:
        """Tell whether the network is built with the class prompts' embeddings."""
        if self.method == "dsm":
            return self.stage_2 is not None and self.network.text_alignment
        return self.method == "universal"

    @property
    def stages(self) -> tuple[tuple[Literal[1, 2], Stage], ...]:
        """Give the stages that this run has, in their order."""
        both: tuple[tuple[Literal[1, 2], Stage | None], ...] = ((1, self.stage_1), (2, self.stage_2))
        return tuple((number, stage) for number, stage in both if stage is not None)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        channels = PRESETS[self.preset].input_channels
        if len(self.hu_windows) != channels:
            raise ValueError(f"preset {self.preset} takes {channels} hu_windows, not {len(self.hu_windows)}")
        if not self.stages:
            raise ValueError("there is neither a stage_1 nor a stage_2")
        self._check_method()
        if self.name in ("state", "recipe"):
            raise ValueError(f"the weights cannot be named '{self.name}': the run has such a file of its own")
        if not self.sampling.anywhere:
            raise ValueError("sampling.anywhere is 0: a data set without such classes could not be drawn from")
        self._check_sources()
        self._check_sharing()
        self._check_validation()
        self._check_what_learns()
        for name in self.classes:
            find(name)
        for body in self.bodies:
            healthy_organs(body)
        if self.tumors is not None:
            self.tumors.plan  # noqa: B018 - names are checked
        return self

    def _check_method(self) -> None:
        if self.method == "dsm":
            if self.stage_1 is None and self.start is None:
                raise ValueError("stage_2 alone needs weights to start from: start")
            return
        if self.ablation != "full":
            raise ValueError(f"ablation is a row of DSM's Table 5, which method {self.method} does not have")
        if self.stage_1 is not None:
            raise ValueError(f"method {self.method} has one stage, stage_2: leave stage_1 out (stage_1=null)")
        if self.method == "sml" and self.start is None:
            raise ValueError("method sml measures the logits of trained swin_unetr weights: name them as start")
        named = set(self.freeze).union(*(stage.freeze for _, stage in self.stages))
        if strange := named - set(BASELINE_PARTS):
            raise ValueError(f"method {self.method} has no part '{min(strange)}' to freeze")

    def _check_what_learns(self) -> None:
        for number, parts in ((1, STAGE_1_PARTS), (2, PARTS)):
            if number in dict(self.stages) and set(parts) <= self.frozen(number):
                raise ValueError(f"freeze leaves Stage {number} nothing to learn")
        taught = self.loss.certainty == "learned" or self.loss.alignment > 0
        aligns = self.method == "dsm" and self.reads_text
        if aligns and not taught and "text_alignment" not in self.frozen(2):
            told = f"loss.certainty = {self.loss.certainty} leaves nothing that teaches text_alignment"
            raise ValueError(f"{told}: give loss.alignment a weight, or freeze it")

    def _check_sources(self) -> None:
        batch = self.batch
        if batch.size == 0:
            raise ValueError("batch asks for no patches")
        if batch.stored and self.store is None:
            raise ValueError("batch asks for stored patches, but there is no store")
        if batch.real and not any(body.image for body in self.bodies):
            raise ValueError("batch asks for real patches, but no body has an image")
        if batch.synthetic and batch.phantoms < 1 and not self.bodies:
            raise ValueError("bodies are missing; with batch.phantoms = 1 there need be none")
        if self.stage_2 is not None and not batch.stored and self.tumors is None:
            raise ValueError("stage_2 learns tumors: take stored patches, or have them put into drawn ones (tumors)")

    def _check_validation(self) -> None:
        held_out = self.validation
        if held_out is None:
            return
        if held_out.scans is not None and held_out.store is not None:
            raise ValueError("validation has both scans and a store: leave one out")
        if held_out.scans is None and held_out.store is None and self.store is None:
            raise ValueError("validation has neither scans nor a store")
        if self.name.endswith("_best"):
            raise ValueError("the weights cannot be named like the best of a run: leave _best away")

    def _check_sharing(self) -> None:
        parts = self.hardware.devices * self.hardware.nodes * self.hardware.accumulate
        if self.batch.size % parts:
            raise ValueError(f"a batch of {self.batch.size} patches cannot be shared out to {parts} parts")
        alone = self.batch.size == parts or PRESETS[self.preset].backbone == "swin_unetr"
        if alone and max(self.patch.size) == 32:
            raise ValueError(
                "a patch of 32 x 32 x 32 is one voxel at stride 32, too few to normalize: take a larger one"
            )

    def frozen(self, number: Literal[1, 2]) -> frozenset[str]:
        """Give the parts that keep their weights in a stage."""
        return frozenset(self.freeze).union(dict(self.stages)[number].freeze)

    def learned(self) -> frozenset[int]:
        """Give the ids of the classes that are learned, of those that are annotated."""
        everything = (one.id for one in (*ORGANS, *TUMORS))
        return frozenset(find(name).id for name in self.classes) or frozenset(everything)

    def record(self) -> dict[str, Any]:
        """Give all settings, as JSON holds them."""
        return self.model_dump(mode="json")


def healthy_organs(body: BodySource) -> frozenset[int]:
    """Give the ids of the organs that a body's CT is known to be healthy in.

    Raises:
        InputError: a name is no organ.
    """
    if not body.healthy:
        return frozenset()
    if body.healthy == ("all",):
        return frozenset(one.id for one in ORGANS)
    named = [one for name in body.healthy for one in find_all(name)]
    if tumor := next((one.name for one in named if one.kind == "tumor"), None):
        raise InputError(f"healthy names {tumor}, which is no organ", mend="Name organs, such as Liver, or all.")
    return frozenset(one.id for one in named)
