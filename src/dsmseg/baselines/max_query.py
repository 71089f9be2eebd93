"""MaxQuery (Table 2): queries are the cluster centers of what was learned; what is far from them all is an anomaly.

Source: Yuan et al. 2023, "Devil is in the Queries: Advancing Mask Transformers for Real-world Medical Image
Segmentation and Out-of-Distribution Localization", CVPR, arXiv 2304.00212. No code was published.

As in the paper's abstract and Figure 2: segmentation is a soft cluster assignment. A mask transformer fits N queries to
the clusters of the trunk's features; voxels are grouped by their affinity with the queries; the groups are classified,
which gives the masks; the anomaly is minus the largest query response; a query-distribution loss draws clear boundaries
between segmentation targets and other regions at the level of queries.

Ours, where that leaves it open, or where the data ask for it:
- The trunk is the preset's backbone, not nnU-Net; queries meet its maps at strides 32, 16, 8 and 4, by DSM's k-means
  cross-attention (Eq. 8) with a softmax in the place of the argmax, then self-attention.
- 32 queries, the first 8 for the background.
- A response is a cosine, so that "far from all" does not depend on how loud a voxel's features are; its temperature is
  learned. A = -(1 + largest cosine) / 2, which is monotone in the paper's score and lies in [-1, 0].
- A group's class logits are 45 independent ones, mixed by each voxel's assignment; the paper's softmax over classes has
  no place for partial labels and for tumors inside of organs.
- The query-distribution loss is the cross-entropy of two groups of queries, foreground and background: their shares of
  a voxel's assignment. The foreground is what any annotated class holds. Background is known only as "none of the
  annotated classes", so a voxel counts as such by the probability, as the network now says, that it is of no trained
  class whose labels are missing.

Unseen tumors: the anomaly, 1 + A, is their probability. A threshold of 0.5 means nothing on it.
"""

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from dsmseg.baselines.baseline import FIRST_BIAS, Baseline, BaselineOutput, UnseenAnswer, unseen_answer
from dsmseg.model import DSMConfig
from dsmseg.model.attention import SelfAttentionBlock
from dsmseg.model.dsm import build_backbone
from dsmseg.model.kmax_mamba import Clusters, QueryBlock, cluster_centers
from dsmseg.model.losses import MaskReadings, PartialLabels

QUERIES, BACKGROUND_QUERIES = 32, 8
EMBEDDING = 32
"""Channels in which queries and voxels are compared."""

FIRST_SHARPNESS = 10.0
"""Inverse temperature of the assignment before training."""

EPSILON = 1e-4
"""Probabilities closer to 0 or 1 have no logit that is worth keeping."""


class SoftClusterBlock(QueryBlock):
    """K-means cross-attention with soft assignment, then self-attention and a feed-forward layer."""

    def __init__(self, *, width: int, level_channels: int, heads: int, feed_forward_width: int) -> None:
        super().__init__(width=width, level_channels=level_channels, queries=QUERIES)
        self.center_projection = nn.Linear(level_channels, width)
        self.self_attention = SelfAttentionBlock(width=width, heads=heads, feed_forward_width=feed_forward_width)

    def forward(
        self, queries: Float[Tensor, "batch query width"], level: Float[Tensor, "batch channel x y z"]
    ) -> Float[Tensor, "batch query width"]:
        """Move the queries towards the means of what they are assigned."""
        feature = self.feature_norm(level.flatten(2).transpose(1, 2))
        assignment = self.affinity(self.query_norm(queries), feature).softmax(dim=1)
        centers = cluster_centers(Clusters(assignment, assignment.sum(-1).clamp(min=1.0)), feature)
        queries = queries + self.center_projection(centers)
        refined: Tensor = self.self_attention(queries)
        return refined


