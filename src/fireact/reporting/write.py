"""Writes a report into a directory: ``report.html`` (whole in itself), ``report.md`` with ``plots/``, ``report.json``.

Invariant: each file is there whole or not at all, and ``report.json`` is written last.
"""

from __future__ import annotations

import json
from pathlib import Path

from fireact.jsonl import replace_text
from fireact.reporting.data import ReportData
from fireact.reporting.html import html
from fireact.reporting.markdown import markdown
from fireact.reporting.plots import results_plot, training_plot
from fireact.reporting.summary import machine
from fireact.reporting.wording import encodable


def write(report: ReportData, directory: Path) -> None:
    """Write every form of the report; files of an earlier one are replaced."""
    drawn = {"results": results_plot(report) if report.results else None, "training": training_plot(report)}
    plots = {f"plots/{name}.svg": svg for name, svg in drawn.items() if svg is not None}
    files = {
        **plots,
        "report.md": markdown(report, plots=list(plots)),
        "report.html": html(report),
        "report.json": json.dumps(machine(report), ensure_ascii=False, indent=1) + "\n",
    }
    for name, text in files.items():
        replace_text(directory / name, encodable(text))
