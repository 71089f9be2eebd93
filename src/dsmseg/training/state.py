"""What a run needs to go on after it was stopped: one safetensors file, written atomically."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dsmseg.errors import WeightsError
from dsmseg.files import write_atomically


class Average:
    """Exponential moving average of parameters and buffers (counters are copied): the weights that a run ends with."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Start from the network's present state; ``decay`` is approached from below in the first steps."""
        self.decay = decay
        self.state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the network's state after ``step``."""
        decay = min(self.decay, (1.0 + step) / (10.0 + step))
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, 1.0 - decay)
            else:
                self.state[name].copy_(tensor)


def save_state(
    path: Path, *, step: int, network: nn.Module, average: Average, optimizer: torch.optim.Optimizer
) -> None:
    """Write network, average and optimizer. Batches need no state: they follow from the seed and the step."""
    tensors = {f"network/{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"average/{name}": tensor for name, tensor in average.state.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in moments.items()}
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata={"step": str(step)}))


def load_state(path: Path, *, network: nn.Module, average: Average, optimizer: torch.optim.Optimizer) -> int:
    """Read what ``save_state`` wrote into the three; gives the step it was written after.

    Raises:
        WeightsError: the file is damaged or belongs to another recipe.
    """
    step, tensors = _read(path)
    moments: dict[int, dict[str, Tensor]] = {}
    parameters = list(network.parameters())
    try:
        for name, tensor in _part(tensors, "optimizer/").items():
            index, _, moment = name.partition("/")
            if tensor.ndim:
                # The fused optimizer reads memory in order: moments must lie in memory as their parameter does.
                tensor = torch.empty_like(parameters[int(index)]).copy_(tensor)
            moments.setdefault(int(index), {})[moment] = tensor
        network.load_state_dict(_part(tensors, "network/"))
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    except (RuntimeError, LookupError, ValueError) as error:
        raise _unfit(path, error) from error
    average.state.update(_part(tensors, "average/"))
    return step


def _read(path: Path) -> tuple[int, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            step = int(file.metadata()["step"])
            return step, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _unfit(path, error) from error


def _unfit(path: Path, error: Exception) -> WeightsError:
    return WeightsError(f"does not hold the state of this run ({error})", where=path, mend="Remove it to start anew.")


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
