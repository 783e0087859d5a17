"""Weights spread over processes (FSDP2), as accelerate does it when it was launched with such a configuration.

Invariant: all processes call these together, in the same order, since weights are put together from all of them. Not
done here: launching (``launch``), and checkpoints, which are Trainer's own.
"""

from __future__ import annotations

import os
from typing import Any


def sharded() -> bool:
    """Whether this process was launched to hold a part of the weights only."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def shard_on_cpu(accelerator: Any) -> None:
    """Make accelerate, which would copy a model to every process of a CPU, spread it as it does over GPUs."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    accelerator.state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def gathered(model: Any, *, trained: bool) -> dict[str, Any]:
    """The weights, put together from all processes, in main memory; those that are ``trained`` alone, or all of them."""
    once = dict(model.named_parameters())  # tied weights stand in it once
    twice = {name for name, _ in model.named_parameters(remove_duplicate=False)} - set(once)
    wanted = {name for name, one in once.items() if one.requires_grad} if trained else set(model.state_dict()) - twice
    return {name: _whole(value).cpu() for name, value in model.state_dict().items() if name in wanted}


def _whole(value: Any) -> Any:
    return value.full_tensor() if hasattr(value, "full_tensor") else value
