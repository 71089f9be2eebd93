"""Both kernel modules of Eq. 17 against the plain twin in float64, and what the autograd function around them promises.

The Triton kernels run on a GPU, or without one in Triton's interpreter, with TRITON_INTERPRET=1 set.
"""

import itertools
import os
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmseg.model.kernels import plain
from dsmseg.model.semantic_diffusion import KernelDiffusion, SemanticDiffusion, diffuse

pytestmark = [pytest.mark.equation(17), pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
NAMES = ("feature", "guidance", "weights", "sharpness")
FORMATS = (torch.contiguous_format, torch.channels_last_3d)


@pytest.fixture(scope="module", params=["diffusion_cpu", "diffusion_cuda"])
def kernels(request) -> ModuleType:
    if request.param == "diffusion_cpu":
        pytest.importorskip("numba")
    elif find_spec("triton") is None or not (INTERPRETED or torch.cuda.is_available()):
        pytest.skip("needs Triton, and an NVIDIA GPU or TRITON_INTERPRET=1")
    return import_module(f"dsmseg.model.kernels.{request.param}")


@pytest.fixture
def device(kernels) -> str:
    return "cuda" if kernels.__name__.endswith("cuda") and not INTERPRETED else "cpu"


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def drawn(*, batch: int = 1, channels: int = 3, guides: int = 2, size: tuple[int, ...], seed: int = 0):
    """Give the four inputs and a gradient of the result, in float32."""
    generator = torch.Generator().manual_seed(seed)
    feature, gradient = (torch.randn(batch, channels, *size, generator=generator) for _ in range(2))
    guidance = torch.randn(batch, guides, *size, generator=generator)
    weights, sharpness = (torch.rand(3, *shape, generator=generator) for shape in ([channels], []))
    return [feature, guidance, weights, 2 * sharpness], gradient


def run(kernels: ModuleType, inputs: list[torch.Tensor], gradient: torch.Tensor):
    """Give the result and the gradients of all inputs."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    result = KernelDiffusion.apply(kernels, *leaves)
    return [result.detach(), *torch.autograd.grad(result, leaves, gradient)]


def expected(inputs: list[torch.Tensor], gradient: torch.Tensor):
    """Give the same of the plain twin in float64."""
    leaves = [tensor.detach().double().requires_grad_() for tensor in inputs]
    result = diffuse(*leaves)
    return [result.detach(), *torch.autograd.grad(result, leaves, gradient.double())]


def assert_equal_up_to_rounding(found, wanted) -> None:
    for name, one, other in zip(("result", *NAMES), found, wanted, strict=True):
        scale = max(1.0, other.abs().max().item())
        assert (one.cpu().double() - other.cpu()).abs().max().item() <= 3e-6 * scale, name


SIZES = [
    (1, 1, 1, (1, 1, 1)),
    (2, 3, 2, (4, 3, 5)),
    (3, 2, 5, (1, 7, 2)),
    (1, 33, 1, (5, 5, 5)),
    (1, 48, 40, (3, 2, 9)),
    (2, 1, 65, (2, 1, 3)),
    (1, 2, 2, (6, 1, 1)),
]


@pytest.mark.parametrize(("batch", "channels", "guides", "size"), SIZES)
def test_result_and_every_gradient_equal_the_plain_twins(kernels, device, batch, channels, guides, size):
    inputs, gradient = drawn(batch=batch, channels=channels, guides=guides, size=size)
    found = run(kernels, [tensor.to(device) for tensor in inputs], gradient.to(device))
    assert_equal_up_to_rounding(found, expected(inputs, gradient))


@settings(max_examples=30)
@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 3),
    channels=st.integers(1, 40),
    guides=st.integers(1, 20),
    size=st.tuples(*[st.integers(1, 7)] * 3),
    memory_formats=st.tuples(*[st.sampled_from(FORMATS)] * 3),
)
def test_any_size_in_any_memory_format_equals_the_plain_twin(seed, batch, channels, guides, size, memory_formats):
    cpu = pytest.importorskip("dsmseg.model.kernels.diffusion_cpu")
    inputs, gradient = drawn(batch=batch, channels=channels, guides=guides, size=size, seed=seed)
    maps = [*inputs[:2], gradient]
    feature, guidance, gradient = (
        values.to(memory_format=layout) for values, layout in zip(maps, memory_formats, strict=True)
    )
    found = run(cpu, [feature, guidance, *inputs[2:]], gradient)
    assert_equal_up_to_rounding(found, expected(inputs, gradient))


@pytest.mark.parametrize("formats", list(itertools.product(FORMATS, repeat=2)))
def test_memory_formats_mix_freely_and_the_result_has_the_features(kernels, device, formats):
    inputs, gradient = drawn(size=(3, 4, 2))
    maps = zip([*inputs[:2], gradient], [*formats, formats[1]], strict=True)
    feature, guidance, laid_out = (values.to(device).to(memory_format=layout) for values, layout in maps)
    found = run(kernels, [feature, guidance, *(tensor.to(device) for tensor in inputs[2:])], laid_out)
    assert found[0].is_contiguous(memory_format=formats[0])
    assert found[2].is_contiguous(memory_format=formats[1])
    assert_equal_up_to_rounding(found, expected(inputs, gradient))


def test_slices_transposes_and_expanded_gradients_are_read_right(kernels, device):
    inputs, gradient = drawn(batch=2, channels=4, guides=3, size=(4, 5, 6))
    feature = inputs[0].transpose(2, 4)[:, ::2, :, 1:]
    guidance = inputs[1].transpose(2, 4)[:, 1:, :, 1:]
    weights = inputs[2].repeat_interleave(2, dim=1)[:, ::4]
    inputs = [tensor.to(device) for tensor in (feature, guidance, weights, inputs[3].flip(0))]
    gradient = gradient[:1, :1, :1, :1, :1].expand_as(feature).to(device)
    assert_equal_up_to_rounding(run(kernels, inputs, gradient), expected(inputs, gradient))


@pytest.mark.parametrize("wanted", [set(names) for n in range(1, 4) for names in itertools.combinations(NAMES, n)])
def test_only_the_gradients_asked_for_are_given(kernels, device, wanted):
    inputs, gradient = drawn(size=(2, 3, 2))
    leaves = [tensor.to(device).requires_grad_(name in wanted) for name, tensor in zip(NAMES, inputs, strict=True)]
    KernelDiffusion.apply(kernels, *leaves).backward(gradient.to(device))
    _, *references = expected(inputs, gradient)
    for name, leaf, reference in zip(NAMES, leaves, references, strict=True):
        assert (leaf.grad is not None) == (name in wanted)
        if leaf.grad is not None:
            torch.testing.assert_close(leaf.grad.cpu(), reference.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes a minute")
@pytest.mark.filterwarnings("ignore:Input #:UserWarning")
def test_gradients_match_finite_differences(kernels, device):
    # The kernels know float32 only, so the steps are wide and the tolerances those of single precision.
    inputs, _ = drawn(size=(2, 2, 2))
    leaves = [tensor.to(device).requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(
        lambda *tensors: KernelDiffusion.apply(kernels, *tensors), leaves, eps=1e-2, atol=2e-3, rtol=2e-3
    )


def test_nothing_but_the_inputs_is_kept_for_the_backward_pass(kernels, device):
    inputs, _ = drawn(size=(3, 3, 3))
    leaves = [tensor.to(device).requires_grad_() for tensor in inputs]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        KernelDiffusion.apply(kernels, *leaves)
    assert {tensor.data_ptr() for tensor in kept} == {leaf.data_ptr() for leaf in leaves}


def test_a_gradient_of_a_gradient_is_refused(kernels, device):
    inputs, gradient = drawn(size=(2, 2, 2))
    leaves = [tensor.to(device).requires_grad_() for tensor in inputs]
    result = KernelDiffusion.apply(kernels, *leaves)
    (first,) = torch.autograd.grad(result, leaves[0], gradient.to(device).requires_grad_(), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("size", [(7, 3, 4), (2, 3, 4), (1, 3, 4)])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_the_number_of_threads_changes_nothing_to_the_bit(threads, size, count):
    cpu = pytest.importorskip("dsmseg.model.kernels.diffusion_cpu")
    inputs, gradient = drawn(batch=3, channels=5, size=size)
    threads(1)
    alone = run(cpu, inputs, gradient)
    threads(count)
    assert all(map(torch.equal, alone, run(cpu, inputs, gradient)))


def test_every_run_gives_the_same_to_the_bit(kernels, device):
    inputs, gradient = drawn(batch=2, channels=5, size=(4, 3, 5))
    inputs, gradient = [tensor.to(device) for tensor in inputs], gradient.to(device)
    assert all(map(torch.equal, run(kernels, inputs, gradient), run(kernels, inputs, gradient)))


def test_no_diffusivity_is_nan_however_much_the_guidance_differs(kernels, device):
    inputs, gradient = drawn(size=(2, 3, 2))
    inputs[1] *= 1e12
    found = run(kernels, [tensor.to(device) for tensor in inputs], gradient.to(device))
    assert all(bool(values.isfinite().all()) for values in found)
    assert found[0].abs().max() < 1e-30


@pytest.mark.parametrize(("context", "fast"), [(nullcontext, True), (plain, False)])
def test_the_kernels_serve_float32_on_the_processor_unless_the_plain_twin_is_asked_for(context, fast):
    pytest.importorskip("numba")
    inputs, _ = drawn(size=(2, 2, 2))
    with context():
        result = SemanticDiffusion(3)(*inputs[:2])
    assert (type(result.grad_fn).__name__ == "KernelDiffusionBackward") == fast


def test_double_precision_runs_the_plain_twin():
    inputs, _ = drawn(size=(2, 2, 2))
    result = SemanticDiffusion(3)(inputs[0].double(), inputs[1].double())
    assert type(result.grad_fn).__name__ != "KernelDiffusionBackward"


@pytest.mark.skipif(find_spec("triton") is None or INTERPRETED, reason="needs Triton, not interpreted")
@pytest.mark.parametrize("channel_stride_is_one", [True, False])
def test_the_triton_kernels_compile_for_a_gpu_without_one(channel_stride_is_one):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    cuda = import_module("dsmseg.model.kernels.diffusion_cuda")
    one = 5 if channel_stride_is_one else 6
    sizes = tuple("constexpr" if index == one else "i32" for index in range(7))
    for kernel in (cuda._distance_kernel, cuda._gather_kernel, cuda._respond_kernel):
        names = kernel.arg_names
        signature = {name: sizes if name.endswith("sizes") else "*fp32" for name in names}
        constants = {(index, one): 1 for index, name in enumerate(names) if name.endswith("sizes")}
        assert compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 80, 32)).asm["cubin"]
