"""The verb ``mix``: trajectories of several runs, filtered, selected in proportions and written in random order.

Two passes over the files: the first keeps about 50 bytes of each trajectory that passes the filters, the second copies
the selected lines byte for byte (except where damage is repaired or steps are weighed).
Invariant: no line is taken twice or skipped silently; memory does not grow with the length of the trajectories.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fireact.base import jsonl
from fireact.base.progress import SILENT, Progress
from fireact.base.run_directory import TRAJECTORIES, RunDir, absolute_path, parse_trajectory, relative_path
from fireact.base.settings import check_settings, setting
from fireact.base.verbs import Verb
from fireact.data import selection
from fireact.data.dataset import read_history
from fireact.data.filters import predicate
from fireact.data.lines import Block, choose_worker_count, map_in_order, read_entries, read_raw_lines, split_into_blocks
from fireact.data.selection import Index, RowTable
from fireact.data.sources import TrajectoryFile, load_mixture_values, open_trajectory_files
from fireact.data.steps import weigh_bad_steps
from fireact.data.teachers import find_teachers, join_teachers, teachers_to_dicts
from fireact.errors import ConfigError, DataError, unknown_name_error
from fireact.formats.released import repair_trajectory, repairable_damage
from fireact.types import Trajectory

HELD_OUT = "holdout.jsonl"
NEUTRAL_SETTINGS = ("workers",)
"""Settings that do not change the mixture."""
SELECTION = "Selection"
"""The heading of the options that say what is taken."""


def _parse_take(item: str) -> tuple[str, int]:
    name, separator, count = item.rpartition("=")
    if not separator or not count.isdigit() or "/" not in name:
        raise ConfigError(f"--take {item!r} is not of the form TASK/METHOD=N, such as geo-hop/react=60.")
    return name, int(count)


def _parse_weight(item: str) -> tuple[str, float]:
    name, separator, share = item.rpartition("=")
    try:
        return (name, float(share)) if separator and "/" in name else (name, float("none"))
    except ValueError:
        raise ConfigError(
            f"--weight {item!r} is not of the form TASK/METHOD=NUMBER, such as geo-hop/react=0.5."
        ) from None


@dataclass(frozen=True, slots=True)
class MixConfig:
    """Settings of ``mix``: the sources, the filters, and how many of each "task/method" (all when empty).

    ``take`` are counts, or proportions of ``n``. ``weights`` are proportions of ``n``, or without it of the most that
    is possible. ``holdout`` is split off before anything else.
    """

    sources: Sequence[str] = setting(normalise=lambda sources: tuple(map(absolute_path, sources)))
    """Run directories, or files in any format that 'convert' reads."""
    where: Sequence[str] = setting(("correct",), flags=("--where", "-w"), panel=SELECTION)
    """Filter: correct, steps<=6, method in {react,cot}, not no_repeats; repeatable. Default: correct."""
    best_of: int = setting(0, panel=SELECTION, low=0)
    """The best N of each question: right, short, not repaired."""
    take: Mapping[str, int] = setting(factory=dict, panel=SELECTION, parse=_parse_take)
    """TASK/METHOD=N; repeatable. Default: all that pass."""
    weights: Mapping[str, float] = setting(factory=dict, flags=("--weight",), panel=SELECTION, parse=_parse_weight)
    """TASK/METHOD=PROPORTION, in place of --take; repeatable."""
    balance: str = setting("", panel=SELECTION)
    """Take as many of each task, method or difficulty, in place of --take."""
    n: int | None = setting(None, flags=("-n",), panel=SELECTION, low=1)
    """How many in all; --take then gives proportions."""
    holdout: float = setting(0.0, panel=SELECTION, low=0, below=1)
    """Share of each task's questions that goes to holdout.jsonl instead."""
    weigh_bad: float = setting(1.0, panel=SELECTION, low=0, high=1)
    """How much disturbed, faulty and repeated steps are learned; 0: they are context only."""
    seed: int = setting(0, panel=SELECTION)
    """Seed of sampling and order. Default: 0."""
    skip_bad: bool = False
    """Leave out lines that cannot be read, and say so."""
    workers: int = setting(0, low=0)
    """Processes; 0 is one for small data, else one a core."""

    def __post_init__(self) -> None:
        check_settings(self, "mix")
        _check_values(self)


@dataclass(frozen=True, slots=True)
class RecipeOption:
    """The option that names a recipe of a mixture."""

    recipe: str | None = None
    """A recipe: the path of a TOML file, or a name such as paper-hotpotqa."""


