"""Question sets of the package ``datasets``: from the hub, or from a folder that ``save_to_disk`` wrote.

Invariant: nothing is imported or fetched before rows are read. This module does not know how a row becomes an Example.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fireact.errors import DataError, ProviderError, missing_extra_error
from fireact.tasks.rows import Row

INDEX = "dataset_dict.json"


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A data set on the hub: ``splits`` maps our split names to its own; only ``columns`` are read."""

    repository: str
    config: str | None
    splits: Mapping[str, str]
    columns: Sequence[str]


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by ``DatasetDict.save_to_disk``."""
    return (folder / INDEX).is_file()


def read_saved_splits(folder: Path, hub_set: HubDataset) -> list[str]:
    """The splits of a saved folder, by our names."""
    try:
        saved_names = json.loads((folder / INDEX).read_text(encoding="utf-8"))["splits"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {folder / INDEX}: {error!r}. Save the data set again.") from error
    return [split for split, hub_split in hub_set.splits.items() if hub_split in saved_names]


def read_saved_rows(folder: Path, hub_set: HubDataset, split: str) -> list[Row]:
    """The rows of a split of a saved folder. Raises DataError where it cannot be read."""
    datasets = _import_datasets()
    try:
        return _select_rows(datasets.load_from_disk(str(folder))[hub_set.splits[split]], hub_set)
    except Exception as error:  # the package raises many kinds, its own and pyarrow's
        raise DataError(f"cannot read the data set in {folder}: {error}. Save it again with save_to_disk.") from error


def load_hub_rows(hub_set: HubDataset, split: str, *, task: str) -> list[Row]:
    """The rows of a split from the hub or its local cache. Raises ProviderError that names ways without the hub."""
    arguments = ", ".join(repr(argument) for argument in (hub_set.repository, hub_set.config) if argument)
    advice = (
        f"Name a folder that holds the questions of {task} ({task}:FOLDER), or set FIREACT_DATA to the folder above "
        f"it, or save the set where there is a network: datasets.load_dataset({arguments}).save_to_disk('FOLDER')."
    )
    with _open_hub(hub_set.repository, advice) as datasets:
        data = datasets.load_dataset(hub_set.repository, hub_set.config, split=hub_set.splits[split])
        return _select_rows(data, hub_set)


def list_splits(repository: str, config: str | None) -> list[str]:
    """The splits of a data set on the hub, by its own names. Raises ProviderError where it cannot be reached."""
    with _open_hub(repository, _advise(repository)) as datasets:
        return list(datasets.get_dataset_split_names(repository, config))


def read_split(repository: str, config: str | None, split: str) -> list[Row]:
    """All rows of a split of any data set on the hub. Raises ProviderError where it cannot be reached."""
    with _open_hub(repository, _advise(repository)) as datasets:
        rows: list[Row] = datasets.load_dataset(repository, config, split=split).to_list()
        return rows


def _advise(repository: str) -> str:
    return (
        f"Check its name, name one of several configurations (hub:{repository}@CONFIG:QUESTION,ANSWER), or save its "
        "questions as a file."
    )


@contextmanager
def _open_hub(repository: str, advice: str) -> Iterator[Any]:
    """The package ``datasets``; whatever it raises within becomes a ProviderError that ends in the advice."""
    datasets = _import_datasets()
    try:
        yield datasets
    except Exception as error:  # no network, no such set, several configurations: each is of its own kind
        reason = (str(error).strip().splitlines() or ["no message"])[0][:200]
        raise ProviderError(
            f"cannot load {repository} from the hub ({type(error).__name__}: {reason}). {advice}"
        ) from error


def _select_rows(data: Any, hub_set: HubDataset) -> list[Row]:
    present_columns = [name for name in hub_set.columns if name in data.column_names]
    rows: list[Row] = data.select_columns(present_columns).to_list()
    return rows


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise missing_extra_error("datasets", "hub") from error
    return datasets
