"""What a set of trajectories holds and what is wrong with it: one pass over the file and one over its questions.

Invariant: every line is checked, in blocks, so that a large file needs little memory; nothing is changed (``repair``
does that). Findings carry line numbers: all findings of a kind are counted, the first ones are listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fireact.base.personal import load_analyzer
from fireact.base.progress import SILENT, Progress
from fireact.base.redact import find_sensitive, redact
from fireact.base.run_directory import CONFIG, MANIFEST, absolute_path, parse_trajectory, read_manifest
from fireact.base.settings import check_settings, replace_fields, setting
from fireact.data.contamination import (
    UNKNOWN,
    EvaluationSet,
    find_uncompared_tasks,
    load_evaluation_sets,
    load_held_out_sets,
)
from fireact.data.duplicates import HASHES, compute_minhash, find_near_duplicates
from fireact.data.filters import has_full_score
from fireact.data.findings import KINDS, Bounds, check_trajectory, known_tools
from fireact.data.lines import Block, choose_worker_count, map_in_order, read_entries, read_raw_lines, split_into_blocks
from fireact.data.measure import load_renderer_tokenizer, measure_lengths
from fireact.data.recorded_calls import resolve_renderer
from fireact.data.selection import agent_text, episode_identity, hash_content, hash_text, question_key
from fireact.data.sources import TrajectoryFile, open_trajectory_files
from fireact.data.teachers import find_teachers
from fireact.errors import DataError
from fireact.rollout.loading import AUTO_RENDERER_HELP
from fireact.types import Trajectory

MAX_LINES = 20
"""Line numbers that are listed for each kind of finding."""
EVALUATION_ONLY = ("geo-compose",)
"""Tasks that no data may overlap, even data of other tasks."""
DROPPED = ("unreadable", "fault", "nothing to learn", "repeated episode", "exact duplicate", "contaminated")
"""Kinds of finding whose lines a repaired copy leaves out."""


@dataclass(frozen=True, slots=True)
class DoctorConfig:
    """Settings of ``doctor``."""

    data: str = setting(normalise=absolute_path)
    """Training data in any format that 'convert' reads."""
    student: str = ""
    """Whose tokens are counted: smollm2-135m, a hub id, a directory. Default: estimated."""
    against: Sequence[str] = ()
    """Task, TASK:SPLIT or file whose questions must not be in the data; repeatable. Default: held-out splits."""
    tools: Sequence[str] = setting((), flags=("--tool",))
    """Name of a tool that exists; repeatable."""
    max_length: int = setting(1024, low=1)
    """Longest sample in tokens."""
    max_observation: int = setting(2000, low=1)
    """Longest observation in characters."""
    renderer: str = setting("auto", help=AUTO_RENDERER_HELP)
    personal: str = ""
    """spaCy model, such as en_core_web_sm, by which names, phone numbers and addresses are found too (extra pii)."""
    workers: int = setting(0, low=0)
    """Processes; 0 is one for small data, else one a core."""

    def __post_init__(self) -> None:
        check_settings(self, "doctor")
        replace_fields(self, renderer=resolve_renderer(self.renderer, Path(self.data)))


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of problem: its count, the first lines that have it, an example and the fix."""

    kind: str
    level: str
    count: int
    message: str
    lines: tuple[int, ...]
    example: str
    fix: str


