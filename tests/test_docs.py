"""README, examples and the generated page of commands say what the code does."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fireact.base.names import known_names
from fireact.data.filters import _NAMED, _NUMBERS, _TEXTS
from fireact.data.findings import KINDS
from fireact.data.sources import list_mixtures
from fireact.study.cells import SETTINGS
from fireact.study.file import KEYS, PRICES, RATES
from fireact.study.runner import StudyConfig, plan_study

ROOT = Path(__file__).parents[1]
PROSE = [
    *("README.md", "SKILL.md", "llms.txt", "CHANGELOG.md", "CONTRIBUTING.md", "LOG.md", "studies/README.md"),
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md")) if path.stem != "cli"),
]


def test_the_page_of_commands_is_up_to_date(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "typer", "fireact.cli", "utils", "docs", "--name", "fireact", "--output", "cli.md"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    written = (tmp_path / "cli.md").read_text().strip()
    assert written == (ROOT / "docs" / "cli.md").read_text().strip(), "run scripts/docs"


@pytest.mark.parametrize("page", ["README.md", "SKILL.md", "llms.txt"])
def test_a_page_outside_of_the_site_names_only_what_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target
    for name in re.findall(r"fireact\.([A-Za-z]+)\(", text):
        import fireact

        assert name in fireact.__all__, name


def test_readme_fits_three_screens() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 110 and [line for line in lines if len(line) > 100] == []


def list_long_lines(text: str) -> list[str]:
    """The lines of prose over 100 columns: no code, table, heading or line without a space to break it at."""
    prose = re.sub(r"\A---\n.*?\n---\n|^```.*?^```|^(?: {4}|\||#|!\[).*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [line for line in prose.splitlines() if len(line) > 100 and " " in line.strip()]


@pytest.mark.parametrize("page", PROSE)
def test_prose_has_at_most_100_columns(page: str) -> None:
    assert list_long_lines((ROOT / page).read_text(encoding="utf-8")) == [], f"scripts/wrap {page}"


@pytest.mark.parametrize(
    "page", [page for page in PROSE if page.split("/")[0] in ("README.md", "SKILL.md", "llms.txt", "docs")]
)
def test_commands_on_a_page_are_known(page: str) -> None:
    """Each command is one that the page of commands has, with options that it has there."""
    parts = (ROOT / "docs" / "cli.md").read_text().split("\n## `fireact ")[1:]
    known = {part.split("`")[0]: set(re.findall(r"(?:`|, )(--?[a-z-]+)", part)) for part in parts}
    text = (ROOT / page).read_text(encoding="utf-8")
    assert set(re.findall(r"`fireact\s+([a-z]+)", text)) <= set(known)
    lines = re.findall(r"^(?:\$ |    )(fireact [^#\n]+)", text, re.MULTILINE)
    commands = [command.split() for line in lines for command in line.split(" && ")]
    assert commands or page not in ("README.md", "SKILL.md", "docs/how-to.md", "docs/data.md", "docs/formats.md")
    for _, verb, *words in commands:
        used = {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)}
        options = known[verb] | (known[words[0]] if verb == "launch" else set())
        assert used <= options, (verb, used - options)


def test_the_page_on_studies_names_every_key_and_setting_and_its_file_can_be_run(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "studies.md").read_text()
    for name in (*KEYS, *SETTINGS, *PRICES, *RATES, *known_names("renderer")):
        assert f"`{name}`" in text or f"[[{name}]]" in text, name
    (tmp_path / "mine.toml").write_text(re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0])
    found = plan_study(StudyConfig(str(tmp_path / "mine.toml")), tmp_path / "out").to_dict()
    assert [len(found["cells"]), found["episodes"], found["needs"]] == [8, 160 + 8 * 100, {}]


def test_the_page_on_data_names_every_finding_filter_and_recipe() -> None:
    text = (ROOT / "docs" / "data.md").read_text()
    for name in (*KINDS, *(f"`{name}`" for name in (*_NAMED, *_NUMBERS, *_TEXTS, *list_mixtures()))):
        assert name in text, name


@pytest.mark.slow
def test_the_whole_line_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the example with smaller sizes: few trajectories, and short episodes."""
    path = ROOT / "examples" / "whole_line.py"
    text = path.read_text()
    for size, small_size in (
        (
            '{"geo-hop/react": 12, "geo-yesno/react": 4, "geo-choice/cot": 4}',
            '{"geo-hop/react": 2, "geo-choice/cot": 2}',
        ),
        ('tasks=["geo-hop"]', 'tasks=["brief:HOP"]'),
    ):
        assert size in text
        text = text.replace(size, small_size)
    monkeypatch.setattr(sys, "argv", [str(path), str(tmp_path / "runs")])
    exec(compile(text, path, "exec"), {"__name__": "__main__"})
    manifest = json.loads((tmp_path / "runs" / "eval" / "manifest.json").read_text())
    assert manifest["results"]["geo-hop"]["n"] == 4 and manifest["tuned"] is True


def test_no_figure_is_still_to_be_filled_in() -> None:
    """Words that stand for a figure until it is measured; SEED and its like have stood in published pages."""
    for page in ("README.md", "LOG.md", "studies/README.md", "CHANGELOG.md"):
        assert not re.search(r"\b(TODO|TBD|SEED[A-Z0-9]*|XX+)\b", (ROOT / page).read_text()), page


def test_the_reading_list_names_files_that_exist_in_an_evening_s_length() -> None:
    text = (ROOT / "docs" / "reading.md").read_text(encoding="utf-8")
    names = re.findall(r"^\d+\. `([\w/]+\.py)`", text, re.MULTILINE)
    files = [ROOT / "src" / "fireact" / name for name in names]
    assert [name for name, file in zip(names, files, strict=True) if not file.is_file()] == []
    assert 25 <= len(names) == len(set(names)) <= 35
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) < 7_500
