"""The verb ``mix``: trajectories of several runs, filtered, chosen in proportions and written in random order.

Two passes over the files: the first notes some 50 bytes of each trajectory and which filters it passes, the second
copies the lines that were chosen, byte for byte (but for the weights of steps, where those are asked for).
Invariant: no line is taken twice or passed over in silence; memory does not grow with the length of the trajectories.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fireact import jsonl
from fireact.data import selection
from fireact.data.dataset import past
from fireact.data.filters import predicate
from fireact.data.lines import Block, blocks, entries, in_order, processes, raw_lines
from fireact.data.selection import Index, Table
from fireact.data.sources import Own, mixture_values, own_files
from fireact.data.steps import weighed
from fireact.errors import ConfigError, DataError, unknown
from fireact.formats.released import repaired, reparable
from fireact.progress import SILENT, Progress
from fireact.store import TRAJECTORIES, RunDir, absolute, parse_trajectory, shown
from fireact.types import Trajectory

HELD_OUT = "holdout.jsonl"


@dataclass(frozen=True, slots=True)
class MixConfig:
    """Settings of ``mix``: what is read, which filters hold, and how many of each "task/method" (all when empty).

    ``take`` are counts, or proportions of ``n``; ``weights`` are proportions of ``n``, or of as many as there are;
    ``balance`` takes as many of each task, method or difficulty. ``best_of`` keeps so many of each question before
    that (0 is all). ``holdout`` is the share of each task's questions whose trajectories go to a second file, first of all.
    ``weigh_bad`` is the weight of disturbed, faulty and repeated steps; 0 keeps them as context only. ``workers`` 0 is by size.
    """

    sources: Sequence[str]
    where: Sequence[str] = ("correct",)
    best_of: int = 0
    take: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    balance: str = ""
    n: int | None = None
    holdout: float = 0.0
    weigh_bad: float = 1.0
    seed: int = 0
    skip_bad: bool = False
    workers: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(map(absolute, self.sources)))
        _check(self)


def read_mixture(name: str | Path) -> dict[str, Any]:
    """A shipped mixture by name, or a TOML file, as arguments of MixConfig. Raises ConfigError for other settings."""
    found = mixture_values(name)
    known = [entry.name for entry in fields(MixConfig) if entry.name != "sources"]
    for key in found:
        if key not in known:
            raise unknown(f"setting of the mixture {name}:", key, known)
    return found


def _check(config: MixConfig) -> None:
    _check_types(config)
    twice = [source for source, count in Counter(config.sources).items() if count > 1]
    if twice:
        raise ConfigError(f"mix: {shown(twice[0])} is named twice as a source. Name it once.")
    chosen = [name for name in ("take", "weights", "balance") if getattr(config, name)]
    if len(chosen) > 1:
        raise ConfigError(f"mix: {' and '.join(chosen)} exclude each other. Give one.")
    if config.balance and config.balance not in selection.BALANCED:
        raise unknown("balance", config.balance, selection.BALANCED)
    for name, count in [*config.take.items(), *config.weights.items()]:
        if "/" not in name or not 0 < count < math.inf:
            raise ConfigError(f"mix: {name!r} = {count} is not of the form TASK/METHOD = a number over 0.")
    if not 0 <= config.holdout < 1:
        raise ConfigError(f"mix: holdout is {config.holdout}; it is a share, from 0 to below 1.")
    if not 0 <= config.weigh_bad <= 1:
        raise ConfigError(f"mix: weigh_bad is {config.weigh_bad}; it must be from 0 to 1.")
    if (config.n is not None and config.n < 1) or config.best_of < 0 or config.workers < 0:
        raise ConfigError("mix: n must be at least 1, best_of and workers at least 0.")


def _check_types(config: MixConfig) -> None:
    """A recipe may hold anything: ``best_of = "2"``, ``where = "correct"``, ``take = 5``."""
    numbers = {"best_of": int, "seed": int, "workers": int, "holdout": float, "weigh_bad": float}
    for name, kind in numbers.items():
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, (int, kind)):
            raise ConfigError(
                f"mix: {name} is {value!r}; it must be a number{'' if kind is float else ' with no point'}."
            )
    if isinstance(config.where, str) or not all(isinstance(text, str) for text in config.where):
        raise ConfigError(f'mix: where is {config.where!r}; it must be a list of filters, such as ["correct"].')
    if not isinstance(config.balance, str) or (config.n is not None and type(config.n) is not int):
        raise ConfigError(
            f"mix: balance is {config.balance!r} and n is {config.n!r}; they must be a text and a number."
        )
    for name, allowed in (("take", int), ("weights", (int, float))):
        value = getattr(config, name)
        if not isinstance(value, Mapping) or not all(
            isinstance(count, allowed) and not isinstance(count, bool) for count in value.values()
        ):
            raise ConfigError(f'mix: {name} is {value!r}; it must hold numbers, such as "geo-hop/react" = 60.')


def mix(config: MixConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Write the mixture into ``out`` and return the manifest, which carries its history and the hashes of its sources."""
    with RunDir(out, verb="mix", settings=asdict(config), force=force, free=("workers",)) as run:
        if run.complete:
            return run.manifest
        with own_files([Path(source) for source in config.sources], skip=config.skip_bad) as files:
            facts = _mixed(config, files, run.path, progress)
        return run.finish(**facts)


