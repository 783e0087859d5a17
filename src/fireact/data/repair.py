"""``doctor --fix``: a repaired copy of a set of trajectories, with a log of every change.

Known damage of released files is repaired. The copy leaves out unreadable lines, repeats, questions of an evaluation
set, and episodes with nothing to learn. Faulty steps get weight 0; keys and e-mail addresses are redacted, with
--personal names, phone numbers and addresses too. Everything else is copied byte for byte.
Invariant: ``changes.jsonl`` lists each difference with its line in the source; the source is not changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from fireact.base import jsonl
from fireact.base.personal import redact_personal
from fireact.base.progress import SILENT, Progress
from fireact.base.redact import find_sensitive, redact
from fireact.base.run_directory import TRAJECTORIES, RunDir, relative_path
from fireact.base.settings import setting
from fireact.base.verbs import Verb
from fireact.data.dataset import read_history
from fireact.data.doctor import DoctorConfig, diagnose_data, diagnose_file, load_bounds
from fireact.data.findings import PRIVATE_FIELDS, Bounds, find_private, known_tools
from fireact.data.lines import (
    Block,
    Entry,
    choose_worker_count,
    map_in_order,
    read_entries,
    read_raw_lines,
    split_into_blocks,
)
from fireact.data.sources import TrajectoryFile, open_trajectory_files
from fireact.data.steps import find_faults, spread_over_turns
from fireact.formats.released import repair_trajectory, repairable_damage
from fireact.formats.source import UNREADABLE
from fireact.types import Trajectory

CHANGES = "changes.jsonl"
_FAULTY = ("no action", "unknown tool or arguments")

Change = dict[str, Any]


def write_repaired_copy(
    config: DoctorConfig, out: Path, *, force: bool = False, progress: Progress = SILENT
) -> dict[str, Any]:
    """Write the repaired copy and the log of changes into ``out`` and return the manifest."""
    with RunDir(out, verb="doctor", settings=config, force=force, neutral=("workers",)) as run:
        if run.complete:
            return run.manifest
        with open_trajectory_files([Path(config.data)], skip=True) as (source,):
            diagnosis = diagnose_file(config, source, progress=progress)
            kept_count, changed = _write_copy(config, source, diagnosis.drops, run.path)
            digest = source.digest
        bad = f" ({changed[UNREADABLE]} lines unreadable)" if changed[UNREADABLE] else ""
        history = [*read_history(Path(config.data)), f"{relative_path(config.data)}: {diagnosis.n}{bad}"]
        history += [
            f"doctor --fix: {change}: {count}" for change, count in sorted(changed.items()) if change != UNREADABLE
        ]
        return run.finish(
            history=[*history, f"doctor --fix: {diagnosis.n} -> {kept_count}"],
            sources={config.data: digest},
            changes=dict(+changed),
            remaining=_count_remaining_findings(config, run.path, progress) if kept_count else {},
        )


def _count_remaining_findings(config: DoctorConfig, out: Path, progress: Progress) -> dict[str, int]:
    """How often each kind of finding is left in the copy."""
    copy_config = replace(config, data=str(out), tools=load_bounds(config).tools)
    return {finding.kind: finding.count for finding in diagnose_data(copy_config, progress=progress).findings}


def _write_copy(
    config: DoctorConfig, source: TrajectoryFile, drops: Mapping[int, str], out: Path
) -> tuple[int, Counter[str]]:
    kept_count, changed = 0, Counter(damage.kind for damage in source.damage)
    with jsonl.open_replacement(out / TRAJECTORIES) as file, jsonl.open_replacement(out / CHANGES) as log:
        for damage in source.damage:
            change = {"row": damage.number, "key": None, "change": damage.kind, "why": redact(damage.detail)}
            log.write(jsonl.encode_line(change))
        for lines, changes in _repair_blocks(config, source.file, drops):
            kept_count += len(lines)
            file.writelines(line + b"\n" for line in lines)
            log.writelines(map(jsonl.encode_line, changes))
            changed.update(change["change"] for change in changes)
    return kept_count, changed


def _repair_blocks(
    config: DoctorConfig, file: Path, drops: Mapping[int, str]
) -> Iterator[tuple[list[bytes], list[Change]]]:
    lines_before = 0
    bounds, jobs = load_bounds(config), []
    for block in split_into_blocks(file):
        end = lines_before + len(read_raw_lines(block))
        jobs.append(
            (
                block,
                lines_before,
                {line: drops[line] for line in range(lines_before + 1, end + 1) if line in drops},
                bounds,
            )
        )
        lines_before = end
    return map_in_order(repair_block, jobs, workers=choose_worker_count(config.workers, [file]))


def repair_block(
    block: Block, lines_before: int, drops: dict[int, str], bounds: Bounds
) -> tuple[list[bytes], list[Change]]:
    """The lines of a block as the copy has them, and the changes."""
    lines, changes = [], []
    for entry in read_entries(block):
        line, entry_changes = _repair_entry(entry, drops.get(lines_before + entry.line), bounds)
        lines += [] if line is None else [line]
        key = entry.trajectory.key if entry.trajectory else None
        key = None if key and list(find_sensitive(key)) else key
        changes += [{"line": lines_before + entry.line, "key": key, **change} for change in entry_changes]
    return lines, changes


def _repair_entry(entry: Entry, reason: str | None, bounds: Bounds) -> tuple[bytes | None, list[Change]]:
    if entry.trajectory is None:
        return None, [{"change": UNREADABLE, "why": entry.reason}]
    if reason is not None:
        return None, [{"change": "left out", "why": reason}]
    damage = repairable_damage(entry.trajectory)
    trajectory, changes = _zero_faulty_steps(
        repair_trajectory(entry.trajectory) if damage else entry.trajectory, bounds
    )
    changes += [{"change": "damage repaired", "why": kind} for kind in damage]
    if not any(step.weight > 0 for step in trajectory.steps):
        return None, [{"change": "left out", "why": "nothing to learn"}]
    data = trajectory.to_dict()
    secrets = list(find_private(data, bounds))
    changes += [{"change": f"{kind} redacted", "why": detail} for kind, detail in secrets]
    if not changes:
        mended = jsonl.mend_line(entry.raw)
        why = "half a surrogate pair, or a number that is not finite"
        return mended, [] if mended == entry.raw else [{"change": "values mended", "why": why}]
    return jsonl.encode_line(_redact_record(data, bounds) if secrets else data).rstrip(), changes


def _redact_record(data: dict[str, Any], bounds: Bounds) -> dict[str, Any]:
    """The record with its secrets and personal data redacted.

    A redacted example id gets a hash, so that examples stay distinct.
    """
    redacted: dict[str, Any] = redact(data)
    if bounds.personal:
        private = {name: redacted[name] for name in PRIVATE_FIELDS if name in redacted}
        redacted |= redact_personal(private, bounds.personal)
    original_id = data["example"]["id"]
    if redacted["example"]["id"] != original_id:
        redacted["example"]["id"] += (
            f" {blake2b(original_id.encode('utf-8', 'surrogatepass'), digest_size=4).hexdigest()}"
        )
    return redacted


def _zero_faulty_steps(trajectory: Trajectory, bounds: Bounds) -> tuple[Trajectory, list[Change]]:
    """The trajectory with weight 0 on steps that cannot be executed; repeats and noise are left to ``mix``."""
    tools = known_tools(trajectory, bounds.tools)
    step_faults = find_faults(trajectory.steps, tools)
    bad = spread_over_turns(trajectory.steps, [fault in _FAULTY for fault in step_faults])
    changes, steps = [], list(trajectory.steps)
    for index, (step, fault) in enumerate(zip(trajectory.steps, step_faults, strict=True)):
        if bad[index] and step.weight > 0:
            steps[index] = replace(step, weight=0.0)
            why = fault if fault in _FAULTY else "in one turn with a bad call"
            changes.append({"change": "step weighs 0", "why": f"step {index + 1}: {why}"})
    return replace(trajectory, steps=tuple(steps)), changes


@dataclass(frozen=True, slots=True)
class FixOption:
    """The option that makes ``doctor`` write."""

    fix: bool = setting(False, panel="Output")
    """Write a repaired copy with a log of every change."""


DOCTOR = Verb(
    "doctor", DoctorConfig, write_repaired_copy, out="runs/doctor", neutral=("workers",),
    example="`fireact doctor runs/mix --against geo-compose`, then `fireact doctor runs/mix --fix -o runs/fixed`",
    shorthand=FixOption, has_dry_run=False,
    command_line="fireact.cli.running:doctor_command", function="fireact.pipeline.functions:diagnose_or_repair",
)  # fmt: skip
