"""The report: nothing that a model wrote gets out of its box, every form says the same, and the page stands alone."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import matplotlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

import sample_report
from elements import Elements, said
from fakes import trajectory
from fireact.base.controls import strip_controls
from fireact.base.markdown import code_span, escape_line
from fireact.errors import ConfigError
from fireact.evaluation.comparison import compare_scores
from fireact.evaluation.statistics import Estimate
from fireact.evaluation.summary import Summary, summarise_trajectories
from fireact.reporting import plots, wording
from fireact.reporting.assembly import read_printable_markdown, write_report
from fireact.reporting.browser import SIZE, browser_data, encode_for_script
from fireact.reporting.cases import choose_cases, outcome
from fireact.reporting.figures import build_plots
from fireact.reporting.html import render_html
from fireact.reporting.markdown import render_markdown
from fireact.reporting.plots import PAGE, render_png, render_svg
from fireact.reporting.report_data import EpisodeSource, ReportAgent, ReportData
from fireact.reporting.report_tables import read_headline_table
from fireact.reporting.summary import failures_by_agent, lede, report_to_dict, subject
from fireact.reporting.table import fit_to_terminal
from fireact.types import Action, Step

GOLDEN = Path(__file__).parent / "golden" / "report.md"
CSS = Path(__file__).parents[1] / "src" / "fireact" / "reporting" / "templates" / "report.css"


@cache
def report() -> ReportData:
    return sample_report.sample()


@cache
def page() -> str:
    return render_html(report())


def test_the_golden_report() -> None:
    written = render_markdown(report(), plots={f"plots/{plot.name}.svg": plot.words for plot in build_plots(report())})
    if os.environ.get("FIREACT_UPDATE_GOLDEN"):
        GOLDEN.write_text(written, encoding="utf-8")
    assert written == GOLDEN.read_text(encoding="utf-8"), "run with FIREACT_UPDATE_GOLDEN=1 and read the difference"


def test_every_form_is_written_and_the_json_is_the_machine_object(tmp_path: Path) -> None:
    write_report(report(), tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")} == {
        "report.md", "report.html", "report.json", "plots/results.svg", "plots/results.png", "plots/cost.svg",
        "plots/cost.png", "plots/training.svg", "plots/training.png",
    }  # fmt: skip
    assert all((tmp_path / f"plots/{name}.png").read_bytes().startswith(b"\x89PNG") for name in ("cost", "results"))
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert found == json.loads(json.dumps(report_to_dict(report())))
    result = found["agents"][sample_report.TUNED]["geo-hop"]
    assert {"n", "em", "f1", "finished", "tokens_per_question", "seconds_per_question"} <= set(result)
    assert {"em_interval", "f1_interval", "finished_interval"} <= set(result)
    assert found["comparisons"]["geo-hop"][sample_report.TUNED]["em"]["wins"] > 40
    for link in re.findall(r"\]\((plots/[^)]+)\)", (tmp_path / "report.md").read_text(encoding="utf-8")):
        assert (tmp_path / link).is_file()


def test_pictures_of_the_printed_report_are_found_from_anywhere(tmp_path: Path) -> None:
    write_report(report(), tmp_path / "my report")
    pictures = re.findall(r"^!\[.*\]\((.+)\)$", read_printable_markdown(tmp_path / "my report"), re.MULTILINE)
    assert len(pictures) == 3 and all(Path(unquote(one)).is_file() for one in pictures)


def test_a_description_does_not_say_the_model_again() -> None:
    assert wording.description_beside("gpt-4, not fine-tuned, react", "gpt-4 react 0-shot") == "not fine-tuned, react"
    assert wording.description_beside("gpt-4, not fine-tuned", "small, cot") == "gpt-4, not fine-tuned"
    assert wording.description_beside("gpt-4", "gpt-4") == ""


def test_the_page_stands_alone_and_is_well_formed() -> None:
    elements = Elements(page())
    assert not elements.open
    tags = Counter(tag for tag, _ in elements.found)
    assert tags["script"] == 3 and not tags["img"] and not tags["link"] and not tags["iframe"]
    ids = Counter(attributes["id"] for _, attributes in elements.found if "id" in attributes)
    assert max(ids.values()) == 1
    for tag, attributes in elements.found:
        assert not any(name.startswith("on") for name in attributes), f"<{tag}> has a handler"
        for name in ("href", "xlink:href", "aria-labelledby"):
            for target in (attributes.get(name) or "").split():
                assert target.removeprefix("#").partition("?")[0] in ids, f"<{tag} {name}={target}> leads nowhere"
        assert "src" not in attributes
    assert not re.search(r"url\((?!#)|@import", page())


def test_the_page_can_be_used_without_eyes_or_mouse() -> None:
    elements = Elements(page()).found
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 2  # one for each view; only one view is shown
    assert all(next_ <= level + 1 for level, next_ in itertools.pairwise(levels))
    for tag, attributes in elements:
        if tag == "th":
            assert "scope" in attributes
        if tag == "svg":
            assert attributes["role"] == "img" and "aria-labelledby" in attributes
        if attributes.get("tabindex", "-1") != "-1" and tag != "pre":
            assert attributes["tabindex"] == "0" and {"aria-label", "aria-labelledby"} & set(attributes)
    assert dict(elements)["html"]["lang"] == "en"


def test_what_a_model_or_tool_wrote_is_data_and_nothing_else() -> None:
    data = next(words for tag, words in Elements(page()).words if tag == "script")
    assert sample_report.HOSTILE in str(json.loads(data)["browser"]["episodes"])
    assert "<" not in data and "<script>alert" not in page() and "<img" not in page()


def test_hostile_names_stay_inside_the_embedded_data_and_the_plots() -> None:
    name, task = "</script><script>alert(1)</script>", "<!--<script>"
    result = report().results["geo-hop"][sample_report.BASE]
    hostile = ReportData(title=name, created=name, agents=[ReportAgent(name, task)], results={task: {name: result}})
    elements = Elements(render_html(hostile))
    assert not elements.open
    scripts = [words for tag, words in elements.words if tag == "script"]
    assert len(scripts) == 3 and not any("alert" in script for script in scripts[1:])
    assert json.loads(scripts[0])["agents"][name][task]["n"] == 60


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_embedded_json_is_the_same_json_and_ends_no_element(value: object) -> None:
    written = encode_for_script(value)
    assert json.loads(written) == value
    assert "<" not in written and "\u2028" not in written


def test_the_policy_allows_the_scripts_and_styles_of_the_page_alone() -> None:
    import base64
    import hashlib

    elements = Elements(page())
    policy = next(a["content"] for _, a in elements.found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy and "default-src 'none'" in policy and "connect-src 'none'" in policy
    own = [words for tag, words in elements.words if tag == "script"][1:]
    own += [words for tag, words in elements.words if tag == "style"]
    assert len(own) == 3
    for source in own:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'" in policy


def test_a_scripted_teacher_is_called_a_script_wherever_it_stands() -> None:
    alone = [ReportAgent("scripted:expert", "the teacher")]
    own = replace(report(), agents=alone, results={}, comparisons={}, cases=(), sources=())
    own = replace(own, results={"geo-hop": {"scripted:expert": report().results["geo-hop"][sample_report.BASE]}})
    for shown in (render_markdown(own).partition("## Commands")[0], said(render_html(own))):
        shown = " ".join(shown.split())  # a plot has long names in several lines
        named = [shown[at.end() : at.end() + 40] for at in re.finditer("scripted:expert", shown)]
        assert named
        assert all(after.startswith(f" ({wording.A_SCRIPT})") for after in named)
    assert wording.A_SCRIPT in lede(report())


def test_plots_are_the_same_every_time_and_hold_no_fixed_colour_on_the_page() -> None:
    plots = build_plots(report())
    assert [plot.name for plot in plots] == ["results", "cost", "training"]
    for plot in plots:
        drawn = render_svg(plot, PAGE)
        assert drawn == render_svg(plot, PAGE) and "var(--series-1)" in drawn
        assert not re.search(r"#0[0-9a-f]0[0-9a-f]{3}\b", drawn) and "#000000" not in drawn
        assert plot.words in drawn.replace("&lt;", "<") and render_png(plot).startswith(b"\x89PNG")


def test_a_report_may_be_of_one_agent_on_one_task_and_nothing_more(tmp_path: Path) -> None:
    result = {"geo-hop": {sample_report.BASE: report().results["geo-hop"][sample_report.BASE]}}
    small = ReportData(title="t", created="2026-07-01", agents=[report().agents[0]], results=result)
    write_report(small, tmp_path)
    assert not Elements((tmp_path / "report.html").read_text(encoding="utf-8")).open
    assert "## Training" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert len(read_headline_table(report_to_dict(small)).rows) == 1


def test_half_a_surrogate_pair_does_not_keep_a_report_from_being_written(tmp_path: Path) -> None:
    write_report(replace(report(), title="broken \ud83d"), tmp_path)
    assert "broken ?" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_report_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="same name"):
        replace(report(), agents=[report().agents[0]] * 2)
    with pytest.raises(ConfigError, match="has numbers of"):
        replace(report(), agents=[ReportAgent("other", "")])


def test_the_terminal_shows_before_and_after() -> None:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(fit_to_terminal(read_headline_table(report_to_dict(report())), console)[0])
    shown = console.export_text()
    assert "geo-compose" in shown and wording.ARROW in shown and "points" in shown


def test_cases_are_one_of_each_outcome_whatever_the_order() -> None:
    episodes = {
        name: [
            sample_report._episode("geo-hop", name, index, right=right, draw=random.Random(0))
            for index, right in enumerate(rights)
        ]
        for name, rights in (
            (sample_report.BASE, [True, False, True, False, True]),
            (sample_report.TUNED, [True, True, False, False, True]),
        )
    }
    cases = choose_cases(episodes)
    assert [(case.example.id, outcome(case)) for case in cases] == [
        ("test-001", "wrong before, right after"), ("test-003", "wrong both times"),
        ("test-002", "right before, wrong after"), ("test-000", "right both times"),
    ]  # fmt: skip
    assert choose_cases({name: found[::-1] for name, found in episodes.items()}) == cases
    assert len(choose_cases(episodes, n=99)) == 5 and choose_cases({}) == ()
    assert (
        len(choose_cases({sample_report.BASE: episodes[sample_report.BASE]})) == 4
    )  # of one agent, without an outcome


@settings(deadline=None)
@given(st.text(alphabet=st.one_of(st.sampled_from("\\`*_[]()<>|&~$#+-.:=!1 \nah"), st.characters(codec="utf-8"))))
def test_any_text_shows_in_markdown_as_itself(words: str) -> None:
    words = strip_controls(" ".join(words.split()))  # and those that are white space, as spaces
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for line in (escape_line(words), f"> **Thought** {escape_line(words)}"):
        tokens = reader.parse(line)
        shown = "".join(
            c.content for token in tokens for c in token.children or () if c.type in ("text", "text_special")
        )
        assert shown.removeprefix("Thought").split() == words.split()
        kinds = {c.type for token in tokens for c in token.children or ()} | {token.type for token in tokens}
        assert not kinds & {
            "link_open",
            "image",
            "html_inline",
            "html_block",
            "heading_open",
            "code_block",
            "hr",
            "list_item_open",
        }
    spans = [
        c.content
        for token in reader.parse(f"x {code_span(words)}")
        for c in token.children or ()
        if c.type == "code_inline"
    ]
    assert [span.split() for span in spans] == [words.split()]


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (wording.percent(0.7833), "78.3%"),
        (wording.percent(0.575, 0), "58%"),
        (wording.points(-0.325, 0), "\N{MINUS SIGN}33 points"),
        (wording.percent(0.575), "57.5%"),
        (wording.points(-0.05), "\N{MINUS SIGN}5.0 points"),
        (wording.points(0.74, 0), "+74 points"),
        (wording.points(0.0), "0.0 points"),
        (wording.interval([-0.1, 0.25], 0), "\N{MINUS SIGN}10 to 25"),
        (wording.p_value(1e-9), "p < 0.001"),
        (wording.p_value(0.034), "p = 0.034"),
        (wording.p_value(1.0), "p = 1"),
        (wording.duration(0.84), "0.84 s"),
        (wording.duration(432), "7 min 12 s"),
        (wording.duration(7500), "2 h 05 min"),
        (wording.number(2431.4), "2,431"),
        (wording.number(84.21), "84.2"),
        (wording.number(0.842), "0.84"),
        (wording.number(0), "0"),
    ],
)
def test_numbers_are_written_to_be_read(said: str, meant: str) -> None:
    assert said == meant


def test_every_text_colour_is_legible_in_both_themes() -> None:
    style = CSS.read_text(encoding="utf-8")
    pairs = re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", style)
    assert len(pairs) == 18
    paper = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", style.partition("@media print")[2]))
    light, dark = ({name: both[theme] for name, *both in pairs} for theme in (0, 1))
    for colours in (light, dark, {**light, **paper}):
        for ground in ("page", "surface", "sunken"):
            for name in ("ink", "muted", "accent", "good", "bad", "warn"):
                assert _contrast(colours[name], colours[ground]) >= 4.5, f"{name} on {ground}"
            assert _contrast(colours["edge"], colours[ground]) >= 3, f"the edges of controls on {ground}"
        assert _contrast(colours["ink"], colours["found"]) >= 4.5
        for index in range(6):
            wanted = 4.5 if index < 2 else 3
            assert _contrast(colours[f"series-{index}"], colours["surface"]) >= wanted, f"series {index}"


def _contrast(one: str, other: str) -> float:
    bright, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    channels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def noisy_report() -> ReportData:
    """Two agents without noise and with half of all observations gone, and students of three sizes."""
    draw = random.Random(0)
    names = [
        ("base", "", None),
        ("s100", "", 100),
        ("s500", "", 500),
        ("base", "none=0.5", None),
        ("s500", "none=0.5", 500),
    ]
    agents = [
        ReportAgent(f"{model}, noise {noise}" if noise else model, "", model=model, noise=noise, trajectories=n)
        for model, noise, n in names
    ]
    found = {
        agent.name: [
            sample_report._episode("geo-hop", "x", index, right=draw.random() < 0.5, draw=draw) for index in range(30)
        ]
        for agent in agents
    }
    return ReportData(
        title="t",
        created="2026-07-01",
        agents=agents,
        results={"geo-hop": {name: summarise_trajectories(own) for name, own in found.items()}},
        robustness={
            "geo-hop": {
                f"{m}, noise none=0.5": compare_scores(found[m], found[f"{m}, noise none=0.5"])
                for m in ("base", "s500")
            }
        },
        sources=[EpisodeSource(name, own) for name, own in found.items()],
    )


def test_noise_and_sizes_have_their_plots_and_tables() -> None:
    own = noisy_report()
    assert [plot.name for plot in build_plots(own)] == ["results", "scaling", "cost"]
    assert subject(own).name == "s500"
    assert "## Under noise" in render_markdown(own) and "none=0.5" in said(render_html(own))
    assert not Elements(render_html(own)).open
    assert set(failures_by_agent(own)) >= {"wrong without evidence"}
    for plot in build_plots(own):
        assert render_svg(plot) == render_svg(plot) and render_png(plot)


def crowded_report() -> ReportData:
    """Eight agents with long names on four tasks, one of them under noise, of two bases and two seeds, all trained."""
    result = report().results["geo-hop"][sample_report.BASE]
    names = [f"hf:organisation/student-{index}-with-a-long-name react 0-shot, mixed {index}" for index in range(8)]
    agents = [
        ReportAgent(name, "", trajectories=100 * (index // 2 % 2 + 1), line=f"base {index // 4}")
        for index, name in enumerate(names)
    ]
    agents.append(ReportAgent(f"{names[0]}, noise none=0.5", "", model=names[0], noise="none=0.5"))
    losses = {name: [{"step": step, "loss": 3 / step} for step in range(1, 9)] for name in names}
    results = {task: {agent.name: result for agent in agents} for task in report().results}
    return ReportData(title="t", created="2026-07-01", agents=agents, results=results, training=losses)


@pytest.mark.parametrize("name", ["results", "scaling", "cost", "training"])
def test_plots_have_room_for_many_agents_with_long_names(name: str) -> None:
    plot = next(plot for plot in build_plots(crowded_report()) if plot.name == name)
    with matplotlib.rc_context(plots._style(plots.PAPER)):
        figure = plot.draw(plots.PAPER)
        figure.draw_without_rendering()
        drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert min(drawn.x0, drawn.y0) > -0.02 and drawn.x1 < width + 0.02 and drawn.y1 < height + 0.02
        inches = [axes.get_window_extent().transformed(figure.dpi_scale_trans.inverted()) for axes in figure.axes]
        assert all(box.height >= 1.5 and box.width >= 2.5 for box in inches)


def with_tokens(summary: Summary, mean: float) -> Summary:
    tokens = Estimate(mean, mean, mean, summary.n)
    return replace(summary, measures=replace(summary.measures, tokens_per_question=tokens))


def test_an_axis_of_close_amounts_has_ticks_and_one_agent_no_plot_of_costs() -> None:
    data = report()
    near = {task: {name: with_tokens(one, 260 + 30 * place) for place, (name, one) in enumerate(found.items())}
            for task, found in data.results.items()}  # fmt: skip
    drawn = render_svg({plot.name: plot for plot in build_plots(replace(data, results=near))}["cost"])
    assert all(f">{tick}</text>" in drawn for tick in (200, 300, 400))
    one = {task: {sample_report.BASE: found[sample_report.BASE]} for task, found in data.results.items()}
    alone = replace(data, agents=data.agents[:1], results=one, comparisons={}, paired={}, cases=[])
    assert "cost" not in [plot.name for plot in build_plots(alone)]


def test_bars_name_their_agents_and_students_of_one_line_share_one() -> None:
    own = crowded_report()
    drawn = {plot.name: render_svg(plot) for plot in build_plots(own)}
    assert all(f"student-{index}" in drawn["results"] for index in range(8))
    words = next(plot.words for plot in build_plots(own) if plot.name == "scaling")
    assert "geo-hop, base 0: 100 " in words and words.count("geo-hop") == 2


def test_many_long_observations_are_shortened_and_say_so() -> None:
    step = Step("t", None, "x" * 4000, "t")
    many = [replace(trajectory(index), steps=(step,) * 3) for index in range(600)]
    data = browser_data([EpisodeSource("a", many)], series={})
    assert len(json.dumps(data)) < SIZE and data["shortened"] in (2000, 1000, 500)
    first = data["episodes"][0]["steps"][0]
    assert len(first["observation"]) + first["cut"] == 4000
    few = browser_data([EpisodeSource("a", many[:10])], series={})
    assert few["shortened"] is None and len(few["episodes"][0]["steps"][0]["observation"]) == 4000


@pytest.mark.parametrize(
    "step",
    [
        Step("t", Action("search", {"query": "x"}), '<tr><td>1</td><td><a href="x">y</a></td></tr>' * 60, "t"),
        Step("reason " * 400, Action("search", {"query": "x"}), "x", "t"),
        Step("", None, None, "words " * 500),
    ],
    ids=["html", "thoughts", "words without an action"],
)
def test_a_page_of_500_long_trajectories_is_below_5_mb(step: Step) -> None:
    many = [replace(trajectory(index), steps=(step,) * 5) for index in range(500)]
    data = browser_data([EpisodeSource("a", many)], series={})
    assert len(encode_for_script(data).encode()) < 1.01 * SIZE and data["shortened"]
    first = data["episodes"][0]["steps"][0]
    kept = sum(len(first.get(part, "")) for part in ("thought", "text", "observation"))
    whole = len(step.thought) + (len(step.text.strip()) if step.action is None else 0) + len(step.observation or "")
    assert kept + first.get("cut", 0) + first.get("unsaid", 0) == whole
