"""What is in a set of trajectories and what is wrong with it, in one pass over the file and one over its questions.

Invariant: every line is looked at, in blocks, so that a large file needs little memory; nothing is changed (``repair``
does that). Findings carry line numbers; of each kind the first ones are kept, all are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fireact.data.contamination import UNKNOWN, EvaluationSet, held_out_of, not_compared, sets_against
from fireact.data.duplicates import HASHES, near, signature
from fireact.data.filters import is_right
from fireact.data.findings import KINDS, Bounds, check, known_tools
from fireact.data.lines import Block, blocks, entries, in_order, processes, raw_lines
from fireact.data.measure import lengths, load_tokenizer
from fireact.data.selection import content, digest, identity, question, written
from fireact.data.sources import Own, own_files
from fireact.errors import ConfigError, DataError
from fireact.progress import SILENT, Progress
from fireact.sensitive import blotted, sensitive
from fireact.store import MANIFEST, absolute, parse_trajectory, read_manifest
from fireact.types import Trajectory

SHOWN = 20
"""Lines that are kept of each kind of finding."""
EVALUATION_ONLY = ("geo-compose",)
"""Tasks that no data may overlap, whether it is of them or not."""
DROPPED = ("unreadable", "fault", "nothing to learn", "repeated episode", "exact duplicate", "contaminated")
"""Kinds for which a repaired copy leaves the line out."""


@dataclass(frozen=True, slots=True)
class DoctorConfig:
    """Settings of ``doctor``: whose tokenizer counts (empty: an estimate), what is allowed, and what must not overlap.

    ``renderer`` is the one that the data will be trained with.
    ``against`` are tasks and files of questions; empty means the held-out splits of the tasks in the data.
    """

    data: str
    student: str = ""
    against: Sequence[str] = ()
    tools: Sequence[str] = ()
    max_length: int = 1024
    max_observation: int = 2000
    renderer: str = "react"
    workers: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", absolute(self.data))
        for name, least in (("max_length", 1), ("max_observation", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"doctor: {name} is {getattr(self, name)}; it must be at least {least}.")


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of thing that is wrong: how often, in which lines (the first ones), for example what, and the fix."""

    kind: str
    level: str
    count: int
    says: str
    lines: tuple[int, ...]
    example: str
    fix: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is in the data and what is wrong with it; ``drops`` names each line that a repair leaves out, and why."""

    data: str
    n: int
    groups: Mapping[str, Mapping[str, float]]
    stops: Mapping[str, int]
    steps: Mapping[int, int]
    tokens: Mapping[str, float]
    tokenizer: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    drops: Mapping[int, str] = field(repr=False)

    @property
    def sound(self) -> bool:
        """Whether there is no error; warnings do not count."""
        return not any(finding.level == "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; the lines to drop are left to the log of a repair."""
        names = ("data", "n", "groups", "stops", "steps", "tokens", "tokenizer", "notes")
        found = {name: getattr(self, name) for name in names}
        findings = [
            {name: getattr(finding, name) for name in ("kind", "level", "count", "lines", "example", "fix")}
            for finding in self.findings
        ]
        return {
            **found,
            "steps": {str(n): count for n, count in self.steps.items()},
            "findings": findings,
            "sound": self.sound,
        }


@dataclass(slots=True)
class Part:
    """What one block showed."""

    end: int
    groups: dict[str, Counter[str]]
    stops: Counter[str]
    steps: Counter[int]
    found: list[tuple[int, str, str]]
    lines: npt.NDArray[np.int64]
    digests: npt.NDArray[np.uint64]
    offsets: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]
    signatures: npt.NDArray[np.uint32]
    untold: int = 0
    """Episodes of which nobody says what tools there were."""


def bounds_of(config: DoctorConfig) -> Bounds:
    """What is allowed; the tools are those given, or those that the run was made with."""
    tools = tuple(config.tools)
    if not tools and (Path(config.data) / MANIFEST).is_file():
        made_with = read_manifest(Path(config.data)).get("tools")
        tools = tuple(map(str, made_with)) if isinstance(made_with, dict) else ()
    return Bounds(tools, config.max_observation, config.max_length)


