"""The report as one HTML page: styles, scripts, plots and episodes inside it, so that it opens from disk with no network.

Invariant: text of models, tools and tasks is escaped wherever it stands; episodes are JSON that scripts put on the page as
text alone; the page's policy lets nothing be loaded and no script run but its own. The templates decide what is shown;
the words come from ``summary`` and ``wording``.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fireact.evaluation.failures import FAILURES
from fireact.reporting import cases, markdown, summary, wording
from fireact.reporting.browser import browser, embedded, identity
from fireact.reporting.data import ReportData, Source
from fireact.reporting.figures import figures
from fireact.reporting.plots import PAGE, SERIES, svg

TEMPLATE = "page.html.jinja"
STYLES = ("report.css", "browser.css")
SCRIPTS = ("page.js", "browser.js")
LIVE = "live.js"


def html(report: ReportData) -> str:
    """The whole page of a report: what was measured, and every episode to read."""
    sources = report.sources or _of_cases(report)
    shown = _shown(report)
    data = {
        **summary.machine(report),
        "browser": browser(sources, series=shown["series"]),
        "cases": [[identity(name, one) for name, one in case.trajectories.items()] for case in report.cases],
    }
    return _page(data, title=report.title, scripts=SCRIPTS, **shown)


def live(
    report: ReportData | None, *, title: str, runs: Mapping[str, Path], complete: Sequence[str] = (), said: str = ""
) -> str:
    """The page as ``fireact view`` serves it: episodes come by requests to ``updates``, and a report where there is one.

    ``runs`` are the watched runs by name; those of the report have the name of their agent there. ``complete`` names
    those that were complete when the report was made, and ``said`` is why it lacks some of them.
    """
    shown = _shown(report) if report else {"report": None, "series": {}}
    sources = report.sources if report else ()
    names = {path.resolve(): source.name for source in sources for path in source.runs}
    data: dict[str, Any] = {
        "browser": browser([Source(one.name, ()) for one in sources], series=shown["series"]),
        "measures": {name: names[path.resolve()] for name, path in runs.items() if path.resolve() in names},
        "complete": list(complete),
    }
    return _page(data, title=title, scripts=(*SCRIPTS, LIVE), live=True, said=said, **shown)


def _page(data: Mapping[str, Any], *, scripts: tuple[str, ...], live: bool = False, **shown: Any) -> str:
    environment = _environment()
    sources = [_source(environment, name) for name in scripts]
    style = "\n".join(_source(environment, name) for name in STYLES)
    page: str = environment.get_template(TEMPLATE).render(
        policy=_policy(sources, style, connect="'self'" if live else "'none'"),
        scripts=[_safe(source) for source in sources],
        style=_safe(style),
        data=_safe(embedded(data)),
        live=live,
        **shown,
    )
    return page


def _shown(report: ReportData) -> dict[str, Any]:
    """What the template of the report view needs."""
    models, lines = summary.models(report), summary.headlines(report)
    return {
        "report": report,
        "headlines": lines,
        "one_pair": summary.one_pair(report, lines),
        "one_baseline": summary.one_baseline(report),
        "robustness": summary.robustness(report),
        "failures": summary.failures(report),
        "kinds": FAILURES,
        "groups": summary.groups_by_task(report),
        "lede": summary.lede(report),
        "mixture_rows": summary.mixture_rows(report),
        "teachers": summary.teachers(report),
        "settings": wording.flat(report.settings),
        "plots": [(plot, _safe(svg(plot, PAGE))) for plot in figures(report)],
        "series": {agent.name: models.index(agent.model) % SERIES for agent in report.agents},
        "several": len(report.agents) > 1,
        "compared": any(report.comparisons.values()),
        "paid": summary.told(report, "cost_per_question"),
        "told": summary.told(report, "tokens_per_question"),
        "timed": summary.told(report, "latency_mean"),
        "accuracy": summary.accuracy_differs(report),
        "total_seconds": sum(report.timings.values()),
        "longest": max(report.timings.values(), default=0),
        "notes": markdown.NOTES,
        "rule": cases.RULE,
        "cases_heading": summary.cases_heading(report),
    }


def _of_cases(report: ReportData) -> tuple[Source, ...]:
    """The episodes of the cases, for a report that holds no others."""
    names = [agent.name for agent in report.agents]
    found = {name: [case.trajectories[name] for case in report.cases if name in case.trajectories] for name in names}
    return tuple(Source(name, own) for name, own in found.items() if own)


def _environment() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fireact.reporting", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words = ("about", "duration", "interval", "number", "p_value", "percent", "points", "spread", "who")
    environment.filters.update({name: getattr(wording, name) for name in words})
    environment.filters["query"] = urlencode
    return environment


def _source(environment: Any, name: str) -> str:
    source: str = environment.loader.get_source(environment, name)[0]  # raw: a template would need its braces escaped
    return source


def _safe(markup: str) -> Any:
    """Markup of our own that goes in as it is: our files, plots whose text is escaped, JSON made for a script element."""
    from markupsafe import Markup

    return Markup(markup)


def _policy(scripts: list[str], style: str, *, connect: str) -> str:
    """Style attributes are allowed, since plots need them; a style can load nothing."""
    own = " ".join(_digest(script) for script in scripts)
    styles = f"style-src-elem {_digest(style)}; style-src-attr 'unsafe-inline'"
    return f"default-src 'none'; script-src {own}; {styles}; connect-src {connect}; base-uri 'none'; form-action 'none'"


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