def _mixed(config: MixConfig, sources: Sequence[Own], out: Path, progress: Progress) -> dict[str, Any]:
    files = [own.file for own in sources]
    stamps = [_stamp(file) for file in files]
    table, history = _scanned(config, sources, progress)
    held = np.zeros(len(table), bool)
    if config.holdout:
        held = selection.held_out(table, config.holdout, config.seed)
        rest, what = int((~held).sum()), f"hold out {config.holdout:g} of the questions, seed {config.seed}"
        history = (*history, f"{what}: {len(table)} -> {rest}")
    apart = table[held][selection.shuffled(table[held], config.seed)]
    table, history = _chosen(table[~held], config, history)
    fixed = Counter[str]()
    with ThreadPoolExecutor(1) as beside:
        digests = beside.map(lambda own: own.digest, sources)
        _copy(out / TRAJECTORIES, table, files, config, fixed)
        if config.holdout:
            _copy(out / HELD_OUT, apart, files, config, fixed)
        hashes = dict(zip(config.sources, digests, strict=True))
    history += _remarks(table, fixed)
    if stamps != [_stamp(file) for file in files]:
        raise DataError("a source was written to while it was mixed. Run mix again when it is complete.")
    progress.say(f"mix: {'; '.join(history)}")
    return {"counts": _counts(table), "held_out": len(apart), "history": list(history), "sources": hashes}


def _remarks(table: Table, fixed: Mapping[str, int]) -> tuple[str, ...]:
    """What a reader of the history should know of what was kept."""
    again = len(table) - len(np.unique(table.rows["content"]))
    repeats = (f"{again} say the same as another one (doctor names them)",) if again else ()
    kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(fixed).most_common())
    return (*repeats, *((f"repaired: {kinds}",) if fixed else ()))


@dataclass(frozen=True, slots=True)
class Scan:
    """What the first pass noted of a block: rows of what passed, all keys, and how many passed each filter."""

    table: Table
    keys: npt.NDArray[np.uint64]
    lines: npt.NDArray[np.uint32]
    passed: tuple[int, ...]
    bad: tuple[tuple[int, str], ...]
    end: int


