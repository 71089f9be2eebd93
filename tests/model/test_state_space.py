"""§ 3.1: the layer against its formulas, written out slowly in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsmseg.model.state_space import SelectiveStateSpace, recurrence, zero_order_hold


def slow_recurrence(transition: torch.Tensor, drive: torch.Tensor) -> torch.Tensor:
    state, states = torch.zeros_like(drive[:, 0]), []
    for token in range(drive.shape[1]):
        state = transition[:, token] * state + drive[:, token]
        states.append(state)
    return torch.stack(states, dim=1)


@given(step=st.floats(1e-3, 5.0), decay=st.floats(-20.0, -1e-2), drive=st.floats(-3.0, 3.0))
def test_zero_order_hold_equals_the_matrix_exponential(step: float, decay: float, drive: float) -> None:
    block = torch.tensor([[decay, drive], [0.0, 0.0]], dtype=torch.float64) * step
    exact = torch.linalg.matrix_exp(block)
    transition, factor = zero_order_hold(
        torch.tensor([step], dtype=torch.float64), torch.tensor([[decay]], dtype=torch.float64)
    )
    torch.testing.assert_close(transition.squeeze(), exact[0, 0])
    torch.testing.assert_close(factor.squeeze() * drive, exact[0, 1])


@given(length=st.integers(1, 70), seed=st.integers(0, 1000))
def test_the_chunked_scan_equals_the_recurrence_at_any_length(length: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    transition = torch.rand((2, length, 3, 4), generator=generator, dtype=torch.float64)
    drive = torch.randn((2, length, 3, 4), generator=generator, dtype=torch.float64)
    torch.testing.assert_close(recurrence(transition, drive), slow_recurrence(transition, drive))


@pytest.mark.parametrize("length", [1, 2, 7, 12])
def test_the_backward_pass_is_the_derivative(length: int) -> None:
    torch.manual_seed(0)
    transition = torch.rand(2, length, 3, dtype=torch.float64, requires_grad=True)
    drive = torch.randn(2, length, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(recurrence, (transition, drive))


def test_a_token_depends_on_what_came_before_and_not_on_what_follows() -> None:
    torch.manual_seed(0)
    layer = SelectiveStateSpace(channels=5, state=4)
    sequence = torch.randn(1, 30, 5)
    changed = sequence.clone()
    changed[:, 10] += 1.0
    difference = (layer(changed) - layer(sequence)).abs().amax(-1)[0]
    assert torch.all(difference[:10] == 0)
    assert torch.all(difference[10:15] > 0)


def test_autocast_does_not_touch_the_scan() -> None:
    torch.manual_seed(0)
    layer, sequence = SelectiveStateSpace(channels=5, state=4), torch.randn(1, 200, 5)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = layer(sequence)
    assert under_autocast.dtype == torch.float32
    torch.testing.assert_close(under_autocast, layer(sequence))
