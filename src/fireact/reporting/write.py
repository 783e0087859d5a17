"""Writes a report into a directory: ``report.html`` (self-contained), ``report.md`` with ``plots/``, ``report.json``.

Each plot is written as SVG, which the Markdown shows, and as PNG for papers. Invariant: each file is complete or
absent, and ``report.json`` is written last.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import quote

from fireact.base import jsonl
from fireact.reporting.figures import build_plots
from fireact.reporting.html import render_html
from fireact.reporting.markdown import render_markdown
from fireact.reporting.plots import save_plot
from fireact.reporting.report_data import ReportData
from fireact.reporting.summary import report_to_dict
from fireact.reporting.wording import make_encodable

PAGE = "report.html"
_PICTURE = re.compile(r"^(!\[.*\]\()plots/", re.MULTILINE)


def read_printable_markdown(directory: Path) -> str:
    """The Markdown report of a directory with absolute paths of pictures, so that it can be read anywhere."""
    markdown_text = (directory / "report.md").read_text(encoding="utf-8")
    directory_url = quote(directory.resolve().as_posix())
    return _PICTURE.sub(rf"\g<1>{directory_url}/plots/", markdown_text)


def write_report(report: ReportData, directory: Path) -> None:
    """Write every form of the report; replaces the files of an earlier report."""
    plots = build_plots(report)
    for plot in plots:
        save_plot(plot, directory / "plots")
    files = {
        "report.md": render_markdown(report, plots={f"plots/{plot.name}.svg": plot.words for plot in plots}),
        PAGE: render_html(report),
        "report.json": json.dumps(report_to_dict(report), ensure_ascii=False, indent=1) + "\n",
    }
    for name, text in files.items():
        jsonl.replace_text(directory / name, make_encodable(text))
