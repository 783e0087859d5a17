"""Writes a report into a directory: ``report.html`` (whole in itself), ``report.md`` with ``plots/``, ``report.json``.

Each plot is there as SVG, which the Markdown shows, and as PNG for papers. Invariant: each file is there whole or not at
all, and ``report.json`` is written last.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import quote

from fireact import jsonl
from fireact.reporting.data import ReportData
from fireact.reporting.figures import figures
from fireact.reporting.html import html
from fireact.reporting.markdown import markdown
from fireact.reporting.plots import png, svg
from fireact.reporting.summary import machine
from fireact.reporting.wording import encodable

PAGE = "report.html"
_PICTURE = re.compile(r"^(!\[.*\]\()plots/", re.MULTILINE)


def printed(directory: Path) -> str:
    """The report of a directory in Markdown whose pictures are found from anywhere, since it is not read where it lies."""
    written = (directory / "report.md").read_text(encoding="utf-8")
    place = quote(directory.resolve().as_posix())
    return _PICTURE.sub(rf"\g<1>{place}/plots/", written)


def write(report: ReportData, directory: Path) -> None:
    """Write every form of the report; files of an earlier one are replaced."""
    plots = figures(report)
    for plot in plots:
        jsonl.replace_text(directory / f"plots/{plot.name}.svg", svg(plot))
        with jsonl.replacing(directory / f"plots/{plot.name}.png") as file:
            file.write(png(plot))
    files = {
        "report.md": markdown(report, plots={f"plots/{plot.name}.svg": plot.words for plot in plots}),
        PAGE: html(report),
        "report.json": json.dumps(machine(report), ensure_ascii=False, indent=1) + "\n",
    }
    for name, text in files.items():
        jsonl.replace_text(directory / name, encodable(text))
