"""The error tree. Each message says what was wrong, the value seen, what is allowed and what to do.

FireactError
├── ConfigError     a name, option or setting that cannot be used (the command line exits with 2)
├── ProviderError   an LM endpoint, a web service, a tool server, a package index or a weight file failed
│   └── PromptError      a model or its provider refuses one prompt: too long, flagged, filtered
│       └── ContextError a prompt is longer than the model's context
├── BudgetError     the next call would pass the budget; the run stops and can be resumed
├── ToolError       a tool cannot do what the agent asked; the agent reads the message as its observation
├── FormatError     text that is not in the format it claims to be in
└── DataError       a file that cannot be read, is torn, or does not fit its run directory (exits with 2)
    ├── BusyError      a run directory that another process is writing
    └── DiskError      a file of ours cannot be written: the disk is full, or refuses it
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

_NEAR = 0.65
"""How alike two names are, from 0 to 1, where one may be meant for the other."""


class FireactError(Exception):
    """Everything that FireAct raises on purpose."""


class ConfigError(FireactError):
    """A name, option or setting that cannot be used."""


class ProviderError(FireactError):
    """An LM endpoint, a web service, a tool server, a package index or a weight file failed."""


class PromptError(ProviderError):
    """A model or its provider refuses one prompt: it is too long, flagged or filtered. Other prompts may pass."""


class ContextError(PromptError):
    """A prompt is longer than the model's context."""


class BudgetError(FireactError):
    """The next call would pass the budget; the run stops and can be resumed."""


class ToolError(FireactError):
    """A tool cannot do what the agent asked; the agent reads the message as its observation."""


class FormatError(FireactError):
    """Text that is not in the format it claims to be in."""


class DataError(FireactError):
    """A file that cannot be read, is torn, or does not fit its run directory."""


class BusyError(DataError):
    """A run directory that another process is writing."""


class DiskError(DataError):
    """A file of ours cannot be written: the disk is full, or refuses it. No work that must be kept may go on."""


def is_near(name: str, known_name: str) -> bool:
    """Whether a name is so like a known one that it may be meant."""
    return bool(difflib.get_close_matches(name, [known_name], cutoff=_NEAR))


def describe_unknown_name(kind: str, name: object, known_names: Iterable[str], *, note: str = "") -> str:
    """The one sentence for a name that is not known: lists the known ones and says which is closest."""
    names = sorted(known_names)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=_NEAR)
    hints = "".join(f" {hint}" for hint in (f"Did you mean {close[0]!r}?" if close else "", note) if hint)
    return f"unknown {kind} {name!r}.{hints} Known: {', '.join(names) or 'none'}."


def unknown_name_error(kind: str, name: object, known_names: Iterable[str], *, note: str = "") -> ConfigError:
    """A ConfigError for a name that is not known."""
    return ConfigError(describe_unknown_name(kind, name, known_names, note=note))


def missing_path_error(path: object, why: str = "") -> DataError:
    """A DataError for a path that does not exist or cannot be read; for a default path, it names the command."""
    if why and why != "No such file or directory":
        return DataError(f"cannot read {path}: {why}. Check the path and its permissions.")
    path = str(path).removeprefix(f"{Path.cwd()}/")
    default = re.fullmatch(r"runs/(quickstart|collect|record|mix|train|prefer|tune|improve|export|eval|report)", path)
    advice = f"Make it with 'fireact {default[1]}', or give another" if default else "Give the path of a file or run"
    return DataError(f"there is no {path}. {advice}.")


def missing_extra_error(package: str, extra: str) -> ConfigError:
    """A ConfigError for a package that an extra brings, with the exact install command."""
    return ConfigError(f"{package} is not installed; this needs it. Run: pip install 'fireact[{extra}]'")


def unwritable_file_error(path: object, error: OSError) -> DiskError:
    """A DiskError for a file that cannot be written, with the reason and what to do."""
    return DiskError(
        f"cannot write {path}: {error.strerror or error}. Make room or change its permissions, and run again: "
        "what is finished is kept."
    )
