"""Estimates the memory of training before the first step, so that no run fails for lack of it hours later.

The estimate includes the weights, the optimizer's state for each trained weight, the cached hidden states of the frozen
blocks, and the activations and logits of the largest piece of a batch. It is computed from the model's shape; where it
was measured (on CPUs), it is a tenth to a third too high.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fireact.base.machine import peak_memory_gb, require_memory, training_device
from fireact.errors import ConfigError
from fireact.render.tokens import Sample
from fireact.training.batches import Batch

SLACK, BASE_GB = 1.2, 0.2
"""The factor for what allocators waste, and the GB of the libraries that training loads."""
TARGETS_AT_A_TIME = 128
"""Targets whose logits a joined student computes at a time: of 50,000 tokens, 25 MB, which a processor caches."""
WEIGHT_BYTES = {"int8-lora": 1.1, "qlora": 0.6}
"""Bytes per weight, with its scales; 4 for the other kinds."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; on a CPU torch raises RuntimeError for it."""
    import torch

    is_memory_error = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return is_memory_error or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


@contextmanager
def catch_out_of_memory(advice: str) -> Iterator[None]:
    """Turn an out-of-memory error into a ConfigError that ends with the ``advice``."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(f"memory ran out {advice}") from error


def estimate_weights_gb(model: Any, kind: str) -> float:
    """GB of a model's weights as the recipe's ``kind`` loads them; the model may have shapes alone."""
    return float(sum(parameter.numel() for parameter in model.parameters()) * WEIGHT_BYTES.get(kind, 4.0) / 1e9)


def require_memory_for_weights(model: Any, location: str, kind: str, *, copies: int = 1) -> None:
    """Raise ConfigError, before weights are read, when ``copies`` of them would not fit into this machine."""
    needed_gb = estimate_weights_gb(model, kind) * (
        1 if kind in WEIGHT_BYTES else copies
    )  # each process has its own GPU for quantised ones
    try:
        require_memory(gigabytes=needed_gb, available=free_gpu_gb if kind in WEIGHT_BYTES else None)
    except ConfigError as error:
        raise ConfigError(f"{location}: {error} Or choose a smaller student, or the recipe qlora on a GPU.") from error


def require_memory_for_training(
    model: Any,
    samples: Sequence[Sample],
    pieces: Sequence[Batch],
    *,
    frozen: int,
    half: bool,
    processes: int = 1,
    keeps: bool = True,
    is_joined: bool = False,
    available: Callable[[], float] | None = None,
) -> None:
    """Raise ConfigError when training would not fit. The model is in main memory, and stays there on a CPU.

    ``half`` says whether products are bfloat16, and ``is_joined`` whether blocks are joined (``joined_blocks``). The
    weights are sharded over ``processes``. ``available`` returns the free GB (default: of main memory).
    """
    shape: dict[str, Any] = {
        "frozen": frozen, "half": half, "processes": processes, "keeps": keeps, "is_joined": is_joined
    }  # fmt: skip
    process_gb = estimate_training_gb(model, samples, pieces, gpu=available is not None, **shape)
    local_processes = int(
        os.environ.get("LOCAL_WORLD_SIZE", "1")
    )  # processes that share main memory, each of which asks alike
    needed_gb = process_gb * (local_processes if available is None else 1)
    try:
        require_memory(gigabytes=needed_gb, available=available)
    except ConfigError as error:
        raise ConfigError(f"{error} Or give the recipe a smaller micro_batch, max_length or blocks.") from error


def estimate_training_gb(
    model: Any,
    samples: Sequence[Sample],
    pieces: Sequence[Batch],
    *,
    frozen: int,
    half: bool,
    processes: int = 1,
    gpu: bool = False,
    keeps: bool = True,
    is_joined: bool = False,
) -> float:
    """GB that training adds to the model in main memory, or, on a ``gpu``, that model and training take there.

    ``keeps`` says whether the hidden states after the frozen blocks are cached.
    """
    config = model.config.get_text_config()
    width, inner = config.hidden_size, getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    bytes_per_activation = 2.5 if half else 4.0
    # a block keeps about 18 activations of the model's width and 6 of the MLP's for each token, or 10 and 3 if joined
    trained_blocks = config.num_hidden_layers - frozen
    activations_per_block = 10 * width + 3 * inner if is_joined else 18 * width + 6 * inner
    # with checkpointing only the input of a block is kept; the backward pass computes the rest again, block by block
    recomputes = getattr(model, "is_activation_checkpointing", False)
    bytes_per_token = bytes_per_activation * (
        trained_blocks * width + activations_per_block if recomputes else trained_blocks * activations_per_block
    )
    # per logit: the logit itself, its softmax, and the gradients of both
    bytes_per_target = (8.0 if half else 16.0) + bytes_per_activation

    def size(piece_of_batch: Batch) -> float:
        tokens = len(piece_of_batch) * max(len(samples[index].input_ids) for index in piece_of_batch)
        targets = sum(samples[index].targets for index in piece_of_batch)
        targets = min(targets, TARGETS_AT_A_TIME) if is_joined else targets
        return float(bytes_per_token * tokens + bytes_per_target * config.vocab_size * targets)

    cached_bytes = 4.0 * width * sum(len(sample.input_ids) for sample in samples) if frozen and keeps else 0.0
    trained: int = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    optimizer_bytes = 12.0 * trained  # a gradient and two moments, in float32
    copy_bytes = 2.0 * trained if half else 0.0  # autocast holds a bfloat16 copy
    # packed for both directions beside the plain head, in place of the float32 weights of the blocks
    packed_bytes = _estimate_packed_bytes(model, half=half) if is_joined else 0.0
    # quantised weights are on the GPU already, so only those in main memory are added
    cpu_parameters = [parameter for parameter in model.parameters() if parameter.device.type == "cpu"]
    weight_bytes = (
        sum(float(parameter.numel() * parameter.element_size()) for parameter in cpu_parameters) if gpu else 0.0
    )
    shared_bytes = (optimizer_bytes + weight_bytes) / processes
    return BASE_GB + (SLACK * (max(map(size, pieces)) + copy_bytes) + packed_bytes + cached_bytes + shared_bytes) / 1e9


def _estimate_packed_bytes(model: Any, *, half: bool) -> float:
    """Bytes that weights packed for both directions take beyond the plain ones that they replace."""
    head = model.get_output_embeddings().weight.numel()
    blocks = sum(parameter.numel() for parameter in model.parameters() if parameter.dim() > 1) - head
    return float(4 * head if half else 8 * head + 4 * blocks)


def free_gpu_gb() -> float:
    """Free memory on this process's GPU, in GB."""
    import torch

    return float(torch.cuda.mem_get_info(training_device())[0]) / 1e9


def peak_training_gb() -> float:
    """The peak memory of this process, in GB: of its GPU where it has one, else main memory."""
    import torch

    device = training_device()
    return peak_memory_gb() if device == "cpu" else round(torch.cuda.max_memory_allocated(device) / 1e9, 2)
