"""Names that stand in a directory, and run code or get a key: taken only where this user set them.

Such are ``mcp:COMMAND``, ``module:attribute`` and an endpoint at a host that has no variable of its own for keys. The
names that a user gives to a run are noted in the user's cache, each with the settings of the run, so a directory that
somebody else made has none there. Invariant: opening a directory imports, starts and sends nothing before
``refuse_foreign_names`` has returned.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator
from importlib.metadata import distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fireact.base.keys import is_known_host
from fireact.base.machine import cache_directory
from fireact.base.redact import iterate_strings
from fireact.errors import DataError

NOTES = "own-names"
_IMPORT = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*:[A-Za-z_]\w*(?:\.\w+)*")
_FILE = re.compile(r"\.(?:jsonl?|csv|parquet|toml)\Z")


def note_own_names(directory: Path, settings: Any) -> None:
    """Note the names in settings that a user gave to the run of this directory."""
    notes = [_hash_name(directory, name) for name in find_foreign_names(settings)]
    file = cache_directory() / NOTES
    unwritten = sorted(set(notes) - _read_notes(file)) if notes else []
    if unwritten:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as stream:
                stream.write("".join(f"{note}\n" for note in unwritten))
        except OSError:
            return  # then the names are refused when the directory is opened, and the refusal says what to do


def refuse_foreign_names(directory: Path, settings: Any, *, advice: str = "") -> None:
    """Raise DataError where settings of a directory hold a name that runs code, or gets a key, and is not noted."""
    foreign = find_foreign_names(settings)
    notes = _read_notes(cache_directory() / NOTES) if foreign else set()
    foreign = [name for name in foreign if _hash_name(directory, name) not in notes]
    if foreign:
        raise DataError(
            f"{directory} names {', '.join(map(repr, foreign))}, which would run code or get a key, and you did not "
            "set it there. If you trust it, "
            + (advice or "give the command that made the run again, with its options and this -o.")
        )


def find_foreign_names(settings: Any) -> list[str]:
    """The names in settings, at any depth, that run code of others or send a key to a host of others."""
    return list(dict.fromkeys(filter(_is_foreign, _iterate_names(settings))))


def _iterate_names(settings: Any) -> Iterator[str]:
    """Every text, and both halves of ``task/method``."""
    for text in iterate_strings(settings):
        yield text
        task, separator, method = text.rpartition("/")
        if separator and "://" not in text:
            yield from (task, method)


def _is_foreign(name: str) -> bool:
    kind, separator, argument = name.partition(":")
    if not separator:
        return False
    if kind == "noise":
        return _is_foreign(argument.partition(":")[2])
    if kind == "mcp":
        return True
    _, at, url = name.partition("@")
    if at and urlsplit(url).scheme in ("http", "https"):
        return not is_known_host(url)
    is_import = _IMPORT.fullmatch(name) is not None and _FILE.search(kind) is None
    return is_import and kind not in _built_in_names() and kind not in _installed_names()


@functools.cache
def _built_in_names() -> frozenset[str]:
    return frozenset(point.name for point in distribution("fireact").entry_points)


@functools.cache
def _installed_names() -> frozenset[str]:
    """The names of the plug-ins of all packages; reading them takes tens of milliseconds."""
    points = (point for installed in distributions() for point in installed.entry_points)
    return frozenset(point.name for point in points if point.group.startswith("fireact."))


def _hash_name(directory: Path, name: str) -> str:
    """Identifies a name together with the settings of its run, wherever the directory lies."""
    config = directory / "config.toml"
    content = config.read_bytes() if config.is_file() else b""
    return hashlib.sha256(content + b"\0" + name.encode("utf-8", "replace")).hexdigest()


def _read_notes(file: Path) -> set[str]:
    try:
        return set(file.read_text(encoding="utf-8").split())
    except (OSError, ValueError):
        return set()
