"""Attention and feed-forward blocks that both query decoders share (pre-norm, residual)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

START_SCALE = 0.01
"""Of weights that ``start_near_identity`` lets begin small."""


def masked_attention(
    query: Float[Tensor, "batch head query head_width"],
    key: Float[Tensor, "batch head key head_width"],
    value: Float[Tensor, "batch head key head_width"],
    mask: Float[Tensor, "batch 1 1 key"] | None = None,
) -> Float[Tensor, "batch head query head_width"]:
    """Give Softmax(M + Q K^T / sqrt(d)) V of Eq. 19, the softmax over keys; d is the width of a head.

    ``mask`` is M, 0 or -inf for each key; a row of nothing but -inf is undefined, and ``mask_prompt`` makes none.
    """
    if mask is not None:
        mask = mask.to(query.dtype)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with ``heads`` heads; an additive mask may be given."""

    def __init__(self, *, width: int, heads: int, key_width: int | None = None) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(key_width or width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(
        self,
        queries: Float[Tensor, "batch query width"],
        keys: Float[Tensor, "batch key key_width"],
        mask: Float[Tensor, "batch 1 1 key"] | None = None,
    ) -> Float[Tensor, "batch query width"]:
        """Gather from ``keys``; ``mask`` is added to the attention logits before the softmax."""
        query = self._split(self.query(queries))
        key, value = (self._split(part) for part in self.key_value(keys).chunk(2, dim=-1))
        gathered = masked_attention(query, key, value, mask)
        output: Tensor = self.output(gathered.transpose(1, 2).flatten(2))
        return output

    def _split(self, tokens: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch head token head_width"]:
        return tokens.reshape(*tokens.shape[:2], self.heads, -1).transpose(1, 2)


class SelfAttentionBlock(nn.Module):
    """Self-attention among queries, then a feed-forward layer."""

    def __init__(self, *, width: int, heads: int, feed_forward_width: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width=width, heads=heads)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, feed_forward_width), nn.GELU(), nn.Linear(feed_forward_width, width)
        )

    def forward(self, queries: Float[Tensor, "batch query width"]) -> Float[Tensor, "batch query width"]:
        """Let the queries exchange what they know."""
        normalized = self.attention_norm(queries)
        queries = queries + self.attention(normalized, normalized)
        output: Tensor = queries + self.feed_forward(queries)
        return output

    @torch.no_grad()
    def start_near_identity(self) -> None:
        """Let what is added to the queries begin small, so that an untrained block passes them on nearly unchanged.

        Not at zero, which would keep gradients from what lies before. The idea is that of LayerScale (Touvron et al.
        2021, "Going deeper with image transformers").
        """
        for layer in (self.attention.output, self.feed_forward[-1]):
            for name, parameter in layer.named_parameters():
                parameter.mul_(START_SCALE if name == "weight" else 0.0)
