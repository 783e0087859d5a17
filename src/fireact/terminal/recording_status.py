"""How far a recording is, on the terminal while it runs, and what to say where nothing was recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.live import Live
from rich.markup import escape
from rich.table import Table as RichTable

from fireact.recording.recorder import PROVIDERS, RecordingStatus
from fireact.reporting.wording import dollars
from fireact.terminal.screen import STDERR, TerminalProgress
from fireact.wire.dialects import DIALECTS

_MAX_QUESTION = 100


@contextmanager
def show_recording(read_status: Callable[[], RecordingStatus]) -> Iterator[None]:
    """Show the status of a recording, and keep it up to date; nothing without a terminal."""
    if TerminalProgress.is_quiet or not STDERR.is_terminal:
        yield
        return
    with Live(get_renderable=lambda: make_status_table(read_status()), console=STDERR, refresh_per_second=2):
        yield


def make_status_table(status: RecordingStatus) -> RichTable:
    """The status of a recording: a name and a value on each line."""
    calls = ", ".join(f"{name} {status.calls[name]:,}" for name in PROVIDERS if name in status.calls)
    usage = status.usage
    rows = {
        "episodes": f"{status.episodes:,}",
        "calls": calls or "0",
        "tokens": f"{usage.prompt_tokens:,} read ({usage.cached_tokens:,} cached), {usage.completion_tokens:,} written",
        "cost": dollars(usage.cost) if usage.cost is not None else "not known (see --prices)",
        "last question": " ".join(status.last_question.split())[:_MAX_QUESTION],
        "errors": _describe_counts(status.errors),
        "not recorded": _describe_counts(status.unrecorded),
    }
    table = RichTable.grid(padding=(0, 2))
    for name, value in rows.items():
        if value:
            table.add_row(f"[dim]{name}[/]", escape(value))
    return table


def describe_nothing_recorded(manifest: Mapping[str, Any], address: str) -> str:
    """Why a recording has no reply, or an empty text where it has one.

    It names the error of its calls or, where there are none, the requests that came, and those that are recorded.
    """
    requests, errors = manifest["unrecorded"], manifest["errors"]
    if manifest["calls"]:
        all_failed = manifest["failed_calls"] == manifest["calls"]
        return f"nothing was recorded: all calls failed. {_describe_counts(errors)}" if all_failed else ""
    paths = ", ".join(f"POST /v1{dialect.path}" for dialect in DIALECTS.values())
    if not requests:
        return f"nothing was recorded: no request came. The agent's base URL must be {address}/v1 (recorded: {paths})."
    return f"nothing was recorded. Requests: {_describe_counts(requests, most=10)}. Recorded are: {paths}."


def _describe_counts(counts: Mapping[str, int], most: int = 3) -> str:
    ordered = sorted(counts.items(), key=lambda entry: -entry[1])
    texts = [f"{count} x {name[:_MAX_QUESTION]}" for name, count in ordered[:most]]
    return ", ".join([*texts, *([f"and {len(ordered) - most} more kinds"] if len(ordered) > most else [])])