def _expand_recipe(options: RecipeOption, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a recipe; options override them."""
    return {**(read_mixture(options.recipe) if options.recipe else {}), **given}


def read_mixture(name: str | Path) -> dict[str, Any]:
    """A shipped mixture by name, or a TOML file, as arguments of MixConfig. Raises ConfigError for unknown settings."""
    values = load_mixture_values(name)
    known_settings = [entry.name for entry in fields(MixConfig) if entry.name != "sources"]
    for key in values:
        if key not in known_settings:
            raise unknown_name_error(f"setting of the mixture {name}:", key, known_settings)
    return values


def _check_values(config: MixConfig) -> None:
    """Raise ConfigError for settings that do not go together."""
    twice = [source for source, count in Counter(config.sources).items() if count > 1]
    if twice:
        raise ConfigError(f"mix: {relative_path(twice[0])} is named twice as a source. Name it once.")
    chosen = [name for name in ("take", "weights", "balance") if getattr(config, name)]
    if len(chosen) > 1:
        raise ConfigError(f"mix: {' and '.join(chosen)} exclude each other. Give one.")
    if config.balance and config.balance not in selection.BALANCED:
        raise unknown_name_error("balance", config.balance, selection.BALANCED)
    for name, count in [*config.take.items(), *config.weights.items()]:
        if "/" not in name or not 0 < count < math.inf:
            raise ConfigError(f"mix: {name!r} = {count} is not of the form TASK/METHOD = a number over 0.")


def mix(config: MixConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Write the mixture into ``out`` and return its manifest, with its history and the hashes of its sources."""
    with RunDir(out, verb="mix", settings=config, force=force, neutral=NEUTRAL_SETTINGS) as run:
        if run.complete:
            return run.manifest
        with open_trajectory_files([Path(source) for source in config.sources], skip=config.skip_bad) as files:
            facts = _write_mixture(config, files, run.path, progress)
        return run.finish(**facts)


def _write_mixture(
    config: MixConfig, sources: Sequence[TrajectoryFile], out: Path, progress: Progress
) -> dict[str, Any]:
    files = [source.file for source in sources]
    stamps = [_file_stamp(file) for file in files]
    table, history = _scan_sources(config, sources, progress)
    is_held_out = np.zeros(len(table), bool)
    if config.holdout:
        is_held_out = selection.select_held_out_rows(table, config.holdout, config.seed)
        remaining_count, description = (
            int((~is_held_out).sum()),
            f"hold out {config.holdout:g} of the questions, seed {config.seed}",
        )
        history = (*history, f"{description}: {len(table)} -> {remaining_count}")
    held_out_table = table[is_held_out][selection.shuffle_rows(table[is_held_out], config.seed)]
    table, history = _select_rows(table[~is_held_out], config, history)
    fixed = Counter[str]()
    with ThreadPoolExecutor(1) as beside:
        digests = beside.map(lambda source: source.digest, sources)
        _write_lines(out / TRAJECTORIES, table, files, config, fixed)
        if config.holdout:
            _write_lines(out / HELD_OUT, held_out_table, files, config, fixed)
        hashes = dict(zip(config.sources, digests, strict=True))
    history += _history_remarks(table, fixed)
    if stamps != [_file_stamp(file) for file in files]:
        raise DataError("a source was written to while it was mixed. Run mix again when it is complete.")
    progress.say(f"mix: {'; '.join(history)}")
    return {
        "counts": _count_groups(table),
        "held_out": len(held_out_table),
        "history": list(history),
        "sources": hashes,
        "teachers": teachers_to_dicts(
            join_teachers(teacher for source in config.sources for teacher in find_teachers(Path(source)))
        ),
    }


def _history_remarks(table: RowTable, fixed: Mapping[str, int]) -> tuple[str, ...]:
    """Lines of history about the selected rows: repeated content and repaired damage."""
    again = len(table) - len(np.unique(table.rows["content"]))
    noun = "duplicate" if again == 1 else "duplicates"
    repeats = (f"{again} {noun} of another trajectory (doctor names them)",) if again else ()
    kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(fixed).most_common())
    return (*repeats, *((f"repaired: {kinds}",) if fixed else ()))


@dataclass(frozen=True, slots=True)
class BlockScan:
    """The first pass over a block: rows that pass, keys of all lines, and how many pass each filter."""

    table: RowTable
    keys: npt.NDArray[np.uint64]
    lines: npt.NDArray[np.uint32]
    passed: tuple[int, ...]
    bad: tuple[tuple[int, str], ...]
    end: int


