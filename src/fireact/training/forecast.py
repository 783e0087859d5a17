"""What a run of training would do, for a dry run: counts, tokens, padding, steps and memory, by the tokenizer and the shapes alone.

Invariant: what would be refused before weights are read is refused here in the same words, and what is counted is what
training would count; neither weights are read nor anything is written. Memory is told, not compared with what is free. How long it takes is not said: nothing was measured yet.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from fireact.agents import load_renderer
from fireact.training.batches import Batch, computed, padding, plan, widest
from fireact.training.fitting import Fitting, fit
from fireact.training.launch import command, process_count
from fireact.training.loss import has_bfloat16
from fireact.training.memory import room, weights_gb
from fireact.training.preference import PreferConfig, beginning, compared
from fireact.training.recipe import QUANTISED, Recipe
from fireact.training.run import TrainConfig, check, parts
from fireact.training.samples import Encoder
from fireact.training.student import adapt, load_shape, load_tokenizer

RUN = Path("RUN")
"""Stands for the run directory in the command that would be launched."""


def expected(config: TrainConfig) -> dict[str, Any]:
    """What ``train`` would do. Raises what it would raise before the weights are read."""
    check(config)
    chats, validation = parts(config)
    recipe, (tokenizer, ends) = config.recipe, load_tokenizer(config.student)
    encoder = Encoder(tokenizer, ends, load_renderer(config.renderer), everything=recipe.train_on == "all")
    fitting = fit(chats, validation, encoder=encoder, recipe=recipe)
    lengths = [len(sample.input_ids) for sample in fitting.samples]
    batches = plan(lengths, epochs=recipe.epochs, batch_size=recipe.batch_size, seed=recipe.seed)
    processes = process_count(config.processes, config.accelerate)
    how = {"size": recipe.micro_batch, "processes": processes}
    made = computed(batches, lengths, limit=widest(batches, lengths, **how), **how)
    launch = command(RUN, RUN, processes=config.processes, accelerate=config.accelerate) if config.launches else []
    return {
        "samples": len(fitting.samples),
        "dropped": fitting.dropped,
        "validation_samples": len(fitting.kept_out),
        "validation_dropped": fitting.validation_dropped,
        "rewritten": fitting.rewritten,
        "tokens": sum(lengths[index] for batch in batches for index in batch),
        "padding": round(padding(made, lengths), 4),
        "steps": len(batches),
        **_memory(config.student, recipe, fitting, made),
        **({"launch": shlex.join(launch)} if launch else {}),
    }


def _memory(student: str, recipe: Recipe, fitting: Fitting, made: list[Batch]) -> dict[str, Any]:
    """GB for the weights of one process and what training adds; of quantised weights the shapes are not known here."""
    model = load_shape(student)
    weights = weights_gb(model, recipe.kind)
    found = {"weights_gb": _short(weights)}
    if recipe.kind in QUANTISED:
        return found
    adapted, frozen = adapt(model, recipe)
    added = room(adapted, fitting.samples, made, frozen=frozen, half=has_bfloat16())
    return found | {"memory_gb": _short(weights + added)}


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def expected_preference(config: PreferConfig) -> dict[str, Any]:
    """What ``prefer`` would do."""
    start, found = beginning(config)
    tokenizer, ends = load_tokenizer(start.place)
    made = compared(found, Encoder(tokenizer, ends, start.renderer), config)
    return made.counts()
