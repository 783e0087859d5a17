"""What of the rendered trajectories a student is trained on and measured on: the samples that fit, and a count of the others.

Invariant: nothing is cut, and what is left out is said, of the questions that are measured on too. A dry run calls this
with the tokenizer alone, training with the student's; both find the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fireact.errors import ConfigError, DataError
from fireact.progress import SILENT, Progress
from fireact.render.tokens import REWRITTEN, Chat, Sample
from fireact.training.recipe import Recipe
from fireact.training.samples import Encoder


@dataclass(frozen=True, slots=True)
class Fitting:
    """The samples of a run; ``dropped`` ones are too long, ``rewritten`` chats are one sample a step."""

    samples: Sequence[Sample]
    kept_out: Sequence[Sample]
    dropped: int
    validation_dropped: int
    rewritten: int


def fit(
    chats: Sequence[Chat],
    validation: Sequence[Chat],
    *,
    encoder: Encoder,
    recipe: Recipe,
    progress: Progress = SILENT,
) -> Fitting:
    """The samples that fit. Raises DataError when none is left to train on, ConfigError when patience has none to measure on."""
    samples, rewritten = encoder.all(chats)
    measured, _ = encoder.all(validation)
    if rewritten:
        progress.say(
            f"train: {rewritten} of {len(chats)} trajectories are one sample a step, each with the very prompt that inference "
            f"sends: {REWRITTEN}"
        )
    fitting, kept_out = (
        [one for one in group if len(one.input_ids) <= recipe.max_length] for group in (samples, measured)
    )
    refuse_empty(fitting, len(samples), recipe)
    if recipe.patience and not kept_out:
        raise ConfigError(
            f"patience needs samples to measure on, and none of {len(measured)} that are kept out fits into max_length "
            f"{recipe.max_length} tokens. Raise it, or leave patience out."
        )
    dropped, validation_dropped = len(samples) - len(fitting), len(measured) - len(kept_out)
    for count, what in ((dropped, "samples"), (validation_dropped, "validation samples")):
        if count:
            progress.say(f"train: {count} {what} of over {recipe.max_length} tokens are left out")
    return Fitting(fitting, kept_out, dropped, validation_dropped, rewritten)


def refuse_empty(fitting: Sequence[Sample], total: int, recipe: Recipe) -> None:
    """Raise DataError when there is nothing to train on, or nothing in it that the student writes."""
    if not fitting:
        raise DataError(
            f"none of {total} samples fits into max_length {recipe.max_length} tokens. Raise it, or mix others."
        )
    if not all(sample.targets for sample in fitting):
        raise DataError(
            "a sample has no token that is trained: no step of its trajectory is learnt. Filter with --where finished."
        )