def examine(block: Block, config: DoctorConfig, bounds: Bounds) -> Part:
    """Look at every line of a block on its own."""
    part = Part(len(raw_lines(block)), {}, Counter(), Counter(), [], *([np.empty(0)] * 5))  # type: ignore[arg-type]
    lines, digests, offsets, tokens, signatures = [], [], [], [], [np.empty((0, HASHES), np.uint32)]
    for entry in entries(block):
        if entry.trajectory is None:
            part.found.append((entry.line, "unreadable", entry.reason))
            part.found += [(entry.line, *one) for one in sensitive(entry.raw.decode(errors="replace"))]
            continue
        one = entry.trajectory
        length = lengths(one, config.student, renderer=config.renderer, tools=config.tools)
        part.untold += not known_tools(one, bounds.tools) and any(step.action for step in one.steps)
        _count(part, one)
        part.found += [(entry.line, kind, what) for kind, what in check(one, bounds)]
        if length[2] > bounds.max_length:
            part.found.append((entry.line, "too long", f"{length[2]:,} tokens"))
        lines.append(entry.line)
        offsets.append((entry.offset, len(entry.raw)))
        digests.append((digest(identity(one)), content(one), digest(question(one)), digest(one.method)))
        tokens.append(length)
        signatures.append(signature(written(one))[None])
    part.lines, part.digests = np.array(lines, np.int64), np.array(digests, np.uint64).reshape(-1, 4)
    part.offsets, part.tokens = np.array(offsets, np.int64).reshape(-1, 2), np.array(tokens, np.int64).reshape(-1, 3)
    part.signatures = np.concatenate(signatures)
    return part


def _count(part: Part, one: Trajectory) -> None:
    group = part.groups.setdefault(f"{one.task}/{one.method}", Counter())
    group.update({"n": 1, "finished": int(one.stop == "finish"), "correct": int(is_right(one))})
    if "f1" in one.scores:
        group["scored"] += 1
        group["f1"] += one.scores["f1"]  # type: ignore[assignment]
    part.stops[one.stop] += 1
    part.steps[len(one.steps)] += 1


def overlaps(block: Block, against: tuple[str, ...], tasks: tuple[str, ...]) -> list[tuple[int, str]]:
    """Lines of a block whose question overlaps an evaluation set, with the name of the set."""
    sets = evaluation_sets(against, tasks)
    known: dict[str, str] = {}
    found = []
    for entry in entries(block):
        if entry.trajectory is not None:
            asked = entry.trajectory.example.question
            if asked not in known:
                known[asked] = next((one.name for one in sets if one.overlaps(asked)), "")
            if known[asked]:
                found.append((entry.line, known[asked]))
    return found


def evaluation_sets(against: tuple[str, ...], tasks: tuple[str, ...]) -> list[EvaluationSet]:
    """The sets given, or the held-out splits of the tasks. Raises ConfigError for one that is given and unknown."""
    if against:
        return [one for name in against for one in sets_against(name)]
    return [one for task in dict.fromkeys((*tasks, *EVALUATION_ONLY)) for one in held_out_of(task)[0]]


def diagnose(config: DoctorConfig, *, progress: Progress = SILENT) -> Diagnosis:
    """Look at everything. Raises DataError when the file cannot be read or is empty."""
    with own_files([Path(config.data)], skip=True) as (own,):
        return diagnose_file(config, own, progress=progress)


