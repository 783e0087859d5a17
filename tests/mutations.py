"""Reads mutated real files with every reader of the package, and reports tracebacks and hangs.

    python tests/mutations.py [--count 10000] [--reader NAME ...] [--seed 0]

A reader is a format of files, a file of a run directory, or a dialect of the wire. Its samples are the files of
``tests`` and, where they are there, the first rows of the real data beside the repository (or in FIREACT_DATA). Each
mutation changes values at any depth, or bytes; some are packed or in UTF-16, and cut or damaged after that. A reader
may refuse a file with an error of the package, and nothing else; it may not take more than ten seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import random
import signal
import sys
import tempfile
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from fireact.base.run_directory import read_config, read_manifest, read_trajectories
from fireact.errors import FireactError
from fireact.formats.read import find_reader, read_any
from fireact.formats.source import open_source_file
from fireact.wire.dialects import DIALECTS
from fireact.wire.sse import read_stream

HERE = Path(__file__).parent
DATA = Path(os.environ.get("FIREACT_DATA", HERE.parents[1] / "shared" / "data"))
ROWS = 4
"""Rows of a sample: enough to be recognised, and fast to read."""
MAX_SAMPLE = 12_000
"""Longest sample in bytes."""
SECONDS = 10
ODD_VALUES = (None, True, -1, 0.5, float("nan"), 10**400, "", "[", "</think>", "<tool_call>", "\ud83d", [], {}, [None],
              {"a": 1}, [[[[]]]], "a" * 5000, "\n" * 3000)  # fmt: skip
ODD_BYTES = (b"", b"\0", b"\xff\xfe", b"\xf0\x9f", b'"', b"{", b"]", b",", b"\n", b"\r", b"\\u", b"\\ud83d", b"1e999",
             b"null", b"<think>", b"[" * 3000)  # fmt: skip
Read = Callable[[Path], object]


@dataclass(frozen=True)
class Sample:
    """A small real file: its name's ending, its bytes, and its rows where they are JSON."""

    suffix: str
    content: bytes


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--count", type=int, default=10_000)
    options.add_argument("--reader", action="append")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    failures = 0
    for name, (read, samples) in collect_readers().items():
        if given.reader and name not in given.reader:
            continue
        faults = list(find_faults(read, samples, count=given.count, seed=given.seed))
        failures += len(faults)
        print(f"{name}: {len(samples)} samples, {given.count} mutations, {len(faults)} faults", flush=True)
        for text, content in faults[:5]:
            print(f"{text}\n{content[:300]!r}", flush=True)
    return min(failures, 1)


# --- readers and their samples ---


def collect_readers(
    folders: tuple[Path, ...] = (HERE / "samples", HERE / "old_runs", DATA),
) -> dict[str, tuple[Read, list[Sample]]]:
    """Every reader by name, with its samples."""
    by_format = defaultdict[str, list[Sample]](list)
    for path in _list_files(folders):
        sample = _take_sample(path)
        if sample is not None and (format_name := _find_format(sample)) is not None:
            by_format[format_name].append(sample)
    readers: dict[str, tuple[Read, list[Sample]]] = {
        name: (_make_format_reader(name), samples) for name, samples in sorted(by_format.items())
    }
    for name, read in (
        ("manifest.json", lambda path: read_manifest(path.parent)),
        ("config.toml", lambda path: read_config(path.parent)),
        ("trajectories.jsonl", lambda path: list(read_trajectories(path.parent))),
    ):
        samples = [sample for path in sorted(HERE.rglob(f"old_runs/**/{name}")) if (sample := _take_sample(path))]
        if samples:
            readers[f"run: {name}"] = read, samples
    calls = [sample for path in sorted(HERE.rglob("old_runs/**/calls.jsonl")) if (sample := _take_sample(path))]
    for dialect in DIALECTS.values():
        readers[f"wire: {dialect.name}"] = _make_dialect_reader(dialect), calls
    return readers


def _list_files(folders: tuple[Path, ...]) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".jsonl", ".txt", ".csv"))


def _take_sample(path: Path) -> Sample | None:
    """The first rows of a file; None where it is not text, or they are too long."""
    content = path.read_bytes()[:40_000_000]
    if path.suffix == ".jsonl":
        content = b"\n".join(content.splitlines()[:ROWS]) + b"\n"
    elif len(content) > MAX_SAMPLE:
        with contextlib.suppress(ValueError):
            value = json.loads(content)
            content = json.dumps(value[:ROWS] if isinstance(value, list) else value).encode()
    return Sample(path.suffix, content) if content and len(content) <= MAX_SAMPLE else None


def _find_format(sample: Sample) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"sample{sample.suffix}"
        path.write_bytes(sample.content)
        with contextlib.suppress(FireactError):
            return str(find_reader(open_source_file(path)).name)
    return None


