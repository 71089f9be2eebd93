"""Fast paths of the network's few heavy operations, each beside the plain PyTorch twin that it is tested against.

    operation                   plain twin                 processor (numba)       NVIDIA GPU (Triton)
    selective scan, Eq. 3-6     state_space.py             scan_cpu.py             scan_cuda.py
    diffusion, Eq. 17           semantic_diffusion.py      diffusion_cpu.py        diffusion_cuda.py
    window attention            swin_transformer.py        window_attention.py     (PyTorch's own)
    residual block              swin_unetr.py              residual_block.py       (PyTorch's own)

The last two serve inference only, the others training too. The plain twin runs wherever a fast path cannot: without
numba or Triton, in other types and on other devices, under ``torch.compile``, and inside ``plain()``.
The kernels of one file know nothing of the network; which path runs is decided where the operation is defined.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

PARTS_PER_THREAD = 4

_plain: ContextVar[bool] = ContextVar("plain", default=False)
_here = threading.local()


@contextmanager
def plain() -> Iterator[None]:
    """Run the plain PyTorch twins inside the ``with`` block, in this thread: to compare, or to find a fault."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def use_numba(*tensors: Tensor) -> bool:
    """Say whether the processor's kernels serve these tensors: all of them float32 and in main memory."""
    served = all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
    return served and _is_wanted() and _installed("numba")


def use_inference(tensor: Tensor) -> bool:
    """Say whether the kernels for inference serve this tensor: no gradient is asked for, and it is in main memory."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else tensor.dtype
    served = tensor.device.type == "cpu" and {dtype, tensor.dtype} <= {torch.float32, torch.bfloat16}
    return served and not torch.is_grad_enabled() and _is_wanted() and _installed("numba")


def use_triton(*tensors: Tensor) -> bool:
    """Say whether the GPU's kernels serve these tensors: all of them float32 and on an NVIDIA GPU."""
    served = all(tensor.is_cuda and tensor.dtype == torch.float32 for tensor in tensors)
    return served and torch.version.cuda is not None and _is_wanted() and _installed("triton")


def in_threads(work: Callable[[int, int], None], count: int) -> None:
    """Call ``work(start, stop)`` on parts that together are ``range(count)``, in as many threads as PyTorch has.

    ``work`` must let go of the interpreter (numba's ``nogil``), write to its own part of the result only, and not
    care where the parts begin. The calling thread works too, and who is free takes the next part: after an operation of
    PyTorch, its idle threads keep their cores busy for some milliseconds. Numba's own threads are not used: some of its
    threading layers abort the process when two Python threads call a kernel. A call inside of ``work`` stays in its
    thread.
    """
    threads = min(torch.get_num_threads(), count)
    if threads <= 1 or getattr(_here, "working", False):
        work(0, count)
        return
    parts = min(PARTS_PER_THREAD * threads, count)
    bounds = iter([(count * part // parts, count * (part + 1) // parts) for part in range(parts)])

    def take_parts() -> None:
        _here.working = True
        try:
            for start, stop in bounds:
                work(start, stop)
        finally:
            _here.working = False

    helpers = [_pool(threads - 1).submit(take_parts) for _ in range(threads - 1)]
    try:
        take_parts()
    finally:  # also after a fault, nobody may still be writing; who has not begun finds nothing left to do
        helpers = [helper for helper in helpers if not helper.cancel()]
        wait(helpers)
    for helper in helpers:
        helper.result()


def _is_wanted() -> bool:
    return not _plain.get() and not torch.compiler.is_compiling()


@cache
def _installed(name: str) -> bool:
    return find_spec(name) is not None


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="dsmseg-kernel")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has none of its parent's threads
