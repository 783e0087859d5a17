"""Estimates a training run for a dry run: counts, tokens, padding, steps and memory, from tokenizer and shapes alone.

Invariant: this module raises the same errors as training does before it reads weights, and counts what training counts.
It neither reads weights nor writes anything. Memory is reported and not compared with the free memory. Time is not
estimated, since nothing was measured yet.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fireact.base.cost import CostEstimate
from fireact.base.machine import has_bfloat16
from fireact.data.recorded_calls import RENDERER
from fireact.models.hf import context_length
from fireact.models.weights import load_tokenizer
from fireact.rollout.loading import load_renderer
from fireact.training.batches import Batch, choose_padding_limit, measure_padding, plan_batches, split_all_batches
from fireact.training.fitting import FittingSamples, select_fitting
from fireact.training.launch import build_launch_command, count_processes
from fireact.training.memory import estimate_training_gb, estimate_weights_gb
from fireact.training.preference import PreferConfig, build_preference_data, prepare_start
from fireact.training.recipe import QUANTISED, Recipe
from fireact.training.samples import Encoder
from fireact.training.student import load_model_shape, make_trainable
from fireact.training.train import TrainConfig, load_chats, validate_training

RUN = Path("RUN")
"""The run directory in the command that would be launched."""


def estimate_training(config: TrainConfig) -> CostEstimate:
    """Estimate a run of ``train``. Raises the errors that ``train`` raises before it reads weights."""
    validate_training(config)
    chats, validation = load_chats(config)
    recipe, (tokenizer, ends) = config.recipe, load_tokenizer(config.student)
    encoder = Encoder(tokenizer, ends, load_renderer(config.renderer), everything=recipe.train_on == "all")
    shape = load_model_shape(config.student) if config.renderer == RENDERER else None
    context = None if shape is None else context_length(shape.config.get_text_config())
    fitting = select_fitting(chats, validation, encoder=encoder, recipe=recipe, context=context)
    lengths = [len(sample.input_ids) for sample in fitting.samples]
    batches = plan_batches(lengths, epochs=recipe.epochs, batch_size=recipe.batch_size, seed=recipe.seed)
    processes = count_processes(config.processes, config.accelerate)
    split_options = {"size": recipe.micro_batch, "processes": processes}
    split_batches = split_all_batches(
        batches, lengths, limit=choose_padding_limit(batches, lengths, **split_options), **split_options
    )
    tokens = sum(lengths[index] for batch in batches for index in batch)
    details = {
        "samples": len(fitting.samples),
        "dropped": fitting.dropped,
        "validation_samples": len(fitting.validation),
        "validation_dropped": fitting.validation_dropped,
        "rewritten": fitting.rewritten,
        "tokens": tokens,
        "padding": round(measure_padding(split_batches, lengths), 4),
        "steps": len(batches),
        **_estimate_memory(config.student, recipe, fitting, split_batches),
    }
    if config.launches:
        launch = build_launch_command(RUN, RUN, processes=config.processes, accelerate=config.accelerate)
        details["launch"] = shlex.join(launch)
    return _untimed_training(config.student, tokens, details)


def _untimed_training(student: str, tokens: int, details: Mapping[str, Any]) -> CostEstimate:
    return CostEstimate.from_terms(tokens={student: tokens}, seconds={f"training {student}": None}, details=details)


def _estimate_memory(
    student: str, recipe: Recipe, fitting: FittingSamples, split_batches: list[Batch]
) -> dict[str, Any]:
    """GB for the weights of one process and for training; the shapes of quantised weights are not known here."""
    from fireact.training.joined_blocks import can_join_blocks

    model = load_model_shape(student)
    weights = estimate_weights_gb(model, recipe.kind)
    memory = {"weights_gb": _round_digits(weights)}
    if recipe.kind in QUANTISED:
        return memory
    adapted, frozen = make_trainable(model, recipe)
    added = estimate_training_gb(
        adapted,
        fitting.samples,
        split_batches,
        frozen=frozen,
        half=has_bfloat16(),
        is_joined=can_join_blocks(adapted),
    )
    return memory | {"memory_gb": _round_digits(weights + added)}


def _round_digits(value: float) -> float:
    return float(f"{value:.3g}")


def estimate_preference(config: PreferConfig) -> CostEstimate:
    """Estimate a run of ``prefer``."""
    start, pairs = prepare_start(config)
    tokenizer, ends = load_tokenizer(start.weights_path)
    preference_data = build_preference_data(pairs, Encoder(tokenizer, ends, start.renderer), config)
    details = preference_data.count_fields()
    return _untimed_training(config.start, preference_data.rows.count_tokens(), details)
