"""What a recipe says of learning: the loss, the course of a stage, what computes, what is written."""

from typing import Literal, Self

from pydantic import model_validator

from dsmseg.training.settings import Count, Fraction, HowLong, Length, Natural, NotNegative, Positive, Section

STAGE_1_PARTS = ("backbone", "organ_decoder", "organ_head", "presence_head")
STAGE_2_PARTS = ("tumor_decoder", "tumor_head", "tumor_presence_head", "deviation_branch", "text_alignment")
PARTS = (*STAGE_1_PARTS, *STAGE_2_PARTS)
BASELINE_PARTS = ("backbone",)


class Loss(Section):
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

    in_organs: of the tumors' masks within labelled organs, beside the same masks over whole patches; 0 is the letter
    (docs/decisions/0041). any_tumor: of what tells how much a voxel looks like a tumor of whatever organ,
    beside the tumors' masks.

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
    in_organs: NotNegative = 4.0
    any_tumor: NotNegative = 4.0
    responds_to: Literal["organ", "healthy"] = "organ"


class Stage(Section):
    """The course of one stage: AdamW, a warm-up, then a cosine to zero or a plateau that ends in a line to zero.

    clip_norm: of the whole gradient; 12 is nnU-Net's.
    cool_down: of the plateau. Batch normalization keeps its running statistics over the last quarter of it, so
    that the network is trained as it is used. average: decay of the moving average that becomes the weights; 0: none.
    told_organs: share of the patches in which Stage 2's deviation branch goes by labelled organs, not by those that the
    network finds: what deviates from a mask that is right is learned sooner.
    branch_first: steps at the beginning of Stage 2 in which the deviation branch learns alone, by labelled organs, with
    the tumor queries before they have looked at anything and the head that reads their masks. Stage 1 is not asked for
    anything, so that such a step takes less than half of the time. In one process only.
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
    told_organs: Fraction = 0.0
    branch_first: HowLong = Length(0, "steps")
    freeze: tuple[Literal[PARTS], ...] = ()  # type: ignore[valid-type]

    @model_validator(mode="after")
    def _lasts(self) -> Self:
        if self.length.count < 1:
            raise ValueError("a stage lasts at least 1 step")
        return self


class Hardware(Section):
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


class Reporting(Section):
    """What is written while it runs, every so many steps; 0 for never."""

    log_every: Count = 20
    state_every: Count = 250
    pictures_every: Natural = 0
    tensorboard: bool = False
    mlflow: bool = False
