"""Swin UNETR beside MONAI's with the same weights: forward, in one process and in turns.

A line tells how long the first call of each takes (ours may compile its kernels then), then follows one JSON line a
comparison: in float32, under bfloat16 autocast beside MONAI in float32, and under bfloat16 autocast on both sides.
``largest_difference`` is that of the embedding from MONAI's in float32, whose size is that of ``largest_value``.
Memory is the peak of resident memory above what is there before the call (Linux).
"""

import argparse
import json
import warnings
from collections.abc import Callable
from importlib.metadata import version

import torch
from torch import Tensor, nn

from dsmseg.model.swin_unetr import SwinUNETR

from measuring import in_turns, peak_memory, seconds

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks import nets
except ImportError:
    raise SystemExit("MONAI is missing: pip install 'dsmseg[dev]'") from None

Step = Callable[[], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--feature-size", type=int, nargs="+", default=[48, 12])
    parser.add_argument("--size", type=int, nargs="+", default=[96], help="one edge, or three")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size = arguments.size * 3 if len(arguments.size) == 1 else arguments.size
    for feature_size in arguments.feature_size:
        _compare(feature_size, size, arguments.runs)


def _compare(feature_size: int, size: list[int], runs: int) -> None:
    steps = _steps(feature_size, size)
    print(json.dumps({"first call, seconds": {name: round(seconds(step), 2) for name, step in steps.items()}}))
    outputs = {name: step() for name, step in steps.items()}
    exact = outputs["MONAI fp32"]
    differences = {name: float((output - exact).abs().max()) for name, output in outputs.items()}
    largest = float(exact.abs().max())
    del outputs, exact
    memory = {name: peak_memory(step) for name, step in steps.items()}
    taken = dict(zip(steps, in_turns(list(steps.values()), runs), strict=True))
    for ours, peer in (("fp32", "fp32"), ("bf16", "fp32"), ("bf16", "bf16")):
        one, other = f"ours {ours}", f"MONAI {peer}"
        line = {
            "what": f"Swin UNETR {feature_size}, {' x '.join(map(str, size))}, forward, {ours}",
            "peer": f"MONAI {version('monai')}, {peer}",
            "peer_seconds": round(taken[other], 3),
            "seconds": round(taken[one], 3),
            "ratio": round(taken[other] / taken[one], 2),
            "largest_difference": float(f"{differences[one]:.2g}"),
            "largest_value": float(f"{largest:.2g}"),
            "peer_peak_mb": memory[other],
            "peak_mb": memory[one],
            "threads": torch.get_num_threads(),
            "runs": runs,
        }
        print(json.dumps(line), flush=True)


def _steps(feature_size: int, size: list[int]) -> dict[str, Step]:
    """Give the calls to time; both networks end at the embedding, before MONAI's last convolution."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = nets.SwinUNETR(in_channels=1, out_channels=1, feature_size=feature_size).eval()
    peer.out = nn.Identity()
    network = SwinUNETR(input_channels=1, feature_size=feature_size).eval()
    network.load_state_dict(peer.state_dict())
    image = torch.randn(1, 1, *size)

    def step(run: Callable[[Tensor], Tensor], is_bf16: bool) -> Step:
        def forward() -> Tensor:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
                return run(image)

        return forward

    runs = {"MONAI": peer, "ours": lambda image: network(image).embedding}
    return {f"{who} {kind}": step(run, kind == "bf16") for kind in ("fp32", "bf16") for who, run in runs.items()}


if __name__ == "__main__":
    main()
