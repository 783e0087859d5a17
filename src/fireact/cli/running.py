"""Runs the verb of a command, and prints its result: most in one way, some in their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from fireact.base.listening import RunningServer
from fireact.base.run_directory import shell_path
from fireact.base.verbs import Command, Verb
from fireact.terminal.screen import STDERR, TerminalProgress, print_error, print_json, wait_for_signal


@dataclass(frozen=True, slots=True)
class CommandCall:
    """A command as it was typed: its settings, and the options that are no settings."""

    command: Command
    settings: Mapping[str, Any]
    options: Any
    as_json: bool

    @property
    def config(self) -> Any:
        """The settings. Raises ConfigError."""
        return self.command.config(**self.settings)


@dataclass(frozen=True, slots=True)
class VerbCall(CommandCall):
    """A verb as it was typed, and where the run goes."""

    command: Verb
    out: Path
    force: bool
    dry_run: bool

    def run(self) -> dict[str, Any] | None:
        """Run the verb and return its manifest; for a dry run print what it would do and return None."""
        from fireact.terminal.training import print_preview

        if self.dry_run:
            print_preview(self.command.preview_run(self.config, self.out), as_json=self.as_json)
            return None
        with explain_interrupt(self.out):
            return self.command.run(self.config, self.out, force=self.force, progress=TerminalProgress())


def run_and_print(call: VerbCall) -> None:
    """Run the verb of a command and print its manifest."""
    if (manifest := call.run()) is not None:
        print_result(manifest, call)


def print_result(manifest: Mapping[str, Any], call: VerbCall) -> None:
    from fireact.terminal.training import print_manifest

    print_json(manifest) if call.as_json else print_manifest(dict(manifest), call.out)


@contextmanager
def explain_interrupt(out: Path) -> Iterator[None]:
    """On Ctrl-C, print one line that says how to resume the run, and exit."""
    try:
        yield
    except KeyboardInterrupt:
        print_error(f"stopped. What is finished is saved; resume it with: fireact resume {shell_path(out)}")
        raise typer.Exit(130) from None


def run_until_signal(server: RunningServer, describe: Callable[[str], str]) -> None:
    """Say what runs at the server's address, and stop it at a signal; a second one cuts off what is in flight."""
    notice = f"{describe(server.url)} (Ctrl-C ends it)."
    with suppress(KeyboardInterrupt), server:
        wait_for_signal(lambda: STDERR.print(notice, soft_wrap=True, markup=False))


def quickstart_command(call: VerbCall) -> None:
    """Run everything and print the report."""
    from fireact.terminal.evaluation import print_report

    if call.run() is not None:
        print_report(call.out, as_json=call.as_json)


def train_command(call: VerbCall) -> None:
    """Train a student and print its losses."""
    from fireact.terminal.training import print_training

    if (manifest := call.run()) is not None:
        print_training(manifest, call.out, as_json=call.as_json)


def evaluate_command(call: VerbCall) -> None:
    """Measure an agent and print its scores."""
    from fireact.terminal.evaluation import print_evaluation

    if (manifest := call.run()) is not None:
        print_evaluation(manifest, call.out, as_json=call.as_json)


def record_command(call: VerbCall) -> None:
    """Run the proxy until a signal comes. Exit 1 where nothing was recorded."""
    from fireact.base.run_directory import read_manifest
    from fireact.recording.recorder import record_calls
    from fireact.terminal.recording_status import describe_nothing_recorded, show_recording

    config, out = call.config, call.out
    with explain_interrupt(out):
        with record_calls(config, out, force=call.force, progress=TerminalProgress()) as address:
            notice = f"Recording at {address}/v1, or {address}/e/ID/v1 for the episode ID (Ctrl-C ends it)."
            follow = f"Follow it with: fireact view {shell_path(out)}"
            with show_recording(lambda: address.status):
                wait_for_signal(lambda: STDERR.print(f"{notice}\n{follow}", soft_wrap=True, markup=False))
        manifest = read_manifest(out)
        if reason := describe_nothing_recorded(manifest, address):
            print_error(reason)
            raise typer.Exit(1)
        print_result(manifest, call)


def doctor_command(call: VerbCall) -> None:
    """Print a diagnosis, or with --fix write a repaired copy. Exit 1 on errors."""
    from fireact.data.doctor import diagnose_data
    from fireact.data.findings import KINDS
    from fireact.terminal.data_tables import print_diagnosis

    if not call.options.fix:
        diagnosis = diagnose_data(call.config, progress=TerminalProgress())
        print_diagnosis(diagnosis, as_json=call.as_json)
        raise typer.Exit(0 if diagnosis.sound else 1)
    manifest = call.run() or {}
    print_result(manifest, call)
    remaining_errors = [kind for kind in manifest.get("remaining", ()) if KINDS[kind].level == "error"]
    if remaining_errors:
        print_error(f"errors are left that --fix does not mend: {', '.join(remaining_errors)}.")
        raise typer.Exit(1)


def study_command(call: VerbCall) -> None:
    """List the studies, plan one, or run it."""
    from fireact.study.file import list_shipped_studies, read_study
    from fireact.study.runner import plan_study
    from fireact.terminal.study import print_plan, print_studies, print_study

    if call.options.list or not call.settings.get("study"):
        questions_by_study = {name: read_study(name).asks for name in list_shipped_studies()}
        print_json(questions_by_study) if call.as_json else print_studies(questions_by_study)
    elif call.dry_run:
        plan = plan_study(call.config, call.out)
        print_json(plan.to_dict()) if call.as_json else print_plan(plan, call.out)
    elif (manifest := call.run()) is not None:
        print_study(manifest, call.out, as_json=call.as_json)


def report_command(call: VerbCall) -> None:
    """Write a report and print where it is, or the report itself."""
    from fireact.reporting.assembly import read_printable_markdown
    from fireact.terminal.evaluation import print_report

    call.run()
    if call.options.markdown:
        print(read_printable_markdown(call.out), end="")
    else:
        print_report(call.out, as_json=call.as_json)
