"""Diffusion-guided query refinement, the DQR decoder (§ 4.2.2, Figure 2c)."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dsmseg.model.anomaly_prompt import deviation_prompt, mask_prompt, min_max, organ_prompt
from dsmseg.model.attention import START_SCALE, MultiHeadAttention, SelfAttentionBlock
from dsmseg.model.config import Prompt
from dsmseg.model.mask_head import FIRST_BIAS
from dsmseg.model.pointwise import PointwiseConvolution
from dsmseg.model.semantic_diffusion import SemanticDiffusion

RESPONDING_LEVELS = 2
"""Tumor queries answer at the two finest levels, strides 8 and 4: a tumor of 2 cm is one voxel of the coarser ones."""

MASK_PROMPTS: Mapping[Prompt, Callable[[Float[Tensor, "batch x y z"]], Float[Tensor, "batch voxel"]]] = (
    MappingProxyType({"anomalies": mask_prompt, "organs": organ_prompt, "deviation": deviation_prompt})
)
"""M_i of a level's score, by where prompts point."""


class Queries(NamedTuple):
    """Queries between DQR blocks."""

    organs: Float[Tensor, "batch organ width"]
    tumors: Float[Tensor, "batch tumor width"]


class RefinedQueries(NamedTuple):
    """What the DQR decoder makes of an image.

    organs, tumors: queries after the last block, layer-normalized.
    responses: of the tumor queries at strides 8 and 4, as logits.
    finest: the map that masks are read from, with what Eq. 18 brings to it from level 4.
    """

    organs: Float[Tensor, "batch organ width"]
    tumors: Float[Tensor, "batch tumor width"]
    responses: list[Float[Tensor, "batch tumor x_i y_i z_i"]]
    finest: Float[Tensor, "batch channel_5 x_5 y_5 z_5"]


class GuidedDiffusion(nn.Module):
    """Eq. 17 with its guidance D_i: the deeper map, projected and brought to unit scale.

    Eq. 17 sees differences of the guidance only, and its sharpness sets their scale. So the projection has no bias, and
    the normalization, over all channels and voxels of a case, no parameters.
    """

    def __init__(self, channels: int) -> None:
        """Build for maps of ``channels`` channels."""
        super().__init__()
        self.project = PointwiseConvolution(channels, channels, kernel_size=1, bias=False)
        self.normalize = nn.GroupNorm(1, channels, affine=False)
        self.diffuse = SemanticDiffusion(channels)

    def forward(
        self, feature: Float[Tensor, "batch channel x y z"], deeper: Float[Tensor, "batch channel x y z"]
    ) -> Float[Tensor, "batch channel x y z"]:
        """Return F^_i of ``feature``, guided by the ``deeper`` map at the same resolution."""
        diffused: Tensor = self.diffuse(feature, self.normalize(self.project(deeper)))
        return diffused


class ProjectedFeature(nn.Module):
    """The projection layer that replaces the diffusion in row 4 of Table 5 (§ 6.4)."""

    def __init__(self, channels: int) -> None:
        """Build for maps of ``channels`` channels."""
        super().__init__()
        self.project = PointwiseConvolution(channels, channels, kernel_size=1)

    def forward(
        self, feature: Float[Tensor, "batch channel x y z"], deeper: Float[Tensor, "batch channel x y z"]
    ) -> Float[Tensor, "batch channel x y z"]:
        """Return the projection of ``feature``; the ``deeper`` map is part of it already and guides nothing."""
        projected: Tensor = self.project(feature)
        return projected


