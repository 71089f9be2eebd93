import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from dsmseg.model import swin_transformer
from dsmseg.model.kernels import plain
from dsmseg.model.swin_transformer import (
    MASKED,
    FeedForward,
    PatchMerging,
    SwinTransformer,
    SwinTransformerBlock,
    fill_up,
    join,
    partition,
    relative_position_index,
    roll,
    window_kinds,
)

lengths = st.tuples(*[st.integers(1, 4)] * 3)


@settings(deadline=None)
@given(window=lengths, grid=lengths)
def test_join_undoes_partition(window, grid):
    feature = torch.randn(2, *(length * count for length, count in zip(window, grid, strict=True)), 3)
    windows = partition(feature, window)
    assert windows.shape == (2, *grid, window[0] * window[1] * window[2], 3)
    assert torch.equal(join(windows, window), feature)


@settings(deadline=None)
@given(window=lengths, grid=st.tuples(*[st.integers(2, 3)] * 3), data=st.data())
def test_tokens_are_separated_exactly_where_the_shift_joined_opposite_borders(window, grid, data):
    shift = tuple(data.draw(st.integers(0, length - 1)) for length in window)
    size = [length * count for length, count in zip(window, grid, strict=True)]
    # Rolled coordinates: within a window that holds no seam they run on, so two tokens are strangers where their
    # distance before the roll is not their distance after it.
    axes = torch.meshgrid(*(torch.arange(n) for n in size), indexing="ij")
    before = partition(torch.stack(axes, -1)[None].roll([-s for s in shift], dims=(1, 2, 3)), window)[0]
    after = partition(torch.stack(axes, -1)[None], window)[0]
    strangers = (
        (before[..., :, None, :] - before[..., None, :, :]) != (after[..., :, None, :] - after[..., None, :, :])
    ).any(-1)
    masks = torch.full((*grid, *strangers.shape[-2:]), torch.nan)
    for place, mask in window_kinds(window, shift, torch.device("cpu")):
        masks[place] = 0.0 if mask is None else mask
    assert torch.equal(masks, MASKED * strangers)


def test_at_most_eight_kinds_of_window_cover_the_grid_once():
    for shift in itertools.product((0, 3), repeat=3):
        kinds = list(window_kinds((7, 7, 7), shift, torch.device("cpu")))
        seen = torch.zeros(4, 3, 2)
        for place, _ in kinds:
            seen[place] += 1
        assert len(kinds) == 2 ** sum(step > 0 for step in shift)
        assert torch.equal(seen, torch.ones(4, 3, 2))


@settings(deadline=None)
@given(window=lengths, size=st.tuples(*[st.integers(1, 9)] * 3))
def test_filling_up_appends_the_fewest_values_that_make_whole_windows(window, size):
    feature = torch.rand(2, *size, 3)
    filled = fill_up(feature, window, value=7)
    assert all(
        n % length == 0 and 0 <= n - m < length for n, m, length in zip(filled.shape[1:4], size, window, strict=True)
    )
    x, y, z = size
    assert torch.equal(filled[:, :x, :y, :z], feature)
    filled[:, :x, :y, :z] = 7
    assert bool((filled == 7).all())


def test_rolling_back_brings_each_voxel_forward_by_the_shift():
    feature = torch.rand(1, 5, 6, 7, 2)
    rolled = roll(feature, (1, 0, 3))
    for x, y, z in itertools.product(range(5), range(6), range(7)):
        assert torch.equal(rolled[0, x, y, z], feature[0, (x + 1) % 5, y, (z + 3) % 7])


def test_each_relative_position_has_a_row_of_its_own():
    places = list(itertools.product(range(7), repeat=3))
    index, rows = relative_position_index(), {}
    for (one, own), (other, others) in itertools.product(enumerate(places[::13]), repeat=2):
        distance = tuple(a - b for a, b in zip(own, others, strict=True))
        assert rows.setdefault(distance, int(index[13 * one, 13 * other])) == int(index[13 * one, 13 * other])
    assert len(set(rows.values())) == len(rows)
    assert (int(index.min()), int(index.max())) == (0, 13**3 - 1)


@pytest.mark.parametrize("is_shifted", [False, True])
@pytest.mark.parametrize(
    ("size", "window", "shift"),
    [((8, 7, 3), (7, 7, 3), (3, 0, 0)), ((2, 9, 14), (2, 7, 7), (0, 3, 3)), ((7, 1, 6), (7, 1, 6), (0, 0, 0))],
    ids=str,
)
def test_a_block_clamps_its_window_and_shifts_only_where_the_map_is_longer(size, window, shift, is_shifted):
    torch.manual_seed(0)
    block, feature = SwinTransformerBlock(12, 3, shifted=is_shifted), torch.randn(1, *size, 12)
    with torch.no_grad():
        attended = feature + block.attn(block.norm1(feature), window, shift if is_shifted else (0, 0, 0))
        expected = attended + block.mlp(block.norm2(attended))
        torch.testing.assert_close(block(feature), expected)


@torch.no_grad()
@pytest.mark.parametrize("part", [1, 5, 24, 100])
def test_the_feed_forward_layer_does_not_depend_on_how_many_tokens_it_takes_at_once(monkeypatch, part):
    torch.manual_seed(0)
    layer, feature = FeedForward(8), torch.randn(2, 3, 4, 1, 8)
    monkeypatch.setattr(swin_transformer, "TOKENS_AT_A_TIME", part)
    hidden = feature.double() @ layer.linear1.weight.double().T + layer.linear1.bias
    active = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    exact = active @ layer.linear2.weight.double().T + layer.linear2.bias
    torch.testing.assert_close(layer(feature).double(), exact, rtol=0, atol=1e-6)
    with plain():
        torch.testing.assert_close(layer(feature).double(), exact, rtol=0, atol=1e-6)


def test_merging_joins_eight_voxels_in_the_order_of_the_published_weights():
    torch.manual_seed(0)
    layer, feature = PatchMerging(3), torch.randn(2, 4, 6, 2, 3)
    merged = layer(feature)
    assert merged.shape == (2, 2, 3, 1, 6)
    order = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1))
    for x, y in itertools.product(range(2), range(3)):
        corners = [feature[:, 2 * x + i, 2 * y + j, k] for i, j, k in order]
        expected = layer.reduction(functional.layer_norm(torch.cat(corners, dim=1), (24,)))
        torch.testing.assert_close(merged[:, x, y, 0], expected)


@torch.no_grad()
def test_each_voxel_of_the_five_maps_is_normalized_over_its_channels():
    torch.manual_seed(0)
    maps = SwinTransformer(1, 12)(torch.randn(2, 1, 64, 32, 32))
    for depth, feature in enumerate(maps):
        channels, (x, y, z) = 12 * 2**depth, (extent // 2 ** (depth + 1) for extent in (64, 32, 32))
        assert feature.shape == (2, channels, x, y, z)
        assert feature.is_contiguous(memory_format=torch.channels_last_3d)
        torch.testing.assert_close(feature.mean(1), torch.zeros(2, x, y, z), rtol=0, atol=1e-5)
        assert bool((feature.var(1, unbiased=False) > 0.9).all())
        assert bool((feature.var(1, unbiased=False) < 1 + 1e-5).all())
