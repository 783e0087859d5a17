"""The page in a real browser: what is clicked, typed and linked, what injected text does not do, and what leaves it."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import sample_report
from fireact.reporting.browser import episode_id
from fireact.reporting.html import render_html
from fireact.reporting.report_data import EpisodeSource, ReportData
from fireact.reporting.wording import make_encodable
from fireact.types import Action, Step

pytest.importorskip("selenium.webdriver", reason="selenium is not installed (the extra dev has it)")
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

BASE, TUNED = sample_report.BASE, sample_report.TUNED
ALL = "#trajectories?all"
"""The place of all trajectories; without a query, the pair of the report is compared."""
OVERLAPS = """
const words = element => {
  const range = document.createRange();
  return [...element.childNodes].filter(node => node.nodeType === Node.TEXT_NODE && node.data.trim())
    .flatMap(node => { range.selectNodeContents(node); return [...range.getClientRects()]; });
};
const cross = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
return [...document.querySelectorAll('#report .swatch')].filter(mark =>
  [...mark.parentElement.querySelectorAll('*'), mark.parentElement].flatMap(words)
    .some(box => cross(box, mark.getBoundingClientRect()))).length;
"""
"""How many marks of colour lie over words beside them."""
INJECTED = (
    "</script><script>window.hit = 1</script><img src=x onerror='window.hit = 2'>"
    "<a href='javascript:window.hit = 3'>x</a>{{7*7}}<!--<script>"
)


@cache
def report() -> ReportData:
    """The sample of four tasks; its first question holds an injection wherever text can stand."""
    data = sample_report.sample()
    (base, first), *others = ((source, source.trajectories) for source in data.sources)
    bad = replace(
        first[0],
        example=replace(first[0].example, question=f"Injected? {INJECTED}", answer=INJECTED),
        error=INJECTED,
        steps=(
            Step(INJECTED, Action(INJECTED, {"query": INJECTED}), INJECTED, "", noise=INJECTED, repairs=2),
            Step("", None, "long " * 400, INJECTED),
            Step("now", Action("finish", {"answer": INJECTED}), None, ""),
        ),
    )
    return replace(data, sources=[EpisodeSource(base.name, [bad, *first[1:]]), *(source for source, _ in others)])


class Page:
    """A page in the browser, and the few things that the tests ask of it."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser, self.address = browser, address
        self.open()

    def open(self, fragment: str = "") -> None:
        self.browser.get("about:blank")  # or only the fragment of the same page would change
        self.browser.get(self.address + fragment)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def wait_until(self, expression: str) -> None:
        """Wait until an expression of JavaScript is true."""
        WebDriverWait(self.browser, 600, poll_frequency=0.02).until(lambda _: self.run(f"return {expression}"))

    def settle(self) -> None:
        """Let the page do what a click or a change of its address has queued."""
        self.browser.execute_async_script("const done = arguments[0]; setTimeout(() => setTimeout(done, 15), 15)")

    def find(self, selector: str) -> Any:
        self.settle()
        return self.browser.find_element("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        self.settle()
        found: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector
        )
        return found

    def choose(self, name: str, value: str) -> None:
        self.run(
            "const s = document.getElementById(arguments[0]); s.value = arguments[1];"
            "s.dispatchEvent(new Event('change', {bubbles: true}))",
            f"f-{name}",
            value,
        )

    def search(self, words: str) -> None:
        field = self.find("#f-q")
        field.clear()
        field.send_keys(words)
        asked = 'new URLSearchParams(location.hash.split("?").slice(1).join("?")).get("q")'
        self.wait_until(f"{asked} === {json.dumps(words)}")

    @property
    def count(self) -> int:
        return int(self.find("#count").text.split()[0].replace(",", ""))

    @property
    def fragment(self) -> str:
        self.settle()
        found: str = self.run("return location.hash")
        return found

    def media(self, **features: str) -> None:
        media = {"features": [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(make_encodable(render_html(report())), encoding="utf-8")
    return file.as_uri()


@pytest.fixture
def page(chromium: Any, address: str) -> Iterator[Page]:
    page = Page(chromium, address)
    yield page
    page.media()
    noise = [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]
    assert not noise, noise


def test_the_report_is_shown_first_and_its_tabs_lead_to_the_trajectories(page: Page) -> None:
    assert page.find("h1").is_displayed() and not page.find("#list").is_displayed()
    page.find("[data-view=trajectories]").click()
    assert page.find("#list").is_displayed() and not page.find("h1").is_displayed()
    assert page.texts("#total") == ["480"]
    page.browser.back()
    assert page.find("h1").is_displayed()
    page.find("a[href='#data']").click()
    assert page.run("return scrollY") > 200 and page.find("#report").is_displayed()


def test_the_cases_of_the_report_are_read_side_by_side_and_lead_on(page: Page) -> None:
    assert len(page.texts("#first-case .case")) == 1 and len(page.texts("#case-list .case")) == len(report().cases) - 1
    above, numbers = (page.find(f"#{name}").rect["y"] for name in ("first-case", "numbers-heading"))
    assert above < numbers
    assert all(
        len(page.run("return [...arguments[0].querySelectorAll('.run')]", case)) == 2
        for case in page.browser.find_elements("css selector", ".case")
    )
    page.find(".case a").click()
    assert page.find("#detail").is_displayed() and len(page.texts("#detail .run")) == 2


def test_the_trajectories_open_on_the_first_question_that_turned_right(page: Page) -> None:
    page.open("#trajectories")
    assert page.count == 240 and page.find("#f-agent").get_attribute("value") == BASE
    assert page.texts("#detail h4") == ["prompted", "fine-tuned"]
    assert [text.split()[0] for text in page.texts("#detail .badges li:first-child")] in (["✗", "✓"], ["~", "✓"])
    before, _, after = page.texts(".row .marks")[0].partition("→")
    assert "wrong" in before and "✓" in after
    page.find("form [type=reset]").click()
    assert page.count == 480
    page.open(page.fragment)
    assert page.count == 480  # a link to all is not a link to the pair


def test_every_filter_narrows_the_list(page: Page) -> None:
    page.open(ALL)
    total = page.count
    for name, value, expected in (
        ("agent", TUNED, 240),
        ("task", "geo-hop", 120),
        ("score", "right", None),
        ("failure", "loop", None),
        ("noise", "random", None),
    ):
        page.choose(name, value)
        assert 0 < page.count < total and (expected is None or page.count == expected), name
        option = page.run("return document.querySelector(`#f-${arguments[0]} option:checked`).textContent", name)
        assert option.endswith(f"({page.count})")
        page.find("form [type=reset]").click()
        assert page.count == total
    page.choose("agent", TUNED)
    page.choose("task", "geo-yesno")
    page.choose("score", "right")
    right = sum(t.scores["em"] == 1 for t in report().sources[1].trajectories if t.task == "geo-yesno")
    assert page.count == right


def test_search_looks_through_everything_and_marks_what_it_found(page: Page) -> None:
    page.open(ALL)
    page.search("INJECTED? window.hit")
    assert page.count == 1
    page.find("#f-q").send_keys(Keys.ENTER, Keys.ARROW_DOWN)
    assert "window.hit" in page.texts("#detail mark")
    page.search("مرحبا")
    assert page.count > 100
    page.search("no such words at all")
    assert page.count == 0 and not page.texts(".row")


def test_two_runs_stand_side_by_side_on_the_same_question(page: Page) -> None:
    page.open(ALL)
    page.choose("against", TUNED)
    assert page.count == 240 and "questions" in page.find("#count").text
    page.choose("change", "wrong, then right")
    wins = sum(
        one.scores["em"] < 1 == other.scores["em"]
        for one, other in zip(*(source.trajectories for source in report().sources), strict=True)
    )
    assert page.count == wins
    page.run("document.querySelector('.row').click()")  # a row is drawn anew while the list scrolls
    assert page.texts("#detail h4") == ["prompted", "fine-tuned"]
    assert [text.split()[0] for text in page.texts("#detail .badges li:first-child")] in (["✗", "✓"], ["~", "✓"])


def test_thought_action_observation_and_noise_are_told_apart_by_words_and_shape(page: Page) -> None:
    page.open(ALL)
    page.search("Injected?")
    page.find(".row").click()
    labels = page.texts("#detail .label")
    assert {"Thought", "Action", "No action; it wrote", "Answered", "Fault"} <= set(labels)
    assert any(label.startswith("Observationnoise:") for label in labels)
    styles = page.run(
        "const s = q => getComputedStyle(document.querySelector(q));"
        "return [s('.thought p').fontStyle, s('.action code').fontFamily, s('.noisy .observation').borderTopStyle]"
    )
    assert styles[0] == "italic" and "mono" in styles[1] and styles[2] == "dashed"
    assert "asked again 2 times" in page.find("#detail .note").text
    more = page.find("#detail .more")
    folded = page.run("return document.querySelector('.folded').clientHeight")
    more.click()
    assert more.get_attribute("aria-expanded") == "true" and not page.texts("#detail .folded")
    assert page.run("return [...document.querySelectorAll('.observation .text')].at(-1).clientHeight") > 2 * folded


def test_no_mark_lies_over_text_and_figures_stand_on_one_baseline(chromium: Any, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(make_encodable(render_html(sample_report.sample_with_noise(20))), encoding="utf-8")
    page = Page(chromium, file.as_uri())
    assert len(page.texts(".agents .swatch.noisy")) == 2 and "fine-tuned, none=0.5" in page.texts("tbody .agent")
    for width in (360, 768, 1280):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert page.run("return document.documentElement.scrollWidth") <= width
        assert not page.run(OVERLAPS)
        figures = page.run("return [...document.querySelectorAll('.card .to')].map(e => e.getBoundingClientRect())")
        rows = {round(box["top"]): round(box["bottom"]) for box in figures}
        assert len(rows) == {360: 4, 768: 2, 1280: 1}[width]
        cards = page.run("return [...document.querySelectorAll('.card')].map(e => [e.scrollWidth, e.clientWidth])")
        assert all(inner <= outer for inner, outer in cards)
    page.open("#trajectories")
    fields = page.run("return [...document.querySelectorAll('.filters > *')].filter(e => e.offsetHeight)"
                      ".map(e => e.getBoundingClientRect().bottom)")  # fmt: skip
    assert max(fields) - min(fields) < 12
    page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_injected_text_stays_text(page: Page) -> None:
    page.open(ALL)
    page.search("Injected?")
    page.find(".row").click()
    assert INJECTED in page.texts("#detail .observation .text")[0]
    assert page.run("return window.hit ?? null") is None
    assert not page.run("return document.querySelectorAll('img, #main a[href^=javascript], iframe, object').length")
    assert page.run("return document.querySelectorAll('script').length") == 3
    page.run("const s = document.createElement('script'); s.textContent = 'window.hit = 9'; document.body.append(s)")
    assert page.run("return window.hit ?? null") is None  # and if it were markup, the policy would hold
    assert [entry for entry in page.browser.get_log("browser") if "Content Security Policy" in entry["message"]]


def test_a_link_brings_back_the_episode_and_the_filters(page: Page) -> None:
    wanted = report().sources[1].trajectories[70]
    page.open(f"#trajectories?task={wanted.task}&agent={quote(TUNED)}&q=country&e={quote(episode_id(TUNED, wanted))}")
    assert page.find("#detail h4").text == "fine-tuned" and wanted.example.id in page.find("#detail .facts-line").text
    assert (
        page.find("#f-task").get_attribute("value") == wanted.task
        and page.find("#f-q").get_attribute("value") == "country"
    )
    assert page.count <= 60
    selected = page.find("[aria-selected=true]")
    assert selected.is_displayed()
    page.find("#list").send_keys(Keys.ARROW_DOWN)
    here, shown = page.fragment, page.texts("#detail .facts-line")
    page.open(here)
    assert page.fragment == here and page.texts("#detail .facts-line") == shown
    page.open("#trajectories?task=no-such-task&agent=nobody&e=nothing&rubbish=%E0%A4%A")
    assert page.count == 0
    link = "#trajectories?" + page.run(
        "return new URLSearchParams({e: arguments[0]}).toString()", episode_id(TUNED, wanted)
    )
    page.run("location.hash = arguments[0]", link)
    page.wait_until("document.querySelector('#detail .facts-line') !== null")
    assert page.count == 480 and wanted.example.id in page.find("#detail .facts-line").text


def test_the_keyboard_is_enough(page: Page) -> None:
    page.open()
    body = page.find("body")
    body.send_keys(Keys.TAB)
    assert page.run("return document.activeElement.className") == "skip"
    page.browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert page.run("return document.activeElement.id") == "main" and page.find("#report").is_displayed()
    page.open(ALL)
    listed = page.find("#list")
    listed.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    active = listed.get_attribute("aria-activedescendant")
    assert page.find(f"#{active}").get_attribute("aria-selected") == "true"
    assert page.find("#detail .steering .muted").text == "3 of 480"
    listed.send_keys(Keys.END)
    assert page.find("#detail .steering .muted").text == "480 of 480"
    assert page.find("[aria-selected=true]").is_displayed()
    listed.send_keys(Keys.HOME, Keys.ENTER)
    assert page.run("return document.activeElement.id") == "detail"
    page.find("#detail").send_keys("j")
    assert page.find("#detail .steering .muted").text == "2 of 480"
    page.find("#detail").send_keys(Keys.ESCAPE)
    assert page.run("return document.activeElement.id") == "list"
    listed.send_keys("/")
    assert page.run("return document.activeElement.id") == "f-q"
    outline = page.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_every_control_has_a_name(page: Page) -> None:
    roles = {
        "button",
        "link",
        "combobox",
        "searchbox",
        "textbox",
        "listbox",
        "option",
        "navigation",
        "search",
        "region",
        "table",
    }
    page.browser.execute_cdp_cmd("Accessibility.enable", {})
    for fragment in ("", ALL, "#trajectories", "#trajectories?q=injected"):
        page.open(fragment)
        if fragment:
            page.find("#list").send_keys(Keys.ARROW_DOWN)
        nodes = page.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        shown = [node for node in nodes if not node.get("ignored")]
        named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in shown if "role" in node]
        assert len([role for role, _ in named if role in roles]) > 10
        assert not [role for role, name in named if role in roles and not name.strip()]
        assert {"banner", "main", "navigation"} <= {role for role, _ in named}
    assert page.find("#count").get_attribute("aria-live") == "polite"
    assert all(
        page.run("return [...document.querySelectorAll('table')].map(t => !!t.caption || !!t.closest('details'))")
    )


def test_the_theme_follows_the_system_and_the_button(page: Page) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    page.media(prefers_color_scheme="light")
    light = page.run(ground)
    page.media(prefers_color_scheme="dark")
    dark = page.run(ground)
    assert light != dark
    button = page.find("#theme")
    button.click()
    assert button.text == "Theme: light" and page.run(ground) == light
    page.open()
    assert page.run(ground) == light  # it was kept
    page.find("#theme").click()
    page.media(prefers_color_scheme="light")
    assert page.run(ground) == dark
    page.find("#theme").click()
    assert page.run(ground) == light and page.find("#theme").text == "Theme: system"


def test_less_motion_is_heeded_and_a_phone_needs_no_sideways_scrolling(page: Page) -> None:
    scrolling = "return getComputedStyle(document.documentElement).scrollBehavior"
    page.media(prefers_reduced_motion="no-preference")
    assert page.run(scrolling) == "smooth"
    page.media(prefers_reduced_motion="reduce")
    assert page.run(scrolling) == "auto"
    narrow = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    try:
        for fragment in ("", ALL, "#trajectories", f"#trajectories?agent={quote(BASE)}&against={quote(TUNED)}"):
            page.open(fragment)
            assert page.run("return document.documentElement.scrollWidth") <= 400
        page.open(ALL)
        assert not page.find("#f-score").is_displayed()
        page.find(".fold").click()
        assert page.find("#f-score").is_displayed() and page.find(".fold").get_attribute("aria-expanded") == "true"
        page.choose("score", "right")
        assert page.texts(".fold") == ["Filters (1)"]
        page.find(".row").click()
        assert page.run("return document.getElementById('detail').getBoundingClientRect().top") < 400
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_on_paper_every_column_is_on_the_sheet_and_no_note_is_larger_than_its_value(page: Page) -> None:
    page.open()
    paper = {"width": 688, "height": 900, "deviceScaleFactor": 1, "mobile": False}  # A4 without its margins
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", paper)
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        wide = "return [...document.querySelectorAll('#report table')].map(t => t.getBoundingClientRect().right)"
        assert max(page.run(wide)) <= 688
        sizes = page.run(
            "return ['td', 'td small', 'thead th'].map(q =>"
            " parseFloat(getComputedStyle(document.querySelector('#numbers-heading ~ .scroll ' + q)).fontSize))"
        )
        assert max(sizes) == sizes[0]
    finally:
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_on_paper_there_is_what_is_read_and_no_control(page: Page) -> None:
    page.open("#trajectories?q=injected")
    page.find(".row").click()
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    hidden = (
        "return ['.topbar', '.filters', '#list', '.steering', '.more']"
        ".filter(q => document.querySelector(q).offsetHeight)"
    )
    assert page.run(hidden) == []
    text = page.run(
        "const t = [...document.querySelectorAll('.observation .text')].at(-1); return [t.scrollHeight, t.clientHeight]"
    )
    assert text[0] <= text[1] + 1
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    printed = page.browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"]
    assert base64.b64decode(printed).startswith(b"%PDF")


def test_nothing_leaves_the_page(page: Page) -> None:
    page.browser.get_log("performance")
    page.open(ALL)
    page.find("#list").send_keys(Keys.ARROW_DOWN)
    page.choose("against", TUNED)
    messages = [json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert {url.partition("#")[0] for url in asked} <= {page.address, "about:blank"} and page.address in str(asked)


def test_five_thousand_episodes_stay_fluid(chromium: Any, tmp_path: Path) -> None:
    draw = random.Random(0)
    many = [sample_report._episode("geo-hop", BASE, index, right=index % 3 == 0, draw=draw) for index in range(5000)]
    file = tmp_path / "many.html"
    file.write_text(render_html(replace(report(), sources=[EpisodeSource(BASE, many)], cases=())), encoding="utf-8")
    page = Page(chromium, file.as_uri())
    page.open(ALL)
    assert page.count == 5000 and len(page.texts(".row")) < 60
    assert "characters are shortened" in page.find("#keys").text and len(page.texts("#keys kbd")) == 5
    page.run("document.getElementById('list').scrollTop = 1e9")
    page.wait_until("[...document.querySelectorAll('.row')].at(-1).getAttribute('aria-posinset') === '5000'")
    assert page.run("return [...document.querySelectorAll('.row')].at(-1).getAttribute('aria-posinset')") == "5000"
    counts = page.run(
        "const f = document.getElementById('f-score'), counts = [];"
        "for (const value of ['right', '', 'wrong', '']) { f.value = value;"
        " f.dispatchEvent(new Event('change', {bubbles: true}));"
        " counts.push(parseInt(document.getElementById('count').textContent.replace(',', ''))); }"
        "return counts"
    )
    assert (
        counts[0] == 1667 and counts[1] == counts[3] == 5000 and 0 < counts[2] <= 3333 and len(page.texts(".row")) < 60
    )
