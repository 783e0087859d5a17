"""The report as one HTML page that holds its styles, scripts, plots and episodes, so that it opens without a network.

Invariant: text of models, tools and tasks is escaped everywhere. Episodes are JSON, and scripts put them on the page as
text only. The page's policy forbids loading anything and running any other script. The templates decide what is shown;
the words come from ``summary`` and ``wording``.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fireact.evaluation.failures import FAILURES
from fireact.reporting import cases, markdown, report_tables, summary, wording
from fireact.reporting.browser import browser_data, encode_for_script, episode_id
from fireact.reporting.figures import build_plots
from fireact.reporting.plots import PAGE, render_svg
from fireact.reporting.report_data import EpisodeSource, ReportData
from fireact.reporting.table import Table, write_html_table

TEMPLATE = "page.html.jinja"
STYLES = ("report.css", "browser.css")
SCRIPTS = ("page.js", "browser.js")
LIVE = "live.js"


def render_html(report: ReportData) -> str:
    """The whole page of a report: what was measured, and every episode to read."""
    sources = report.sources or _sources_of_cases(report)
    context = _report_context(report)
    data = {
        **summary.report_to_dict(report),
        "browser": browser_data(sources, series=context["series"], labels=report.labels, noisy=context["noisy"]),
        "cases": [
            [episode_id(name, trajectory) for name, trajectory in case.trajectories.items()] for case in report.cases
        ],
    }
    return _render_page(data, title=report.title, scripts=SCRIPTS, **context)


def render_live_page(
    report: ReportData | None, *, title: str, runs: Mapping[str, Path], complete: Sequence[str] = (), notice: str = ""
) -> str:
    """The page that ``fireact view`` serves: a report if there is one; episodes come by requests to ``updates``.

    ``runs`` are the watched runs by name; a run that the report shows has the name of its agent there. ``complete``
    names the runs that were complete when the report was made. ``notice`` says why the report lacks some of them.
    """
    context = _report_context(report) if report else {"report": None, "series": {}, "noisy": frozenset()}
    sources = report.sources if report else ()
    names = {path.resolve(): source.name for source in sources for path in source.runs}
    data: dict[str, Any] = {
        "browser": browser_data(
            [EpisodeSource(source.name, ()) for source in sources],
            series=context["series"],
            labels=report.labels if report else {},
            noisy=context["noisy"],
        ),
        **({"before": summary.subject_baseline(report).name, "after": summary.subject(report).name} if report else {}),
        "measures": {name: names[path.resolve()] for name, path in runs.items() if path.resolve() in names},
        "complete": list(complete),
    }
    return _render_page(data, title=title, scripts=(*SCRIPTS, LIVE), live=True, notice=notice, **context)


def _render_page(data: Mapping[str, Any], *, scripts: tuple[str, ...], live: bool = False, **context: Any) -> str:
    environment = _environment()
    sources = [_load_asset(environment, name) for name in scripts]
    style = "\n".join(_load_asset(environment, name) for name in STYLES)
    page: str = environment.get_template(TEMPLATE).render(
        policy=_content_security_policy(sources, style, connect="'self'" if live else "'none'"),
        scripts=[_as_markup(source) for source in sources],
        style=_as_markup(style),
        data=_as_markup(encode_for_script(data)),
        live=live,
        **context,
    )
    return page


def _report_context(report: ReportData) -> dict[str, Any]:
    """What the template of the report view needs."""
    lines = summary.headlines(report)
    return {
        "report": report,
        "headlines": lines,
        "one_pair": summary.has_one_pair(report, lines),
        "kinds": FAILURES,
        "failures": summary.failures_by_agent(report),
        "lede": summary.lede(report),
        "teachers": summary.teachers(report),
        "settings": wording.flatten_settings(report.settings),
        "plots": [(plot, _as_markup(render_svg(plot, PAGE))) for plot in build_plots(report)],
        "series": summary.series_by_agent(report),
        "labels": report.labels,
        "noisy": frozenset(agent.name for agent in report.agents if agent.noise),
        "descriptions": {agent.name: summary.describe_agent(report, agent) for agent in report.agents},
        "several": len(report.agents) > 1,
        "total_seconds": sum(report.timings.values()),
        "longest": max(report.timings.values(), default=0),
        "notes": markdown.NOTES,
        "rule": cases.RULE,
        "cases_heading": summary.cases_heading(report),
        **{
            name: _as_markup(write_html_table(table, plain=name not in WIDE)) if table.rows else ""
            for name, table in _tables(report).items()
        },
        "groups": {table.title: _as_markup(write_html_table(table)) for table in report_tables.group_tables(report)},
    }


WIDE = ("scores", "amounts")
"""The tables of the page that have too many columns for a phone."""


def _tables(report: ReportData) -> dict[str, Table]:
    """The tables of the page, by their names in the template."""
    return {
        "scores": report_tables.score_table(report),
        "amounts": report_tables.amount_table(report),
        "robustness": report_tables.robustness_table(report),
        "failure_counts": report_tables.failure_table(report),
        "mixtures": report_tables.mixture_table(report, with_sums=True),
    }


def _sources_of_cases(report: ReportData) -> tuple[EpisodeSource, ...]:
    """The episodes of the cases, for a report that holds no others."""
    names = [agent.name for agent in report.agents]
    by_agent = {name: [case.trajectories[name] for case in report.cases if name in case.trajectories] for name in names}
    return tuple(EpisodeSource(name, trajectories) for name, trajectories in by_agent.items() if trajectories)


def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fireact.reporting", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("display_name", "duration", "interval", "number", "p_value", "percent", "points")
    environment.filters.update({name: getattr(wording, name) for name in names})
    return environment


def _load_asset(environment: Any, name: str) -> str:
    # the raw source: as a template, its braces would have to be escaped
    source: str = environment.loader.get_source(environment, name)[0]
    return source


def _as_markup(markup: str) -> Any:
    """Mark trusted markup as not to be escaped: our own files, plots with escaped text, JSON for a script element."""
    from markupsafe import Markup

    return Markup(markup)


def _content_security_policy(scripts: list[str], style: str, *, connect: str) -> str:
    """The policy of the page. It allows style attributes, because plots need them; a style can load nothing."""
    script_digests = " ".join(_digest(script) for script in scripts)
    styles = f"style-src-elem {_digest(style)}; style-src-attr 'unsafe-inline'"
    sources = f"default-src 'none'; script-src {script_digests}; {styles}; connect-src {connect}"
    return f"{sources}; base-uri 'none'; form-action 'none'"


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
