import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmseg.model.swin_transformer import MASKED, join, partition, window_kinds

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