def scan_block(block: Block, where: tuple[str, ...]) -> BlockScan:
    """The first pass over a block of lines."""
    filters = [predicate(text) for text in where]
    passed = [0] * (len(filters) + 1)
    raw = read_raw_lines(block)
    keys, lines, bad = [], [], []

    def passing() -> Iterator[tuple[Trajectory, int, int, int]]:  # a generator, so that no trajectory stays in memory
        for entry in read_entries(block, raw):
            if entry.trajectory is None:
                bad.append((entry.line, entry.reason))
                continue
            keys.append(selection.hash_text(selection.episode_identity(entry.trajectory)))
            lines.append(entry.line)
            through = next(
                (index for index, passes in enumerate(filters) if not passes(entry.trajectory)), len(filters)
            )
            for filter_index in range(through + 1):
                passed[filter_index] += 1
            if through == len(filters):
                yield entry.trajectory, entry.line, entry.offset, len(entry.raw)

    table = selection.build_table(passing())
    return BlockScan(table, np.array(keys, "u8"), np.array(lines, "u4"), tuple(passed), tuple(bad), len(raw))


def _scan_sources(
    config: MixConfig, sources: Sequence[TrajectoryFile], progress: Progress
) -> tuple[RowTable, tuple[str, ...]]:
    """The rows that pass the filters, and the history so far. Raises DataError for a bad line or a repeat."""
    where = (*config.where, *(["learnable"] if config.weigh_bad == 0 else []))
    for text in where:
        predicate(text)  # a wrong filter fails before a file is read
    workers = choose_worker_count(config.workers, [source.file for source in sources])
    tables, keys, places, history = [], [], [], []
    passed = np.zeros(len(where) + 1, dtype=np.int64)
    for number, source in enumerate(sources):
        lines_before, source_count, skipped = 0, 0, len(source.bad)
        jobs = [(block, where) for block in split_into_blocks(source.file)]
        progress.start(f"mix: {source.named_path.name}", total=len(jobs))
        for damage in source.bad:
            progress.say(f"skipped: {source.named_path}, row {damage.number}: {damage.detail}")
        for block_scan in map_in_order(scan_block, jobs, workers=workers):
            skipped += _report_bad_lines(source, block_scan, lines_before, config.skip_bad, progress)
            block_scan.table.rows["source"], block_scan.table.rows["line"] = (
                number,
                block_scan.table.rows["line"] + lines_before,
            )
            tables.append(block_scan.table)
            keys.append(block_scan.keys)
            places.append(
                np.stack(
                    [np.full(len(block_scan.keys), number, "u4"), block_scan.lines + np.uint32(lines_before)], axis=1
                )
            )
            passed += block_scan.passed
            source_count += block_scan.passed[0]
            lines_before += block_scan.end
            progress.advance()
        progress.end()
        history += [
            *read_history(source.named_path),
            f"{relative_path(str(source.named_path))}: {source_count}"
            f"{f' ({skipped} bad lines skipped)' if skipped else ''}",
        ]
    _refuse_repeats(
        np.concatenate([np.empty(0, "u8"), *keys]), np.concatenate([np.empty((0, 2), "u4"), *places]), sources
    )
    history += [
        f"where {text}: {count_before} -> {count_after}"
        for text, count_before, count_after in zip(where, passed[:-1], passed[1:], strict=True)
    ]
    return selection.concatenate_tables(tables), tuple(dict.fromkeys(history))


def _report_bad_lines(
    source: TrajectoryFile, block_scan: BlockScan, lines_before: int, skip: bool, progress: Progress
) -> int:
    for line, reason in block_scan.bad:
        message = f"{source.describe_line(lines_before + line)}: {reason}"
        if not skip:
            raise DataError(f"{message}. Repair or delete that line, or leave such lines out with --skip-bad.")
        progress.say(f"skipped: {message}")
    return len(block_scan.bad)


def _refuse_repeats(keys: npt.NDArray[Any], places: npt.NDArray[Any], sources: Sequence[TrajectoryFile]) -> None:
    """Raise DataError where two lines are the same episode; equal hashes are confirmed by reading the lines."""
    order = np.argsort(keys, kind="stable")
    for index in np.flatnonzero(keys[order[1:]] == keys[order[:-1]]).tolist():
        first_place, second_place = (places[order[position]].tolist() for position in (index, index + 1))
        first, second = (
            parse_trajectory(_read_line(sources[source].file, line)) for source, line in (first_place, second_place)
        )
        if selection.episode_identity(first) == selection.episode_identity(second):
            raise DataError(
                f"the episode {first.key}{f' of {first.model}' if first.model else ''} occurs twice: "
                f"{sources[first_place[0]].describe_line(first_place[1])}, and "
                f"{sources[second_place[0]].describe_line(second_place[1])}. "
                "Delete one; fireact doctor --fix does so within one file."
            )


