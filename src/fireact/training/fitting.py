"""Selects the samples to train on and to validate on: those that fit ``max_length``, and a count of the others.

Invariant: no sample is cut, and the number of samples left out is reported, for validation too. A dry run calls this
with the tokenizer alone, training with the loaded student's; both get the same samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fireact.base.progress import SILENT, Progress
from fireact.base.run_directory import read_config, read_manifest
from fireact.errors import ConfigError, DataError
from fireact.render.tokens import REWRITTEN, Chat, Sample
from fireact.training.recipe import MAX_LENGTH, Recipe
from fireact.training.samples import Encoder


@dataclass(frozen=True, slots=True)
class FittingSamples:
    """The samples of a run; ``dropped`` samples are longer than ``max_length`` tokens.

    ``rewritten`` chats have one sample per step.
    """

    samples: Sequence[Sample]
    validation: Sequence[Sample]
    dropped: int
    validation_dropped: int
    rewritten: int
    max_length: int


def select_fitting(
    chats: Sequence[Chat],
    validation: Sequence[Chat],
    *,
    encoder: Encoder,
    recipe: Recipe,
    context: int | None = None,
    progress: Progress = SILENT,
) -> FittingSamples:
    """Select the samples that fit; without a ``max_length`` all do that fit into ``context`` tokens, where it is given.

    Raises DataError when none is left to train on, ConfigError when ``patience`` has none to validate on.
    """
    samples, rewritten = encoder.encode_chats(chats)
    validation_samples, _ = encoder.encode_chats(validation)
    if rewritten:
        progress.say(
            f"train: {rewritten} of {len(chats)} trajectories are one sample a step, each with the exact prompt "
            f"of inference: {REWRITTEN}"
        )
    limit = choose_max_length([*samples, *validation_samples], recipe, context)
    if recipe.max_length is None and limit > MAX_LENGTH:
        progress.say(f"train: samples have up to {limit} tokens, as the recordings need (--max-length sets a limit)")
    fitting, validation_fitting = (
        [sample for sample in group if len(sample.input_ids) <= limit] for group in (samples, validation_samples)
    )
    refuse_empty(fitting, samples, limit)
    if recipe.patience and not validation_fitting:
        raise ConfigError(
            f"patience needs samples to measure on, and none of {len(validation_samples)} validation samples fits into "
            f"max_length {limit} tokens. {_name_length(validation_samples)}, or leave patience out."
        )
    dropped, validation_dropped = len(samples) - len(fitting), len(validation_samples) - len(validation_fitting)
    for count, description, group in (
        (dropped, "samples", samples), (validation_dropped, "validation samples", validation_samples),
    ):  # fmt: skip
        if count:
            progress.say(f"train: {count} {description} of over {limit} tokens are left out. {_name_length(group)}.")
    return FittingSamples(fitting, validation_fitting, dropped, validation_dropped, rewritten, limit)


def find_max_length(directory: Path) -> int:
    """The longest sample in tokens that a run of ``train`` or ``prefer`` took."""
    settings = read_config(directory)
    chosen = settings.get("max_length") or settings.get("recipe", {}).get("max_length")
    return int(chosen or read_manifest(directory).get("max_length") or MAX_LENGTH)


def choose_max_length(samples: Sequence[Sample], recipe: Recipe, context: int | None) -> int:
    """The longest sample in tokens: the recipe's or, without one, the usual or what fits into the context."""
    if recipe.max_length is not None or context is None:
        return recipe.max_length or MAX_LENGTH
    longest = max((len(sample.input_ids) for sample in samples), default=0)
    return max(MAX_LENGTH, min(longest, context))


def refuse_empty(fitting: Sequence[Sample], samples: Sequence[Sample], max_length: int) -> None:
    """Raise DataError when none of the samples fits, or when a sample has no token that the student writes."""
    if not fitting:
        raise DataError(
            f"none of {len(samples)} samples fits into max_length {max_length} tokens. {_name_length(samples)}, "
            "or mix others."
        )
    if not all(sample.targets for sample in fitting):
        raise DataError(
            "a sample has no token to train on: no step of its trajectory is learnt. Filter with --where finished."
        )


def _name_length(samples: Sequence[Sample]) -> str:
    """The option that takes all samples."""
    longest = max((len(sample.input_ids) for sample in samples), default=0)
    return f"--max-length {longest} takes all" if longest else "There are none"
