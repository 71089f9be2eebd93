import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from dsmseg.model import kernels, semantic_diffusion, state_space
from dsmseg.model.kernels import in_threads, plain, use_inference, use_numba, use_triton
from dsmseg.model.semantic_diffusion import SemanticDiffusion

SINGLE = torch.zeros(3)


@pytest.fixture
def threads():
    """Set PyTorch's number of threads, and set it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_numba_serves_single_precision_in_main_memory_only():
    assert use_numba(SINGLE, SINGLE)
    assert not use_numba(SINGLE, SINGLE.double())
    assert not use_numba(SINGLE.bfloat16(), SINGLE)
    assert not use_numba(SINGLE, SINGLE.to("meta"))


def test_kernels_for_inference_serve_only_where_no_gradient_is_asked_for():
    assert not use_inference(SINGLE)
    for no_gradient in (torch.no_grad, torch.inference_mode):
        with no_gradient():
            assert use_inference(SINGLE)
            assert use_inference(SINGLE.bfloat16())
            assert not use_inference(SINGLE.double())
            assert not use_inference(SINGLE.half())
            assert not use_inference(SINGLE.to("meta"))


def test_triton_never_serves_main_memory():
    assert not use_triton(SINGLE)


def test_without_the_compiler_the_plain_twins_run(monkeypatch):
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    kernels._installed.cache_clear()
    try:
        with torch.no_grad():
            assert not use_numba(SINGLE)
            assert not use_inference(SINGLE)
    finally:
        kernels._installed.cache_clear()


@torch.no_grad()
def test_plain_holds_inside_its_block_also_nested_and_ends_with_an_error():
    with plain():
        with plain():
            assert not use_numba(SINGLE)
        assert not use_numba(SINGLE)
        assert not use_inference(SINGLE)
    assert use_numba(SINGLE)
    with pytest.raises(KeyError), plain():
        raise KeyError
    assert use_inference(SINGLE)


def test_plain_leaves_other_threads_alone():
    answers = []
    with plain():
        other = threading.Thread(target=lambda: answers.append(use_numba(SINGLE)))
        other.start()
        other.join()
    assert answers == [True]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 9, 100])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_parts_are_the_range_once(threads, count, number):
    threads(number)
    parts = []
    in_threads(lambda start, stop: parts.append((start, stop)), count)
    assert sorted(index for start, stop in parts for index in range(start, stop)) == list(range(count))


def test_as_many_threads_as_pytorch_has_work_at_once(threads):
    threads(3)
    meeting = threading.Barrier(3)
    workers = set()

    def work(start: int, stop: int) -> None:
        if threading.get_ident() not in workers:
            workers.add(threading.get_ident())
            meeting.wait(timeout=10)

    in_threads(work, 60)
    assert len(workers) == 3
    assert threading.get_ident() in workers


def test_with_one_thread_the_work_stays_whole_and_in_the_calling_thread(threads):
    threads(1)
    calls = []
    in_threads(lambda start, stop: calls.append((start, stop, threading.get_ident())), 50)
    assert calls == [(0, 50, threading.get_ident())]


def test_who_is_free_takes_the_next_part(threads):
    threads(2)
    done, others_are_done = [], threading.Event()

    def work(start: int, stop: int) -> None:
        if start == 0:
            assert others_are_done.wait(timeout=10)
        done.append(start)
        if len(done) == 7:
            others_are_done.set()

    in_threads(work, 8)
    assert sorted(done) == list(range(8))
    assert done[-1] == 0


@pytest.fixture
def in_a_helper(threads):
    """Run something in the second thread, which takes its part before the calling thread ends."""

    def run(act: Callable[[], None]) -> None:
        threads(2)
        caller, helper_is_here = threading.get_ident(), threading.Event()

        def work(start: int, stop: int) -> None:
            if threading.get_ident() == caller:
                assert helper_is_here.wait(timeout=10)
            elif not helper_is_here.is_set():
                helper_is_here.set()
                act()

        in_threads(work, 8)

    return run


def test_the_last_part_of_the_slowest_thread_is_waited_for(in_a_helper):
    finished = []

    def act() -> None:
        time.sleep(0.3)
        finished.append(True)

    in_a_helper(act)
    assert finished == [True]


def test_a_fault_in_a_helper_comes_out(in_a_helper):
    def act() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        in_a_helper(act)


def test_a_fault_in_the_calling_thread_comes_out(threads):
    threads(2)
    caller, caller_has_failed = threading.get_ident(), threading.Event()

    def work(start: int, stop: int) -> None:
        if threading.get_ident() == caller:
            caller_has_failed.set()
            raise KeyError
        assert caller_has_failed.wait(timeout=10)

    with pytest.raises(KeyError):
        in_threads(work, 8)


def test_importing_the_network_loads_no_compiler():
    program = (
        "import sys, dsmseg.model.dsm, dsmseg.model.swin_unetr;"
        "print({name.split('.')[0] for name in sys.modules} & {'numba', 'llvmlite', 'triton', 'scipy', 'monai'})"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603
    assert answer.stdout.strip() == "set()"


@pytest.fixture
def _as_on_a_gpu(monkeypatch):
    """Let Triton's path be taken, with the plain twins in the kernels' place."""
    for module in (state_space, semantic_diffusion):
        monkeypatch.setattr(module, "use_numba", lambda *tensors: False)
        monkeypatch.setattr(module, "use_triton", lambda *tensors: all(t.dtype == torch.float32 for t in tensors))

    def scan(*inputs: torch.Tensor) -> torch.Tensor:
        transition, factor = state_space.zero_order_hold(*inputs[1:3])
        x, b, c = inputs[0], inputs[3], inputs[4]
        drive = factor * b.unsqueeze(-2) * x.unsqueeze(-1)
        return state_space.read_out(state_space.recurrence(transition, drive), c)

    monkeypatch.setattr(kernels, "scan_cuda", SimpleNamespace(selective_scan=scan), raising=False)
    diffusion = SimpleNamespace(diffuse=semantic_diffusion.diffuse)
    monkeypatch.setattr(kernels, "diffusion_cuda", diffusion, raising=False)


@pytest.mark.usefixtures("_as_on_a_gpu")
@pytest.mark.parametrize("gradient", [True, False])
def test_the_gpu_s_kernels_are_given_what_the_plain_twins_are(gradient):
    torch.manual_seed(0)
    inputs = [torch.randn(2, 5, 3), torch.rand(2, 5, 3), -torch.rand(3, 4), torch.randn(2, 5, 4), torch.randn(2, 5, 4)]
    half = [tensor.bfloat16() for tensor in inputs]
    module, feature, guidance = SemanticDiffusion(3), torch.randn(1, 3, 3, 2, 4), torch.randn(1, 2, 3, 2, 4)

    def results() -> list[torch.Tensor]:
        scans = [state_space.selective_scan(*given) for given in (inputs, half)]
        return [*scans, module(feature, guidance)]

    with torch.set_grad_enabled(gradient):
        found = results()
        with pytest.MonkeyPatch.context() as patch:
            for one in (state_space, semantic_diffusion):
                patch.setattr(one, "use_triton", lambda *tensors: False)
            wanted = results()
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other)


def test_a_call_inside_of_another_one_stays_in_its_thread(threads):
    threads(2)
    inside = []

    def take_part(here, first, last):
        inside.append((threading.get_ident() == here, last - first))

    def work(start, stop):
        for _ in range(start, stop):
            in_threads(partial(take_part, threading.get_ident()), 3)

    in_threads(work, 8)
    assert inside == [(True, 3)] * 8
