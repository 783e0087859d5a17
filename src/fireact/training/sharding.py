"""Weights sharded over processes (FSDP2) by accelerate, when it was launched with such a configuration.

Invariant: all processes call these functions together, in the same order, since each holds a shard. Not done here:
launching (``launch``), and checkpoints, which are Trainer's own.
"""

from __future__ import annotations

import os
from typing import Any


def is_sharded() -> bool:
    """Whether this process was launched to hold only a shard of the weights."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def shard_on_cpu(accelerator: Any) -> None:
    """Make accelerate shard a model over CPU processes as over GPUs; by default it copies the model to each."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    accelerator.state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def gather_weights(model: Any, *, trained: bool) -> dict[str, Any]:
    """Gather the weights of all processes in main memory: all weights, or the ``trained`` ones alone."""
    parameters = dict(model.named_parameters())  # tied weights are listed once here
    tied_names = {name for name, _ in model.named_parameters(remove_duplicate=False)} - set(parameters)
    names = (
        {name for name, parameter in parameters.items() if parameter.requires_grad}
        if trained
        else set(model.state_dict()) - tied_names
    )
    return {name: _full_tensor(value).cpu() for name, value in model.state_dict().items() if name in names}


def _full_tensor(value: Any) -> Any:
    return value.full_tensor() if hasattr(value, "full_tensor") else value
