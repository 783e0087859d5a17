"""Names that stand in a directory, and run code or get a key: taken only where this user set them.

Such are ``mcp:COMMAND``, ``module:attribute`` and an endpoint at a host that has no variable of its own for keys. Every
text with a colon counts as ``module:attribute`` unless its head is the name of a plug-in, because ``names`` imports
what is not one. The names that a user gives to a run are noted in the user's cache, each with the settings of the run,
so a directory that somebody else made has none there. Invariant: opening a directory imports, starts and sends nothing
before ``refuse_foreign_names`` has returned.
"""

from __future__ import annotations

import functools
import hashlib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fireact.base.keys import is_known_host
from fireact.base.machine import cache_directory
from fireact.base.names import split_urls
from fireact.errors import DataError

NOTES = "own-names"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_FILE = re.compile(r"\.(?:jsonl?|csv|parquet|toml)\Z", re.IGNORECASE)
_QUERY = re.compile(r"(?<=://)[^\s@/]{1,500}@|\?\S{0,2000}")
"""What may hold a key in an address, which no message shows."""
_FILE_FIELDS = frozenset({"data", "task", "tasks", "sources", "from", "take", "weights", "against", "questions_of"})
"""Settings that name a file, with columns after its colon. In all others a file is a module to be imported."""
_LABEL_FIELDS = frozenset(
    {"title", "asks", "notes", "source", "given", "label", "name", "baseline", "choice", "chooser", "paper", "plots",
     "exclude", "prices", "rates", "right"}
)  # fmt: skip
"""Settings of a study's own file that hold words and names of cells, and are never looked up."""
_MAX_SHOWN = 5


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
        shown_names = ", ".join(repr(_QUERY.sub("", name)) for name in foreign[:_MAX_SHOWN])
        raise DataError(
            f"{directory} names {shown_names}, which would run code or get a key, and "
            "you did not set it there. If you trust it, "
            + (advice or "give the command that made the run again, with its options and this -o.")
        )


def find_foreign_names(settings: Any) -> list[str]:
    """The names in settings, at any depth, that run code of others or send a key to a host of others."""
    names = (name for name, may_be_file in _iterate_names(settings, "") if _is_foreign(name, may_be_file=may_be_file))
    return list(dict.fromkeys(names))


def _iterate_names(value: Any, field: str) -> Iterator[tuple[str, bool]]:
    """Every text of a setting, and whether it may name a file; the settings of a study's own file are among them."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _iterate_parts(str(key), field)
            yield from _iterate_names(item, str(key))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _iterate_names(item, field)
    elif isinstance(value, str):
        yield from _iterate_parts(value, field)
        if field == "study":
            yield from _iterate_names(_drop_labels(_read_toml(Path(value))), "")


def _iterate_parts(text: str, field: str) -> Iterator[tuple[str, bool]]:
    """A text; beside it both halves of ``task/method``, of which the first may be a file."""
    if field in _FILE_FIELDS:
        yield text, True
        return
    if field == "replicas":  # base URLs of a model
        yield f"openai:@{text}", False
        return
    task, separator, method = text.rpartition("/")
    if field != "plan":
        yield text, False
    if separator and "://" not in text:
        yield task, field == "plan"
        yield method, False


def _is_foreign(name: str, *, may_be_file: bool) -> bool:
    kind, separator, argument = name.partition(":")
    if not separator:
        return False
    if kind == "noise":
        return _is_foreign(argument.partition(":")[2], may_be_file=False)
    if kind == "mcp":
        return True
    _, at, text = name.partition("@")
    urls = split_urls(text) if at else []
    if urls and urlsplit(urls[0]).scheme in ("http", "https"):
        return not all(map(is_known_host, urls))
    if kind in _built_in_names() or _ADDRESS.match(name) or "/" in kind or "\\" in kind:  # a module has no slash
        return False
    return not (may_be_file and _FILE.search(kind)) and kind not in _installed_names()


def _read_toml(file: Path) -> dict[str, Any]:
    """The settings in a file; none where it cannot be read, which the verb reports."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError):
        return {}


def _drop_labels(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _drop_labels(item) for key, item in value.items() if key not in _LABEL_FIELDS}
    return [_drop_labels(item) for item in value] if isinstance(value, list) else value


@functools.cache
def _built_in_names() -> frozenset[str]:
    return _name_plugins(distribution("fireact").entry_points)


@functools.cache
def _installed_names() -> frozenset[str]:
    """The names of the plug-ins of all packages; reading them takes tens of milliseconds."""
    return _name_plugins(point for installed in distributions() for point in installed.entry_points)


def _name_plugins(points: Iterable[EntryPoint]) -> frozenset[str]:
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