class MaxQuery(Baseline):
    """A mask transformer whose queries are cluster centers."""

    answers_unseen_by: ClassVar[UnseenAnswer] = "anomaly"

    def __init__(self, config: DSMConfig, trained: Bool[Tensor, "class"] | None = None) -> None:
        super().__init__(config, trained)
        width = config.query_width
        self.backbone = build_backbone(config)
        self.queries = nn.Parameter(torch.randn(QUERIES, width) * 0.02)
        self.blocks = nn.ModuleList(
            SoftClusterBlock(
                width=width, level_channels=channels, heads=config.heads, feed_forward_width=config.feed_forward_width
            )
            for channels in self.backbone.level_channels
        )
        self.query_embedding = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, EMBEDDING))
        self.voxel_embedding = nn.Conv3d(self.backbone.embedding_channels, EMBEDDING, kernel_size=1)
        self.classify = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, self.classes)
        )
        self.log_sharpness = nn.Parameter(torch.tensor([FIRST_SHARPNESS]).log())
        nn.init.constant_(self.classify[-1].get_parameter("bias"), FIRST_BIAS)

    def forward(self, image: Float[Tensor, "batch window x y z"]) -> BaselineOutput:
        """Segment ``image``."""
        features = self.backbone(image)
        queries = self.queries.expand(len(image), -1, -1)
        for block, level in zip(self.blocks, features.levels, strict=True):
            queries = block(queries, level)
        responses = self.respond(queries, features.embedding)
        log_assignment = (self.log_sharpness.exp() * responses).log_softmax(dim=1)
        logits = self.classify(queries).transpose(1, 2).to(responses.dtype) @ log_assignment.exp().flatten(2)
        organs, tumors = logits.reshape(*logits.shape[:2], *image.shape[2:]).tensor_split([self.organs], dim=1)
        anomaly = -(1 + responses.detach().amax(dim=1)) / 2
        if not self.training:
            score = (1 + anomaly).clamp(EPSILON, 1 - EPSILON).logit()
            tumors = unseen_answer(tumors, self.trained_tumors, score)
        return BaselineOutput(organs, tumors, anomaly, log_assignment=log_assignment)

    def respond(
        self, queries: Float[Tensor, "batch query width"], embedding: Float[Tensor, "batch channel x y z"]
    ) -> Float[Tensor, "batch query x y z"]:
        """Give the cosine of each query with each voxel, in float32."""
        voxels = functional.normalize(self.voxel_embedding(embedding).flatten(2).float(), dim=1)
        centers = functional.normalize(self.query_embedding(queries).float(), dim=2)
        with torch.autocast(voxels.device.type, enabled=False):
            responses: Tensor = centers @ voxels
        return responses.reshape(*responses.shape[:2], *embedding.shape[2:])

    def losses(
        self,
        output: BaselineOutput,
        labels: PartialLabels,
        *,
        organ_readings: MaskReadings,
        tumor_readings: MaskReadings,
        tumor_weight: float,
    ) -> dict[str, Tensor]:
        """Give the terms of all baselines, and query_distribution."""
        masks = super().losses(
            output,
            labels,
            organ_readings=organ_readings,
            tumor_readings=tumor_readings,
            tumor_weight=tumor_weight,
        )
        return masks | {"query_distribution": self._query_distribution(output, labels)}

    def _query_distribution(self, output: BaselineOutput, labels: PartialLabels) -> Float[Tensor, ""]:
        """Give the cross-entropy of foreground and background queries, each a mean over its voxels; mean of patches."""
        if output.log_assignment is None:
            raise ValueError("the output is another network's")
        background = output.log_assignment[:, :BACKGROUND_QUERIES].logsumexp(dim=1)
        foreground = output.log_assignment[:, BACKGROUND_QUERIES:].logsumexp(dim=1)
        known = labels.annotated[..., None, None, None]
        inside = (labels.masks & known).any(dim=1)
        with torch.no_grad():
            unlabelled = (self.trained & ~labels.annotated)[..., None, None, None]
            logits = torch.cat([output.organ_logits, output.tumor_logits], dim=1).float()
            other = logits.masked_fill(~unlabelled, -torch.inf).amax(dim=1).sigmoid()
            outside = torch.where(inside, 0.0, 1 - other)
            if labels.known is not None:
                outside = outside * labels.known
        return -(_mean(foreground, inside.float()) + _mean(background, outside)).mean()


def _mean(values: Float[Tensor, "batch x y z"], weight: Float[Tensor, "batch x y z"]) -> Float[Tensor, "batch"]:
    """Give each item's weighted mean; 0 where nothing weighs."""
    return (values * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1.0)
