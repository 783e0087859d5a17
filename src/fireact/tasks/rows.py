"""Rows of a file of questions: JSON, JSONL, CSV or Parquet, each row a mapping from column to value.

Invariant: a file is read whole or not at all; whatever is wrong with it is a DataError that names the file and the row.
This module does not know what the columns mean.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fireact.base import jsonl
from fireact.errors import DataError, describe_unknown_name, missing_extra_error, missing_path_error

Row = dict[str, Any]

FORMATS = (".jsonl", ".json", ".csv", ".parquet")


def read_rows(path: Path, columns: Sequence[str] | None = None) -> list[Row]:
    """The rows of a file, in order; ``columns`` name those of a CSV file that has no header.

    Raises DataError for a file that cannot be read or is not of the format of its file name extension.
    """
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise DataError(f"{path} ends in {ending or 'nothing'}; a file of questions is one of {', '.join(FORMATS)}.")
    if not path.is_file():
        raise missing_path_error(path)
    if ending == ".jsonl":
        return list(jsonl.read_objects(path))
    if ending == ".parquet":
        return _read_parquet(path)
    try:
        return _read_json(path) if ending == ".json" else _read_csv(path, columns)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise DataError(f"cannot read {path} as UTF-8 {ending[1:].upper()}: {error}.") from error


def require_column(rows: Iterable[Row], name: str, path: Path | str) -> None:
    """Check that each row has a column. Raises DataError that lists the columns of the row."""
    for number, row in enumerate(rows, 1):
        if name not in row:
            raise DataError(f"{path}, row {number}: {describe_unknown_name('column', name, map(str, row))}")


def _read_json(path: Path) -> list[Row]:
    rows = jsonl.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: expected one JSON list of objects.")
    return rows


def _read_csv(path: Path, columns: Sequence[str] | None) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        header = list(next(reader, ()) if columns is None else columns)
        rows = []
        for number, cells in enumerate(reader, 1):
            if cells and len(cells) != len(header):
                raise DataError(f"{path}, row {number}: {len(cells)} cells where {len(header)} columns are expected.")
            if cells:
                rows.append(dict(zip(header, cells, strict=True)))
        return rows


def _read_parquet(path: Path) -> list[Row]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise missing_extra_error("pyarrow", "hub") from error
    try:
        rows: list[Row] = parquet.read_table(path).to_pylist()
    except (ArrowInvalid, OSError) as error:
        raise DataError(f"cannot read {path} as Parquet: {error}.") from error
    return rows
