"""How much memory training takes, estimated before the first step, so that no run dies of it hours later.

Counted are the weights, what the optimizer keeps of each trained one, what the frozen blocks make of the samples, and the
activations and logits of the largest piece of a batch. An estimate from the model's shape, a tenth to a third too high
where it was measured (on CPUs).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fireact.errors import ConfigError
from fireact.machine import need_memory, peak_memory_gb
from fireact.render.tokens import Sample
from fireact.training.batches import Batch
from fireact.training.loss import device

SLACK, BASE_GB = 1.2, 0.2
"""What allocators waste, and what libraries take that training loads."""
WEIGHT_BYTES = {"int8-lora": 1.1, "qlora": 0.6}
"""Bytes a weight, scales included; 4 for the other kinds."""


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out; on a CPU torch raises RuntimeError for it."""
    import torch

    of_its_own = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return of_its_own or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


@contextmanager
def memory_kept_in_bounds(advice: str) -> Iterator[None]:
    """Answer memory that runs out with a ConfigError that ends in the ``advice``."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise ConfigError(f"memory ran out {advice}") from error


def weights_gb(model: Any, kind: str) -> float:
    """GB of the weights of a model, of which the shapes are enough, as a recipe's ``kind`` loads them."""
    return float(sum(one.numel() for one in model.parameters()) * WEIGHT_BYTES.get(kind, 4.0) / 1e9)


def need_weights(model: Any, place: str, kind: str, *, copies: int = 1) -> None:
    """Raise ConfigError when the weights of a student, ``copies`` of them on this machine, would not fit, before they are read."""
    gigabytes = weights_gb(model, kind) * (1 if kind in WEIGHT_BYTES else copies)  # quantised ones go to a GPU each
    try:
        need_memory(gigabytes=gigabytes, available=cuda_gb if kind in WEIGHT_BYTES else None)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error} Or choose a smaller student, or the recipe qlora on a GPU.") from error


def need_room(
    model: Any,
    samples: Sequence[Sample],
    pieces: Sequence[Batch],
    *,
    frozen: int,
    half: bool,
    processes: int = 1,
    keeps: bool = True,
    available: Callable[[], float] | None = None,
) -> None:
    """Raise ConfigError when training would not fit; the model is in main memory, and stays there on a CPU.

    ``half`` says whether products are bfloat16, ``processes`` over how many the weights are spread, and ``available`` how
    many GB there are (default: of main memory).
    """
    shape: dict[str, Any] = {"frozen": frozen, "half": half, "processes": processes, "keeps": keeps}
    mine = room(model, samples, pieces, gpu=available is not None, **shape)
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes that share main memory, each of which asks alike
    gigabytes = mine * (beside if available is None else 1)
    try:
        need_memory(gigabytes=gigabytes, available=available)
    except ConfigError as error:
        raise ConfigError(f"{error} Or give the recipe a smaller micro_batch, max_length or blocks.") from error


def room(
    model: Any,
    samples: Sequence[Sample],
    pieces: Sequence[Batch],
    *,
    frozen: int,
    half: bool,
    processes: int = 1,
    gpu: bool = False,
    keeps: bool = True,
) -> float:
    """GB that training adds to the model in main memory, or, on a ``gpu``, that it takes there with the model.

    ``keeps`` says whether what the frozen blocks make of the samples is kept.
    """
    config = model.config.get_text_config()
    width, inner = config.hidden_size, getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    number = 2.5 if half else 4.0  # bytes a kept activation, of which there are about 18 widths a block
    trained_blocks, block = config.num_hidden_layers - frozen, 18 * width + 6 * inner
    again = getattr(
        model, "is_activation_checkpointing", False
    )  # only what enters a block is kept, the rest made again
    token = number * (trained_blocks * width + block if again else trained_blocks * block)
    target = (8.0 if half else 16.0) + number  # bytes a logit: it, its softmax, and the gradients of both

    def size(piece: Batch) -> float:
        tokens = len(piece) * max(len(samples[index].input_ids) for index in piece)
        targets = sum(samples[index].targets for index in piece)
        return float(token * tokens + target * config.vocab_size * targets)

    kept = 4.0 * width * sum(len(sample.input_ids) for sample in samples) if frozen and keeps else 0.0
    trained: float = 12.0 * sum(one.numel() for one in model.parameters() if one.requires_grad)  # gradient, two moments
    here = [one for one in model.parameters() if one.device.type == "cpu"]  # quantised ones are on the GPU already
    weights = sum(float(one.numel() * one.element_size()) for one in here) if gpu else 0.0
    copies: float = 2.0 * sum(one.numel() for one in model.parameters() if one.requires_grad) if half else 0.0
    return BASE_GB + (SLACK * (max(map(size, pieces)) + copies) + kept + (trained + weights) / processes) / 1e9


def cuda_gb() -> float:
    """GB of memory that are free on this process's GPU."""
    import torch

    return float(torch.cuda.mem_get_info(device())[0]) / 1e9


def peak_gb() -> float:
    """The most memory that training has held in this process, in GB: of its GPU where it has one, else main memory."""
    import torch

    here = device()
    return peak_memory_gb() if here == "cpu" else round(torch.cuda.max_memory_allocated(here) / 1e9, 2)
