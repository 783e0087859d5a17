"""The command ``join``: the shards of a run as one run directory, like the one that a single machine would have made.

Invariant: nothing is joined that is not one run. Shards of other settings or other conditions (tools, limits, agent,
versions), a missing shard, one that is there twice and one that is not complete are refused, and nothing is written.
The joined run has every episode in the order of the run; its ``seconds`` are those of all machines together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fireact.base import jsonl
from fireact.base.foreign_names import note_own_names, refuse_foreign_names
from fireact.base.progress import Progress
from fireact.base.run_directory import (
    TRAJECTORIES,
    RunDir,
    file_hash,
    find_differences,
    read_config,
    read_manifest,
    relative_path,
)
from fireact.base.settings import CheckedSettings, setting
from fireact.base.verbs import VERBS, Command, Verb, load_verb
from fireact.errors import ConfigError, DataError
from fireact.rollout.call_cache import FILE as CALLS
from fireact.rollout.call_cache import merge_call_files
from fireact.rollout.episode_facts import episode_key
from fireact.rollout.shards import Shard

if TYPE_CHECKING:
    from fireact.pipeline.result import Run

_OF_EPISODES = ("seconds", "results", "counts", "repairs", "usage", "sha256", "replayed")
"""Facts of a manifest that depend on which episodes a shard has; all others are conditions, the same in each."""


@dataclass(frozen=True, slots=True)
class JoinConfig(CheckedSettings):
    """Settings of ``join``."""

    runs: Sequence[str] = setting(metavar="RUNS", is_path=True)
    """The directories of all shards, in any order."""
    _: KW_ONLY
    out: str = setting(flags=("-o", "--out"), is_path=True)
    """Run directory to write."""
    force: bool = setting(False)
    """Delete what is in the run directory and join anew."""


@dataclass(frozen=True, slots=True)
class ShardRun:
    """The run directory of one shard, which is complete."""

    path: Path
    shard: Shard
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> ShardRun:
        """Read a directory. Raises DataError where it is no shard, is not complete or was changed since."""
        config = read_config(path)
        if "shard" not in config:
            raise DataError(f"{relative_path(path)} is no shard: it was run without --shard. Leave it out.")
        manifest = read_manifest(path)
        if file_hash(path / TRAJECTORIES) != manifest.get("sha256", {}).get(TRAJECTORIES):
            raise DataError(f"{path / TRAJECTORIES} was changed after its run. Run the shard anew.")
        return cls(path, Shard.parse(str(config["shard"])), config, manifest)

    @property
    def conditions(self) -> dict[str, Any]:
        """The facts of the manifest that every shard must share."""
        return {name: value for name, value in self.manifest.items() if name not in _OF_EPISODES}


def join_runs(config: JoinConfig, *, progress: Progress | None = None) -> Run:
    """Join the shards of a run into ``out``, as if one machine had run it; returns the ``Run``.

    The results of an evaluation are then shown on the agent's model card, where it is a student that is here.

    Raises DataError for shards of unlike conditions, and for a shard that is missing, doubled or not complete.
    """
    from fireact.pipeline.result import Run
    from fireact.terminal.notebook import choose_progress

    out = Path(config.out)
    shards = _read_shards([Path(run) for run in config.runs])
    verb = _find_verb(shards[0])
    _refuse_unlike_shards(shards, verb)
    if any(entry.path.resolve().is_relative_to(out.resolve()) for entry in shards):
        raise ConfigError(f"{out} holds a shard. Choose another -o.")
    settings = {name: value for name, value in shards[0].config.items() if name not in ("verb", "shard")}
    with RunDir(out, verb=verb.name, settings=settings, force=config.force) as run:
        if run.complete:
            raise DataError(f"{relative_path(out)} is a complete run. Choose another -o, or --force to join anew.")
        _write_episodes(shards, run.path / TRAJECTORIES)
        if all((entry.path / CALLS).is_file() for entry in shards):
            merge_call_files([entry.path / CALLS for entry in shards], run.path / CALLS)
        _finish(run, shards, verb)
        if verb.after_join is not None:
            verb.after_join(run.path, progress or choose_progress())
    return Run(out)


def _read_shards(paths: Sequence[Path]) -> list[ShardRun]:
    """The shards in their order. Raises DataError unless they are all shards of one number, each once."""
    if not paths:
        raise ConfigError("join needs the directories of all shards, such as runs/collect-*-of-4.")
    shards = sorted(map(ShardRun.read, paths), key=lambda entry: entry.shard)
    counts = sorted({entry.shard.count for entry in shards})
    if len(counts) > 1:
        shown = ", ".join(f"{relative_path(entry.path)} is {entry.shard}" for entry in shards)
        raise DataError(f"these are shards of different runs: {shown}. Give the shards of one.")
    by_index: dict[int, ShardRun] = {}
    for entry in shards:
        if (earlier := by_index.setdefault(entry.shard.index, entry)) is not entry:
            raise DataError(
                f"shard {entry.shard} is there twice: {relative_path(earlier.path)} and {relative_path(entry.path)}. "
                "Leave one out."
            )
    if missing := [index for index in range(1, counts[0] + 1) if index not in by_index]:
        shown = ", ".join(f"{index}/{counts[0]}" for index in missing[:8]) + (", ..." if len(missing) > 8 else "")
        raise DataError(f"{len(missing)} of {counts[0]} shards are missing: {shown}. Run them, or give them too.")
    return shards


def _find_verb(entry: ShardRun) -> Verb:
    name = str(entry.config.get("verb"))
    verb = load_verb(name) if name in VERBS else None
    if verb is None or verb.join is None:
        raise DataError(f"{relative_path(entry.path)} is a run of {name!r}, which has no shards to join.")
    return verb


def _refuse_unlike_shards(shards: Sequence[ShardRun], verb: Verb) -> None:
    """Raise DataError that names what differs where the shards are not of one run."""
    first = shards[0]
    for entry in shards[1:]:
        differences = {
            **find_differences(first.config, entry.config, ignored=("shard", *verb.neutral)),
            **find_differences(first.conditions, entry.conditions),
        }
        if differences:
            shown = "; ".join(f"{name}: {values[0]!r} and {values[1]!r}" for name, values in differences.items())
            raise DataError(
                f"{relative_path(first.path)} and {relative_path(entry.path)} are not shards of one run: they differ "
                f"in {shown}. Run one of them anew."
            )


def _write_episodes(shards: Sequence[ShardRun], target: Path) -> None:
    """Deal the lines of the shards back into the order of the run, without reading them all into memory."""
    keys: set[str] = set()
    with ExitStack() as stack, jsonl.open_replacement(target) as file:
        streams = [stack.enter_context((entry.path / TRAJECTORIES).open("rb")) for entry in shards]
        for number, line in enumerate(chain.from_iterable(zip_longest(*streams))):
            if line is None:
                continue
            key = episode_key(jsonl.loads(line))
            if key in keys:
                raise DataError(f"{shards[number % len(shards)].path} has the episode {key}, as another shard has.")
            keys.add(key)
            file.write(line)


def _finish(run: RunDir, shards: Sequence[ShardRun], verb: Verb) -> None:
    """Write the manifest of the joined run."""
    assert verb.join is not None  # ``_find_verb`` checks it
    facts = {name: value for name, value in shards[0].conditions.items() if name not in ("verb", "versions")}
    facts |= verb.join([entry.manifest for entry in shards], run.path)
    seconds = sum(float(entry.manifest.get("seconds", 0.0)) for entry in shards)
    run.finish(**{**facts, "seconds": round(seconds, 3)}, versions=shards[0].manifest.get("versions"))
    if all(_is_of_this_user(entry) for entry in shards):
        note_own_names(run.path, run.config)


def _is_of_this_user(entry: ShardRun) -> bool:
    """Whether this user gave the names that run code to a shard; else the joined run names them as foreign too."""
    try:
        refuse_foreign_names(entry.path, entry.config)
    except DataError:
        return False
    return True


JOIN = Command(
    "join", JoinConfig, join_runs, command_line="fireact.cli.runs:join_command",
    details="Shards are made by `--shard I/N` of collect and eval. Shards of other settings, tools or versions are\n"
    "refused, and so are missing and doubled ones.",
    example="`fireact join runs/collect-*-of-16 -o runs/collect`",
)  # fmt: skip
