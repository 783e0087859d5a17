"""Question sets in the form of the package ``datasets``: from the hub, or from a folder that ``save_to_disk`` wrote.

Invariant: nothing is imported or fetched before rows are asked for. How a row becomes an Example is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fireact.errors import DataError, ProviderError, missing_extra
from fireact.tasks.rows import Row

INDEX = "dataset_dict.json"


@dataclass(frozen=True, slots=True)
class HubSet:
    """A set on the hub: ``splits`` maps our names of splits to its own; only ``columns`` are read."""

    repository: str
    config: str | None
    splits: Mapping[str, str]
    columns: Sequence[str]


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by ``DatasetDict.save_to_disk``."""
    return (folder / INDEX).is_file()


def saved_splits(folder: Path, of: HubSet) -> list[str]:
    """Our names of the splits that a saved folder holds."""
    try:
        own = json.loads((folder / INDEX).read_text(encoding="utf-8"))["splits"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {folder / INDEX}: {error!r}. Save the data set again.") from error
    return [ours for ours, theirs in of.splits.items() if theirs in own]


def saved_rows(folder: Path, of: HubSet, split: str) -> list[Row]:
    """The rows of a split of a saved folder. Raises DataError where it cannot be read."""
    datasets = _datasets()
    try:
        return _rows(datasets.load_from_disk(str(folder))[of.splits[split]], of)
    except Exception as error:  # the package raises many kinds, its own and pyarrow's
        raise DataError(f"cannot read the data set in {folder}: {error}. Save it again with save_to_disk.") from error


def hub_rows(of: HubSet, split: str, *, task: str) -> list[Row]:
    """The rows of a split from the hub, or its local cache. Raises ProviderError that says how to do without the hub."""
    datasets = _datasets()
    try:
        return _rows(datasets.load_dataset(of.repository, of.config, split=of.splits[split]), of)
    except Exception as error:  # no network, no such set, a broken download: each its own kind
        arguments = ", ".join(repr(part) for part in (of.repository, of.config) if part)
        raise ProviderError(
            f"cannot load {of.repository} from the hub ({type(error).__name__}: {_first_line(error)}). Name a folder that "
            f"holds the questions of {task} ({task}:FOLDER), or set FIREACT_DATA to the folder above it, or save the set "
            f"where there is a network: datasets.load_dataset({arguments}).save_to_disk('FOLDER')."
        ) from error


def _rows(data: Any, of: HubSet) -> list[Row]:
    wanted = [name for name in of.columns if name in data.column_names]
    rows: list[Row] = data.select_columns(wanted).to_list()
    return rows


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise missing_extra("datasets", "hub") from error
    return datasets


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]
