"""§ 4.1.1: the kMax-Mamba (kMM) block and decoder, Eq. 8-10.

Queries are cluster centers. Each voxel belongs to the query that answers it most strongly, as in k-means; a state space
layer runs along the voxels before that choice, so that an assignment knows what came before it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dsmseg.model.attention import MultiHeadAttention, SelfAttentionBlock
from dsmseg.model.config import Response
from dsmseg.model.state_space import SelectiveStateSpace

FIRST_GAIN = 0.5
"""Of the memory beside the affinity, before training: strong enough to be heard, too weak to decide alone."""

EPSILON = 1e-6
"""Keeps the scale of a map of zeros from dividing by zero."""


class Clusters(NamedTuple):
    """Which voxels belong to each query.

    assignment: R_i of Eq. 9, one-hot over queries; its gradient is the softmax's.
    size: by how many voxels a query's sum is divided, at least 1; passes no gradient.
    """

    assignment: Float[Tensor, "batch query voxel"]
    size: Float[Tensor, "batch query"]


def query_argmax(response: Float[Tensor, "batch query voxel"]) -> Clusters:
    """Assign each voxel to the query that answers it most: the argmax over N_o of Eq. 8 and Eq. 9.

    An argmax has no gradient, so the softmax's is passed straight through. Size means voxels or soft voxels, whichever
    is more: a query with many soft and few hard voxels would otherwise get the gradient of all of them, undivided.
    """
    soft = response.softmax(dim=1)
    hard = torch.zeros_like(soft).scatter_(1, soft.argmax(dim=1, keepdim=True), 1.0)
    size = torch.maximum(hard.sum(-1), soft.sum(-1)).detach().clamp(min=1.0)
    return Clusters(hard + soft - soft.detach(), size)


def cluster_centers(
    clusters: Clusters, feature: Float[Tensor, "batch voxel channel"]
) -> Float[Tensor, "batch query channel"]:
    """Gather the features of each query's voxels: R_i F_i of Eq. 10.

    The printed sum grows with the number of voxels, and with it the update of a query, so it is divided by the
    cluster's size, as in k-means. An empty cluster gives zero.
    """
    return clusters.assignment @ feature / clusters.size.unsqueeze(-1)


def k_means_cross_attention(
    queries: Float[Tensor, "batch query width"],
    response: Float[Tensor, "batch query voxel"],
    feature: Float[Tensor, "batch voxel channel"],
    value: Callable[[Tensor], Tensor],
) -> Float[Tensor, "batch query width"]:
    """Update the queries by their clusters: O^ = O + argmax_{N_o}(Q_O K_F^T) V_F (Eq. 8).

    Args:
        queries: O.
        response: Q_O K_F^T; in a kMM block, what the state space layer makes of it (Eq. 9).
        feature: F.
        value: the linear map of F to V_F, "a projection layer to obtain O^". A mean and a linear map commute, so it
            is applied to the few centers, not to every voxel.
    """
    return queries + value(cluster_centers(query_argmax(response), feature))


class QueryBlock(nn.Module):
    """What every block of the decoder starts with: how strongly each query answers to each voxel, Q_O K_F^T (Eq. 8)."""

    def __init__(self, *, width: int, level_channels: int, queries: int) -> None:
        super().__init__()
        self.scale = level_channels**-0.5
        self.query_norm = nn.LayerNorm(width)
        self.query_projection = nn.Linear(width, level_channels)
        self.feature_norm = nn.LayerNorm(level_channels)
        self.bias = nn.Parameter(torch.zeros(queries))

    def affinity(
        self, queries: Float[Tensor, "batch query width"], feature: Float[Tensor, "batch voxel channel"]
    ) -> Float[Tensor, "batch query voxel"]:
        """Give O_i F_i^T: the scaled dot products of normalized queries and features, plus a bias for each query."""
        affinity: Tensor = self.scale * self.query_projection(queries) @ feature.transpose(1, 2)
        return affinity + self.bias[:, None]


class KMaxMambaBlock(QueryBlock):
    """One kMM block (Figure 1): k-means cross-attention over the SSM's response, self-attention, feed-forward."""

    def __init__(
        self,
        *,
        width: int,
        level_channels: int,
        queries: int,
        heads: int,
        feed_forward_width: int,
        state: int,
        reading: Response = "balanced",
    ) -> None:
        """Build a block; ``reading`` says how Eq. 9 is read, see ``response``."""
        super().__init__(width=width, level_channels=level_channels, queries=queries)
        self.reading: Response = reading
        self.state_space = SelectiveStateSpace(channels=queries, state=state, skip=reading == "residual")
        self.gain = nn.Parameter(torch.full((queries,), FIRST_GAIN)) if reading == "balanced" else None
        self.center_projection = nn.Linear(level_channels, width)
        self.self_attention = SelfAttentionBlock(width=width, heads=heads, feed_forward_width=feed_forward_width)

    def forward(
        self, queries: Float[Tensor, "batch query width"], level: Float[Tensor, "batch channel x y z"]
    ) -> tuple[Float[Tensor, "batch query width"], Float[Tensor, "batch query x y z"]]:
        """Give the updated queries and the soft response R_i before argmax, as logits per organ and voxel."""
        feature = self.feature_norm(level.flatten(2).transpose(1, 2))
        response = self.response(queries, feature)
        queries = k_means_cross_attention(queries, response, feature.to(response.dtype), self.center_projection)
        return self.self_attention(queries), response.reshape(*response.shape[:2], *level.shape[2:])

    def response(
        self, queries: Float[Tensor, "batch query width"], feature: Float[Tensor, "batch voxel channel"]
    ) -> Float[Tensor, "batch query voxel"]:
        """Give what stands inside the argmax of Eq. 9: SSM(SiLU(O_i F_i^T)), beside O_i F_i^T itself.

        The state space layer runs along the voxels, with the queries as its channels. How its memory joins the
        affinity O_i F_i^T is the block's ``reading``:

        - "printed": the memory alone, as Eq. 9 has it;
        - "residual": affinity plus memory. Training lets the affinity grow to hundreds of times the memory, which then
          changes no argmax;
        - "balanced": the affinity enters the layer at unit scale, and its memory, brought to the affinity's scale, is
          added with a learned gain for each query. So what the layer remembers counts, however large affinities grow.
        """
        affinity = self.affinity(self.query_norm(queries), feature)
        if self.gain is None:
            memory = self.memory(affinity)
            return memory if self.reading == "printed" else affinity + memory
        scale = _root_mean_square(affinity, (1, 2))
        memory = self.memory(affinity / scale)
        return affinity + self.gain[:, None] * scale * memory / _root_mean_square(memory, (2,))

    def memory(self, affinity: Float[Tensor, "batch query voxel"]) -> Float[Tensor, "batch query voxel"]:
        """Give SSM(SiLU(affinity)) along the voxels (Eq. 9)."""
        remembered: Tensor = self.state_space(functional.silu(affinity).transpose(1, 2)).transpose(1, 2)
        return remembered


