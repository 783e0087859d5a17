"""Reads files of episodes in other people's formats, writes each again, and says what came of it, a row a file.

The released files are written in their own form and compared byte for byte. Run: python
bench/formats.py FOLDER [--json],
FOLDER being any folder of such files; it exits with 1 when a row cannot be read or a released file differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fireact.errors import DataError
from fireact.formats.conversion import convert
from fireact.formats.read import find_reader
from fireact.formats.source import open_source_file


def measure(path: Path, folder: Path) -> dict[str, Any] | None:
    """What came of a file, or None where it is no file of episodes."""
    try:
        name = find_reader(open_source_file(path)).name
    except DataError:
        return None
    own = name in ("alpaca", "gpt")
    started = time.perf_counter()
    report = convert(path, folder / "again", to=name if own else "messages", skip=True, force=True)
    return {
        "file": "/".join(path.parts[-2:]),
        "format": name,
        "episodes": report["trajectories"],
        "unreadable": report["damage"].get("unreadable", {"n": 0})["n"],
        "same_bytes": (folder / "again").read_bytes() == path.read_bytes() if own else None,
        "groups": report["counts"],
        "damage": {kind: found["n"] for kind, found in report["damage"].items()},
        "dropped": report["dropped"],
        "seconds": round(time.perf_counter() - started, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    files = sorted(path for path in options.folder.rglob("*") if path.suffix in (".json", ".jsonl", ".txt"))
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for row in (measure(path, Path(folder)) for path in files) if row]
    for row in rows:
        told = (row["file"], row["format"], row["episodes"], row["unreadable"], row["same_bytes"], row["seconds"])
        print(json.dumps(row) if options.json else " | ".join(map(str, told)))
    released = [row for row in rows if row["file"].startswith(("alpaca_format", "gpt_format"))]
    sys.exit(any(row["unreadable"] for row in rows) or not all(row["same_bytes"] for row in released))


if __name__ == "__main__":
    main()
