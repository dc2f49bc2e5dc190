"""FSDP2: parameters, gradients and optimiser state split over the processes (``trainer=fsdp``)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed import broadcast
from torch.distributed.checkpoint import state_dict as whole_state
from torch.distributed.checkpoint.state_dict import StateDictOptions
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from seglab import checkpoint
from seglab.checks import within


class FullySharded(ModelParallelStrategy):
    """Each of n processes holds 1/n of the parameters, of their gradients and of the optimiser's state.

    A unit is gathered when it is computed, in the forward and in the backward pass. Checkpoints are whole and those of
    every other strategy: they are opened, exported and gone on with on any number of processes.

    Args:
        unit: parameters from which a module becomes a unit. Smaller ones take less memory and more messages.
        timeout: that one process waits for another.
    """

    def __init__(self, unit: int = 1_000_000, timeout: timedelta = timedelta(minutes=10)) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=timeout)
        self.unit = int(within("trainer.strategy.unit", unit, 1))

    def setup_environment(self) -> None:
        """Join the other processes; all of them share the data and the parameters."""
        self._data_parallel_size = self.num_nodes * self.num_processes  # Lightning's own default is the number of nodes
        super().setup_environment()

    def shard(self, model: nn.Module) -> None:
        """Split a network that is whole on every process; one that is split already stays as it is."""
        if isinstance(model, FSDPModule):
            return
        if self._layer_sync is not None:  # trainer.sync_batchnorm, which Lightning applies under DDP only
            self._layer_sync.apply(model)
        split(model, self.device_mesh["data_parallel"], self.unit)

    def gather(self, model: nn.Module) -> None:
        """Have all of the network in every process, for an evaluation: each has its own number of passes."""
        for each in model.modules():
            if isinstance(each, FSDPModule):
                each.set_reshard_after_forward(False, recurse=False)
                each.unshard()
        for buffer in model.buffers():  # the first one's running statistics, as in DDP: those that a checkpoint holds
            broadcast(buffer, 0)

    def release(self, model: nn.Module) -> None:
        """Have a part of it again."""
        for each in model.modules():
            if isinstance(each, FSDPModule):
                each.set_reshard_after_forward(each is not model, recurse=False)
                each.reshard()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state, on the first process, as the optimiser of a network on one device would give it."""
        plain = getattr(optimizer, "optimizer", optimizer)  # without Lightning's wrapper
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state: dict[str, Any] = whole_state.get_optimizer_state_dict(self._network, plain, options=options)
        if not state:  # another process
            return state
        number = {name: i for i, name in enumerate(names(state["param_groups"]))}
        return renamed(state, number)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint of any strategy, each process all of it, and keep this process's part."""
        content = checkpoint.read(self.broadcast(checkpoint_path), mmap=True)
        options = StateDictOptions(full_state_dict=True, strict=self._network.strict_loading)
        whole_state.set_model_state_dict(self._network, content["state_dict"], options=options)
        own = {parameter: name for name, parameter in self._network.named_parameters()}
        for optimizer, state in zip(self.optimizers, content.get("optimizer_states", ()), strict=False):
            order = [own[parameter] for group in optimizer.param_groups for parameter in group["params"]]
            stored = renamed(state, dict(zip(names(state["param_groups"]), order, strict=True)))
            whole_state.set_optimizer_state_dict(self._network, optimizer, stored, options=options)
        return content

    @property
    def _network(self) -> Any:
        assert self.lightning_module is not None
        return self.lightning_module


def names(groups: Iterable[dict[str, Any]]) -> list[Any]:
    """What an optimiser's state calls its parameters, in the order of its groups."""
    return [name for group in groups for name in group["params"]]


def renamed(state: dict[str, Any], names: dict[Any, Any]) -> dict[str, Any]:
    """An optimiser's state with other names for its parameters."""
    groups = [{**group, "params": [names[name] for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {names[name]: values for name, values in state["state"].items()}, "param_groups": groups}


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which each process has a part, gathered (all of them have to ask); any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def split(model: nn.Module, mesh: DeviceMesh, unit: int) -> None:
    """Split a network over the processes of a mesh; what is in no unit of its own is gathered with the whole."""
    model.to(memory_format=torch.contiguous_format)  # FSDP2 takes no other; images may still be channels-last
    units(model, mesh, unit)
    fully_shard(model, mesh=mesh)


def units(module: nn.Module, mesh: DeviceMesh, least: int, listed: bool = False) -> int:
    """Split what is listed in a module (blocks of a stage) and has at least that many parameters, innermost first.

    What is not listed, such as a linear layer of an attention, may be read instead of called, and nothing would gather
    it. Gives the number of parameters that are left over.
    """
    lists = isinstance(module, nn.Sequential | nn.ModuleList)
    left = sum(p.numel() for p in module.parameters(recurse=False))
    left += sum(units(child, mesh, least, lists) for child in module.children())
    if left < least or not listed or isinstance(module, nn.ModuleList):  # a list is not called
        return left
    fully_shard(module, mesh=mesh)
    return 0