class MaskTransformerBlock(QueryBlock):
    """The vanilla mask-transformer block in the kMM block's place (Table 5, row 2): spatial softmax attention."""

    def __init__(self, *, width: int, level_channels: int, queries: int, heads: int, feed_forward_width: int) -> None:
        super().__init__(width=width, level_channels=level_channels, queries=queries)
        self.cross_attention = MultiHeadAttention(width=width, heads=heads, key_width=level_channels)
        self.self_attention = SelfAttentionBlock(width=width, heads=heads, feed_forward_width=feed_forward_width)

    def forward(
        self, queries: Float[Tensor, "batch query width"], level: Float[Tensor, "batch channel x y z"]
    ) -> tuple[Float[Tensor, "batch query width"], Float[Tensor, "batch query x y z"]]:
        """Give the updated queries and their response to the level, as logits."""
        feature = self.feature_norm(level.flatten(2).transpose(1, 2))
        normalized = self.query_norm(queries)
        response = self.affinity(normalized, feature)
        queries = queries + self.cross_attention(normalized, feature)
        return self.self_attention(queries), response.reshape(*response.shape[:2], *level.shape[2:])


def _root_mean_square(values: Float[Tensor, "batch query voxel"], axes: tuple[int, ...]) -> Tensor:
    """Give the scale of values over some axes, which are kept, in float32 at least."""
    return (
        values.to(torch.promote_types(values.dtype, torch.float32))
        .square()
        .mean(axes, keepdim=True)
        .sqrt()
        .clamp_min(EPSILON)
    )


class OrganAnswers(NamedTuple):
    """What the kMM decoder makes of an image.

    queries: O^, the refined organ queries.
    responses: R_1..R_4 of the organ queries, before argmax, as logits.
    background: the same of the background queries; empty where there are none.
    """

    queries: Float[Tensor, "batch organ width"]
    responses: list[Float[Tensor, "batch organ x_i y_i z_i"]]
    background: list[Float[Tensor, "batch background x_i y_i z_i"]]


class KMaxMambaDecoder(nn.Module):
    """K_d: organ queries meet F_1..F_4 (strides 32, 16, 8, 4), one block a level.

    Every voxel belongs to the query that answers it most, and most voxels of a body are of no organ. Where organ
    queries alone compete, as in the paper, these fall to some organ all the same (measured: 41 % of the liver's cluster
    was liver), and Eq. 10 takes their mean. So background queries compete beside them, as in kMaX-DeepLab; they give no
    mask.
    """

    def __init__(
        self,
        *,
        level_channels: Sequence[int],
        organs: int,
        width: int,
        heads: int,
        feed_forward_width: int,
        state: int,
        background: int = 0,
        state_space: bool = True,
        reading: Response = "balanced",
    ) -> None:
        """Build the decoder.

        Args:
            level_channels: channels of the levels, deepest first.
            organs: organ queries.
            width: width C of the queries.
            heads: of every attention layer.
            feed_forward_width: hidden width of the feed-forward layers.
            state: hidden values of each channel of the state space layers.
            background: background queries; the paper has none.
            state_space: False builds the vanilla blocks of Table 5, row 2.
            reading: how the blocks read Eq. 9.
        """
        super().__init__()
        self.organs = organs
        queries = organs + background
        self.queries = nn.Parameter(torch.randn(queries, width))
        sizes = {"width": width, "queries": queries, "heads": heads, "feed_forward_width": feed_forward_width}
        kmm = partial(KMaxMambaBlock, state=state, reading=reading, **sizes)
        block = kmm if state_space else partial(MaskTransformerBlock, **sizes)
        self.blocks = nn.ModuleList(block(level_channels=channels) for channels in level_channels)

    def forward(self, levels: Sequence[Float[Tensor, "batch channel_i x_i y_i z_i"]]) -> OrganAnswers:
        """Give the refined organ queries and the responses R_1..R_4."""
        queries = self.queries.expand(levels[0].shape[0], -1, -1)
        responses = []
        for block, level in zip(self.blocks, levels, strict=True):
            queries, response = block(queries, level)
            responses.append(response)
        return OrganAnswers(
            queries[:, : self.organs],
            [response[:, : self.organs] for response in responses],
            [response[:, self.organs :] for response in responses] if len(self.queries) > self.organs else [],
        )
