"""The whole network, both stages, beside its own backbone alone: what the queries cost, in one process and in turns.

One JSON line for forward (inference) and one for forward + backward (the gradient of half the sum of all outputs'
squares for every parameter). ``ratio`` is whole / backbone: DSM is to cost at most 1.25 times its backbone.
Memory is the peak of resident memory above what is there before the call (Linux); backward of ``paper`` at 96 voxels
along each edge takes about seven gigabytes.
"""

import argparse
import json
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from dsmseg.model.config import PRESETS
from dsmseg.model.dsm import build

from measuring import Step, in_turns, peak_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    config = PRESETS[arguments.preset]
    whole = build(config, torch.randn(config.organs + config.tumors, config.text_width))
    image = torch.randn(1, config.input_channels, *[arguments.size] * 3)
    for backward in (False, True):
        steps = [_step(network.train(backward), image, backward) for network in (whole.backbone, whole)]
        backbone_seconds, seconds = in_turns(steps, arguments.runs)
        backbone_memory, memory = map(peak_memory, steps)
        line = {
            "what": f"{arguments.preset}, {arguments.size}^3, {'forward + backward' if backward else 'forward'}",
            "peer": "its backbone alone",
            "peer_seconds": round(backbone_seconds, 3),
            "seconds": round(seconds, 3),
            "ratio": round(seconds / backbone_seconds, 3),
            "peer_peak_mb": backbone_memory,
            "peak_mb": memory,
            "threads": torch.get_num_threads(),
            "runs": arguments.runs,
        }
        print(json.dumps(line), flush=True)


def _step(network: nn.Module, image: Tensor, backward: bool) -> Step:
    def forward() -> None:
        with torch.inference_mode():
            network(image)

    def forward_and_backward() -> None:
        outputs = list(_tensors(network(image)))
        torch.autograd.grad(outputs, list(network.parameters()), [output.detach() for output in outputs])

    return forward_and_backward if backward else forward


def _tensors(outputs: Iterable) -> Iterator[Tensor]:
    """Give what a gradient passes through, of results, which may be lists in turn."""
    for output in outputs:
        if not isinstance(output, Tensor):
            yield from _tensors(output or ())
        elif output.requires_grad:
            yield output


if __name__ == "__main__":
    main()
