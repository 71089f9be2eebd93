import itertools

import pytest
import torch
from torch import Tensor

from dsmseg.model.kernels import plain, window_attention
from dsmseg.model.swin_transformer import MASKED, WINDOW, WindowAttention

# Size, window and shift: below a window along all axes; exactly one; no multiples; shifted along one axis only; a
# window alone along an axis that is shifted; windows of few tokens and of a number that is no multiple of four.
CASES = [
    ((3, 4, 5), (3, 4, 5), (0, 0, 0)),
    ((1, 1, 1), (1, 1, 1), (0, 0, 0)),
    ((7, 7, 7), (7, 7, 7), (0, 0, 0)),
    ((8, 9, 7), (7, 7, 7), (3, 3, 0)),
    ((5, 4, 9), (5, 4, 7), (0, 0, 3)),
    ((9, 2, 3), (7, 2, 3), (3, 0, 0)),
    ((3, 10, 2), (3, 7, 2), (0, 3, 0)),
    ((8, 5, 7), (3, 2, 3), (1, 1, 2)),
    ((14, 3, 2), (7, 3, 2), (3, 0, 0)),
]


def make_attention(heads: int, width: int) -> WindowAttention:
    torch.manual_seed(0)
    attention = WindowAttention(heads * width, heads)
    for parameter in attention.parameters():
        parameter.data = torch.randn_like(parameter) * (1 if parameter.ndim == 1 else parameter.shape[-1] ** -0.5)
    return attention


def draw(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(1))


