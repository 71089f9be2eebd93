"""The processes and devices of a run, by lightning-fabric: one CPU or GPU, DDP, FSDP2; torchrun and SLURM are found."""

import atexit
import logging
import os
import warnings
from typing import TYPE_CHECKING, Any

from dsmseg.errors import InputError
from dsmseg.inference.runtime import choose_runtime
from dsmseg.training.course_settings import Hardware

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh

# What torchrun, SLURM and Fabric's own launcher number processes by.
_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
_PRECISION = {"bf16": "bf16-mixed", "fp32": "32-true"}


def launch(hardware: Hardware) -> "Fabric":
    """Start the processes that the hardware settings ask for; each goes on from here.

    Raises:
        InputError: lightning-fabric is not installed, or the machine has no such devices.
    """
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.utilities.exceptions import MisconfigurationException
    except ImportError as error:
        raise InputError("training needs lightning-fabric", mend='Install it: pip install "dsmseg[train]"') from error
    everyone = hardware.devices * hardware.nodes
    if int(os.environ.get("WORLD_SIZE", everyone)) != everyone:
        what = f"says {hardware.devices} x {hardware.nodes} processes, and {os.environ['WORLD_SIZE']} were started"
        raise InputError(
            what, where="hardware", mend="Set hardware.devices (of each machine) and hardware.nodes to fit."
        )
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # what runs is told by `dsmseg info`
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")  # of 1x1 kernels
    strategy: Any = "auto" if everyone == 1 else "ddp"
    if hardware.strategy == "fsdp":
        from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

        strategy = ModelParallelStrategy(_shard, data_parallel_size=everyone, tensor_parallel_size=1)
    try:
        fabric = Fabric(
            accelerator=hardware.accelerator, devices=hardware.devices, num_nodes=hardware.nodes, strategy=strategy,
            precision=_precision(hardware),  # type: ignore[arg-type]
        )  # fmt: skip
        # Fabric would make float32 of all outputs: of 45 maps at full resolution, a tenth of a step on a CPU, and back
        # again for the gradient. The losses take each class into float32 by itself.
        fabric.strategy.precision.convert_output = lambda data: data  # type: ignore[method-assign]
        fabric.launch()
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise InputError(f"cannot be had here ({error})", where="hardware", mend="Change hardware.* to fit.") from error
    if everyone > 1:
        atexit.register(_leave)
    return fabric


def _precision(hardware: Hardware) -> str:
    if hardware.precision != "auto":
        return _PRECISION[hardware.precision]
    import torch

    device = "cuda" if hardware.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    return _PRECISION["bf16" if choose_runtime(device).dtype == torch.bfloat16 else "fp32"]


def _leave() -> None:
    """End the group's threads before Python does. Fabric does so for NCCL alone, and gloo's may abort the process."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()


def anywhere(fabric: "Fabric", here: bool) -> bool:
    """Tell whether something holds in any process. All have to ask, at the same place."""
    if fabric.world_size == 1:
        return here
    import torch

    count = fabric.all_reduce(torch.tensor(int(here), device=fabric.device), reduce_op="sum")
    return bool(count)


def _shard(network: "nn.Module", mesh: "DeviceMesh") -> "nn.Module":
    """Spread parameters, gradients and moments over processes (FSDP), part by part of the network."""
    from torch.distributed.fsdp import fully_shard

    over = mesh["data_parallel"]
    for part in network.children():
        fully_shard(part, mesh=over)
    fully_shard(network, mesh=over)
    return network


def is_first_process() -> bool:
    """Tell whether this is the process that speaks for all of a run."""
    return next((int(os.environ[name]) for name in _RANKS if name in os.environ), 0) == 0
