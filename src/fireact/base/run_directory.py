"""Run directories: ``config.toml`` first, ``*.jsonl`` as work is done, ``manifest.json`` last.

Invariant: a directory with a manifest is complete; one without can be resumed from the settings in its config. A
directory made with other settings is refused, and overwritten only with ``force``. One process at a time writes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_type_hints

import filelock
import tomli_w

from fireact.base import jsonl
from fireact.base.field_types import check_field_types
from fireact.base.foreign_names import note_own_names
from fireact.base.redact import excerpt, redact
from fireact.base.settings import check_type, fill_defaults, nested_settings, read_settings
from fireact.errors import BusyError, ConfigError, DataError, DiskError, FormatError, missing_path_error
from fireact.types import Trajectory

CONFIG, MANIFEST, TRAJECTORIES = "config.toml", "manifest.json", "trajectories.jsonl"
LOCK, CLOCK = ".lock", ".seconds"
_VERSIONED = ("fireact", "torch", "transformers", "trl", "peft", "bm25s", "countryinfo")


class RunDir:
    """A run directory held by this process; use it in a ``with`` statement.

    ``settings`` is a settings dataclass, or plain values. A directory that was made before a setting existed counts as
    made with its default.
    Raises DataError when the directory was made with other settings, BusyError when another process holds it. Settings
    named in ``neutral`` do not change the result (the number of workers, say), so a run may be resumed with other
    values of them. ``force`` deletes what the same verb made before, but never a path that the settings name as input.
    """

    def __init__(
        self, path: Path, *, verb: str, settings: Any, force: bool = False, neutral: Sequence[str] = ()
    ) -> None:
        self.path = path
        self.settings_class = type(settings) if is_dataclass(settings) else None
        values = asdict(settings) if self.settings_class is not None else settings
        self.config = {"verb": verb, **to_toml_table(values)}
        self.force = force
        self.neutral = tuple(neutral)
        self._lock = filelock.FileLock(path / LOCK, timeout=0)
        self._started = time.perf_counter()

    def __enter__(self) -> RunDir:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except filelock.Timeout as error:
            raise BusyError(f"{self.path} is being written by another process. Wait for it or stop it.") from error
        except OSError as error:
            raise DataError(f"cannot write to {self.path}: {error.strerror or error}. Choose another -o.") from error
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if not self.complete:
            with suppress(DiskError):  # the clock alone is no reason to hide an error, nor to fail
                jsonl.replace_text(self.path / CLOCK, f"{self.seconds:.3f}\n")
        self._lock.release()

    @property
    def seconds(self) -> float:
        """Wall time spent on this directory, earlier interrupted runs included (but not one that was killed)."""
        earlier = 0.0
        with suppress(OSError, ValueError):  # absent, or torn by a full disk: that time is lost, the run is not
            earlier = float((self.path / CLOCK).read_text())
        return earlier + time.perf_counter() - self._started

    def _open(self) -> None:
        made_by = _verb_of(self.path)
        if self._has_begun and made_by not in (None, self.config["verb"]):
            raise DataError(f"{self.path} is a run of 'fireact {made_by}'. Choose another -o.")
        if self.force:
            _refuse_to_delete_inputs(self.path, self.config)
            empty_run_directory(self.path)
        if not self._has_begun:
            jsonl.replace_text(self.path / CONFIG, tomli_w.dumps(self.config))
        elif (self.path / CONFIG).exists():
            stored = read_config(self.path)
            filled = (
                stored if self.settings_class is None else to_toml_table(fill_defaults(self.settings_class, stored))
            )
            _refuse_other_settings(self.path, filled, self.config, self.neutral)
        else:
            raise DataError(f"{self.path} is not empty and is no run directory. Choose another -o.")
        if self.settings_class is not None:  # plain values come from a directory, these from the user
            note_own_names(self.path, self.config)

    @property
    def _has_begun(self) -> bool:
        """Whether the run wrote anything. The settings of a run that was refused before that do not count."""
        return any(entry.name not in (CONFIG, LOCK, CLOCK) for entry in self.path.iterdir())

    @property
    def complete(self) -> bool:
        return (self.path / MANIFEST).exists()

    @property
    def manifest(self) -> dict[str, Any]:
        return read_manifest(self.path)

    def finish(self, *, versions: Any = None, **facts: Any) -> dict[str, Any]:
        """Write the manifest: the facts of the run, the package versions, and the hashes of its JSONL files.

        The versions are those of this process, unless the work was done elsewhere and its ``versions`` are given.
        """
        hashes = {file.name: file_hash(file) for file in sorted(self.path.glob("*.jsonl"))}
        manifest = {
            "verb": self.config["verb"],
            "seconds": round(self.seconds, 3),
            **facts,
            "sha256": hashes,
            "versions": package_versions() if versions is None else dict(versions),
        }
        note_own_names(self.path, [facts.get("agent"), facts.get("renderer")])
        jsonl.replace_text(self.path / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
        return manifest


def wait_until_free(path: Path) -> None:
    """Block until no other process writes a run directory."""
    with filelock.FileLock(path / LOCK, poll_interval=0.5):
        pass


def absolute_path(path: str | Path) -> str:
    """A path as settings hold it: absolute, so that a run can be resumed from any working directory."""
    return str(Path(path).absolute())


def absolute_if_path(text: str) -> str:
    """The absolute path of a file or directory that exists; any other text, such as a model's name, as it is."""
    return absolute_path(text) if Path(text).exists() else text


