"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

TASK_SPEC = "NAME, NAME:FOLDER, FILE:QUESTION,ANSWER or module:attribute"
Json = Annotated[
    bool,
    typer.Option("--json", help="Print the result as one JSON object on standard output.", rich_help_panel="Output"),
]
JsonLines = Annotated[bool, typer.Option("--json", help="One JSON object a line.", rich_help_panel="Output")]
Tools = Annotated[
    list[str] | None,
    typer.Option("--tool", help="Tool, by name or module:attribute; repeatable.", rich_help_panel="Agent"),
]
OtherTools = Annotated[
    bool,
    typer.Option(
        "--other-tools", help="Run a student with other tools than it was trained with.", rich_help_panel="Agent"
    ),
]
AgentName = Annotated[
    str, typer.Option("--agent", "-a", help="A directory of 'fireact train', or a model.", rich_help_panel="Agent")
]
LimitsTask = Annotated[
    str,
    typer.Option(
        "--task",
        "-t",
        help="Task that supplies the step limits, and the few-shot examples of a prompted agent.",
        rich_help_panel="Agent",
    ),
]
Where = Annotated[
    list[str] | None, typer.Option("--where", "-w", help="Filter: correct, em<1, steps<=6, task=geo-hop; repeatable.")
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out lines that cannot be read, and say so.")]
