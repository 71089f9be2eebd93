"""Time and memory of the semantic diffusion (Eq. 17) beside its usual form, which unfolds all neighbors of every voxel.

Both run in one process, in turns, with the same parameters, and must agree. One JSON line for the forward pass and one
for forward and backward. Memory is the peak above the inputs, results included; ``maps`` is that in maps, the size of
the feature. With a GPU, ``bandwidth`` gives the least traffic (each map read or written once) over the time, beside
what a copy reaches.
"""

import argparse
import json

import torch
from torch.nn import functional

from dsmseg.model.semantic_diffusion import SemanticDiffusion

from measuring import in_turns, peak_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=48)
    parser.add_argument("--side", type=int, default=48, help="voxels along x, y and z")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--channels-last", action="store_true", help="give the maps in channels_last_3d")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    module = SemanticDiffusion(arguments.channels).to(arguments.device)
    layout = torch.channels_last_3d if arguments.channels_last else torch.contiguous_format
    _assert_agreement(module, *_maps(module, 12, layout))
    feature, guidance, gradient = _maps(module, arguments.side, layout)
    inputs = [feature, guidance, *module.parameters()]
    for what, measured in (("forward", _forward), ("forward and backward", _forward_and_backward)):

        def peer(step=measured) -> None:
            step(lambda: unfolded(module, feature, guidance), inputs, gradient)

        def ours(step=measured) -> None:
            step(lambda: module(feature, guidance), inputs, gradient)

        result = {"what": f"Eq. 17, {what}, {arguments.channels} channels at {arguments.side}^3"}
        result |= _compare(peer, ours, arguments.runs, feature)
        if feature.is_cuda:
            # F, D and F^; backward also reads the gradient and F, D again, and writes two gradients.
            result["bandwidth"] = _bandwidth(feature, result["seconds"], 3 if measured is _forward else 8)
        result |= {"layout": str(layout), "threads": torch.get_num_threads(), "runs": arguments.runs}
        print(json.dumps(result), flush=True)


def unfolded(module: SemanticDiffusion, feature: torch.Tensor, guidance: torch.Tensor) -> torch.Tensor:
    """Give Eq. 17 as it is usually written: pad by replication, unfold the 3 x 3 x 3 regions, weigh, sum."""

    def regions(values: torch.Tensor) -> torch.Tensor:
        padded = functional.pad(values, (1,) * 6, mode="replicate")
        return padded.unfold(2, 3, 1).unfold(3, 3, 1).unfold(4, 3, 1).flatten(5)

    kinds = torch.cartesian_prod(*[torch.arange(-1, 2)] * 3).abs().sum(dim=1).to(feature.device)
    no_weight, no_sharpness = module.share_logits.new_zeros(1, module.share_logits.shape[1]), module.raw_sharpness[:1]
    weights = torch.cat([no_weight, module.neighbor_weights()])[kinds].T
    sharpness = torch.cat([no_sharpness, module.sharpness()])[kinds]
    distance = (regions(guidance) - guidance[..., None]).square().mean(dim=1, keepdim=True)
    # A neighbor outside the map has no weight, since in module no flux crosses the border.
    inside = functional.pad(torch.ones_like(feature[:, :1]), (1,) * 6).unfold(2, 3, 1).unfold(3, 3, 1).unfold(4, 3, 1)
    diffusivity = torch.exp(-sharpness * distance) * inside.flatten(5)
    return (weights[:, None, None, None] * diffusivity * (regions(feature) - feature[..., None])).sum(dim=-1)


def _maps(module: SemanticDiffusion, side: int, layout: torch.memory_format):
    """Give feature, guidance and the result's gradient."""
    shape = 1, module.share_logits.shape[1], side, side, side
    maps = [torch.randn(shape, device=module.share_logits.device).to(memory_format=layout) for _ in range(3)]
    return maps[0].requires_grad_(), maps[1].requires_grad_(), maps[2]


def _forward(run, inputs, gradient) -> None:
    with torch.no_grad():
        run()


def _forward_and_backward(run, inputs, gradient) -> None:
    torch.autograd.grad(run(), inputs, gradient)


def _assert_agreement(module, feature, guidance, gradient) -> None:
    """Also makes the kernels load or compile, which is not part of the measurement."""
    inputs = [feature, guidance, *module.parameters()]
    results = [
        [diffused.detach(), *torch.autograd.grad(diffused, inputs, gradient)]
        for diffused in (unfolded(module, feature, guidance), module(feature, guidance))
    ]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * one.abs().max().item())


def _compare(peer, ours, runs: int, feature: torch.Tensor) -> dict:
    peer_seconds, our_seconds = in_turns([peer, ours], runs)
    peer_memory, our_memory = peak_memory(peer), peak_memory(ours)
    one_map = feature.numel() * feature.element_size() / 1e6
    return {
        "peer": "unfold",
        "peer_seconds": round(peer_seconds, 5),
        "seconds": round(our_seconds, 5),
        "ratio": round(peer_seconds / our_seconds, 1),
        "peer_peak_mb": peer_memory,
        "peak_mb": our_memory,
        "maps": None if our_memory is None else round(our_memory / one_map, 2),
    }


def _bandwidth(feature: torch.Tensor, seconds: float, maps: int) -> dict:
    """Give gigabytes a second: ours, and that of a copy of a map that is too large for the caches."""
    size = feature.numel() * feature.element_size()
    large = torch.empty(2**28, device=feature.device)
    target = torch.empty_like(large)
    (copy,) = in_turns([lambda: target.copy_(large)], 5)
    return {
        "gigabytes_a_second": round(maps * size / seconds / 1e9, 1),
        "copy": round(2 * large.numel() * 4 / copy / 1e9, 1),
    }


if __name__ == "__main__":
    main()
