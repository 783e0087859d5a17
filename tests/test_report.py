"""The report: nothing that a model wrote gets out of its box, every form says the same, and the page stands alone."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

import sample_report
from fireact.errors import ConfigError
from fireact.reporting import wording
from fireact.reporting.cases import choose, outcome
from fireact.reporting.data import ReportAgent, ReportData
from fireact.reporting.html import html
from fireact.reporting.markdown import code, markdown, text
from fireact.reporting.plots import PAGE, results_plot, training_plot
from fireact.reporting.summary import lede, machine
from fireact.reporting.terminal import table
from fireact.reporting.write import write

GOLDEN = Path(__file__).parent / "golden" / "report.md"
CSS = Path(__file__).parents[1] / "src" / "fireact" / "reporting" / "templates" / "report.css"
VOID = {"meta", "br", "img", "link", "input", "hr"}


@cache
def report() -> ReportData:
    return sample_report.sample()


@cache
def page() -> str:
    return html(report())


class Elements(HTMLParser):
    """The elements of a page, with what is wrong in their nesting."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append((self.open[-1] if self.open else "", data))


def said(markup: str) -> str:
    return "".join(words for tag, words in Elements(markup).words if tag not in ("script", "style", "pre"))


def test_the_golden_report() -> None:
    written = markdown(report(), plots=["plots/results.svg", "plots/training.svg"])
    if os.environ.get("FIREACT_UPDATE_GOLDEN"):
        GOLDEN.write_text(written, encoding="utf-8")
    assert written == GOLDEN.read_text(encoding="utf-8"), "run with FIREACT_UPDATE_GOLDEN=1 and read the difference"


def test_every_form_is_written_and_the_json_is_the_machine_object(tmp_path: Path) -> None:
    write(report(), tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")} == {
        "report.md", "report.html", "report.json", "plots/results.svg", "plots/training.svg",
    }  # fmt: skip
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert found == json.loads(json.dumps(machine(report())))
    result = found["agents"][sample_report.TUNED]["geo-hop"]
    assert {"n", "em", "f1", "finished", "tokens_per_question", "seconds_per_question"} <= set(result)
    assert {"em_interval", "f1_interval", "finished_interval"} <= set(result)
    assert found["comparisons"]["geo-hop"][sample_report.TUNED]["em"]["wins"] > 40
    for link in re.findall(r"\]\((plots/[^)]+)\)", (tmp_path / "report.md").read_text(encoding="utf-8")):
        assert (tmp_path / link).is_file()


def test_the_page_stands_alone_and_is_well_formed() -> None:
    elements = Elements(page())
    assert not elements.open
    tags = Counter(tag for tag, _ in elements.found)
    assert tags["script"] == 2 and not tags["img"] and not tags["link"] and not tags["iframe"]
    ids = Counter(attributes["id"] for _, attributes in elements.found if "id" in attributes)
    assert max(ids.values()) == 1
    for tag, attributes in elements.found:
        assert not any(name.startswith("on") for name in attributes), f"<{tag}> has a handler"
        for name in ("href", "xlink:href", "aria-labelledby"):
            for target in (attributes.get(name) or "").split():
                assert target.removeprefix("#") in ids, f"<{tag} {name}={target}> leads nowhere"
        assert "src" not in attributes
    assert not re.search(r"url\((?!#)|@import", page())


def test_the_page_can_be_used_without_eyes_or_mouse() -> None:
    elements = Elements(page()).found
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(next_ <= level + 1 for level, next_ in itertools.pairwise(levels))
    for tag, attributes in elements:
        if tag == "th":
            assert "scope" in attributes
        if tag == "svg":
            assert attributes["role"] == "img" and "aria-labelledby" in attributes
        if "tabindex" in attributes and tag != "pre":
            assert attributes["tabindex"] == "0" and {"aria-label", "aria-labelledby"} & set(attributes)
    assert dict(elements)["html"]["lang"] == "en"


def test_what_a_model_or_tool_wrote_is_text_and_nothing_else() -> None:
    shown = said(page())
    assert sample_report.HOSTILE in shown
    assert "<script>alert" not in page() and "<img" not in page()


def test_hostile_names_stay_inside_the_embedded_data_and_the_plots() -> None:
    name, task = "</script><script>alert(1)</script>", "<!--<script>"
    result = report().results["geo-hop"][sample_report.BASE]
    hostile = ReportData(title=name, created=name, agents=[ReportAgent(name, task)], results={task: {name: result}})
    elements = Elements(html(hostile))
    assert not elements.open
    scripts = [words for tag, words in elements.words if tag == "script"]
    assert len(scripts) == 2 and "alert" not in scripts[1]
    assert json.loads(scripts[0])["agents"][name][task]["n"] == 60


