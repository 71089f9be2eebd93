"""A training run as a table of settings: everything that decides its result, checked before anything is computed."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from dsmseg.baselines import Method
from dsmseg.model import PRESETS, Ablation, DSMConfig, Prompt, Readings, ablated
from dsmseg.taxonomy import ORGANS, TUMORS, find
from dsmseg.training.course_settings import BASELINE_PARTS, PARTS, STAGE_1_PARTS, Hardware, Loss, Reporting, Stage
from dsmseg.training.data_settings import (
    AugmentationRange,
    Batch,
    BodySource,
    Patch,
    Sampling,
    Store,
    Tumors,
    Validation,
    healthy_organs,
)
from dsmseg.training.settings import Natural, Section


class Recipe(Section):
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
        self._check_branch_first()
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

    def _check_branch_first(self) -> None:
        if self.stage_1 is not None and self.stage_1.branch_first.count:
            raise ValueError("stage_1.branch_first: only Stage 2 has a deviation branch")
        if self.stage_2 is not None and self.stage_2.branch_first.count:
            if self.method != "dsm" or not self.readings.deviation:
                raise ValueError("stage_2.branch_first needs a deviation branch: method dsm, readings.deviation")
            if self.hardware.devices * self.hardware.nodes > 1:
                raise ValueError("stage_2.branch_first: a deviation branch learns alone in one process only")

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