def _make_format_reader(name: str) -> Read:
    def read(path: Path) -> None:
        for options in ({"skip": True}, {}):
            with contextlib.suppress(FireactError):
                for trajectory in read_any(path, name, **options):
                    json.dumps(trajectory.to_dict(), ensure_ascii=False, allow_nan=False).encode()
        for _ in read_any(path):  # by what the file looks like now
            pass

    return read


def _make_dialect_reader(dialect: Any) -> Read:
    def read(path: Path) -> None:
        for line in path.read_bytes().splitlines():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                read_stream(dialect, line.decode("utf-8", "replace"))
                continue
            call = value if isinstance(value, Mapping) else {}
            for body in (value, call.get("request"), call.get("reply")):
                request = dialect.read_request(body)
                dialect.write_request(request)
                reply = dialect.read_reply(body)
                if reply.answered:
                    dialect.write_reply(reply, model="m")
                read_stream(dialect, body if isinstance(body, str) else f"data: {json.dumps(body)}\n\n")

    return read


# --- mutations ---


def find_faults(read: Read, samples: list[Sample], *, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """What a reader does wrong with mutations of its samples: the traceback or the time, and the bytes."""
    chance = random.Random(seed)
    signal.signal(signal.SIGALRM, _raise_timeout)
    with tempfile.TemporaryDirectory() as folder:
        for sample in islice(iter(lambda: chance.choice(samples), None), count):
            content = mutate(sample, chance)
            path = Path(folder) / _file_name(read, sample)
            path.write_bytes(content)
            signal.alarm(SECONDS)
            try:
                read(path)
            except FireactError:
                pass
            except BaseException:
                if sys.exc_info()[0] is KeyboardInterrupt:
                    raise
                yield traceback.format_exc(limit=-4), content
            finally:
                signal.alarm(0)


def _file_name(read: Read, sample: Sample) -> str:
    return {".toml": "config.toml"}.get(
        sample.suffix, "manifest.json" if sample.suffix == ".json" else ""
    ) or f"trajectories{sample.suffix}"


def _raise_timeout(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def mutate(sample: Sample, chance: random.Random) -> bytes:
    """A sample with values changed at any depth, or with bytes changed, or packed and cut."""
    if chance.random() < 0.05:
        return _damage_packed(sample.content, chance)
    if sample.suffix in (".json", ".jsonl") and chance.random() < 0.6:
        lines = sample.content.splitlines() if sample.suffix == ".jsonl" else [sample.content]
        with contextlib.suppress(ValueError, RecursionError):
            rate = chance.choice((0.005, 0.02, 0.1))
            mutated = [json.dumps(_mutate_value(json.loads(line), chance, rate)) for line in lines]
            return "\n".join(mutated).encode()
    content = bytearray(sample.content)
    for _ in range(chance.choice((1, 1, 3, 10))):
        start = chance.randrange(len(content) + 1)
        end = start + chance.choice((0, 0, 1, 1, 2, 30, 500))
        kind = chance.random()
        content[start:end] = (
            chance.choice(ODD_BYTES) if kind < 0.6 else bytes(content[end : 2 * end - start]) if kind < 0.8 else
            bytes([chance.randrange(256)])
        )  # fmt: skip
    return bytes(content[: chance.randrange(len(content) + 1)] if chance.random() < 0.1 else content)


def _damage_packed(content: bytes, chance: random.Random) -> bytes:
    """The bytes as gzip, zstandard or UTF-16, cut or with a byte changed."""
    import pyarrow

    text = content.decode("utf-8", "replace")
    packed = chance.choice((
        gzip.compress, lambda content: pyarrow.compress(content, codec="zstd", asbytes=True),
        lambda content: text.encode("utf-16"),
    ))(content)  # fmt: skip
    position = chance.randrange(16, max(17, len(packed)))
    return packed[:position] if chance.random() < 0.5 else packed[:position] + b"\xff" + packed[position + 1 :]


def _mutate_value(value: Any, chance: random.Random, rate: float) -> Any:
    if chance.random() < rate:
        return chance.choice(ODD_VALUES)
    if isinstance(value, dict):
        return {key: _mutate_value(item, chance, rate) for key, item in value.items() if chance.random() > rate / 2}
    if isinstance(value, list):
        items = [_mutate_value(item, chance, rate) for item in value]
        return items * 2 if chance.random() < rate / 4 else items
    if isinstance(value, str) and value and chance.random() < rate:
        cut = chance.randrange(len(value))
        return value[:cut] + str(chance.choice(ODD_VALUES)) + value[cut:]
    return value


if __name__ == "__main__":
    sys.exit(main())