def reference(attention: WindowAttention, feature: Tensor, window: tuple, shift: tuple) -> Tensor:
    """Attend window by window and head by head in float64: roll, cut, add bias and mask, softmax, and all back."""
    weights = {name: parameter.detach().double() for name, parameter in attention.named_parameters()}
    batch, *size, channels = feature.shape
    whole = [-(-extent // length) * length for extent, length in zip(size, window, strict=True)]
    padded = torch.zeros(batch, *whole, channels, dtype=torch.float64)
    padded[:, : size[0], : size[1], : size[2]] = feature
    rolled = padded.roll([-step for step in shift], dims=(1, 2, 3))
    read = torch.zeros_like(rolled)
    for item in range(batch):
        for corner in itertools.product(*(range(0, n, length) for n, length in zip(whole, window, strict=True))):
            place = tuple(slice(start, start + length) for start, length in zip(corner, window, strict=True))
            logits_added = bias(weights["relative_position_bias_table"], window) + mask(corner, window, shift, whole)
            tokens = rolled[item][place].reshape(-1, channels)
            mixed = attend(weights, tokens, logits_added)
            read[item][place] = (mixed @ weights["proj.weight"].T + weights["proj.bias"]).view(*window, channels)
    return read.roll(shift, dims=(1, 2, 3))[:, : size[0], : size[1], : size[2]]


def attend(weights: dict, tokens: Tensor, added: Tensor) -> Tensor:
    query, key, value = (tokens @ weights["qkv.weight"].T + weights["qkv.bias"]).chunk(3, dim=-1)
    width, mixed = tokens.shape[1] // len(added), []
    for head in range(len(added)):
        own = slice(head * width, (head + 1) * width)
        logits = query[:, own] @ key[:, own].T / width**0.5 + added[head]
        mixed.append(logits.softmax(dim=1) @ value[:, own])
    return torch.cat(mixed, dim=1)


def bias(table: Tensor, window: tuple) -> Tensor:
    """Look each pair of tokens up; tokens stand where they would in a whole window, whatever the window."""
    tokens = window[0] * window[1] * window[2]
    places = torch.tensor(list(itertools.product(range(WINDOW), repeat=3)))[:tokens]
    x, y, z = (places[:, None] - places[None, :] + WINDOW - 1).unbind(-1)
    return table[(13 * x + y) * 13 + z].permute(2, 0, 1)


def mask(corner: tuple, window: tuple, shift: tuple, whole: list) -> Tensor:
    """Separate two tokens unless they lay as far apart before the map was rolled."""
    axes = [torch.arange(start, start + length) for start, length in zip(corner, window, strict=True)]
    after = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, 3)
    before = (after + torch.tensor(shift)) % torch.tensor(whole)
    moved = (before[:, None] - before[None, :]) != (after[:, None] - after[None, :])
    return MASKED * moved.any(-1).double()


@torch.no_grad()
@pytest.mark.parametrize(("size", "window", "shift"), CASES, ids=str)
@pytest.mark.parametrize(("heads", "width"), [(3, 4), (6, 8), (3, 16)])
def test_kernel_and_plain_twin_equal_the_formula(size, window, shift, heads, width):
    attention, feature = make_attention(heads, width), draw(2, *size, heads * width)
    exact = reference(attention, feature, window, shift)
    before = feature.clone()
    torch.testing.assert_close(attention(feature, window, shift).double(), exact, rtol=0, atol=2e-5)
    assert torch.equal(feature, before)
    with plain():
        torch.testing.assert_close(attention(feature, window, shift).double(), exact, rtol=0, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("factor", [30.0, 1e4])
def test_extreme_logits_stay_finite_and_exact(factor):
    attention, feature = make_attention(3, 8), draw(1, 9, 8, 2, 24)
    attention.qkv.weight[:48] *= factor**0.5
    attention.qkv.bias[:48] *= factor**0.5
    result = attention(feature, (7, 7, 2), (3, 3, 0))
    exact = reference(attention, feature, (7, 7, 2), (3, 3, 0))
    # A logit of 1e4 is rounded to a thousandth, which its power keeps as a relative error.
    torch.testing.assert_close(result.double(), exact, rtol=0, atol=1e-6 * factor + 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_a_constant_added_to_all_logits_changes_nothing(shift):
    attention, feature = make_attention(3, 4), draw(1, 9, 3, 2, 12)
    result = attention(feature, (7, 3, 2), (3, 0, 0))
    attention.relative_position_bias_table += shift
    torch.testing.assert_close(attention(feature, (7, 3, 2), (3, 0, 0)), result, rtol=0, atol=5e-3)


@torch.no_grad()
def test_a_token_that_all_others_prefer_is_read_alone():
    attention = make_attention(3, 4)
    attention.relative_position_bias_table.zero_()
    attention.qkv.bias[:24] = 0
    attention.qkv.weight[:24] = torch.cat([torch.eye(12)] * 2)
    feature = torch.zeros(1, 2, 3, 2, 12)
    feature[..., 0::4] = 1.0  # every query of every head looks along its first channel
    feature[0, 1, 2, 1, 0::4] = 500.0
    alone = attention.proj(attention.qkv(feature[0, 1, 2, 1])[24:])
    result = attention(feature, (2, 3, 2), (0, 0, 0))
    torch.testing.assert_close(result, alone.expand_as(result), rtol=1e-4, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize(("size", "shift"), [((7, 7, 7), (0, 0, 0)), ((14, 7, 3), (3, 0, 0)), ((2, 3, 1), (0, 0, 0))])
def test_equal_tokens_read_their_common_value(size, shift):
    attention, token = make_attention(6, 4), draw(24)
    result = attention(token.expand(1, *size, 24), tuple(min(extent, 7) for extent in size), shift)
    value = attention.proj(attention.qkv(token)[48:])
    torch.testing.assert_close(result, value.expand_as(result), rtol=0, atol=1e-5)


@torch.no_grad()
def test_under_autocast_it_is_as_near_to_the_formula_as_its_plain_twin():
    attention, feature = make_attention(3, 8), draw(2, 9, 8, 3, 24)
    exact = reference(attention, feature, (7, 7, 3), (3, 3, 0))
    with torch.autocast("cpu", torch.bfloat16):
        result = attention(feature, (7, 7, 3), (3, 3, 0))
        with plain():
            twin = attention(feature, (7, 7, 3), (3, 3, 0))
    assert result.dtype == torch.bfloat16
    error, twin_error = ((values.double() - exact).norm() / exact.norm() for values in (result, twin))
    assert error <= 1.2 * twin_error
    assert error < 0.02


@torch.no_grad()
@pytest.mark.parametrize("masked", [-1.0, 0.7])
def test_tokens_of_different_regions_have_their_logits_moved_by_the_mask(masked):
    heads, width, tokens = 3, 4, 6
    qkv, bias = draw(2, 4, 3, 1, 3 * heads * width), draw(heads, tokens, tokens)
    place, region = torch.arange(12).view(2, 6), torch.tensor([[0, 1, 1, 4, 0, 2], [3] * 6])
    read = window_attention.window_attention(qkv, torch.zeros(36), bias, place, region, masked)
    for item, window, head in itertools.product(range(2), range(2), range(heads)):
        own = qkv[item].view(2, 6, 3, heads, width)[window, :, :, head].double()
        added = bias[head] + masked * (region[window][:, None] != region[window][None, :])
        weight = (own[:, 0] @ own[:, 1].T / width**0.5 + added).softmax(dim=1)
        result = read[item].view(2, 6, heads, width)[window, :, head].double()
        torch.testing.assert_close(result, weight @ own[:, 2], rtol=0, atol=1e-5)


@torch.no_grad()
def test_any_number_of_threads_gives_the_same_to_the_bit():
    attention, feature = make_attention(6, 4), draw(2, 9, 8, 3, 24)
    qkv = attention.qkv(feature)
    place, region = torch.arange(9 * 8 * 3).view(-1, 12), torch.arange(12).expand(18, -1) // 5
    arguments = qkv, attention.qkv.bias, draw(6, 12, 12), place, region
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(window_attention.window_attention(*arguments, masked=-3.0))
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@torch.no_grad()
def test_any_layout_of_the_input_serves_and_results_share_no_memory():
    attention, window, shift = make_attention(3, 4), (7, 2, 3), (3, 0, 0)
    feature = draw(12, 2, 9, 2, 3).permute(1, 2, 3, 4, 0)
    result = attention(feature, window, shift)
    kept = result.clone()
    assert torch.equal(attention(feature.contiguous(), window, shift), kept)
    attention(-feature, window, shift)
    assert torch.equal(result, kept)


def test_the_kernel_runs_without_gradients_only_and_not_inside_plain(monkeypatch):
    attention, feature = make_attention(3, 4), draw(1, 2, 3, 2, 12)
    calls = []
    kernel = window_attention.window_attention
    monkeypatch.setattr(window_attention, "window_attention", lambda *a, **k: calls.append(1) or kernel(*a, **k))
    attention(feature, (2, 3, 2), (0, 0, 0)).sum().backward()
    assert attention.qkv.weight.grad.abs().max() > 0
    with torch.no_grad(), plain():
        attention(feature, (2, 3, 2), (0, 0, 0))
    with torch.no_grad():
        attention.double()(feature.double(), (2, 3, 2), (0, 0, 0))
    assert calls == []
    with torch.no_grad():
        attention.float()(feature, (2, 3, 2), (0, 0, 0))
    assert calls == [1]
