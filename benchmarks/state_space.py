"""The state space layer (Eq. 3-6) beside mambapy, forward and backward, in one process and in turns.

One JSON line a comparison: ``block`` is ``SelectiveStateSpace`` beside mambapy's ``MambaBlock`` with as many inner
channels (``expand_factor=1``; it also has a short convolution, a gate and two projections), ``scan`` is
``selective_scan`` beside ``MambaBlock.selective_scan`` on the same tensors. Then a line a length, up to ``--longest``,
and where a GPU is there a line with the bandwidth of the Triton kernels beside that of a plain copy.
Memory is the peak of resident memory above what is there before the call, each in a process of its own (Linux).
"""

import argparse
import json
from multiprocessing import get_context

import torch

from dsmseg.model.state_space import SelectiveStateSpace, selective_scan

from measuring import Step, in_turns, peak_memory

try:
    from mambapy.mamba import MambaBlock, MambaConfig
except ImportError:
    raise SystemExit("mambapy is missing: pip install 'dsmseg[dev]'") from None

CHANNELS, STATE, TOKENS = 25, 16, 13_824  # organ queries, the paper preset's state, 24^3 voxels at stride 4
GPU_RUNS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--longest", type=int, default=8 * TOKENS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for what in ("block", "scan"):
        for backward in (False, True):
            print(json.dumps(_comparison(what, backward, arguments.runs)), flush=True)
    for line in _lengths(arguments.longest, arguments.runs):
        print(json.dumps(line), flush=True)
    if torch.cuda.is_available():
        print(json.dumps(_bandwidth(arguments.longest)), flush=True)


def _comparison(what: str, backward: bool, runs: int) -> dict:
    """Time the peer and ours in turns, and measure the memory of each."""
    peer, ours = (_step(what, who, TOKENS, backward) for who in ("mambapy", "ours"))
    peer_seconds, seconds = in_turns([peer, ours], runs)
    peer_memory, memory = (_peak_memory(what, who, TOKENS, backward) for who in ("mambapy", "ours"))
    return {
        "what": f"{what}, {CHANNELS} channels, {STATE} states, {TOKENS} tokens, {_name(backward)}",
        "peer": "mambapy MambaBlock, expand_factor=1" if what == "block" else "mambapy MambaBlock.selective_scan",
        "peer_seconds": round(peer_seconds, 4),
        "seconds": round(seconds, 4),
        "ratio": round(peer_seconds / seconds, 1),
        "peer_peak_mb": peer_memory,
        "peak_mb": memory,
        "threads": torch.get_num_threads(),
        "runs": runs,
    }


def _lengths(longest: int, runs: int) -> list[dict]:
    """Time the block at doubling lengths, in turns: linear when nanoseconds a token stay the same."""
    lengths = [TOKENS]
    while lengths[-1] * 2 <= longest:
        lengths.append(lengths[-1] * 2)
    seconds = in_turns([_step("block", "ours", length, True) for length in lengths], runs)
    return [
        {
            "what": f"block, {length} tokens, {_name(True)}",
            "seconds": round(time_taken, 4),
            "ns_per_token": round(time_taken / length * 1e9),
            "peak_mb": _peak_memory("block", "ours", length, True),
            "threads": torch.get_num_threads(),
            "runs": runs,
        }
        for length, time_taken in zip(lengths, seconds, strict=True)
    ]


def _name(backward: bool) -> str:
    return "forward + backward" if backward else "forward"


def _step(what: str, who: str, tokens: int, backward: bool, device: str = "cpu") -> Step:
    """Give the call to time, with its inputs made."""
    torch.manual_seed(0)
    peer = MambaBlock(MambaConfig(d_model=CHANNELS, n_layers=1, d_state=STATE, expand_factor=1))
    sequence = torch.randn(1, tokens, CHANNELS)
    if what == "block":
        block = peer if who == "mambapy" else SelectiveStateSpace(channels=CHANNELS, state=STATE).to(device)
        inputs, parameters, run = [sequence], list(block.parameters()), block
    else:
        step, decay = torch.rand(1, tokens, CHANNELS) * 0.1, -torch.rand(CHANNELS, STATE) * 16 - 1
        maps, skip = torch.randn(2, 1, tokens, STATE), torch.ones(CHANNELS)
        inputs, parameters = [sequence, step, decay, *maps], []
        run = selective_scan if who == "ours" else lambda *tensors: peer.selective_scan(*tensors, skip)
    inputs = [tensor.to(device).requires_grad_(backward) for tensor in inputs]
    weight = torch.randn(1, tokens, CHANNELS).to(device)

    def forward() -> None:
        with torch.no_grad():
            run(*inputs)

    return (lambda: torch.autograd.grad(run(*inputs), [*inputs, *parameters], weight)) if backward else forward


def _peak_memory(what: str, who: str, tokens: int, backward: bool) -> int | None:
    """Give the MB that one call takes beyond its inputs, in a process that has done nothing else."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_resident_peak, (what, who, tokens, backward, torch.get_num_threads()))


def _resident_peak(what: str, who: str, tokens: int, backward: bool, threads: int) -> int | None:
    torch.set_num_threads(threads)
    _step(what, who, 64, backward)()  # compiles, and starts the threads
    return peak_memory(_step(what, who, tokens, backward))


def _bandwidth(tokens: int) -> dict:
    """Compare the bytes that the scan cannot but move, each tensor once, with what a copy moves in the same time."""
    values = torch.empty(2**28, device="cuda")
    copy_seconds = in_turns([lambda: values[: 2**27].copy_(values[2**27 :])], GPU_RUNS)[0]
    result = {"what": f"scan, {tokens} tokens, GPU", "device": torch.cuda.get_device_name()}
    result["copy_gb_per_second"] = round(values.numel() * 4 / copy_seconds / 1e9)
    signals, maps = 4 * tokens * CHANNELS, 4 * tokens * STATE
    moved = {"forward": 3 * signals + 2 * maps, "forward + backward": 8 * signals + 6 * maps}
    for backward in (False, True):
        seconds = in_turns([_step("scan", "ours", tokens, backward, "cuda")], GPU_RUNS)[0]
        result[f"{_name(backward)} seconds"] = round(seconds, 6)
        result[f"{_name(backward)} gb_per_second"] = round(moved[_name(backward)] / seconds / 1e9, 1)
    return result


if __name__ == "__main__":
    main()
