"""What a run needs to go on after it was stopped: one safetensors file, written atomically."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dsmseg.errors import OutputError, WeightsError
from dsmseg.files import write_atomically


class Average:
    """Exponential moving average of parameters and buffers (counters are copied): the weights that a run ends with."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        """Start from the network's present values; ``decay`` is approached from below in the first steps."""
        self.network, self.decay = network, decay
        self.values = [tensor.detach().clone() for tensor in self._live()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the network's values after ``step``."""
        decay = min(self.decay, (1.0 + step) / (10.0 + step))
        for value, tensor in zip(self.values, self._live(), strict=True):
            if tensor.is_floating_point():
                value.lerp_(tensor, 1.0 - decay)
            else:
                value.copy_(tensor)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the averaged values into the network for a while."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the averaged values and the network's."""
        for value, tensor in zip(self.values, self._live(), strict=True):
            kept = value.clone()
            value.copy_(tensor)
            tensor.copy_(kept)

    def _live(self) -> list[Tensor]:
        return [*self.network.parameters(), *self.network.buffers()]


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where a run is: how many ``steps`` of which ``stage`` are done."""

    stage: int = 0
    steps: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a run goes on from: tensors by name, each with a prefix that says whose it is."""

    position: Position
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Give what belongs to ``prefix``, without it."""
        return {name.removeprefix(prefix): one for name, one in self.tensors.items() if name.startswith(prefix)}

    def save(self, path: Path) -> None:
        """Write the file, or leave the last one.

        Raises:
            OutputError: it cannot be written; the disk may be full.
        """
        tensors = {name: one.detach().cpu().contiguous() for name, one in self.tensors.items()}
        place = {"stage": str(self.position.stage), "steps": str(self.position.steps)}
        try:
            write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=place))
        except SafetensorError as error:
            what = f"cannot be written ({error}); the state before it is whole"
            raise OutputError(what, where=path, mend="Make space, then go on with --resume.") from error


def load_state(path: Path) -> State:
    """Read what ``save`` wrote.

    Raises:
        WeightsError: the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            place = file.metadata()
            position = Position(int(place["stage"]), int(place["steps"]))
            return State(position, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise unfit(path, error) from error


def unfit(path: Path, error: Exception) -> WeightsError:
    """Make the error of a state that does not belong to this run."""
    return WeightsError(f"does not hold the state of this run ({error})", where=path, mend="Remove it to start anew.")


def network_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Give a copy of a network's state, whole also where its parameters are spread over processes."""
    return {name: whole(one).detach().clone() for name, one in network.state_dict().items()}


def fill_network(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put a whole state into a network, also where its parameters are spread over processes.

    Raises:
        RuntimeError, LookupError: the state is another network's.
    """
    own = network.state_dict()
    network.load_state_dict({name: laid_like(own[name], one) for name, one in tensors.items()}, strict=True)


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor that is spread over processes (FSDP); all of them have to ask."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def laid_like(target: Tensor, tensor: Tensor) -> Tensor:
    """Give a copy of a whole tensor that lies in memory, and is spread over processes, as ``target`` is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(target, DTensor):
        return distribute_tensor(tensor.to(target.device), target.device_mesh, target.placements)
    return torch.empty_like(target).copy_(tensor)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Give the moments of each parameter, as ``number/name``."""
    state = optimizer.state_dict()["state"]
    return {f"{number}/{name}": whole(one) for number, moments in state.items() for name, one in moments.items()}


def fill_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put moments back. The fused optimizer reads memory in order: they must lie as their parameter does."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, moment = name.partition("/")
        laid = laid_like(parameters[int(number)], tensor) if tensor.ndim else tensor
        moments.setdefault(int(number), {})[moment] = laid
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