class QueryRefinementBlock(nn.Module):
    """One DQR block: Eq. 17, masked cross-attention (Eq. 19), self-attention of organs and tumors, feed-forward.

    Pre-norm residual layers. T_i is the linear projection of T to the C_i channels in which Eq. 19 attends; what it
    reads is projected back and added to T, which keeps its width. Keys have no positional encoding: a voxel's place in
    an arbitrary window says nothing about the body.
    """

    def __init__(
        self,
        *,
        channels: int,
        width: int,
        heads: int,
        feed_forward_width: int,
        diffusion: bool = True,
        mask_prompt: bool = True,
        prompt: Prompt = "anomalies",
        responds_as: int = 0,
    ) -> None:
        """Build a block for a level of ``channels`` channels; the switches are those of ``QueryRefinementDecoder``.

        ``responds_as``: that many tumor queries tell, beside, where at this level they see their tumor.
        """
        super().__init__()
        self.mask_prompt = mask_prompt
        self.points_to: Prompt = prompt
        self.enhance: nn.Module = GuidedDiffusion(channels) if diffusion else ProjectedFeature(channels)
        self.context_norm = nn.LayerNorm(2 * channels)
        self.to_level = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, channels))
        context_width = 2 * channels + (0 if mask_prompt else 1)
        self.cross_attention = MultiHeadAttention(width=channels, heads=heads, key_width=context_width)
        self.from_level = nn.Linear(channels, width)
        self.self_attention = SelfAttentionBlock(width=width, heads=heads, feed_forward_width=feed_forward_width)
        self.self_attention.start_near_identity()  # Stage 2 begins with the organs of Stage 1
        self.response = TumorResponse(width=width, context=2 * channels, tumors=responds_as) if responds_as else None

    def forward(
        self,
        feature: Float[Tensor, "batch channel x y z"],
        deeper: Float[Tensor, "batch channel x y z"],
        score: Float[Tensor, "batch x y z"],
        queries: Queries,
    ) -> tuple[Queries, Float[Tensor, "batch channel x y z"], Float[Tensor, "batch tumor x y z"] | None]:
        """Return the updated queries, F_i + F^_i for the next level, and the tumors' response where one is asked for.

        Args:
            feature: F_i.
            deeper: the map that guides the diffusion, at F_i's resolution.
            score: anomaly score A_i of Eq. 14, or the deviation score where prompts point to that.
            queries: the queries so far.
        """
        diffused = self.enhance(feature, deeper)
        context, mask = self.context(feature, diffused, score)
        tumors = self.attend(queries.tumors, context, mask)
        tokens = self.self_attention(torch.cat([queries.organs, tumors], dim=1))
        organs, tumors = tokens.split([queries.organs.shape[1], tumors.shape[1]], dim=1)
        response = None
        if self.response is not None:
            response = self.response(tumors, context).unflatten(2, feature.shape[2:])
        return Queries(organs, tumors), feature + diffused, response

    def attend(
        self,
        tumors: Float[Tensor, "batch tumor width"],
        context: Float[Tensor, "batch voxel context"],
        mask: Float[Tensor, "batch 1 1 voxel"] | None,
    ) -> Float[Tensor, "batch tumor width"]:
        """Update the tumor queries: T^_i = T_i + Softmax(M_i + Q_i K_i^T) V_i (Eq. 19).

        As printed, A_i stands in M_i's place; the text, "mask prompts", means the mask.
        """
        read: Tensor = self.from_level(self.cross_attention(self.to_level(tumors), context, mask))
        return tumors + read

    def context(
        self,
        feature: Float[Tensor, "batch channel x y z"],
        diffused: Float[Tensor, "batch channel x y z"],
        score: Float[Tensor, "batch x y z"],
    ) -> tuple[Float[Tensor, "batch voxel context"], Float[Tensor, "batch 1 1 voxel"] | None]:
        """Give what Eq. 19 makes keys and values of, the normalized [F_i, F^_i], and the mask M_i (Eq. 15).

        Without the mask prompt (Table 5, row 3), the scaled anomaly map is one more channel of [F_i, F^_i], and the
        attention is plain.
        """
        context = self.context_norm(torch.cat([feature, diffused], dim=1).flatten(2).transpose(1, 2))
        if self.mask_prompt:
            return context, MASK_PROMPTS[self.points_to](score)[:, None, None]
        anomaly = min_max(score).flatten(1).unsqueeze(-1)
        return torch.cat([context, anomaly.to(context.dtype)], dim=-1), None


class TumorResponse(nn.Module):
    """How strongly each tumor query answers to each voxel of a level, as a scaled dot product: a logit.

    The paper has responses of organ queries alone. Supervised, these let a tumor query learn where its tumor is before
    any mask of it at full resolution does.
    """

    def __init__(self, *, width: int, context: int, tumors: int) -> None:
        """Build for queries of ``width`` and voxels of ``context`` channels."""
        super().__init__()
        self.context, self.scale = context, context**-0.5
        self.query = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, context))
        self.bias = nn.Parameter(torch.full((tumors,), FIRST_BIAS))

    def forward(
        self, tumors: Float[Tensor, "batch tumor width"], context: Float[Tensor, "batch voxel context_and_score"]
    ) -> Float[Tensor, "batch tumor voxel"]:
        """Return the responses; of a context that holds the anomaly score as well, that is left out."""
        response: Tensor = self.scale * self.query(tumors) @ context[..., : self.context].transpose(1, 2)
        return response + self.bias[:, None]


