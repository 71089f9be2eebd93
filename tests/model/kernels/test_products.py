import pytest
import torch
from torch.nn import functional

from dsmseg.model.kernels.products import convolve, double_grid, linear

pytestmark = pytest.mark.usefixtures("_without_gradients")


@pytest.fixture
def _without_gradients():
    with torch.no_grad():
        yield


def draw(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def channels_last(feature: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(feature, memory_format=torch.channels_last_3d).copy_(feature)


# The last two have more weights than the map has values, which takes another library.
@pytest.mark.parametrize(
    ("inputs", "outputs", "size"), [(1, 12, (6, 15, 17)), (3, 5, (3, 17, 14)), (12, 12, (3, 4, 5)), (40, 40, (3, 1, 2))]
)
@pytest.mark.parametrize("edge", [1, 3])
def test_a_convolution_pads_y_and_z_with_zeros_and_cuts_x(inputs, outputs, size, edge):
    feature, weight = channels_last(draw(1, inputs, *size)), draw(outputs, inputs, edge, edge, edge, seed=1)
    border = edge // 2
    exact = functional.conv3d(feature.double(), weight.double(), padding=(0, border, border))
    convolved = convolve(feature, weight)
    torch.testing.assert_close(convolved.double(), exact, rtol=0, atol=1e-4)
    assert convolved.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("edge", [1, 3])
def test_a_convolution_under_autocast_gives_bf16_channels_last(edge):
    feature, weight = channels_last(draw(1, 6, 4, 5, 7)), draw(8, 6, edge, edge, edge, seed=1) / 10
    with torch.autocast("cpu", torch.bfloat16):
        convolved = convolve(feature.bfloat16(), weight)
    exact = functional.conv3d(feature.double(), weight.double(), padding=(0, edge // 2, edge // 2))
    assert convolved.dtype == torch.bfloat16
    assert convolved.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(convolved.double(), exact, rtol=0, atol=0.05)


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(1, 12, 36), (7, 5, 3), (130, 48, 17)])
def test_a_linear_layer_multiplies_by_the_transposed_weight(tokens, inputs, outputs, has_bias):
    values, weight = draw(tokens, inputs), draw(outputs, inputs, seed=1)
    bias = draw(outputs, seed=2) if has_bias else None
    exact = functional.linear(values.double(), weight.double(), bias.double() if has_bias else None)
    torch.testing.assert_close(linear(values, weight, bias).double(), exact, rtol=0, atol=1e-4)
    strided = draw(inputs, tokens).t()
    exact = functional.linear(strided.double(), weight.double(), bias.double() if has_bias else None)
    torch.testing.assert_close(linear(strided, weight, bias).double(), exact, rtol=0, atol=1e-4)


def test_a_linear_layer_under_autocast_gives_bf16():
    values, weight, bias = draw(9, 12), draw(5, 12, seed=1) / 3, draw(5, seed=2)
    with torch.autocast("cpu", torch.bfloat16):
        product = linear(values, weight, bias)
        assert torch.equal(product, functional.linear(values, weight, bias))
    assert product.dtype == torch.bfloat16


def test_a_linear_layer_keeps_double_precision():
    values, weight = draw(9, 12).double(), draw(5, 12, seed=1).double()
    assert torch.equal(linear(values, weight, None), functional.linear(values, weight))


@pytest.mark.parametrize(("inputs", "outputs", "size"), [(12, 6, (2, 3, 5)), (5, 3, (1, 1, 4)), (4, 8, (3, 2, 1))])
def test_doubling_the_grid_equals_the_transposed_convolution(inputs, outputs, size):
    feature, weight = channels_last(draw(1, inputs, *size)), draw(inputs, outputs, 2, 2, 2, seed=1)
    exact = functional.conv_transpose3d(feature.double(), weight.double(), stride=2)
    # As in the decoder, the target is the first channels of a wider map; the others stay as they are.
    room = channels_last(torch.full((1, 2 * outputs, *exact.shape[2:]), 7.0))
    double_grid(feature, weight, room[:, :outputs])
    torch.testing.assert_close(room[:, :outputs].double(), exact, rtol=0, atol=1e-5)
    assert bool((room[:, outputs:] == 7).all())


def test_doubling_the_grid_under_autocast_is_close():
    feature, weight = channels_last(draw(1, 6, 2, 3, 5)), draw(6, 3, 2, 2, 2, seed=1) / 3
    exact = functional.conv_transpose3d(feature.double(), weight.double(), stride=2)
    into = channels_last(torch.empty(exact.shape, dtype=torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        double_grid(feature.bfloat16(), weight, into)
    torch.testing.assert_close(into.double(), exact, rtol=0, atol=0.05)


def test_one_thread_gives_what_two_give():
    feature, weight = channels_last(draw(1, 12, 8, 9, 10)), draw(12, 12, 3, 3, 3, seed=1)
    tokens, square = draw(130, 48), draw(48, 48, seed=1)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append((convolve(feature, weight), linear(tokens, square, None)))
    torch.set_num_threads(before)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-5)