def diagnose_file(config: DoctorConfig, own: Own, *, progress: Progress = SILENT) -> Diagnosis:
    """Look at everything in the lines that hold the data."""
    file = own.file
    evaluation_sets(tuple(config.against), ())  # a wrong name is said before anything is read
    if config.student:
        load_tokenizer(config.student)
    parts, found = _examined(config, file, progress)
    n = sum(len(part.lines) for part in parts)
    if not n and not found and not own.bad:
        raise DataError(f"{config.data} holds no trajectories.")
    lines, digests, offsets, tokens, signatures = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("lines", "digests", "offsets", "tokens", "signatures")
    )
    groups = _summed(parts)
    tasks = tuple(sorted({name.rpartition("/")[0] for name in groups}))
    found += _contaminated(config, file, tasks, progress)
    kept = ~np.isin(lines, list(_drops(found)))  # what is left out anyway makes nothing a repeat
    found += _repeated(lines[kept], digests[kept], offsets[kept], file)
    found += _near(lines[kept], digests[kept], offsets[kept], signatures[kept], file)
    absent = {} if config.against else not_compared(tasks)
    bad = [(damage.number, damage.kind, blotted(damage.detail)) for damage in own.damage]
    silent = [(0, "not compared", f"{task}: {why}") for task, why in absent.items() if why != UNKNOWN]
    return Diagnosis(
        data=config.data,
        n=n,
        groups=groups,
        stops=dict(sum((part.stops for part in parts), Counter[str]())),
        steps=dict(sorted(sum((part.steps for part in parts), Counter[int]()).items())),
        tokens=_token_facts(tokens),
        tokenizer=config.student or "an estimate: a token is 4 characters",
        findings=_findings([*found, *bad, *silent]),
        notes=_notes(config, own, tasks, absent, untold=sum(part.untold for part in parts)),
        drops=_drops(found),
    )


def _notes(
    config: DoctorConfig, own: Own, tasks: tuple[str, ...], absent: Mapping[str, str], *, untold: int
) -> tuple[str, ...]:
    """What was not looked at, and how the numbers of lines are meant."""
    sets = [one.name for one in evaluation_sets(tuple(config.against), tasks)]
    notes = [
        f"questions compared with: {', '.join(sets)}" if sets else "no evaluation set to compare with; give --against"
    ]
    unknown = [task for task, why in absent.items() if why == UNKNOWN]
    if unknown:
        notes.append(f"not compared: {', '.join(unknown)}: {UNKNOWN}; give --against")
    if untold:
        counted = ", and tokens counted as with search" if config.student and config.renderer == "tool_calls" else ""
        notes.append(
            f"tools not known in {untold:,} episodes, so names of calls were not checked there{counted}; give --tool"
        )
    if own.damage:
        notes.append(
            "rows that cannot be read whole are named by their row, all others by the episode's number among those read"
        )
    return tuple(notes)


def _examined(config: DoctorConfig, file: Path, progress: Progress) -> tuple[list[Part], list[tuple[int, str, str]]]:
    """All blocks, with line numbers of the file, and what each line showed on its own."""
    bounds, parts, found, before = bounds_of(config), [], [], 0
    jobs = [(block, config, bounds) for block in blocks(file)]
    progress.start("doctor", total=len(jobs))
    for part in in_order(examine, jobs, workers=processes(config.workers, [file])):
        found += [(before + line, kind, what) for line, kind, what in part.found]
        part.found = []
        part.lines += before
        before += part.end
        parts.append(part)
        progress.advance()
    progress.end()
    return parts, found


def _summed(parts: Sequence[Part]) -> dict[str, dict[str, float]]:
    groups: dict[str, Counter[str]] = {}
    for part in parts:
        for name, counts in part.groups.items():
            groups.setdefault(name, Counter()).update(counts)
    return {
        name: {
            "n": c["n"],
            "finished": c["finished"],
            "correct": c["correct"],
            "em": c["correct"] / c["n"],
            **({"f1": c["f1"] / c["scored"]} if c["scored"] else {}),
        }
        for name, c in sorted(groups.items())
    }


