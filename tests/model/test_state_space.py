"""§ 3.1: the layer and its parts against their formulas, written out slowly in float64."""

import math
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dsmseg.model.kernels import plain, scan_cpu
from dsmseg.model.state_space import SelectiveStateSpace, read_out, recurrence, selective_scan, zero_order_hold

PATHS = pytest.mark.parametrize("path", [plain, nullcontext], ids=["plain", "fast"])


def slow_recurrence(transition: Tensor, drive: Tensor) -> Tensor:
    state, states = torch.zeros_like(drive[:, 0]), []
    for token in range(drive.shape[1]):
        state = transition[:, token] * state + drive[:, token]
        states.append(state)
    return torch.stack(states, dim=1)


def slow_selective_scan(x: Tensor, step: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Eq. 3-6 as printed, with matrices: one batch item, one channel, one token after the other."""
    x, step, decay, b, c = (tensor.double() for tensor in (x, step, decay, b, c))
    y = torch.zeros_like(x)
    for item in range(x.shape[0]):
        for channel in range(x.shape[2]):
            h = torch.zeros(decay.shape[1], dtype=torch.float64)
            for t in range(x.shape[1]):
                scaled = step[item, t, channel] * torch.diag(decay[channel])
                transition = torch.matrix_exp(scaled)  # Eq. 3
                identity = torch.eye(len(scaled), dtype=torch.float64)
                drive = torch.linalg.inv(scaled) @ (transition - identity) @ (step[item, t, channel] * b[item, t])
                h = transition @ h + drive * x[item, t, channel]  # Eq. 4 and 5
                y[item, t, channel] = c[item, t] @ h  # Eq. 6
    return y


def system(
    batch: int, length: int, channels: int, state: int, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Draw x, Δ, A, B, C as a layer would make them."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    step, decay = normal(batch, length, channels).sub(2).exp(), -normal(channels, state).exp()
    maps = normal(batch, length, state), normal(batch, length, state)
    return [tensor.to(dtype) for tensor in (normal(batch, length, channels), step, decay, *maps)]


@pytest.mark.equation(3, 4)
@given(step=st.floats(1e-3, 5.0), decay=st.floats(-20.0, -1e-2), drive=st.floats(-3.0, 3.0))
def test_zero_order_hold_equals_the_matrix_exponential(step: float, decay: float, drive: float) -> None:
    block = torch.tensor([[decay, drive], [0.0, 0.0]], dtype=torch.float64) * step
    exact = torch.linalg.matrix_exp(block)
    transition, factor = zero_order_hold(
        torch.tensor([step], dtype=torch.float64), torch.tensor([[decay]], dtype=torch.float64)
    )
    torch.testing.assert_close(transition.squeeze(), exact[0, 0])
    torch.testing.assert_close(factor.squeeze() * drive, exact[0, 1])


@pytest.mark.equation(3, 4)
def test_zero_order_hold_pairs_every_step_with_every_decay_of_its_channel() -> None:
    step, decay = torch.rand(2, 3, 4, dtype=torch.float64), -torch.rand(4, 5, dtype=torch.float64)
    transition, factor = zero_order_hold(step, decay)
    assert transition.shape == factor.shape == (2, 3, 4, 5)
    for place in [(0, 0, 0, 0), (1, 2, 3, 4), (0, 1, 2, 4)]:
        delta, a = step[place[:3]], decay[place[2:]]
        assert transition[place].item() == pytest.approx(math.exp(delta * a))
        assert factor[place].item() == pytest.approx((math.exp(delta * a) - 1) / a)


@pytest.mark.equation(4)
@given(exponent=st.floats(-12.0, -1.0))
def test_the_factor_of_a_tiny_step_is_the_step_itself_in_float32_too(exponent: float) -> None:
    step = torch.tensor([10.0**exponent])
    _, factor = zero_order_hold(step, torch.tensor([[-1.0]]))
    torch.testing.assert_close(factor.double().squeeze(), -torch.expm1(-step.double()).squeeze(), rtol=3e-7, atol=0.0)


@pytest.mark.equation(5)
@settings(max_examples=40)
@given(
    length=st.integers(1, 300),
    chunk=st.none() | st.integers(1, 320),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_the_chunked_scan_equals_the_recurrence(length: int, chunk: int | None, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    transition = torch.rand((2, length, 3, 4), generator=generator, dtype=dtype)
    drive = torch.randn((2, length, 3, 4), generator=generator, dtype=dtype)
    states = recurrence(transition, drive, chunk)
    assert states.dtype == dtype
    exact = slow_recurrence(transition.double(), drive.double())
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(states.double(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.equation(5)
def test_the_state_before_the_first_token_is_zero() -> None:
    drive = torch.randn(2, 5, 3)
    assert torch.equal(recurrence(torch.full_like(drive, 1e30), drive)[:, 0], drive[:, 0])


@pytest.mark.equation(5)
@pytest.mark.parametrize(("length", "chunk"), [(1, None), (2, None), (7, 3), (12, None)])
def test_the_backward_pass_of_the_recurrence_is_its_derivative(length: int, chunk: int | None) -> None:
    torch.manual_seed(0)
    transition = torch.rand(2, length, 3, dtype=torch.float64, requires_grad=True)
    drive = torch.randn(2, length, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *inputs: recurrence(*inputs, chunk), (transition, drive))


@pytest.mark.equation(6)
def test_the_readout_weighs_each_token_by_its_own_output_map() -> None:
    torch.manual_seed(0)
    states, output_map = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 5)
    for item, t, channel in [(0, 0, 0), (1, 2, 3), (0, 1, 2)]:
        exact = sum(output_map[item, t, s] * states[item, t, channel, s] for s in range(5))
        torch.testing.assert_close(read_out(states, output_map)[item, t, channel], exact)


@pytest.mark.equation(3, 4, 5, 6)
@PATHS
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5), (torch.bfloat16, 2**-8)]
)
def test_the_selective_scan_is_the_paper_s_formulas(path, dtype: torch.dtype, tolerance: float) -> None:
    inputs = system(2, 70, 3, 4, dtype=dtype)
    with path():
        y = selective_scan(*inputs)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), slow_selective_scan(*inputs), rtol=tolerance, atol=tolerance)


@pytest.mark.equation(3, 4, 5, 6)
@PATHS
@settings(max_examples=12)
@given(length=st.integers(1, 300), channels=st.integers(1, 34), state=st.integers(1, 17), seed=st.integers(0, 1000))
def test_the_selective_scan_equals_the_recurrence_at_any_size(
    path, length: int, channels: int, state: int, seed: int
) -> None:
    x, step, decay, b, c = inputs = system(2, length, channels, state, seed=seed)
    transition, factor = zero_order_hold(step, decay)
    states = slow_recurrence(transition, factor * b[:, :, None] * x[..., None])
    exact = (states * c[:, :, None]).sum(-1)
    with path():
        y = selective_scan(*(tensor.float() for tensor in inputs))
    torch.testing.assert_close(y.double(), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.equation(3, 4, 5, 6)
def test_the_plain_scan_s_backward_pass_is_its_derivative() -> None:
    inputs = [tensor.requires_grad_() for tensor in system(2, 7, 3, 2)]
    assert torch.autograd.gradcheck(selective_scan, inputs)


def test_the_kernel_serves_float32_unless_plain_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    kernel = scan_cpu.selective_scan
    monkeypatch.setattr(scan_cpu, "selective_scan", lambda *inputs: calls.append(1) or kernel(*inputs))
    inputs = system(1, 5, 3, 2)
    selective_scan(*inputs)
    with plain():
        selective_scan(*(tensor.float() for tensor in inputs))
    assert not calls
    selective_scan(*(tensor.float() for tensor in inputs))
    assert calls


@PATHS
def test_batch_items_do_not_influence_each_other(path) -> None:
    inputs = system(3, 80, 18, 4, dtype=torch.float32)
    changed = [tensor.clone() for tensor in inputs]
    for tensor in (*changed[:2], *changed[3:]):
        tensor[1] *= 1.5
    with path():
        same = torch.eq(selective_scan(*inputs), selective_scan(*changed)).flatten(1)
    assert torch.all(same[[0, 2]])
    assert not torch.any(same[1].all())


@PATHS
@pytest.mark.parametrize("token", [0, 63, 64, 100])
def test_a_token_influences_all_that_follow_and_none_before(path, token: int) -> None:
    torch.manual_seed(0)
    layer = SelectiveStateSpace(channels=5, state=4)
    sequence = torch.randn(1, 130, 5)
    changed = sequence.clone()
    changed[:, token] += 1.0
    with path():
        difference = (layer(changed) - layer(sequence)).abs().amax(-1)[0]
    assert torch.all(difference[:token] == 0)
    assert torch.all(difference[token:] > 0)


@pytest.mark.equation(3, 4, 5, 6)
@PATHS
def test_the_layer_takes_step_and_maps_from_each_token_and_adds_the_skip(path) -> None:
    torch.manual_seed(0)
    layer = SelectiveStateSpace(channels=3, state=4)
    with torch.no_grad():
        layer.skip.uniform_(0.5, 2.0)
    sequence = torch.randn(2, 20, 3)
    x, parameters = sequence.double(), {name: value.detach().double() for name, value in layer.named_parameters()}
    step = torch.log1p(torch.exp(x @ parameters["step.weight"].T + parameters["step.bias"]))
    b, c = x @ parameters["input_map.weight"].T, x @ parameters["output_map.weight"].T
    exact = slow_selective_scan(x, step, -torch.exp(parameters["log_decay"]), b, c) + parameters["skip"] * x
    with path():
        torch.testing.assert_close(layer(sequence).double(), exact, rtol=1e-5, atol=1e-6)


def test_a_new_layer_remembers_10_to_1000_tokens() -> None:
    layer = SelectiveStateSpace(channels=25)
    steps = torch.nn.functional.softplus(layer.step.bias)
    memory = 1 / (steps * layer.log_decay.exp()[:, 0])
    torch.testing.assert_close(memory[[0, -1]], torch.tensor([1000.0, 10.0]), rtol=1e-3, atol=0.0)
    torch.testing.assert_close(layer.log_decay[3].exp(), torch.arange(1.0, 17.0))


@PATHS
def test_the_gradient_reaches_the_sequence_and_every_parameter(path) -> None:
    torch.manual_seed(0)
    layer, sequence = SelectiveStateSpace(channels=5, state=4), torch.randn(2, 90, 5, requires_grad=True)
    with path():
        layer(sequence).square().sum().backward()
    for name, tensor in [*layer.named_parameters(), ("sequence", sequence)]:
        assert tensor.grad is not None, name
        assert torch.all(tensor.grad != 0), name


@PATHS
def test_autocast_does_not_touch_the_scan(path) -> None:
    torch.manual_seed(0)
    layer, sequence = SelectiveStateSpace(channels=5, state=4), torch.randn(1, 200, 5)
    with path(), torch.autocast("cpu", torch.bfloat16):
        under_autocast = layer(sequence)
        half = layer(sequence.bfloat16())
    assert under_autocast.dtype == half.dtype == torch.float32
    with path():
        assert torch.equal(under_autocast, layer(sequence))
        assert torch.equal(half, layer(sequence.bfloat16().float()))


PATHS = pytest.mark.parametrize("path", [plain, nullcontext], ids=["plain", "fast"])


def layer_and_sequence() -> tuple[SelectiveStateSpace, Tensor]:
    torch.manual_seed(0)
    layer = SelectiveStateSpace(channels=3, state=2).double()
    nn.init.normal_(layer.step.weight)  # the step depends on the token more than a new layer's does
    return layer, torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)


@pytest.mark.equation(3, 4, 5, 6)
@PATHS
def test_in_float32_the_layer_has_the_gradients_of_double_precision(path) -> None:
    layer, sequence = layer_and_sequence()
    weight = torch.randn_like(sequence)
    exact = torch.autograd.grad((layer(sequence) * weight).sum(), [sequence, *layer.parameters()])
    layer, single = layer.float(), sequence.detach().float().requires_grad_()
    with path():
        found = torch.autograd.grad((layer(single) * weight.float()).sum(), [single, *layer.parameters()])
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5 * other.abs().max().item())


@pytest.mark.equation(3, 4, 5, 6)
@PATHS
def test_in_float32_the_scan_has_the_gradients_of_double_precision(path) -> None:
    inputs = [tensor.requires_grad_() for tensor in system(2, 9, 3, 2)]
    weight = torch.randn_like(inputs[0])
    exact = torch.autograd.grad((selective_scan(*inputs) * weight).sum(), inputs)
    single = [tensor.detach().float().requires_grad_() for tensor in inputs]
    with path():
        found = torch.autograd.grad((selective_scan(*single) * weight.float()).sum(), single)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5 * other.abs().max().item())
