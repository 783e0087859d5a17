"""README, examples and the generated page of commands say what the code does."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_page_of_commands_is_up_to_date(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "typer", "fireact.cli", "utils", "docs", "--name", "fireact", "--output", "cli.md"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    written = (tmp_path / "cli.md").read_text().strip()
    assert written == (ROOT / "docs" / "cli.md").read_text().strip(), "run scripts/docs"


def test_an_own_tool_and_task(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "own_tool.py"], capture_output=True, text=True, check=True
    )
    assert "scores={'em': 1.0" in done.stdout


def test_readme_names_only_what_exists() -> None:
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target
    for name in re.findall(r"fireact\.([A-Za-z]+)\(", text):
        import fireact

        assert name in fireact.__all__, name


def test_readme_commands_parse(tmp_path: Path) -> None:
    """Each command of the README's session is one that the command line knows, with options that it has."""
    lines = re.findall(r"^\$ (fireact .+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(lines) >= 6
    for line in lines:
        verb = line.split()[1]
        shown = subprocess.run(
            [sys.executable, "-m", "fireact", verb, "--help"], capture_output=True, text=True, check=True
        )
        for option in re.findall(r"(?<!\S)(--[a-z-]+)", line):
            assert option in shown.stdout, line


@pytest.mark.slow
def test_the_whole_line_in_python(tmp_path: Path) -> None:
    command = [sys.executable, ROOT / "examples" / "whole_line.py", tmp_path / "runs"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "runs" / "eval" / "manifest.json").read_text())
    assert manifest["results"]["geo-hop"]["n"] == 4 and manifest["tuned"] is True