def _read_line(path: Path, number: int) -> bytes:
    return next(raw for line_number, raw in jsonl.read_numbered_lines(path) if line_number == number)


def _select_rows(table: RowTable, config: MixConfig, history: tuple[str, ...]) -> tuple[RowTable, tuple[str, ...]]:
    """The selected rows in their final order. Raises ConfigError when there are too few, or none."""
    if config.best_of:
        best_rows = table[selection.select_best_rows(table, config.best_of)]
        history = (*history, f"best {config.best_of} of each question: {len(table)} -> {len(best_rows)}")
        table = best_rows
    if not len(table):
        raise ConfigError(f"nothing is left to train on ({'; '.join(history)}). Loosen --where.")
    index, description = _draw_rows(table, config, history)
    if description:
        history = (*history, f"{description}, seed {config.seed}: {len(table)} -> {len(index)}")
        table = table[index]
    if not len(table):
        raise ConfigError(f"nothing is left to train on ({'; '.join(history)}). Ask for other proportions.")
    if config.weigh_bad != 1:
        step_count, trajectory_count = int(table.rows["bad"].sum()), int((table.rows["bad"] > 0).sum())
        history = (
            *history,
            f"bad steps weigh {config.weigh_bad:g}: {step_count} steps of {trajectory_count} trajectories",
        )
    return table[selection.shuffle_rows(table, config.seed)], history


def _draw_rows(table: RowTable, config: MixConfig, history: tuple[str, ...]) -> tuple[Index, str]:
    """The rows that ``take``, ``weights`` or ``balance`` select, and a description; empty where all are taken."""
    by = config.balance or "group"
    available = {name: len(index) for name, index in table.members(by).items()}
    weights = config.take or config.weights or (dict.fromkeys(available, 1.0) if config.balance else {})
    if not weights:
        if config.n is None:
            return np.arange(len(table)), ""
        if config.n > len(table):
            raise ConfigError(f"{selection.describe_shortfall(config.n, len(table))} ({'; '.join(history)}).")
        return selection.sample_rows(table, np.arange(len(table)), config.n, config.seed), f"take {config.n}"
    selection.refuse_absent_groups(weights, available)
    exact = config.take and config.n is None
    counts = dict(config.take) if exact else selection.apportion_rows(weights, available, config.n)
    index = selection.draw_rows(table, counts, by=by, seed=config.seed, history=history)
    words = f"balance {config.balance}" if config.balance else "take"
    return index, f"{words} {', '.join(f'{name} {count}' for name, count in counts.items())}"


def _write_lines(path: Path, table: RowTable, files: Sequence[Path], config: MixConfig, fixed: Counter[str]) -> None:
    """Write the lines of the rows in their order; count repaired damage in ``fixed``."""
    with jsonl.open_replacement(path) as out:
        for line in _copy_lines(table, files, config, fixed):
            out.write(jsonl.mend_line(line) + b"\n")


def _copy_lines(table: RowTable, files: Sequence[Path], config: MixConfig, fixed: Counter[str]) -> Iterator[bytes]:
    descriptors = [os.open(file, os.O_RDONLY) for file in files]
    try:
        columns = (table.rows[name] for name in ("source", "offset", "length", "bad", "damaged"))
        for row in zip(*columns, strict=True):
            source, offset, length, bad, damaged = map(int, row)
            line = os.pread(descriptors[source], length, offset)
            if damaged or (bad and config.weigh_bad != 1):
                trajectory = parse_trajectory(line)
                fixed.update(repairable_damage(trajectory))
                repaired_trajectory = (
                    repair_trajectory(trajectory)
                    if config.weigh_bad == 1
                    else weigh_bad_steps(repair_trajectory(trajectory), config.weigh_bad)
                )
                line = jsonl.encode_line(repaired_trajectory.to_dict()).rstrip()
            yield line
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _file_stamp(path: Path) -> tuple[int, int] | None:
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else None


def _count_groups(table: RowTable) -> dict[str, dict[str, int]]:
    """By "task/method": how many episodes there are, are finished and are correct, as ``collect`` counts them."""
    return {
        name: {
            "n": len(indices),
            "finished": int(table.rows["finished"][indices].sum()),
            "correct": int(table.rows["em"][indices].sum()),
        }
        for name, indices in table.members("group").items()
    }


MIX = Verb(
    "mix", MixConfig, mix, out="runs/mix", neutral=NEUTRAL_SETTINGS,
    example='`fireact mix runs/collect -w correct -w "steps<=5" --take geo-hop/react=60`',
    shorthand=RecipeOption, expand=_expand_recipe, show_defaults=False,
)  # fmt: skip
