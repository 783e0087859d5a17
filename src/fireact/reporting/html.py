"""The report as one HTML page: styles, script, plots and data inside it, so that it opens from disk with no network.

Invariant: text of models, tools and tasks is escaped wherever it stands, and the page's policy lets nothing be loaded
and no script run but its own. The template decides what is shown; the words come from ``summary`` and ``wording``.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from fireact.render.react import argument
from fireact.reporting import cases, markdown, plots, summary, wording
from fireact.reporting.data import ReportData

TEMPLATE = "report.html.jinja"


def html(report: ReportData) -> str:
    """The whole page."""
    environment = _environment()
    script = _source(environment, "report.js")
    page: str = environment.get_template(TEMPLATE).render(
        report=report,
        before=summary.baseline(report),
        after=summary.subject(report),
        headlines=summary.headlines(report),
        lede=summary.lede(report),
        mixture_rows=summary.mixture_rows(report.mixture) if report.mixture else [],
        settings=wording.flat(report.settings),
        machine=summary.machine(report),
        results_plot=_safe(plots.results_plot(report, plots.PAGE)) if report.results else None,
        training_plot=_safe(plots.training_plot(report, plots.PAGE)),
        series={agent.name: place % plots.SERIES for place, agent in enumerate(report.agents)},
        several=len(report.agents) > 1,
        total_seconds=sum(report.timings.values()),
        longest=max(report.timings.values(), default=0),
        policy=_policy(script),
        script=_safe(script),
        style=_safe(_source(environment, "report.css")),
        notes=markdown.NOTES,
        rule=cases.RULE,
    )
    return page


def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fireact.reporting", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words = ("duration", "interval", "number", "p_value", "percent", "points", "verdict", "who")
    environment.filters.update({name: getattr(wording, name) for name in words})
    environment.filters.update(argument=argument, outcome=cases.outcome, stop=lambda stop: wording.STOPS[stop])
    return environment


def _source(environment: Any, name: str) -> str:
    source: str = environment.loader.get_source(environment, name)[0]  # raw: a template would need its braces escaped
    return source


def _safe(markup: str | None) -> Any:
    """Markup of our own that goes in as it is: our files, and plots whose text is escaped."""
    from markupsafe import Markup

    return None if markup is None else Markup(markup)


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
