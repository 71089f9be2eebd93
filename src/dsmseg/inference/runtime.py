"""Where, and in which precision, the network computes."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from dsmseg import resources
from dsmseg.errors import InputError

_WINDOWS_AT_ONCE_ON_A_GPU = 4


@dataclass(frozen=True, slots=True)
class Runtime:
    """``dtype`` other than float32 means autocast; weights stay float32.

    Several windows at once gain nothing on a CPU, and take memory.
    """

    device: torch.device
    dtype: torch.dtype
    windows_at_once: int = 1


def choose_runtime(device: str) -> Runtime:
    """Choose the device ("auto" takes a CUDA GPU where there is one), and bfloat16 where its hardware has it.

    Raises:
        InputError: ``device`` is none of auto, cpu and cuda, or a GPU is asked for that is not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"no device is called {device!r}", mend="Name auto, cpu or cuda.")
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise InputError(
            "torch finds no CUDA GPU here", mend="Use cpu or auto, or install a CUDA build of torch and its driver."
        )
    if device == "cpu" or not has_cuda:
        return Runtime(torch.device("cpu"), torch.bfloat16 if _cpu_has_bfloat16() else torch.float32)
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = torch.bfloat16 if has_bfloat16 else torch.float32
    return Runtime(torch.device("cuda"), dtype, _WINDOWS_AT_ONCE_ON_A_GPU)


@contextmanager
def leaving_a_core_free() -> Iterator[None]:
    """Compute on all cores but one, which reads and writes meanwhile.

    That costs less than it seems: all threads of an operation wait for the one whose core is busy with something else.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(min(threads, max(1, resources.cores() - 1)))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def processor() -> str:
    """Name the CPU with the instructions that torch uses of it: results differ between them in the last digits."""
    name = str(_capabilities().get("cpu_name") or platform.machine())
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"{name}, {instructions}{' with bfloat16' if _cpu_has_bfloat16() else ''}"


def _cpu_has_bfloat16() -> bool:
    """Emulated bfloat16 would be slower than float32, so only instructions for it count."""
    capabilities = _capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _capabilities() -> dict[str, Any]:
    """Say what the processor has; older releases of torch cannot."""
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return found