def _token_facts(tokens: npt.NDArray[np.int64]) -> dict[str, float]:
    total, trained = tokens[:, 0], int(tokens[:, 1].sum())
    if not len(total):
        return {}
    return {
        "total": int(total.sum()),
        "mean": float(total.mean()),
        "p95": float(np.quantile(total, 0.95)),
        "max": int(tokens[:, 2].max()),
        "trained": trained,
        "trained_share": trained / max(1, int(total.sum())),
    }


def _repeated(
    lines: npt.NDArray[np.int64], digests: npt.NDArray[np.uint64], offsets: npt.NDArray[np.int64], path: Path
) -> Iterator[tuple[int, str, str]]:
    """Lines that are an earlier episode again, or say the same under another key; likeness of digests is checked."""
    for column, kind, same in ((0, "repeated episode", identity), (1, "exact duplicate", written)):
        order = np.argsort(digests[:, column], kind="stable")
        first = 0
        for at in range(1, len(order)):
            if digests[order[at], column] != digests[order[first], column]:
                first = at
                continue
            one, other = (_read(path, offsets[order[place]]) for place in (first, at))
            if same(one) == same(other) and (column == 0 or identity(one) != identity(other)):
                yield int(lines[order[at]]), kind, f"as line {lines[order[first]]}"


def _near(
    lines: npt.NDArray[np.int64],
    digests: npt.NDArray[np.uint64],
    offsets: npt.NDArray[np.int64],
    signatures: npt.NDArray[np.uint32],
    path: Path,
) -> Iterator[tuple[int, str, str]]:
    """Lines that are almost an earlier one; the same question by another method is meant to be alike."""

    def differ(one: Any, other: Any) -> Any:
        method = (digests[one, 2] != digests[other, 2]) | (digests[one, 3] == digests[other, 3])
        return method & (digests[one, 1] != digests[other, 1]) & (digests[one, 0] != digests[other, 0])

    for one, other, alike in near(signatures, lambda at: written(_read(path, offsets[at])), differ):
        yield int(lines[other]), "near duplicate", f"{alike:.0%} of line {lines[one]}"


def _read(path: Path, place: npt.NDArray[np.int64]) -> Trajectory:
    with path.open("rb") as file:
        file.seek(int(place[0]))
        return parse_trajectory(file.read(int(place[1])))


def _contaminated(
    config: DoctorConfig, file: Path, tasks: tuple[str, ...], progress: Progress
) -> list[tuple[int, str, str]]:
    against = tuple(config.against)
    if not evaluation_sets(against, tasks):  # read here, so that processes that are forked off have them
        return []
    every = blocks(file)
    found, before = [], 0
    workers = processes(config.workers, [file])
    ends = (len(raw_lines(block)) for block in every)
    jobs = [(block, against, tasks) for block in every]
    progress.start("doctor: questions", total=len(jobs))
    for lines, end in zip(in_order(overlaps, jobs, workers=workers), ends, strict=True):
        found += [(before + line, "contaminated", name) for line, name in lines]
        before += end
        progress.advance()
    progress.end()
    return found


def _findings(found: Sequence[tuple[int, str, str]]) -> tuple[Finding, ...]:
    by_kind: dict[str, list[tuple[int, str]]] = {}
    for line, kind, what in found:
        by_kind.setdefault(kind, []).append((line, what))
    return tuple(
        Finding(
            kind,
            about.level,
            len(by_kind[kind]),
            about.says,
            tuple(sorted({line for line, _ in by_kind[kind] if line})[:SHOWN]),
            _example(by_kind[kind]),
            about.fix,
        )
        for kind, about in KINDS.items()
        if kind in by_kind
    )


def _example(found: Sequence[tuple[int, str]]) -> str:
    """What the first line has; of what stands in no line, everything."""
    line, what = min(found)
    return what if line else "; ".join(sorted(one for _, one in found))


def _drops(found: Sequence[tuple[int, str, str]]) -> dict[int, str]:
    drops: dict[int, str] = {}
    for line, kind, what in found:
        if kind in DROPPED:
            drops.setdefault(line, f"{kind} ({what})")
    return drops
