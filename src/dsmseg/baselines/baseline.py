"""What all baselines share: a backbone, the form of an answer, partial labels, and rules for what was never labelled.

The rules, which each method chooses from (docs/baselines.md):

- ``any_tumor``: a tumor of a kind that no label named is looked for as a tumor of any kind that was.
- ``unexplained``: the anomaly of a method that has none of its own, 1 less the probability of the best organ. It is
  A = -max over organs, as Eq. 14 has it for DSM, so that 1 + A is in [0, 1] everywhere.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dsmseg.model import DSMConfig
from dsmseg.model.conv_unet import ConvUNet
from dsmseg.model.losses import MaskReadings, PartialLabels, mask_loss, part_of
from dsmseg.model.swin_unetr import SwinUNETR

FIRST_BIAS = -2.0
"""Of a class's logit before training: most voxels are not of a given class. DSM's mask heads begin with the same."""


UnseenAnswer = Literal["any tumor", "its text", "anomaly"]


class BaselineOutput(NamedTuple):
    """What a baseline says of a batch, under the names of ``DSMOutput``. Logits become soft masks by a sigmoid.

    organ_logits, tumor_logits: in evaluation mode, tumors that no label named answer by the method's rule.
    anomaly: A, in [-1, 0], higher where nothing that was learned answers.
    log_probability: DSM's alone.
    log_assignment: log of to which query each voxel belongs, where the method has queries.
    """

    organ_logits: Float[Tensor, "batch organ x y z"]
    tumor_logits: Float[Tensor, "batch tumor x y z"]
    anomaly: Float[Tensor, "batch x y z"]
    log_probability: None = None
    log_assignment: Float[Tensor, "batch query x y z"] | None = None


class Baseline(nn.Module, ABC):
    """A network over one of DSM's backbones, that gives a mask for each class.

    ``trained`` is no part of the state: the recipe, and later the model card, tell it. ``answers_unseen_by`` says what
    stands in for a tumor that no label named.
    """

    backbone: ConvUNet | SwinUNETR
    trained: Tensor
    answers_unseen_by: ClassVar[UnseenAnswer]

    def __init__(self, config: DSMConfig, trained: Bool[Tensor, "class"] | None) -> None:
        super().__init__()
        self.organs, self.classes = config.organs, config.organs + config.tumors
        everything = torch.ones(self.classes, dtype=torch.bool)
        self.register_buffer("trained", everything if trained is None else trained, persistent=False)

    @abstractmethod
    def forward(self, image: Float[Tensor, "batch window x y z"]) -> BaselineOutput:
        """Segment ``image``, one channel a HU window scaled to [0, 1]."""

    def losses(
        self,
        output: BaselineOutput,
        labels: PartialLabels,
        *,
        organ_readings: MaskReadings,
        tumor_readings: MaskReadings,
        tumor_weight: float,
    ) -> dict[str, Tensor]:
        """Give the weighted terms: Dice and cross-entropy over the annotated classes, as DSM's own (Eq. 13).

        mask: a mean over organs; tumor_mask: one over tumors. The mean over both would drown the few tumors that a
        scan tells of, and DSM would be compared with a handicapped network. The readings are those of DSM's masks.
        """
        organs, tumors = part_of(labels, 0, self.organs), part_of(labels, self.organs, self.classes)
        return {
            "mask": mask_loss(output.organ_logits, organs, **organ_readings),
            "tumor_mask": tumor_weight * mask_loss(output.tumor_logits, tumors, **tumor_readings),
        }

    @property
    def trained_organs(self) -> Bool[Tensor, "organ"]:
        """Tell which organs labels tell of."""
        return self.trained[: self.organs]

    @property
    def trained_tumors(self) -> Bool[Tensor, "tumor"]:
        """Tell which tumors labels tell of."""
        return self.trained[self.organs :]


def any_tumor(
    tumor_logits: Float[Tensor, "batch tumor x y z"], trained: Bool[Tensor, "tumor"]
) -> Float[Tensor, "batch x y z"]:
    """Give the logit of the most probable tumor among the ``trained`` kinds; without any, all are asked."""
    asked = trained | ~trained.any()
    return tumor_logits.masked_fill(~asked[:, None, None, None], -torch.inf).amax(dim=1)


def unseen_answer(
    tumor_logits: Float[Tensor, "batch tumor x y z"],
    trained: Bool[Tensor, "tumor"],
    answer: Float[Tensor, "batch x y z"],
) -> Float[Tensor, "batch tumor x y z"]:
    """Put ``answer``, logits, in the place of each tumor that is not ``trained``."""
    return torch.where(trained[:, None, None, None], tumor_logits, answer[:, None].to(tumor_logits.dtype))


def unexplained(
    organ_logits: Float[Tensor, "batch organ x y z"], trained: Bool[Tensor, "organ"]
) -> Float[Tensor, "batch x y z"]:
    """Give A = -(the probability of the best organ that is ``trained``), in [-1, 0]; passes no gradient."""
    asked = trained | ~trained.any()
    best = organ_logits.detach().masked_fill(~asked[:, None, None, None], -torch.inf).amax(dim=1)
    return -best.float().sigmoid()