def scan(block: Block, where: tuple[str, ...]) -> Scan:
    """The first pass over a block of lines."""
    filters = [predicate(text) for text in where]
    passed = [0] * (len(filters) + 1)
    raw = raw_lines(block)
    keys, lines, bad = [], [], []

    def passing() -> Iterator[tuple[Trajectory, int, int, int]]:  # one by one, so that no trajectory is kept
        for entry in entries(block, raw):
            if entry.trajectory is None:
                bad.append((entry.line, entry.reason))
                continue
            keys.append(selection.digest(selection.identity(entry.trajectory)))
            lines.append(entry.line)
            through = next((at for at, wanted in enumerate(filters) if not wanted(entry.trajectory)), len(filters))
            for at in range(through + 1):
                passed[at] += 1
            if through == len(filters):
                yield entry.trajectory, entry.line, entry.offset, len(entry.raw)

    table = selection.table(passing())
    return Scan(table, np.array(keys, "u8"), np.array(lines, "u4"), tuple(passed), tuple(bad), len(raw))


def _scanned(config: MixConfig, sources: Sequence[Own], progress: Progress) -> tuple[Table, tuple[str, ...]]:
    """The rows of all sources that pass the filters, and the history so far. Raises DataError for a bad line or a repeat."""
    where = (*config.where, *(["learnable"] if config.weigh_bad == 0 else []))
    for text in where:
        predicate(text)  # a wrong filter is said before anything is read
    workers = processes(config.workers, [own.file for own in sources])
    tables, keys, places, history = [], [], [], []
    passed = np.zeros(len(where) + 1, dtype=np.int64)
    for number, own in enumerate(sources):
        before, here, skipped = 0, 0, len(own.bad)
        jobs = [(block, where) for block in blocks(own.file)]
        progress.start(f"mix: {own.source.name}", total=len(jobs))
        for damage in own.bad:
            progress.say(f"skipped: {own.source}, row {damage.number}: {damage.detail}")
        for part in in_order(scan, jobs, workers=workers):
            skipped += _reported(own, part, before, config.skip_bad, progress)
            part.table.rows["source"], part.table.rows["line"] = number, part.table.rows["line"] + before
            tables.append(part.table)
            keys.append(part.keys)
            places.append(np.stack([np.full(len(part.keys), number, "u4"), part.lines + np.uint32(before)], axis=1))
            passed += part.passed
            here += part.passed[0]
            before += part.end
            progress.advance()
        progress.end()
        history += [
            *past(own.source),
            f"{shown(str(own.source))}: {here}{f' ({skipped} bad lines skipped)' if skipped else ''}",
        ]
    _refuse_repeats(
        np.concatenate([np.empty(0, "u8"), *keys]), np.concatenate([np.empty((0, 2), "u4"), *places]), sources
    )
    history += [
        f"where {text}: {one} -> {other}" for text, one, other in zip(where, passed[:-1], passed[1:], strict=True)
    ]
    return selection.concatenate(tables), tuple(dict.fromkeys(history))


def _reported(own: Own, part: Scan, before: int, skip: bool, progress: Progress) -> int:
    for line, reason in part.bad:
        said = f"{own.place(before + line)}: {reason}"
        if not skip:
            raise DataError(f"{said}. Repair or delete that line, or leave such lines out with --skip-bad.")
        progress.say(f"skipped: {said}")
    return len(part.bad)


def _refuse_repeats(keys: npt.NDArray[Any], places: npt.NDArray[Any], sources: Sequence[Own]) -> None:
    """Raise DataError where two lines are the same episode; digests only say where to look."""
    order = np.argsort(keys, kind="stable")
    for at in np.flatnonzero(keys[order[1:]] == keys[order[:-1]]).tolist():
        one, other = (places[order[place]].tolist() for place in (at, at + 1))
        first, second = (parse_trajectory(_line(sources[source].file, line)) for source, line in (one, other))
        if selection.identity(first) == selection.identity(second):
            raise DataError(
                f"the episode {first.key}{f' of {first.model}' if first.model else ''} is there twice: "
                f"{sources[one[0]].place(one[1])}, and {sources[other[0]].place(other[1])}. Delete one; "
                "fireact doctor --fix does so within one file."
            )


