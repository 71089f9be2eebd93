"""Masked attention (the softmax of Eq. 19) and the blocks around it, against loops in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from dsmseg.model.attention import MultiHeadAttention, SelfAttentionBlock, masked_attention


def softmax(values: list[float]) -> list[float]:
    exponentials = [math.exp(value) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def plain_attention(query, key, value, mask):
    """Softmax(M + Q K^T / sqrt(d)) V for one head of one item: (query, d), (key, d), (key, d), (key)."""
    rows = []
    for one in query:
        weights = softmax(
            [(one @ other).item() / math.sqrt(len(one)) + m.item() for other, m in zip(key, mask, strict=True)]
        )
        rows.append(sum(weight * row for weight, row in zip(weights, value, strict=True)))
    return torch.stack(rows)


@pytest.mark.equation(19)
@settings(max_examples=20)
@given(seed=st.integers(0, 99), keys=st.integers(1, 7))
def test_masked_attention_is_a_softmax_over_keys_with_the_mask_added_before_it(seed, keys):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(2, 3, tokens, 4, generator=generator, dtype=torch.float64) for tokens in (5, keys, keys)
    )
    mask = torch.where(torch.rand(2, 1, 1, keys, generator=generator) < 0.4, -torch.inf, 0.0).double()
    mask[..., 0] = 0.0
    result = masked_attention(query, key, value, mask)
    for item in range(2):
        for head in range(3):
            expected = plain_attention(query[item, head], key[item, head], value[item, head], mask[item, 0, 0])
            torch.testing.assert_close(result[item, head], expected)


def test_a_masked_key_has_no_influence_and_gets_no_gradient():
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = torch.tensor([0.0, -torch.inf, 0.0, -torch.inf], dtype=torch.float64)[None, None, None]
    gradients = torch.autograd.grad(masked_attention(query, key, value, mask).square().sum(), (key, value))
    for gradient in gradients:
        assert torch.equal(gradient[:, :, [1, 3]], torch.zeros(1, 2, 2, 3, dtype=torch.float64))
        assert bool((gradient[:, :, [0, 2]] != 0).all())


def plain_multi_head(layer: MultiHeadAttention, queries, keys, mask=None):
    """Each head attends in its own slice of the width; the slices are joined and projected."""
    width = queries.shape[-1]
    size = width // layer.heads
    query = functional.linear(queries, layer.query.weight, layer.query.bias)
    key_value = functional.linear(keys, layer.key_value.weight, layer.key_value.bias)
    key, value = key_value[..., :width], key_value[..., width:]
    mask = torch.zeros(len(keys), keys.shape[1]) if mask is None else mask
    items = []
    for item in range(len(queries)):
        parts = [slice(head * size, (head + 1) * size) for head in range(layer.heads)]
        heads = [plain_attention(query[item][:, p], key[item][:, p], value[item][:, p], mask[item]) for p in parts]
        items.append(torch.cat(heads, dim=1))
    return functional.linear(torch.stack(items), layer.output.weight, layer.output.bias)


def test_heads_attend_apart_and_are_joined_by_the_output_layer():
    torch.manual_seed(0)
    layer = MultiHeadAttention(width=8, heads=2, key_width=5).double()
    queries, keys = torch.randn(2, 3, 8, dtype=torch.float64), torch.randn(2, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(queries, keys), plain_multi_head(layer, queries, keys))
    mask = torch.zeros(2, 6, dtype=torch.float64)
    mask[0, 2:5] = -torch.inf
    torch.testing.assert_close(layer(queries, keys, mask[:, None, None]), plain_multi_head(layer, queries, keys, mask))


def test_the_block_is_self_attention_and_a_feed_forward_layer_both_pre_norm_and_residual():
    torch.manual_seed(0)
    block = SelfAttentionBlock(width=8, heads=2, feed_forward_width=12).double()
    torch.nn.init.normal_(block.attention_norm.weight)
    queries = torch.randn(2, 5, 8, dtype=torch.float64)
    normalized = functional.layer_norm(queries, (8,), block.attention_norm.weight, block.attention_norm.bias)
    after = queries + plain_multi_head(block.attention, normalized, normalized)
    norm, widen, _, narrow = block.feed_forward
    inner = functional.layer_norm(after, (8,), norm.weight, norm.bias) @ widen.weight.T + widen.bias
    gelu = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    torch.testing.assert_close(block(queries), after + gelu @ narrow.weight.T + narrow.bias)


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="width 10 is not a multiple of 4 heads"):
        MultiHeadAttention(width=10, heads=4)