class FeatureFusion(nn.Module):
    """What the next level gets of a level: F_{i+1} = Conv(F_i + F^_i) (Eq. 18).

    The text has the map "convolved to upsample", yet a backbone with skip connections has an F_{i+1} of its own: the
    convolved map is upsampled trilinearly and added to it, so that nothing is lost. The convolution is 1 x 1 x 1, since
    Eq. 17 mixes the neighborhood already.
    """

    def __init__(self, channels: int, following: int) -> None:
        """Build between levels of ``channels`` and ``following`` channels."""
        super().__init__()
        self.convolution = PointwiseConvolution(channels, following, kernel_size=1)

    def forward(
        self,
        enhanced: Float[Tensor, "batch channel x y z"],
        following: Float[Tensor, "batch following x_2 y_2 z_2"],
    ) -> tuple[Float[Tensor, "batch following x_2 y_2 z_2"], Float[Tensor, "batch following x_2 y_2 z_2"]]:
        """Return F_{i+1}, and the part of it that ``enhanced``, F_i + F^_i, brings to the backbone's ``following``."""
        deeper = functional.interpolate(
            self.convolution(enhanced), size=following.shape[2:], mode="trilinear", align_corners=False
        )
        return following + deeper, deeper


class QueryRefinementDecoder(nn.Module):
    """The DQR decoder: learned tumor queries, refined at strides 32, 16, 8 and 4 beside the organ queries.

    What Eq. 18 brings from level i also guides the diffusion of level i + 1. The first level has no deeper one and
    guides itself. The last level, i = 4, is fused with the map that masks are read from, so that what the diffusion
    enhances reaches the masks.
    """

    def __init__(
        self,
        *,
        level_channels: Sequence[int],
        finest_channels: int,
        width: int,
        tumors: int = 20,
        heads: int = 8,
        feed_forward_width: int,
        diffusion: bool = True,
        mask_prompt: bool = True,
        prompt: Prompt = "anomalies",
    ) -> None:
        """Build the decoder.

        Args:
            level_channels: channels of the levels, deepest first; each, and ``width``, a multiple of ``heads``.
            finest_channels: channels of the map that masks are read from.
            width: width C of the queries.
            tumors: number of tumor queries.
            heads: heads of every attention layer.
            feed_forward_width: hidden width of the feed-forward layers.
            diffusion: False replaces Eq. 17 by a projection layer (Table 5, row 4).
            mask_prompt: False attends everywhere, with the anomaly map as one more channel of keys and values
                (Table 5, row 3).
            prompt: where mask prompts point.

        Raises:
            ValueError: ``heads`` does not divide ``width`` or a level's channels.
        """
        super().__init__()
        self.points_to: Prompt = prompt
        self.tumor_queries = nn.Parameter(torch.randn(tumors, width))
        self.blocks = nn.ModuleList(
            QueryRefinementBlock(
                channels=channels,
                width=width,
                heads=heads,
                feed_forward_width=feed_forward_width,
                diffusion=diffusion,
                mask_prompt=mask_prompt,
                prompt=prompt,
                responds_as=tumors if place >= len(level_channels) - RESPONDING_LEVELS else 0,
            )
            for place, channels in enumerate(level_channels)
        )
        self.fuse = nn.ModuleList(
            FeatureFusion(channels, following) for channels, following in pairwise([*level_channels, finest_channels])
        )
        with torch.no_grad():  # Stage 2 begins with the masks of Stage 1
            for parameter in self.fuse[-1].parameters():
                parameter.mul_(START_SCALE)
        self.norm = nn.LayerNorm(width)

    def unrefined(self, batch: int) -> Float[Tensor, "batch tumor width"]:
        """Give the tumor queries before they have looked at anything."""
        queries: Tensor = self.norm(self.tumor_queries)
        return queries.expand(batch, -1, -1)

    def forward(
        self,
        levels: Sequence[Float[Tensor, "batch _ _ _ _"]],
        organ_queries: Float[Tensor, "batch organ width"],
        scores: Sequence[Float[Tensor, "batch _ _ _"]],
        finest: Float[Tensor, "batch channel_5 x_5 y_5 z_5"],
    ) -> RefinedQueries:
        """Return the refined queries, and the map to read masks from.

        Args:
            levels: F_1..F_4, deepest first.
            organ_queries: O^ of Stage 1.
            scores: anomaly score (Eq. 14) of each level, at the level's resolution, or the deviation score.
            finest: the backbone's map that masks are read from.
        """
        queries = Queries(organ_queries, self.tumor_queries.expand(len(organ_queries), -1, -1))
        feature = deeper = levels[0]
        responses = []
        for block, fuse, score, following in zip(self.blocks, self.fuse, scores, [*levels[1:], finest], strict=True):
            queries, enhanced, response = block(feature, deeper, score, queries)
            feature, deeper = fuse(enhanced, following)
            if response is not None:
                responses.append(response)
        return RefinedQueries(self.norm(queries.organs), self.norm(queries.tumors), responses, feature)