def _line(path: Path, number: int) -> bytes:
    return next(raw for at, raw in jsonl.numbered(path) if at == number)


def _chosen(table: Table, config: MixConfig, history: tuple[str, ...]) -> tuple[Table, tuple[str, ...]]:
    """What is taken of the rows, in its final order. Raises ConfigError when there is not enough, or nothing."""
    if config.best_of:
        kept = table[selection.best(table, config.best_of)]
        history = (*history, f"best {config.best_of} of each question: {len(table)} -> {len(kept)}")
        table = kept
    if not len(table):
        raise ConfigError(f"nothing is left to train on ({'; '.join(history)}). Loosen --where.")
    index, what = _drawn(table, config, history)
    if what:
        history = (*history, f"{what}, seed {config.seed}: {len(table)} -> {len(index)}")
        table = table[index]
    if not len(table):
        raise ConfigError(f"nothing is left to train on ({'; '.join(history)}). Ask for other proportions.")
    if config.weigh_bad != 1:
        steps, found = int(table.rows["bad"].sum()), int((table.rows["bad"] > 0).sum())
        history = (*history, f"bad steps weigh {config.weigh_bad:g}: {steps} steps of {found} trajectories")
    return table[selection.shuffled(table, config.seed)], history


def _drawn(table: Table, config: MixConfig, history: tuple[str, ...]) -> tuple[Index, str]:
    """The rows that the sizes, weights or balance ask for, and these in words; no words where all are taken."""
    by = config.balance or "group"
    there = {name: len(found) for name, found in table.members(by).items()}
    weights = config.take or config.weights or (dict.fromkeys(there, 1.0) if config.balance else {})
    if not weights:
        if config.n is None:
            return np.arange(len(table)), ""
        if config.n > len(table):
            raise ConfigError(f"{selection.shortfall(config.n, len(table))} ({'; '.join(history)}).")
        return selection.sample(table, np.arange(len(table)), config.n, config.seed), f"take {config.n}"
    selection.refuse_absent(weights, there)
    exact = config.take and config.n is None
    wanted = dict(config.take) if exact else selection.shares(weights, there, config.n)
    index = selection.draw(table, wanted, by=by, seed=config.seed, history=history)
    words = f"balance {config.balance}" if config.balance else "take"
    return index, f"{words} {', '.join(f'{name} {count}' for name, count in wanted.items())}"


def _copy(path: Path, table: Table, files: Sequence[Path], config: MixConfig, fixed: Counter[str]) -> None:
    """Write the lines of the rows in their order; what known damage was repaired is counted in ``fixed``."""
    with jsonl.replacing(path) as out:
        for line in _copied(table, files, config, fixed):
            out.write(line + b"\n")


def _copied(table: Table, files: Sequence[Path], config: MixConfig, fixed: Counter[str]) -> Iterator[bytes]:
    opened = [os.open(file, os.O_RDONLY) for file in files]
    try:
        columns = (table.rows[name] for name in ("source", "offset", "length", "bad", "damaged"))
        for row in zip(*columns, strict=True):
            source, offset, length, bad, damaged = map(int, row)
            line = os.pread(opened[source], length, offset)
            if damaged or (bad and config.weigh_bad != 1):
                one = parse_trajectory(line)
                fixed.update(reparable(one))
                whole = repaired(one) if config.weigh_bad == 1 else weighed(repaired(one), config.weigh_bad)
                line = jsonl.dumps(whole.to_dict()).encode()
            yield line
    finally:
        for number in opened:
            os.close(number)


def _stamp(path: Path) -> tuple[int, int] | None:
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else None


def _counts(table: Table) -> dict[str, dict[str, int]]:
    """By "task/method": how many there are, how many finished and how many are right, as ``collect`` counts them."""
    return {
        name: {
            "n": len(at),
            "finished": int(table.rows["finished"][at].sum()),
            "correct": int(table.rows["em"][at].sum()),
        }
        for name, at in table.members("group").items()
    }
