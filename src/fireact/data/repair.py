"""``doctor --fix``: a repaired copy of a set of trajectories, with a log of every change.

Known damage of released files is repaired. Left out are lines that cannot be read, repeats, questions of an evaluation set, and what has nothing to learn; faulty
steps get weight 0; keys and e-mail addresses are blotted out. Everything else is copied byte for byte.
Invariant: what differs from the source stands in ``changes.jsonl`` with the line it was; the source is not touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from fireact import jsonl
from fireact.data.dataset import past
from fireact.data.doctor import DoctorConfig, bounds_of, diagnose, diagnose_file
from fireact.data.findings import Bounds, known_tools
from fireact.data.lines import Block, Entry, blocks, entries, in_order, processes, raw_lines
from fireact.data.sources import Own, own_files
from fireact.data.steps import faults, turns_with
from fireact.formats.released import repaired, reparable
from fireact.formats.source import UNREADABLE
from fireact.progress import SILENT, Progress
from fireact.sensitive import blotted, sensitive, strings
from fireact.store import TRAJECTORIES, RunDir, shown
from fireact.types import Trajectory

CHANGES = "changes.jsonl"
_FAULTY = ("no action", "unknown tool or arguments")

Change = dict[str, Any]


def repair(config: DoctorConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Write the repaired copy and the log of changes into ``out`` and return the manifest."""
    with RunDir(out, verb="doctor", settings=asdict(config), force=force, free=("workers",)) as run:
        if run.complete:
            return run.manifest
        with own_files([Path(config.data)], skip=True) as (own,):
            diagnosis = diagnose_file(config, own, progress=progress)
            kept, changed = _write(config, own, diagnosis.drops, run.path)
            digest = own.digest
        bad = f" ({changed[UNREADABLE]} lines unreadable)" if changed[UNREADABLE] else ""
        history = [*past(Path(config.data)), f"{shown(config.data)}: {diagnosis.n}{bad}"]
        history += [f"doctor --fix: {what}: {count}" for what, count in sorted(changed.items()) if what != UNREADABLE]
        return run.finish(
            history=[*history, f"doctor --fix: {diagnosis.n} -> {kept}"],
            sources={config.data: digest},
            changes=dict(+changed),
            remaining=_remaining(config, run.path, progress) if kept else {},
        )


def _remaining(config: DoctorConfig, out: Path, progress: Progress) -> dict[str, int]:
    """What is still to say of the copy: how often each kind of finding."""
    again = replace(config, data=str(out), tools=bounds_of(config).tools)
    return {finding.kind: finding.count for finding in diagnose(again, progress=progress).findings}


def _write(config: DoctorConfig, own: Own, drops: Mapping[int, str], out: Path) -> tuple[int, Counter[str]]:
    kept, changed = 0, Counter(damage.kind for damage in own.damage)
    with jsonl.replacing(out / TRAJECTORIES) as file, jsonl.replacing(out / CHANGES) as log:
        for damage in own.damage:
            change = {"row": damage.number, "key": None, "change": damage.kind, "why": blotted(damage.detail)}
            log.write(jsonl.dumps(change).encode() + b"\n")
        for lines, changes in _repaired(config, own.file, drops):
            kept += len(lines)
            file.writelines(line + b"\n" for line in lines)
            log.writelines(jsonl.dumps(change).encode() + b"\n" for change in changes)
            changed.update(change["change"] for change in changes)
    return kept, changed


def _repaired(config: DoctorConfig, file: Path, drops: Mapping[int, str]) -> Iterator[tuple[list[bytes], list[Change]]]:
    before = 0
    bounds, jobs = bounds_of(config), []
    for block in blocks(file):
        end = before + len(raw_lines(block))
        jobs.append(
            (block, before, {line: drops[line] for line in range(before + 1, end + 1) if line in drops}, bounds)
        )
        before = end
    return in_order(mend, jobs, workers=processes(config.workers, [file]))


def mend(block: Block, before: int, drops: dict[int, str], bounds: Bounds) -> tuple[list[bytes], list[Change]]:
    """The lines of a block as the copy has them, and what was changed."""
    kept, changes = [], []
    for entry in entries(block):
        line, found = _mended(entry, drops.get(before + entry.line), bounds)
        kept += [] if line is None else [line]
        key = entry.trajectory.key if entry.trajectory else None
        key = None if key and list(sensitive(key)) else key
        changes += [{"line": before + entry.line, "key": key, **change} for change in found]
    return kept, changes


def _mended(entry: Entry, reason: str | None, bounds: Bounds) -> tuple[bytes | None, list[Change]]:
    if entry.trajectory is None:
        return None, [{"change": UNREADABLE, "why": entry.reason}]
    if reason is not None:
        return None, [{"change": "left out", "why": reason}]
    damage = reparable(entry.trajectory)
    whole, changes = _weighed(repaired(entry.trajectory) if damage else entry.trajectory, bounds)
    changes += [{"change": "damage repaired", "why": kind} for kind in damage]
    if not any(step.weight > 0 for step in whole.steps):
        return None, [{"change": "left out", "why": "nothing to learn"}]
    data = whole.to_dict()
    found = list(sensitive("\n".join(strings(data))))
    changes += [{"change": f"{kind} blotted out", "why": what} for kind, what in found]
    if not changes:
        return entry.raw, []
    return jsonl.dumps(_blotted(data) if found else data).encode(), changes


def _blotted(data: dict[str, Any]) -> dict[str, Any]:
    """The record with its sensitive strings blotted out; examples whose ids held one stay different examples."""
    whole: dict[str, Any] = blotted(data)
    told = data["example"]["id"]
    if whole["example"]["id"] != told:
        whole["example"]["id"] += f" {blake2b(told.encode('utf-8', 'surrogatepass'), digest_size=4).hexdigest()}"
    return whole


def _weighed(trajectory: Trajectory, bounds: Bounds) -> tuple[Trajectory, list[Change]]:
    """The trajectory with weight 0 on steps that no agent can carry out; repeats and noise are left to ``mix``."""
    tools = known_tools(trajectory, bounds.tools)
    found = faults(trajectory.steps, tools)
    bad = turns_with(trajectory.steps, [fault in _FAULTY for fault in found])
    changes, steps = [], list(trajectory.steps)
    for at, (step, fault) in enumerate(zip(trajectory.steps, found, strict=True)):
        if bad[at] and step.weight > 0:
            steps[at] = replace(step, weight=0.0)
            why = fault if fault in _FAULTY else "in one turn with a bad call"
            changes.append({"change": "step weighs 0", "why": f"step {at + 1}: {why}"})
    return replace(trajectory, steps=tuple(steps)), changes
