"""Selects the samples to train on and to validate on: those that fit ``max_length``, and a count of the others.

Invariant: no sample is cut, and the number of samples left out is reported, for validation too. A dry run calls this
with the tokenizer alone, training with the loaded student's; both get the same samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fireact.base.progress import SILENT, Progress
from fireact.errors import ConfigError, DataError
from fireact.render.tokens import REWRITTEN, Chat, Sample
from fireact.training.recipe import Recipe
from fireact.training.samples import Encoder


@dataclass(frozen=True, slots=True)
class FittingSamples:
    """The samples of a run; ``dropped`` samples are too long, ``rewritten`` chats have one sample per step."""

    samples: Sequence[Sample]
    validation: Sequence[Sample]
    dropped: int
    validation_dropped: int
    rewritten: int


def select_fitting(
    chats: Sequence[Chat],
    validation: Sequence[Chat],
    *,
    encoder: Encoder,
    recipe: Recipe,
    progress: Progress = SILENT,
) -> FittingSamples:
    """Select the samples that fit.

    Raises DataError when none is left to train on, ConfigError when ``patience`` has none to validate on.
    """
    samples, rewritten = encoder.encode_chats(chats)
    validation_samples, _ = encoder.encode_chats(validation)
    if rewritten:
        progress.say(
            f"train: {rewritten} of {len(chats)} trajectories are one sample a step, each with the exact prompt "
            f"of inference: {REWRITTEN}"
        )
    fitting, validation_fitting = (
        [sample for sample in group if len(sample.input_ids) <= recipe.max_length]
        for group in (samples, validation_samples)
    )
    refuse_empty(fitting, samples, recipe)
    if recipe.patience and not validation_fitting:
        raise ConfigError(
            f"patience needs samples to measure on, and none of {len(validation_samples)} validation samples fits into "
            f"max_length {recipe.max_length} tokens. {_name_length(validation_samples)}, or leave patience out."
        )
    dropped, validation_dropped = len(samples) - len(fitting), len(validation_samples) - len(validation_fitting)
    for count, description, group in (
        (dropped, "samples", samples), (validation_dropped, "validation samples", validation_samples),
    ):  # fmt: skip
        if count:
            progress.say(
                f"train: {count} {description} of over {recipe.max_length} tokens are left out. {_name_length(group)}."
            )
    return FittingSamples(fitting, validation_fitting, dropped, validation_dropped, rewritten)


def refuse_empty(fitting: Sequence[Sample], samples: Sequence[Sample], recipe: Recipe) -> None:
    """Raise DataError when none of the samples fits, or when a sample has no token that the student writes."""
    if not fitting:
        raise DataError(
            f"none of {len(samples)} samples fits into max_length {recipe.max_length} tokens. {_name_length(samples)}, "
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
