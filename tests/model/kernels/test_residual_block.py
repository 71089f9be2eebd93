import pytest
import torch
from torch import Tensor
from torch.nn import functional

from dsmseg.model.kernels import plain, residual_block
from dsmseg.model.swin_unetr import ResidualBlock, UpBlock


def draw(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def normalized(feature: Tensor) -> Tensor:
    mean = feature.mean(dim=(2, 3, 4), keepdim=True)
    variance = ((feature - mean) ** 2).mean(dim=(2, 3, 4), keepdim=True)
    return (feature - mean) / (variance + 1e-5).sqrt()


def leaky(feature: Tensor) -> Tensor:
    return torch.where(feature > 0, feature, 0.01 * feature)


def reference(block: ResidualBlock, feature: Tensor) -> Tensor:
    """Compute the block in float64, formula by formula."""
    first, second = block.conv1.conv.weight.double(), block.conv2.conv.weight.double()
    feature = feature.double()
    outer = functional.conv3d(leaky(normalized(functional.conv3d(feature, first, padding=1))), second, padding=1)
    shortcut = feature
    if block.conv3 is not None:
        shortcut = normalized(functional.conv3d(feature, block.conv3.conv.weight.double()))
    return leaky(normalized(outer) + shortcut)


def make_block(inputs: int, outputs: int) -> ResidualBlock:
    torch.manual_seed(0)
    return ResidualBlock(inputs, outputs)


def planes_of(feature: Tensor, count: int) -> int:
    """Give the bytes of ``count`` planes of a float32 map."""
    return count * feature[0, :, 0].numel() * 4


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 4, 3), (2, 1, 1), (2, 5, 7), (3, 4, 5), (7, 6, 3), (8, 3, 4)], ids=str)
@pytest.mark.parametrize(("inputs", "outputs"), [(6, 6), (1, 6), (8, 4)])
@pytest.mark.parametrize("planes", [1, 2, 4, 1000])
def test_equals_the_formulas_however_many_planes_are_in_a_slab(monkeypatch, size, inputs, outputs, planes):
    block, feature = make_block(inputs, outputs), draw(2, inputs, *size)
    monkeypatch.setattr(residual_block, "SLAB_BYTES", planes_of(feature[:, :1].expand(-1, outputs, -1, -1, -1), planes))
    before = feature.clone()
    result = block(feature)
    torch.testing.assert_close(result.double(), reference(block, feature), rtol=0, atol=2e-5)
    assert torch.equal(feature, before)
    with plain():
        twin = block(feature)
    torch.testing.assert_close(result, twin, rtol=0, atol=2e-5)


def test_the_plain_twin_equals_the_formulas():
    for inputs, outputs in ((6, 6), (3, 5)):
        block, feature = make_block(inputs, outputs), draw(2, inputs, 4, 3, 5)
        exact = reference(block, feature)
        torch.testing.assert_close(block.double()(feature.double()), exact)


@torch.no_grad()
@pytest.mark.parametrize(("inputs", "outputs"), [(6, 6), (1, 6), (8, 4)])
@pytest.mark.parametrize("planes", [2, 1000])
def test_under_autocast_it_is_as_near_to_the_formulas_as_its_plain_twin(monkeypatch, inputs, outputs, planes):
    block, feature = make_block(inputs, outputs), draw(2, inputs, 7, 6, 5)
    monkeypatch.setattr(residual_block, "SLAB_BYTES", planes_of(feature, planes) // 2)
    exact = reference(block, feature)
    with torch.autocast("cpu", torch.bfloat16):
        result = block(feature)
        with plain():
            twin = block(feature)
    assert result.dtype == torch.bfloat16
    error, twin_error = ((values.double() - exact).norm() / exact.norm() for values in (result, twin))
    assert error <= 1.5 * twin_error
    assert error < 0.01


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 2, 3), (2, 3, 1), (5, 2, 2)], ids=str)
@pytest.mark.parametrize("planes", [2, 3, 4, 5, 1000])
def test_the_joined_input_of_the_decoder_is_made_slab_by_slab(monkeypatch, size, planes):
    torch.manual_seed(0)
    block = UpBlock(8, 4)
    deeper, skip = draw(2, 8, *size), draw(2, 4, *(2 * extent for extent in size), seed=1)
    monkeypatch.setattr(residual_block, "SLAB_BYTES", planes_of(skip, planes))
    upsampled = functional.conv_transpose3d(deeper.double(), block.transp_conv.conv.weight.double(), stride=2)
    exact = reference(block.conv_block, torch.cat([upsampled, skip.double()], dim=1))
    torch.testing.assert_close(block(deeper, skip).double(), exact, rtol=0, atol=5e-5)
    with plain():
        torch.testing.assert_close(block(deeper, skip).double(), exact, rtol=0, atol=5e-5)


@torch.no_grad()
def test_an_even_number_of_planes_is_asked_for_once_for_the_convolutions_and_once_for_the_shortcut(monkeypatch):
    block, feature = make_block(4, 4), draw(1, 4, 11, 3, 5)
    monkeypatch.setattr(residual_block, "SLAB_BYTES", planes_of(feature, 5))
    asked = []

    def planes(item: int, start: int, into: Tensor) -> None:
        asked.append((start, into.shape[2]))
        into.copy_(feature[:, :, start : start + into.shape[2]])

    block.in_slabs(planes, feature.shape)
    assert asked == 2 * [(0, 4), (4, 4), (8, 3)]


@torch.no_grad()
def test_any_memory_format_of_the_input_serves():
    block, feature = make_block(6, 4), draw(1, 6, 4, 5, 3)
    strided = draw(1, 8, 9, 8, 6)[:, ::2, ::2, ::2].transpose(3, 4)[:, :, :4, :3, :4]
    channels_last = torch.empty_like(feature, memory_format=torch.channels_last_3d).copy_(feature)
    torch.testing.assert_close(block(channels_last), block(feature), rtol=0, atol=1e-6)
    other = make_block(4, 4)
    torch.testing.assert_close(other(strided), other(strided.contiguous()), rtol=0, atol=1e-6)


@torch.no_grad()
def test_items_of_a_batch_and_results_of_two_calls_do_not_share_anything():
    block, feature = make_block(4, 4), draw(3, 4, 4, 5, 3)
    together = block(feature)
    kept = together.clone()
    for item in range(3):
        assert torch.equal(block(feature[item : item + 1]), together[item : item + 1])
    block(-feature)
    assert torch.equal(together, kept)


def test_gradients_leave_the_kernel_alone(monkeypatch):
    block, feature = make_block(4, 4), draw(1, 4, 4, 5, 3)
    calls = []
    monkeypatch.setattr(residual_block, "residual_block", lambda *arguments, **options: calls.append(1))
    block(feature).sum().backward()
    with torch.no_grad(), plain():
        block(feature)
    assert calls == []
    with torch.no_grad():
        block(feature)
    assert calls == [1]
