"""The Universal model (Tables 3 and 4): each class's text writes the weights of the layers that segment it.

Source: Liu et al. 2023, "CLIP-Driven Universal Model for Organ Segmentation and Tumor Detection", arXiv 2301.00785.
Code of the original: ljwztc/CLIP-Driven-Universal-Model, not open (CC BY-NC-ND 4.0 there); this is written from the
paper's description and its published numbers alone.

As there: the class prompts' text vectors are brought to 256 values; the image gives 256 more (group normalization,
ReLU, global average and 1x1x1 convolution of the deepest map); a controller reads both and writes 153 numbers for each
class, the weights and biases of three 1x1x1 convolutions (8 -> 8, 8 -> 8, 8 -> 1, ReLU between) that run on 8 channels,
a projection of the full-resolution map. A sigmoid for each class, Dice and cross-entropy over the annotated ones.

Differences from the original:
- Text vectors are those of the recipe's table: MiniLM's 384 values with preset ``starter``, CLIP's 512 otherwise. They
  are scaled to the length of CLIP's, 8.8, since the controller's first weights expect it. Prompts are the
  taxonomy's.
- 45 classes instead of 32; the backbone is the preset's.
- Dice and cross-entropy are weighed as DSM's are.
- The controller's biases begin as the weights of ordinary convolutions, the last one at -2. With PyTorch's usual values
  the written layers would pass on a hundredth of the signal, which a short training does not mend.
- Post-processing is this package's, the same for all methods.

Unseen tumors: their own text, which the controller has never been trained with ("weak because the controller is fitted"
to the classes it has seen). Anomaly: none of its own, hence 1 less the probability of the best organ (``unexplained``).
"""

from math import gcd
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dsmseg.baselines.baseline import FIRST_BIAS, Baseline, BaselineOutput, UnseenAnswer, unexplained
from dsmseg.model import DSMConfig
from dsmseg.model.dsm import build_backbone

WIDTH = 256
"""Of the text's and the image's part of what the controller reads."""

HEAD_CHANNELS = 8
PARTS = (HEAD_CHANNELS**2, HEAD_CHANNELS**2, HEAD_CHANNELS, HEAD_CHANNELS, HEAD_CHANNELS, 1)
"""The 153 numbers of a class: the weights of three convolutions, then their biases."""

TEXT_LENGTH = 8.8
"""Euclidean length of CLIP ViT-B/32's vectors of the class prompts."""

GROUPS = 16


class UniversalModel(Baseline):
    """A backbone whose last three layers are written by text and image."""

    answers_unseen_by: ClassVar[UnseenAnswer] = "its text"

    text_embeddings: Tensor

    def __init__(
        self,
        config: DSMConfig,
        text_embeddings: Float[Tensor, "class text_width"],
        trained: Bool[Tensor, "class"] | None = None,
    ) -> None:
        """``text_embeddings``: of the class prompts, organs before tumors. Kept in the state dict, never trained."""
        super().__init__(config, trained)
        self.backbone = build_backbone(config)
        deepest, embedding = self.backbone.level_channels[0], self.backbone.embedding_channels
        self.register_buffer("text_embeddings", text_embeddings.detach().clone().float())
        self.text_layer = nn.Linear(text_embeddings.shape[1], WIDTH)
        self.image_layer = nn.Sequential(
            nn.GroupNorm(gcd(GROUPS, deepest), deepest),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Conv3d(deepest, WIDTH, 1),
        )
        self.projection = nn.Sequential(
            nn.GroupNorm(gcd(GROUPS, embedding), embedding), nn.ReLU(), nn.Conv3d(embedding, HEAD_CHANNELS, 1)
        )
        self.controller = nn.Linear(2 * WIDTH, sum(PARTS))
        self._begin_as_convolutions()

    def forward(self, image: Float[Tensor, "batch window x y z"]) -> BaselineOutput:
        """Segment ``image``."""
        features = self.backbone(image)
        written = self.write(features.levels[0])
        projected = self.projection(features.embedding)
        logits = torch.stack([self._segment(one, numbers) for one, numbers in zip(projected, written, strict=True)])
        organs, tumors = logits.tensor_split([self.organs], dim=1)
        return BaselineOutput(organs, tumors, unexplained(organs, self.trained_organs))

    @torch.no_grad()
    def _begin_as_convolutions(self) -> None:
        """Let the controller's biases, what it writes for all classes alike, be weights that pass signals on."""
        for part in torch.split(self.controller.bias, list(PARTS))[:3]:
            part.uniform_(-(HEAD_CHANNELS**-0.5), HEAD_CHANNELS**-0.5)  # PyTorch's, for as many inputs
        self.controller.bias[-1] = FIRST_BIAS

    def write(self, deepest: Float[Tensor, "batch channel x_1 y_1 z_1"]) -> Float[Tensor, "batch class number"]:
        """Give the 153 numbers of each class for each image."""
        text = functional.normalize(self.text_embeddings, dim=1) * TEXT_LENGTH
        text = functional.relu(self.text_layer(text))
        seen = self.image_layer(deepest).flatten(1)
        pairs = [seen[:, None].expand(-1, len(text), -1), text[None].expand(len(seen), -1, -1).to(seen.dtype)]
        numbers: Tensor = self.controller(torch.cat(pairs, dim=2))
        return numbers

    def _segment(
        self, feature: Float[Tensor, "8 x y z"], numbers: Float[Tensor, "class number"]
    ) -> Float[Tensor, "class x y z"]:
        """Run each class's layers on one image. Their activations, 720 maps, are computed again for gradients."""
        flat = feature.flatten(1)
        if not torch.is_grad_enabled():
            return torch.stack([dynamic_layers(flat, one) for one in numbers]).view(-1, *feature.shape[1:])
        again = [checkpoint(dynamic_layers, flat, one, use_reentrant=False) for one in numbers]
        return torch.stack(again).view(-1, *feature.shape[1:])


def dynamic_layers(feature: Float[Tensor, "8 voxel"], numbers: Float[Tensor, "number"]) -> Float[Tensor, "voxel"]:
    """Run three 1x1x1 convolutions, 8 -> 8 -> 8 -> 1 with ReLU between, whose weights and biases are ``numbers``."""
    first, second, last, bias_1, bias_2, bias_3 = torch.split(numbers.to(feature.dtype), list(PARTS))
    square = (HEAD_CHANNELS, HEAD_CHANNELS)
    hidden = torch.addmm(bias_1[:, None], first.view(square), feature).relu()
    hidden = torch.addmm(bias_2[:, None], second.view(square), hidden).relu()
    logit: Tensor = last @ hidden + bias_3
    return logit
