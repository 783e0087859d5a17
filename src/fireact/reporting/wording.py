"""How numbers and names are written in every form of the report, so that all forms agree.

Invariant: a name that begins with ``scripted:`` is never written without saying that it is a script.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fireact.evaluation.accuracy import is_correct
from fireact.evaluation.measures import GroupSummary
from fireact.evaluation.statistics import Estimate
from fireact.types import Stop, Trajectory

A_SCRIPT = "a script, not a language model"
_SCRIPTED = re.compile(r"(?<![\w:])scripted:[\w./+-]*\w(?! \()")
UNTOLD = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
ARROW = "\N{RIGHTWARDS ARROW}"
STOPS: Mapping[Stop, str] = {
    "finish": "finished",
    "max_steps": "ran out of steps",
    "format": "wrote no action",
    "refused": "refused by the model",
    "error": "ended by a fault",
}


def display_name(name: str) -> str:
    """The name of a model or teacher, or a text with names in it; a script is marked as one."""
    return _SCRIPTED.sub(rf"\g<0> ({A_SCRIPT})", name)


def description_beside(description: str, name: str) -> str:
    """The description for use beside the name: without the model where the name already begins with it."""
    model, _, addition = description.partition(", ")
    return addition if name == model or name.startswith(f"{model} ") else description


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage: ``78.3%``."""
    return f"{_round(100 * share, digits)}%"


def interval(bounds: Sequence[float], digits: int = 1) -> str:
    """The bounds of a share in per cent: ``66.7 to 86.7``."""
    return f"{_signed(100 * bounds[0], digits)} to {_signed(100 * bounds[1], digits)}"


def spread(bounds: Sequence[float]) -> str:
    """The bounds of a quantity: ``3.21 to 3.64``."""
    return f"{number(bounds[0])} to {number(bounds[1])}"


def points(difference: float, digits: int = 1) -> str:
    """A difference of shares: ``+74.0 points``."""
    value = _signed(100 * difference, digits)
    return f"{value if value.startswith(MINUS) or difference == 0 else '+' + value} points"


def p_value(p: float) -> str:
    """``p < 0.001``, or p to two significant digits."""
    return "p < 0.001" if p < 0.001 else f"p = {min(p, 1):.2g}"


def p_number(p: float) -> str:
    """A p-value in a column of that name: ``< 0.001``, ``0.034``."""
    return p_value(p).removeprefix("p = ").removeprefix("p ")


def share(estimate: Estimate, digits: int = 1) -> str:
    """A share with its interval: ``78.3% (66.7 to 86.7)``; ``digits`` are those of the interval."""
    bounds = f" ({interval(estimate.interval, digits)})" if estimate.has_interval else ""
    return f"{percent(estimate.mean)}{bounds}"


def dollars(value: float | None) -> str:
    """An amount of money: ``$1,234.50``, ``$0.012``; a dash for None."""
    return UNTOLD if value is None else f"${value:,.2f}" if value >= 1 else f"${value:.2g}"


def count_of(number_of: int, noun: str) -> str:
    """A number of countable things: ``1 step``, ``3 steps``."""
    return f"{number_of:,} {noun}{'' if number_of == 1 else 's'}"


def signed_number(value: float) -> str:
    """A change of a quantity: ``+3``, ``−0.25``."""
    return f"{'+' if value > 0 else ''}{number(value)}".replace("-", MINUS)


def duration(seconds: float) -> str:
    """A time to read: ``0.84 s``, ``42 s``, ``7 min 12 s``, ``2 h 05 min``."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    rounded_seconds = round(seconds)
    if rounded_seconds < 60:
        return f"{rounded_seconds} s"
    if rounded_seconds < 3600:
        return f"{rounded_seconds // 60} min {rounded_seconds % 60:02} s"
    return f"{rounded_seconds // 3600} h {rounded_seconds % 3600 // 60:02} min"


def number(value: float | None) -> str:
    """A quantity with three significant digits or two decimals: ``2,431``, ``84.2``, ``0.84``; a dash for None."""
    if value is None:
        return UNTOLD
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    size = math.floor(math.log10(abs(value)))
    digits = max(0, 2 - size) if size >= 0 else 1 - size if size < -1 else 2
    return f"{value:,.{digits}f}"


def describe_trained_questions(name: str, groups: Mapping[str, GroupSummary]) -> str:
    """How many questions an agent was trained on, and EM apart; ``groups`` are the group yes and perhaps no."""
    trained, others = groups["yes"], groups.get("no")
    text = f"{name}: {trained.n} of {trained.n + (others.n if others else 0)} questions were trained on"
    if others is None:
        return text
    return f"{text}: EM {share(trained.measures.em)} on these, {share(others.measures.em)} on the others"


def describe_prompt_tokens(prompt: Mapping[str, Any]) -> str:
    """The prompt tokens of a question with a recorded agent's prompt and without, and which the student gets."""
    tokens = prompt["tokens_a_question"]
    return (
        f"prompt tokens a question, as training measured them: {tokens['keep']:,.0f} with the agent's prompt and tools "
        f"(--prompt keep), {tokens['drop']:,.0f} without (--prompt drop); this student was trained with --prompt "
        f"{prompt['mode']}"
    )


def score_label(trajectory: Trajectory) -> str:
    """Whether an episode was right, partly (wrong, but its F1 is not 0), wrong or unscored."""
    if not trajectory.scores:
        return "unscored"
    if is_correct(trajectory):
        return "right"
    return "partly" if trajectory.scores.get("f1", 0.0) > 0 else "wrong"


def verdict(trajectory: Trajectory) -> str:
    """Whether an episode was right, in words."""
    words = {"unscored": "not scored", "partly": f"wrong, F1 {trajectory.scores.get('f1', 0.0):.2f}"}
    return words.get(score_label(trajectory), score_label(trajectory))


def flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names and values: ``train.recipe.rank``, ``16``."""
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows += flatten_settings(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", display_name(_format_value(value))))
    return rows


def make_encodable(text: str) -> str:
    """The text as valid UTF-8: half a surrogate pair, which JSON allows, becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _format_value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value) or "none"
    return "none" if value is None or value == {} else str(value)


def _round(value: float, digits: int) -> str:
    """A non-negative number, halves rounded up: 57.5 gives 58, although 100 * 0.575 is slightly less than 57.5."""
    return f"{math.floor(value * 10**digits + 0.5 + 1e-9) / 10**digits:.{digits}f}"


def _signed(value: float, digits: int) -> str:
    text = _round(abs(value), digits)
    return f"{MINUS}{text}" if value < 0 and float(text) else text
