"""Swin UNETR as a segmentation network (Tables 3 and 4): the backbone, and a 1x1x1 convolution that names the classes.

Source: Hatamizadeh et al. 2022, "Swin UNETR: Swin Transformers for Semantic Segmentation of Brain Tumors in MRI
Images", arXiv 2201.01266; Tang et al. 2022, arXiv 2111.14791 (CT). Code of the original: MONAI, Apache-2.0.

Differences from the original:
- 45 sigmoids, since labels are partial and a tumor's voxels are its organ's too; the original has one softmax. Its Dice
  and cross-entropy are taken over the annotated classes.
- Dice and cross-entropy are weighed as DSM's are, so that the comparison is of networks.
- The convolution's logits, with their bias of -2 as in DSM's mask heads, are ten times what its weights give
  (``HEAD_GAIN``).
- Preset ``starter`` has no Swin transformer: there this is the convolutional U-Net of ``model/conv_unet.py`` with the
  same convolution on top, and results are to be called so.

Unseen tumors: the original answers for none. Here they are "any tumor", the most probable of the trained kinds.
Anomaly: none of its own, hence 1 less the probability of the best organ (``unexplained``).
"""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from dsmseg.baselines.baseline import (
    FIRST_BIAS,
    Baseline,
    BaselineOutput,
    UnseenAnswer,
    any_tumor,
    unexplained,
    unseen_answer,
)
from dsmseg.model import DSMConfig
from dsmseg.model.dsm import build_backbone

HEAD_GAIN = 10.0
"""Of the head. A step of Adam moves a weight by about the learning rate, 0.001, whatever its gradient: in a short
training a bias of -2 can hardly move, while DSM's kernels, which an MLP writes, move at once."""


class SwinUNETRBaseline(Baseline):
    """A backbone with one 1x1x1 convolution."""

    answers_unseen_by: ClassVar[UnseenAnswer] = "any tumor"

    def __init__(self, config: DSMConfig, trained: Bool[Tensor, "class"] | None = None) -> None:
        super().__init__(config, trained)
        self.backbone = build_backbone(config)
        self.head = nn.Conv3d(self.backbone.embedding_channels, self.classes, kernel_size=1)
        nn.init.constant_(self.head.get_parameter("bias"), FIRST_BIAS / HEAD_GAIN)

    def logits(self, image: Float[Tensor, "batch window x y z"]) -> Float[Tensor, "batch class x y z"]:
        """Give the logits of all classes, organs before tumors."""
        logits: Tensor = HEAD_GAIN * self.head(self.backbone(image).embedding)
        return logits

    def forward(self, image: Float[Tensor, "batch window x y z"]) -> BaselineOutput:
        """Segment ``image``."""
        organs, tumors = self.logits(image).tensor_split([self.organs], dim=1)
        if not self.training:
            tumors = unseen_answer(tumors, self.trained_tumors, any_tumor(tumors, self.trained_tumors))
        return BaselineOutput(organs, tumors, unexplained(organs, self.trained_organs))
