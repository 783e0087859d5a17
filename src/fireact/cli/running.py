"""Runs the verb of a command, and prints its result: most in one way, some in their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from fireact.base.run_directory import shell_path
from fireact.base.verbs import Verb
from fireact.terminal.screen import STDERR, TerminalProgress, print_error, print_json, wait_for_signal


@dataclass(frozen=True, slots=True)
class VerbCall:
    """A command as it was typed: its settings, the options that are no settings, and where the run goes."""

    verb: Verb
    settings: Mapping[str, Any]
    options: Any
    out: Path
    force: bool
    as_json: bool
    dry_run: bool

    @property
    def config(self) -> Any:
        """The settings of the verb. Raises ConfigError."""
        return self.verb.config(**self.settings)

    def run(self) -> dict[str, Any] | None:
        """Run the verb and return its manifest; for a dry run print the resolved settings and return None."""
        if self.dry_run:
            print_json(self.verb.preview_run(self.config, self.out), indent=2)
            return None
        with explain_interrupt(self.out):
            return self.verb.run(self.config, self.out, force=self.force, progress=TerminalProgress())


def run_call(call: VerbCall) -> None:
    """Run the verb of a command and print the result."""
    if call.verb.name in _OWN_WAYS:
        _OWN_WAYS[call.verb.name](call)
    elif (manifest := call.run()) is not None:
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


def _quickstart(call: VerbCall) -> None:
    from fireact.terminal.evaluation import print_report

    if call.run() is not None:
        print_report(call.out, as_json=call.as_json)


def _train(call: VerbCall) -> None:
    from fireact.terminal.training import print_training

    if (manifest := call.run()) is not None:
        print_training(manifest, call.out, as_json=call.as_json)


def _evaluate(call: VerbCall) -> None:
    from fireact.terminal.evaluation import print_evaluation

    if (manifest := call.run()) is not None:
        print_evaluation(manifest, call.out, as_json=call.as_json)


def _record(call: VerbCall) -> None:
    """Run the proxy until a signal comes. Exit 1 where nothing was recorded."""
    from fireact.base.run_directory import read_manifest
    from fireact.recording.recorder import recorder
    from fireact.terminal.recording_status import describe_nothing_recorded, show_recording

    config, out = call.config, call.out
    with explain_interrupt(out):
        with recorder(config, out, force=call.force, progress=TerminalProgress()) as address:
            notice = f"Recording at {address}/v1, or {address}/e/ID/v1 for the episode ID (Ctrl-C ends it)."
            follow = f"Follow it with: fireact view {shell_path(out)}"
            with show_recording(lambda: address.status):
                wait_for_signal(lambda: STDERR.print(f"{notice}\n{follow}", soft_wrap=True, markup=False))
        manifest = read_manifest(out)
        if reason := describe_nothing_recorded(manifest, address):
            print_error(reason)
            raise typer.Exit(1)
        print_result(manifest, call)


def _doctor(call: VerbCall) -> None:
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


def _study(call: VerbCall) -> None:
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


def _report(call: VerbCall) -> None:
    from fireact.reporting.assembly import read_printable_markdown
    from fireact.terminal.evaluation import print_report

    call.run()
    if call.options.markdown:
        print(read_printable_markdown(call.out), end="")
    else:
        print_report(call.out, as_json=call.as_json)


_OWN_WAYS: Mapping[str, Callable[[VerbCall], None]] = {
    "quickstart": _quickstart, "train": _train, "eval": _evaluate, "record": _record, "doctor": _doctor,
    "study": _study, "report": _report,
}  # fmt: skip
"""How the results of these verbs are printed; the manifest of any other is."""
