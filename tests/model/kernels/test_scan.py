"""The fused scans against the plain twin in float64.

Triton's is tested on a GPU, or in Triton's interpreter where TRITON_INTERPRET=1 is set.
"""

import os
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from dsmseg.model import state_space
from dsmseg.model.kernels import scan_cpu

Scan = Callable[..., Tensor]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
NAMES = "sequence", "step", "decay", "input_map", "output_map"


@pytest.fixture(params=["numba", "triton"])
def scan(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Scan:
    """Give a kernel that takes and gives tensors in main memory."""
    if request.param == "numba":
        return scan_cpu.selective_scan
    if find_spec("triton") is None or not (INTERPRETED or torch.cuda.is_available()):
        pytest.skip("neither a GPU nor Triton's interpreter is here")
    from dsmseg.model.kernels import scan_cuda

    if INTERPRETED:
        monkeypatch.setattr(scan_cuda, "CHUNK", 16)  # the interpreter is slow: few tokens must make many chunks
        return scan_cuda.selective_scan
    return lambda *inputs: scan_cuda.selective_scan(*(tensor.cuda() for tensor in inputs)).cpu()


def system(batch: int, length: int, channels: int, state: int) -> list[Tensor]:
    """Draw x, Δ, A, B, C as a layer would make them."""
    torch.manual_seed(0)
    step, decay = torch.randn(batch, length, channels).sub(2).exp(), -torch.randn(channels, state).exp()
    return [torch.randn(batch, length, channels), step, decay, *torch.randn(2, batch, length, state)]


def with_gradients(scan: Scan, inputs: list[Tensor]) -> list[Tensor]:
    """Give y, and the gradient of a weighted sum of y for each input."""
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    y = scan(*inputs)
    weight = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).cos().reshape(y.shape).to(y.dtype)
    return [y.detach(), *torch.autograd.grad((weight * y).sum(), inputs)]


def assert_near(result: list[Tensor], exact: list[Tensor], tolerance: float) -> None:
    """Compare y and the gradients, each relative to its own size."""
    for name, one, other in zip(("y", *NAMES), result, exact, strict=True):
        assert one.shape == other.shape, name
        assert (one.double() - other).norm() <= tolerance * other.norm(), name


@pytest.mark.equation(3, 4, 5, 6)
@pytest.mark.parametrize(
    "sizes",
    [(1, 1, 1, 1), (2, 63, 3, 5), (1, 64, 2, 8), (2, 65, 2, 1), (1, 33, 17, 3), (1, 16, 16, 2), (2, 130, 4, 3)],
    ids=str,
)
def test_value_and_every_gradient_equal_the_plain_twin_s(scan: Scan, sizes: tuple[int, int, int, int]) -> None:
    inputs = system(*sizes)
    exact = with_gradients(state_space.selective_scan, [tensor.double() for tensor in inputs])
    assert_near(with_gradients(scan, inputs), exact, 3e-5 if sizes == (1, 1, 1, 1) else 2e-6)


@pytest.mark.equation(5)
def test_more_chunks_than_are_carried_at_once_change_nothing(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreted = INTERPRETED and scan is not scan_cpu.selective_scan
    if interpreted:
        from dsmseg.model.kernels import scan_cuda

        monkeypatch.setattr(scan_cuda, "CHUNK", 4)
    inputs = system(1, 37 if interpreted else 64 * 64 + 37, 2, 3)
    inputs[1] /= 10  # a memory that spans many chunks
    exact = with_gradients(state_space.selective_scan, [tensor.double() for tensor in inputs])
    assert_near(with_gradients(scan, inputs), exact, 2e-6)


@pytest.mark.equation(4)
@pytest.mark.parametrize("scale", [1e-3, 1e-6])
def test_tiny_steps_keep_their_digits(scan: Scan, scale: float) -> None:
    inputs = system(1, 40, 3, 4)
    inputs[1] *= scale
    exact = with_gradients(state_space.selective_scan, [tensor.double() for tensor in inputs])
    result = with_gradients(scan, inputs)
    for name, one, other in zip(("y", *NAMES), result, exact, strict=True):
        if name != "decay":  # a small difference of large terms, in the twin's float32 too
            assert (one.double() - other).norm() <= 2e-6 * other.norm(), name


def test_strided_inputs_and_gradients_are_read_in_their_own_order(scan: Scan) -> None:
    inputs = system(2, 40, 3, 4)
    dense = with_gradients(scan, inputs)
    strided = [tensor.mT.contiguous().mT for tensor in inputs]
    for one, other in zip(with_gradients(lambda *given: scan(*given).mT.contiguous().mT, strided), dense, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("wanted", range(5), ids=NAMES)
def test_the_gradient_of_one_input_does_not_depend_on_which_others_are_asked_for(scan: Scan, wanted: int) -> None:
    inputs = system(1, 20, 3, 2)
    every = with_gradients(scan, inputs)[1:]
    inputs[wanted].requires_grad_()
    y = scan(*inputs)
    weight = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).cos().reshape(y.shape).to(y.dtype)
    (gradient,) = torch.autograd.grad((weight * y).sum(), inputs[wanted])
    assert torch.equal(gradient, every[wanted])


def test_a_second_derivative_is_refused_not_wrong(scan: Scan) -> None:
    x, *others = system(1, 5, 2, 2)
    y = scan(x.requires_grad_(), *others)
    (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"once_differentiable|does not require grad"):
        torch.autograd.grad(gradient.sum(), x)


def test_a_missing_value_spoils_what_follows_and_nothing_before(scan: Scan) -> None:
    for place in range(2):  # x, Δ
        inputs = system(1, 40, 3, 2)
        inputs[place][0, 20, 1] = torch.nan
        missing = scan(*inputs).isnan()[0]
        assert torch.all(missing[20:, 1])
        assert not torch.any(missing[:20])
        assert not torch.any(missing[:, [0, 2]])


def test_what_is_kept_for_backward_grows_with_the_inputs_not_with_the_states(scan: Scan) -> None:
    def kept(length: int) -> int:
        tensors = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: tensors.setdefault(tensor.data_ptr(), tensor), lambda tensor: tensor
        ):
            scan(*(tensor.requires_grad_() for tensor in system(1, length, 4, 16)))
        return sum(tensor.numel() for tensor in tensors.values())

    assert kept(128) < 128 * 4 * 16
    assert kept(256) < 2.1 * kept(128)


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    inputs, threads = system(2, 150, 37, 4), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(with_gradients(scan_cpu.selective_scan, inputs))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        for one, other in zip(result, results[0], strict=True):
            assert torch.equal(one, other)
