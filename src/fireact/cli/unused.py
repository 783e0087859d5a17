"""The options of ``fireact train`` that a way of training does not use, and why.

Invariant: an option that a user gives is used or refused, never ignored. Python users need none of this: the settings
of a verb have no unused field.
"""

from __future__ import annotations

from collections.abc import Mapping

import typer

from fireact.errors import ConfigError

_THE_RUN = "training continues with the adapter of that run, as its recipe made it"
_RENDERED = "trajectories are rendered as that run rendered them"
_MEASURED = "no questions are kept out; measure the result with: fireact eval"
_PROVIDER = "the provider chooses it"
_PRICED = "only a job at a provider (--hosted) costs dollars"
_COMPARED = "only preference (--preference) compares trajectories"
PREFERENCE = {
    "student": _THE_RUN, "recipe": _THE_RUN, "kind": _THE_RUN, "rank": _THE_RUN, "blocks": _THE_RUN,
    "renderer": _RENDERED, "tool": _RENDERED, "validation": _MEASURED, "patience": _MEASURED,
    "budget": _PRICED, "price": _PRICED, "launch": "it runs in one process",
}  # fmt: skip
HOSTED = {
    "student": "the base model stands in --hosted", "recipe": _PROVIDER, "kind": _PROVIDER, "blocks": _PROVIDER,
    "micro_batch": _PROVIDER, "max_length": _PROVIDER,
    "renderer": "the file has actions as text, as the renderer react writes them",
    "tool": "the file has actions as text, which needs no schemas", "launch": "nothing runs here",
    "validation": "the whole file is trained on; mix with --holdout to keep questions out",
    "patience": "the whole file is trained on for all epochs",
    "report_to": "what the provider says goes to the terminal and to events.jsonl",
    "preference": "providers are asked for imitation alone", "beta": _COMPARED,
}  # fmt: skip
IMITATION = {"budget": _PRICED, "price": _PRICED, "beta": _COMPARED}


def refuse_unused(context: typer.Context, way: str, unused: Mapping[str, str]) -> None:
    """Raise ConfigError for the first option on the command line that ``way`` of training would ignore."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in unused and source is not None and source.name == "COMMANDLINE":
            option = max(parameter.opts, key=len)
            raise ConfigError(f"{way} does not use {option}: {unused[name]}. Leave {option} out.")