def test_the_policy_allows_the_script_of_the_page_alone() -> None:
    import base64
    import hashlib

    script = [words for tag, words in Elements(page()).words if tag == "script"][-1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(a["content"] for _, a in Elements(page()).found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy and "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy


def test_a_scripted_teacher_is_called_a_script_wherever_it_stands() -> None:
    own = replace(
        report(), agents=[ReportAgent("scripted:expert", "the teacher")], results={}, comparisons={}, cases=()
    )
    own = replace(own, results={"geo-hop": {"scripted:expert": report().results["geo-hop"][sample_report.BASE]}})
    for shown in (markdown(own).partition("## Commands")[0], said(html(own))):
        named = [shown[at.end() : at.end() + 40] for at in re.finditer("scripted:expert", shown)]
        assert len(named) >= 3
        assert all(after.startswith(f" ({wording.A_SCRIPT})") for after in named)
    assert wording.A_SCRIPT in lede(report())


def test_plots_are_the_same_every_time_and_hold_no_fixed_colour_on_the_page() -> None:
    assert results_plot(report()) == results_plot(report())
    for svg in (results_plot(report(), PAGE), training_plot(report(), PAGE)):
        assert svg is not None and "var(--series-1)" in svg
        assert not re.search(r"#0[0-9a-f]0[0-9a-f]{3}\b", svg) and "#000000" not in svg


def test_a_report_may_be_of_one_agent_on_one_task_and_nothing_more(tmp_path: Path) -> None:
    result = {"geo-hop": {sample_report.BASE: report().results["geo-hop"][sample_report.BASE]}}
    small = ReportData(title="t", created="2026-07-01", agents=[report().agents[0]], results=result)
    write(small, tmp_path)
    assert not Elements((tmp_path / "report.html").read_text(encoding="utf-8")).open
    assert "## Training" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert table(machine(small)).row_count == 1


def test_half_a_surrogate_pair_does_not_keep_a_report_from_being_written(tmp_path: Path) -> None:
    write(replace(report(), title="broken \ud83d"), tmp_path)
    assert "broken ?" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_report_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="same name"):
        replace(report(), agents=[report().agents[0]] * 2)
    with pytest.raises(ConfigError, match="has numbers of"):
        replace(report(), agents=[ReportAgent("other", "")])


def test_the_terminal_shows_before_and_after() -> None:
    console = Console(width=140, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(table(machine(report())))
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
    cases = choose(episodes)
    assert [(case.example.id, outcome(case)) for case in cases] == [
        ("test-001", "wrong before, right after"), ("test-003", "wrong both times"),
        ("test-002", "right before, wrong after"), ("test-000", "right both times"),
    ]  # fmt: skip
    assert choose({name: found[::-1] for name, found in episodes.items()}) == cases
    assert len(choose(episodes, n=99)) == 5 and choose({}) == ()


@settings(deadline=None)
@given(st.text(alphabet=st.one_of(st.sampled_from("\\`*_[]()<>|&~$#+-.:=!1 \nah"), st.characters(codec="utf-8"))))
def test_any_text_shows_in_markdown_as_itself(words: str) -> None:
    words = re.sub(r"[\x00\x01]", "", words)
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for line in (text(words), f"> **Thought** {text(words)}"):
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
        c.content for token in reader.parse(f"x {code(words)}") for c in token.children or () if c.type == "code_inline"
    ]
    assert [span.split() for span in spans] == [words.split()]


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (wording.percent(0.7833), "78.3%"), (wording.points(-0.05), "\N{MINUS SIGN}5.0 points"),
        (wording.points(0.74, 0), "+74 points"), (wording.points(0.0), "0.0 points"),
        (wording.interval([-0.1, 0.25], 0), "\N{MINUS SIGN}10 to 25"),
        (wording.p_value(1e-9), "p < 0.001"), (wording.p_value(0.034), "p = 0.034"), (wording.p_value(1.0), "p = 1"),
        (wording.duration(0.84), "0.84 s"),
        (wording.duration(432), "7 min 12 s"), (wording.duration(7500), "2 h 05 min"),
        (wording.number(2431.4), "2,431"), (wording.number(84.21), "84.2"),
        (wording.number(0.842), "0.84"), (wording.number(0), "0"),
    ],
)  # fmt: skip
def test_numbers_are_written_to_be_read(said: str, meant: str) -> None:
    assert said == meant


def test_every_text_colour_is_legible_in_both_themes() -> None:
    themes = re.findall(r":root \{(.*?)\}", CSS.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(themes) == 3  # light, dark, paper
    for theme in themes:
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", theme))
        for ground in ("page", "surface", "sunken"):
            for name in ("ink", "muted", "accent", "good", "bad"):
                assert _contrast(colours[name], colours[ground]) >= 4.5, f"{name} on {ground}"
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