@dataclass(frozen=True, slots=True)
class GroupCounts:
    """Counts of the episodes of a task and method; ``f1_sum`` is over the ``scored`` ones."""

    n: int = 0
    finished: int = 0
    correct: int = 0
    scored: int = 0
    f1_sum: float = 0.0

    def __add__(self, added: GroupCounts) -> GroupCounts:
        return GroupCounts(*(getattr(self, item.name) + getattr(added, item.name) for item in fields(self)))

    @property
    def f1(self) -> float | None:
        """The mean F1 of the scored episodes; None without any."""
        return self.f1_sum / self.scored if self.scored else None

    def to_dict(self) -> dict[str, float]:
        """Plain values for JSON."""
        counts = {"n": self.n, "finished": self.finished, "correct": self.correct, "em": self.correct / self.n}
        return counts if self.f1 is None else counts | {"f1": self.f1}


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Tokens of all samples: in ``total``, of a sample, of the longest sample, and those that are trained on."""

    total: int
    mean: float
    p95: float
    max: int
    trained: int
    trained_share: float


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the data holds and what is wrong with it; ``drops`` are the lines that a repair leaves out, with reasons."""

    data: str
    n: int
    groups: Mapping[str, GroupCounts]
    stops: Mapping[str, int]
    steps: Mapping[int, int]
    tokens: TokenCounts | None
    tokenizer: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    drops: Mapping[int, str] = field(repr=False)

    @property
    def sound(self) -> bool:
        """Whether there is no error; warnings do not count."""
        return not any(finding.level == "error" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as JSON, without ``drops``: the log of a repair lists those lines."""
        findings = [
            {name: getattr(finding, name) for name in ("kind", "level", "count", "lines", "example", "fix")}
            for finding in self.findings
        ]
        return {
            "data": self.data,
            "n": self.n,
            "groups": {name: counts.to_dict() for name, counts in self.groups.items()},
            "stops": dict(self.stops),
            "steps": {str(n): count for n, count in self.steps.items()},
            "tokens": {} if self.tokens is None else asdict(self.tokens),
            "tokenizer": self.tokenizer,
            "notes": self.notes,
            "findings": findings,
            "sound": self.sound,
        }


@dataclass(slots=True)
class BlockReport:
    """The counts and findings of one block."""

    end: int
    groups: dict[str, GroupCounts]
    stops: Counter[str]
    steps: Counter[int]
    findings: list[tuple[int, str, str]]
    lines: npt.NDArray[np.int64]
    digests: npt.NDArray[np.uint64]
    offsets: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]
    signatures: npt.NDArray[np.uint32]
    without_tools: int = 0
    """Episodes whose tools are unknown."""


def load_bounds(config: DoctorConfig) -> Bounds:
    """The limits; the tools are those of the config, else those of the run's manifest."""
    tools = tuple(config.tools)
    if not tools and (Path(config.data) / MANIFEST).is_file():
        made_with = read_manifest(Path(config.data)).get("tools")
        tools = tuple(map(str, made_with)) if isinstance(made_with, dict) else ()
    return Bounds(tools, config.max_observation, config.max_length, config.personal)


def examine_block(block: Block, config: DoctorConfig, bounds: Bounds) -> BlockReport:
    """Check every line of a block on its own."""
    empty: Any = [np.empty(0)] * 5
    report = BlockReport(len(read_raw_lines(block)), {}, Counter(), Counter(), [], *empty)
    lines, digests, offsets, tokens, signatures = [], [], [], [], [np.empty((0, HASHES), np.uint32)]
    for entry in read_entries(block):
        if entry.trajectory is None:
            report.findings.append((entry.line, "unreadable", entry.reason))
            report.findings += [
                (entry.line, *finding) for finding in find_sensitive(entry.raw.decode(errors="replace"))
            ]
            continue
        trajectory = entry.trajectory
        length = measure_lengths(
            trajectory, config.student, renderer=config.renderer, tools=config.tools, data=config.data
        )
        report.without_tools += not known_tools(trajectory, bounds.tools) and any(
            step.action for step in trajectory.steps
        )
        _count_episode(report, trajectory)
        report.findings += [(entry.line, kind, detail) for kind, detail in check_trajectory(trajectory, bounds)]
        if length[2] > bounds.max_length:
            report.findings.append((entry.line, "too long", f"{length[2]:,} tokens"))
        lines.append(entry.line)
        offsets.append((entry.offset, len(entry.raw)))
        digests.append(
            (
                hash_text(episode_identity(trajectory)),
                hash_content(trajectory),
                hash_text(question_key(trajectory)),
                hash_text(trajectory.method),
            )
        )
        tokens.append(length)
        signatures.append(compute_minhash(agent_text(trajectory))[None])
    report.lines, report.digests = np.array(lines, np.int64), np.array(digests, np.uint64).reshape(-1, 4)
    report.offsets, report.tokens = (
        np.array(offsets, np.int64).reshape(-1, 2),
        np.array(tokens, np.int64).reshape(-1, 3),
    )
    report.signatures = np.concatenate(signatures)
    return report


def _count_episode(report: BlockReport, trajectory: Trajectory) -> None:
    name, f1 = f"{trajectory.task}/{trajectory.method}", trajectory.scores.get("f1")
    counts = GroupCounts(1, trajectory.stop == "finish", has_full_score(trajectory), f1 is not None, f1 or 0.0)
    report.groups[name] = report.groups.get(name, GroupCounts()) + counts
    report.stops[trajectory.stop] += 1
    report.steps[len(trajectory.steps)] += 1


def find_overlaps(block: Block, against: tuple[str, ...], tasks: tuple[str, ...]) -> list[tuple[int, str]]:
    """Lines of a block whose question overlaps an evaluation set, with the name of the set."""
    sets = choose_evaluation_sets(against, tasks)
    set_by_question: dict[str, str] = {}
    overlapping_lines = []
    for entry in read_entries(block):
        if entry.trajectory is not None:
            question = entry.trajectory.example.question
            if question not in set_by_question:
                set_by_question[question] = next(
                    (evaluation_set.name for evaluation_set in sets if evaluation_set.overlaps(question)), ""
                )
            if set_by_question[question]:
                overlapping_lines.append((entry.line, set_by_question[question]))
    return overlapping_lines


def choose_evaluation_sets(against: tuple[str, ...], tasks: tuple[str, ...]) -> list[EvaluationSet]:
    """The sets in ``against``, else the held-out splits of the tasks. Raises ConfigError for an unknown set."""
    if against:
        return [evaluation_set for name in against for evaluation_set in load_evaluation_sets(name)]
    return [
        evaluation_set
        for task in dict.fromkeys((*tasks, *EVALUATION_ONLY))
        for evaluation_set in load_held_out_sets(task)[0]
    ]


def diagnose_data(config: DoctorConfig, *, progress: Progress = SILENT) -> Diagnosis:
    """Check all data. Raises DataError when the file cannot be read or is empty."""
    with open_trajectory_files([Path(config.data)], skip=True) as (source,):
        return diagnose_file(config, source, progress=progress)


def diagnose_file(config: DoctorConfig, source: TrajectoryFile, *, progress: Progress = SILENT) -> Diagnosis:
    """Check all lines of an opened file."""
    file = source.file
    choose_evaluation_sets(tuple(config.against), ())  # a wrong name fails before the file is read
    if config.personal:
        load_analyzer(config.personal)  # a model that is not installed fails before the file is read
    if config.student:
        load_renderer_tokenizer(config.student, config.renderer)  # an unknown student fails before the file is read
    reports, findings = _examine_blocks(config, file, progress)
    n = sum(len(report.lines) for report in reports)
    if not n and not findings and not source.bad:
        raise DataError(f"{config.data} holds no trajectories.")
    lines, digests, offsets, tokens, signatures = (
        np.concatenate([getattr(report, name) for report in reports])
        for name in ("lines", "digests", "offsets", "tokens", "signatures")
    )
    groups = _sum_groups(reports)
    tasks = tuple(sorted({name.rpartition("/")[0] for name in groups}))
    findings += _find_contaminated(config, file, tasks, progress)
    is_remaining = ~np.isin(lines, list(_lines_to_drop(findings)))  # a dropped line must not make another one a repeat
    findings += _find_repeats(lines[is_remaining], digests[is_remaining], offsets[is_remaining], file)
    findings += _find_near_duplicates(
        lines[is_remaining], digests[is_remaining], offsets[is_remaining], signatures[is_remaining], file
    )
    absent = {} if config.against else find_uncompared_tasks(tasks)
    bad = [(damage.number, damage.kind, redact(damage.detail)) for damage in source.damage]
    silent = [(0, "not compared", f"{task}: {why}") for task, why in absent.items() if why != UNKNOWN]
    teachers = find_teachers(Path(config.data)) if (Path(config.data) / CONFIG).is_file() else []
    unlicensed = [(0, "teacher licence", teacher.name) for teacher in teachers if teacher.needs_licence]
    return Diagnosis(
        data=config.data,
        n=n,
        groups=groups,
        stops=dict(sum((report.stops for report in reports), Counter[str]())),
        steps=dict(sorted(sum((report.steps for report in reports), Counter[int]()).items())),
        tokens=_summarise_tokens(tokens),
        tokenizer=config.student or "an estimate: a token is 4 characters",
        findings=_group_findings([*findings, *bad, *silent, *unlicensed]),
        notes=_notes(config, source, tasks, absent, without_tools=sum(report.without_tools for report in reports)),
        drops=_lines_to_drop(findings),
    )


def _notes(
    config: DoctorConfig,
    source: TrajectoryFile,
    tasks: tuple[str, ...],
    absent: Mapping[str, str],
    *,
    without_tools: int,
) -> tuple[str, ...]:
    """What was not checked, and what the line numbers mean."""
    sets = [evaluation_set.name for evaluation_set in choose_evaluation_sets(tuple(config.against), tasks)]
    notes = [
        f"questions compared with: {', '.join(sets)}" if sets else "no evaluation set to compare with; give --against"
    ]
    unknown = [task for task, why in absent.items() if why == UNKNOWN]
    if unknown:
        notes.append(f"not compared: {', '.join(unknown)}: {UNKNOWN}; give --against")
    if without_tools:
        counted = ", and tokens counted as with search" if config.student and config.renderer == "tool_calls" else ""
        notes.append(
            f"tools not known in {without_tools:,} episodes, so names of calls were not checked there{counted}; "
            "give --tool"
        )
    if source.damage:
        notes.append(
            "rows that cannot be read whole are named by their row, all others by the episode's number among those read"
        )
    return tuple(notes)


def _examine_blocks(
    config: DoctorConfig, file: Path, progress: Progress
) -> tuple[list[BlockReport], list[tuple[int, str, str]]]:
    """The reports of all blocks, with the file's line numbers, and the findings of single lines."""
    bounds, reports, findings, lines_before = load_bounds(config), [], [], 0
    jobs = [(block, config, bounds) for block in split_into_blocks(file)]
    progress.start("doctor", total=len(jobs))
    for report in map_in_order(examine_block, jobs, workers=choose_worker_count(config.workers, [file])):
        findings += [(lines_before + line, kind, detail) for line, kind, detail in report.findings]
        report.findings = []
        report.lines += lines_before
        lines_before += report.end
        reports.append(report)
        progress.advance()
    progress.end()
    return reports, findings


def _sum_groups(reports: Sequence[BlockReport]) -> dict[str, GroupCounts]:
    groups: dict[str, GroupCounts] = {}
    for name, counts in (item for report in reports for item in report.groups.items()):
        groups[name] = groups.get(name, GroupCounts()) + counts
    return dict(sorted(groups.items()))


def _summarise_tokens(tokens: npt.NDArray[np.int64]) -> TokenCounts | None:
    total, trained = tokens[:, 0], int(tokens[:, 1].sum())
    if not len(total):
        return None
    return TokenCounts(
        total=int(total.sum()),
        mean=float(total.mean()),
        p95=float(np.quantile(total, 0.95)),
        max=int(tokens[:, 2].max()),
        trained=trained,
        trained_share=trained / max(1, int(total.sum())),
    )


def _find_repeats(
    lines: npt.NDArray[np.int64], digests: npt.NDArray[np.uint64], offsets: npt.NDArray[np.int64], path: Path
) -> Iterator[tuple[int, str, str]]:
    """Lines that repeat an earlier episode, or its text under another key; equal hashes are confirmed by the texts."""
    for column, kind, same in ((0, "repeated episode", episode_identity), (1, "exact duplicate", agent_text)):
        order = np.argsort(digests[:, column], kind="stable")
        first = 0
        for current in range(1, len(order)):
            if digests[order[current], column] != digests[order[first], column]:
                first = current
                continue
            earlier, later = (_read_at(path, offsets[order[index]]) for index in (first, current))
            if same(earlier) == same(later) and (column == 0 or episode_identity(earlier) != episode_identity(later)):
                yield int(lines[order[current]]), kind, f"as line {lines[order[first]]}"


def _find_near_duplicates(
    lines: npt.NDArray[np.int64],
    digests: npt.NDArray[np.uint64],
    offsets: npt.NDArray[np.int64],
    signatures: npt.NDArray[np.uint32],
    path: Path,
) -> Iterator[tuple[int, str, str]]:
    """Lines that almost equal an earlier one; the same question by another method may be similar."""

    def differ(first: Any, second: Any) -> Any:
        method = (digests[first, 2] != digests[second, 2]) | (digests[first, 3] == digests[second, 3])
        return method & (digests[first, 1] != digests[second, 1]) & (digests[first, 0] != digests[second, 0])

    for earlier, later, similarity in find_near_duplicates(
        signatures, lambda index: agent_text(_read_at(path, offsets[index])), differ
    ):
        yield int(lines[later]), "near duplicate", f"{similarity:.0%} of line {lines[earlier]}"


def _read_at(path: Path, location: npt.NDArray[np.int64]) -> Trajectory:
    with path.open("rb") as file:
        file.seek(int(location[0]))
        return parse_trajectory(file.read(int(location[1])))


def _find_contaminated(
    config: DoctorConfig, file: Path, tasks: tuple[str, ...], progress: Progress
) -> list[tuple[int, str, str]]:
    against = tuple(config.against)
    if not choose_evaluation_sets(against, tasks):  # loaded here, so that forked processes inherit the sets
        return []
    all_blocks = split_into_blocks(file)
    findings, lines_before = [], 0
    workers = choose_worker_count(config.workers, [file])
    ends = (len(read_raw_lines(block)) for block in all_blocks)
    jobs = [(block, against, tasks) for block in all_blocks]
    progress.start("doctor: questions", total=len(jobs))
    for lines, end in zip(map_in_order(find_overlaps, jobs, workers=workers), ends, strict=True):
        findings += [(lines_before + line, "contaminated", name) for line, name in lines]
        lines_before += end
        progress.advance()
    progress.end()
    return findings


def _group_findings(findings: Sequence[tuple[int, str, str]]) -> tuple[Finding, ...]:
    by_kind: dict[str, list[tuple[int, str]]] = {}
    for line, kind, detail in findings:
        by_kind.setdefault(kind, []).append((line, detail))
    return tuple(
        Finding(
            kind,
            kind_facts.level,
            len(by_kind[kind]),
            kind_facts.message,
            tuple(sorted({line for line, _ in by_kind[kind] if line})[:MAX_LINES]),
            _example_detail(by_kind[kind]),
            kind_facts.fix,
        )
        for kind, kind_facts in KINDS.items()
        if kind in by_kind
    )


def _example_detail(details: Sequence[tuple[int, str]]) -> str:
    """The detail of the first line; findings without a line (0) give all their details."""
    line, detail = min(details)
    return detail if line else "; ".join(sorted(text for _, text in details))


def _lines_to_drop(findings: Sequence[tuple[int, str, str]]) -> dict[int, str]:
    drops: dict[int, str] = {}
    for line, kind, detail in findings:
        if kind in DROPPED:
            drops.setdefault(line, f"{kind} ({detail})")
    return drops