def relative_path(path: str | Path) -> str:
    """A path for people to read: relative where it is below the working directory."""
    full_path = Path(path).absolute()
    return str(full_path.relative_to(Path.cwd())) if full_path.is_relative_to(Path.cwd()) else str(full_path)


def shell_path(path: str | Path) -> str:
    """``relative_path`` as one types it in a shell, quoted where it needs to be."""
    return shlex.quote(relative_path(path))


def to_toml_table(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as TOML holds them: no None, tuples as lists, paths as text."""
    return {key: _to_toml_value(value) for key, value in settings.items() if value is not None}


def _to_toml_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return to_toml_table(value)
    if isinstance(value, list | tuple):
        return [_to_toml_value(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def empty_run_directory(path: Path) -> None:
    """Delete all that a run wrote in its directory. Raises DataError for a directory that is not a run's."""
    entries = [entry for entry in path.iterdir() if entry.name != LOCK]
    if entries and not (path / CONFIG).exists():
        raise DataError(f"{path} is no run directory; --force does not delete it. Choose another -o.")
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def read_config(path: Path) -> dict[str, Any]:
    """The settings of a run directory. Raises DataError when there are none or they cannot be read."""
    try:
        return tomllib.loads((path / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if not path.exists():
            raise missing_path_error(path) from error
        raise DataError(f"{path} is no run directory: it has no {CONFIG}.") from error
    except NotADirectoryError as error:
        raise DataError(f"{path} is a file. Give the directory of a run.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path / CONFIG}: {error}. Repair it, or make the run anew.") from error


def build_settings(config_class: type[Any], settings: Mapping[str, Any], out: Path) -> Any:
    """The settings dataclass from the values that its TOML file holds. Raises DataError for unknown or absent ones."""
    hints = get_type_hints(config_class)
    unknown = set(settings) - {field.name for field in fields(config_class)}
    if unknown:
        raise DataError(
            f"{out / 'config.toml'} has settings that this version does not know: {', '.join(sorted(unknown))}."
        )
    values = {
        name: build_settings(nested_class, value, out)
        if isinstance(value, Mapping) and (nested_class := nested_settings(hints[name]))
        else value
        for name, value in settings.items()
    }
    absent = [entry for entry in read_settings(config_class) if entry.name not in values]
    required_names = [entry.name for entry in absent if entry.default is MISSING]
    if required_names:
        names = ", ".join(required_names)
        raise DataError(f"{out / CONFIG} lacks the setting {names}. Repair it, or make the run anew.")
    earlier = {entry.name: entry.stored_default for entry in absent if entry.stored_default is not entry.default}
    return config_class(**values, **earlier)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a complete run directory. Raises DataError when the run is not complete."""
    try:
        manifest = jsonl.loads((path / MANIFEST).read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is not complete: it has no {MANIFEST}. Run: fireact resume {shell_path(path)}"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path / MANIFEST}: {error}.") from error
    if not isinstance(manifest, dict):
        raise DataError(f"{path / MANIFEST} does not hold a JSON object.")
    for name in manifest.keys() & _FACT_TYPES.keys():
        try:
            check_type(manifest[name], _FACT_TYPES[name], name)
        except ConfigError as error:
            raise DataError(f"{path / MANIFEST}: {error} Repair it, or make the run anew.") from error
    return manifest


_FACT_TYPES: Mapping[str, Any] = {
    "verb": str, "seconds": float, "training_seconds": float | None, "tokens_per_second": float | None,
    "peak_memory_gb": float | None, "cost_usd": float | None, "usage": Mapping[str, float | None] | None,
    "counts": Mapping[str, Mapping[str, float | None]], "results": Mapping[str, Mapping[str, Any]],
    "limits": Mapping[str, Mapping[str, Any]], "sha256": Mapping[str, str], "versions": Mapping[str, str | None],
    "history": Sequence[str], "endings": Sequence[str], "unrecorded": Mapping[str, Any], "description": str | None,
    "repairs": float | None, "tuned": bool | None, "teacher": str | None, "agent": str | None,
}  # fmt: skip
"""What the facts of a manifest are, of whatever verb; readers need not check them again."""


def read_fact(path: Path, name: str) -> str:
    """A text in the manifest of a complete run directory. Raises DataError where it is absent."""
    value = read_manifest(path).get(name)
    if not isinstance(value, str):
        raise DataError(f"{path / MANIFEST} has {value!r} as its {name!r}; it must be a text. Make the run anew.")
    return value


def read_trajectories(path: str | os.PathLike[str]) -> Iterator[Trajectory]:
    """The trajectories of a run directory or a JSONL file. Raises DataError with the number of a bad line."""
    file = trajectory_file(Path(path))
    for number, line in jsonl.read_numbered_lines(file):
        try:
            yield parse_trajectory(line)
        except FormatError as error:
            raise DataError(f"{file}, line {number}: {error}. Repair or delete that line.") from error


def trajectory_file(path: Path) -> Path:
    """The JSONL file behind a path: the one in a run directory, or the path itself."""
    return path / TRAJECTORIES if path.is_dir() else path


def parse_trajectory(line: bytes) -> Trajectory:
    """The trajectory in one line of a JSONL file. Raises FormatError for any line that holds none."""
    try:
        value = jsonl.loads(line)
    except ValueError as error:
        raise FormatError(f"not JSON ({error}); it reads {excerpt(line, 60)!r}") from error
    if not isinstance(value, dict):
        raise FormatError(f"expected a JSON object, found {type(value).__name__}")
    try:
        return read_trajectory(value)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FormatError(f"not a trajectory ({redact(repr(error))})") from error


def read_trajectory(value: Mapping[str, Any]) -> Trajectory:
    """The trajectory in parsed JSON. Raises KeyError, TypeError or ValueError where a field is missing or wrong."""
    trajectory = Trajectory.from_dict(value)
    check_field_types(trajectory)
    return trajectory


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def package_versions() -> dict[str, str]:
    """The versions of the packages that a result depends on; packages that are not installed are left out."""
    versions_by_package = {"python": platform.python_version()}
    for package in _VERSIONED:
        try:
            versions_by_package[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions_by_package


def _refuse_other_settings(
    path: Path, stored_settings: Mapping[str, Any], new_settings: Mapping[str, Any], neutral: Sequence[str]
) -> None:
    if differing := find_differences(stored_settings, new_settings, ignored=neutral):
        differences = "; ".join(f"{key}: {stored!r} there, {new!r} now" for key, (stored, new) in differing.items())
        raise DataError(
            f"{path} was made with other settings ({differences}). Choose another -o, or --force to start it anew."
        )


def find_differences(
    first: Mapping[str, Any], second: Mapping[str, Any], *, ignored: Sequence[str] = ()
) -> dict[str, tuple[Any, Any]]:
    """Both values, by dotted name, of what differs between two tables of settings or facts."""
    first_values, second_values = _flatten_settings(first), _flatten_settings(second)
    return {
        key: (first_values.get(key), second_values.get(key))
        for key in sorted({*first_values, *second_values})
        if first_values.get(key) != second_values.get(key) and key not in ignored
    }


def _verb_of(path: Path) -> str | None:
    """The verb that made a run directory; None where there is no run or its settings cannot be read."""
    try:
        verb = read_config(path).get("verb")
    except DataError:  # the comparison of settings reports it; --force may start anew
        return None
    return None if verb is None else str(verb)


def _refuse_to_delete_inputs(path: Path, settings: Mapping[str, Any]) -> None:
    """Raise DataError where a setting names the directory itself or a path in it: ``force`` would delete an input."""
    values = [
        item
        for value in _flatten_settings(settings).values()
        for item in (value if isinstance(value, list) else [value])
    ]
    for value in values:
        if isinstance(value, str) and Path(value).resolve().is_relative_to(path.resolve()) and Path(value).exists():
            raise DataError(f"--force would delete {relative_path(value)} before it is read. Choose another -o.")


def _flatten_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flatten_settings(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
