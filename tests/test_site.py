"""The site is built from its pages; its tutorials and the notebook run as they are written; it names what exists."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from fireact.base.names import known_names
from fireact.cli import app
from tiny import tiny_model

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
COMMAND = get_command(app)
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("torch")
    return str(tiny_model(tmp_path_factory.mktemp("student"), layers=2, positions=4096))


def read_blocks(page: str, smaller: dict[str, str]) -> list[tuple[str, str]]:
    """The code blocks of a page with their language, at a smaller size: each text to replace must be there."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for before, after in smaller.items():
        assert before in text, before
        text = text.replace(before, after)
    return re.findall(r"^```(\w+)[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def run_command(line: str) -> None:
    """Run a command line of a page in this process."""
    verb, *words = shlex.split(line)
    assert verb == "fireact", line
    COMMAND.main(words, prog_name="fireact", standalone_mode=False)


def run_python(text: str, scope: dict[str, Any]) -> None:
    exec(compile(text, "page", "exec"), scope)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site; a broken link, an unknown anchor and a page that no menu names are errors."""
    pytest.importorskip("mkdocs", reason="mkdocs-material is in the dev extra")
    pytest.importorskip("material", reason="mkdocs-material is in the dev extra")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_every_page_is_built_and_asks_no_other_host_for_anything(site: Path) -> None:
    pages = {path.relative_to(site).with_suffix(".md").as_posix() for path in site.rglob("*.html")}
    assert {path.relative_to(DOCS).as_posix() for path in PAGES} <= pages
    assert {"log.md", "changelog.md", "results/index.md", "results/scaling/tables.md"} <= pages
    loaded = r"<(?:script|img|source|iframe)\b[^>]*\bsrc=\"?https?:[^>]*|<link\b[^>]*rel=\"?stylesheet[^>]*https?:[^>]*"
    assert [found for path in site.rglob("*.html") for found in re.findall(loaded, path.read_text())] == []


def test_the_page_on_python_lists_every_name(site: Path) -> None:
    import fireact

    text = (site / "python.html").read_text(encoding="utf-8")
    assert [name for name in fireact.__all__ if f"<code>{name}</code>" not in text] == []


@pytest.mark.parametrize("path", [page for page in PAGES if page.name != "cli.md"], ids=lambda path: path.stem)
def test_a_page_opens_with_what_its_reader_can_do(path: Path) -> None:
    title, opening = path.read_text(encoding="utf-8").split("\n\n")[:2]
    assert title.startswith("# ") and re.search(r"\byou can\b|\byou turn\b|^Find ", opening), opening


@pytest.mark.slow
def test_the_tutorial_that_replaces_an_agent_runs(home: Path, student: str) -> None:
    pytest.importorskip("uvicorn")
    smaller = {
        "[:200]": "[:2]", "[:100]": "[:1]", "max_tokens=400": "max_tokens=24", 'student="smollm2-135m"': "**SMALL"
    }  # fmt: skip
    scope: dict[str, Any] = {"SMALL": {"student": student, "epochs": 1}}
    for language, text in read_blocks("tutorials/replace-your-agent.md", smaller):
        if language == "python":
            run_python(text, scope)
    assert len(scope["recording"].trajectories) == 2 and scope["student"].renderer == "recorded"
    assert scope["before"] == 1 and scope["after"] in (0, 1)


@pytest.mark.slow
def test_the_tutorial_that_reproduces_the_paper_runs(home: Path, student: str) -> None:
    smaller = {'"smollm2-135m"': f'"{student}"', '["geo-hop"]': '["brief:HOP"]', "n = 100": "n = 2", "= 160": "= 8",
               "size = 100": "size = 2"}  # fmt: skip
    scope: dict[str, Any] = {}
    for language, text in read_blocks("tutorials/reproduce.md", smaller):
        if language == "toml":
            (home / "mine.toml").write_text(text)
        elif language == "python":
            run_python(text, scope)
        for line in re.findall(r"^\$ (.+)", text, re.MULTILINE):
            if "--dry-run" in line or "--list" in line or "mine" in line:
                run_command(line)
    assert scope["table"].groupby("cell").em.count().to_dict() == {
        "prompted": 2, "student": 2, "student, bad tool": 2
    }  # fmt: skip
    assert len(list((home / "runs" / "studies" / "train").iterdir())) == 1
    assert (home / "runs" / "mine-report" / "report.html").is_file()


@pytest.mark.slow
def test_the_tutorial_on_a_task_of_ones_own_runs(home: Path, student: str, monkeypatch: pytest.MonkeyPatch) -> None:
    smaller = {
        "-n 125": "-n 3",
        "-t questions.csv --tool shop:stock -n 21": "-t brief_questions:QUESTIONS --tool shop:stock -n 1",
        "eval smollm2-135m": f"eval {student} --examples 0",
        "train runs/shop-mix": f"train runs/shop-mix --student {student} --epochs 1",
        "--agent runs/shop-train": "--agent runs/shop-train -t brief_questions:QUESTIONS",
    }
    (home / "brief_questions.py").write_text(
        "from brief import load_brief_task\nQUESTIONS = load_brief_task('questions.csv')\n"
    )
    monkeypatch.delitem(sys.modules, "brief_questions", raising=False)
    for language, text in read_blocks("tutorials/own-task.md", smaller):
        if language == "python":
            (home / "shop.py").write_text(text)
        for line in re.findall(r"^\$ (.+)", text, re.MULTILINE):
            if line == "python shop.py > questions.csv":
                printed = subprocess.run([sys.executable, "shop.py"], capture_output=True, text=True, check=True)
                (home / "questions.csv").write_text(printed.stdout)
            else:
                run_command(line)
    manifest = json.loads((home / "runs" / "shop" / "manifest.json").read_text())
    assert manifest["counts"] == {"questions/react": {"n": 3, "finished": 3, "correct": 3}}
    assert json.loads((home / "runs" / "after" / "manifest.json").read_text())["tuned"] is True


@pytest.mark.slow
def test_the_notebook_runs(home: Path, student: str) -> None:
    pytest.importorskip("pandas")
    notebook = json.loads((ROOT / "examples" / "tour.ipynb").read_text(encoding="utf-8"))
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    smaller = {
        "epochs=1": f"epochs=1, student={student!r}",
        '(student, tasks=["geo-hop"]': '(student, tasks=["brief:HOP"]',
    }
    for before, after in smaller.items():
        assert before in text, before
        text = text.replace(before, after)
    scope: dict[str, Any] = {}
    run_python(text, scope)
    assert set(scope["table"].run) == {"runs/good", "runs/bad"} and scope["measured"].tuned is True
    assert all(cell.get("outputs", []) == [] for cell in notebook["cells"]), "a notebook is kept without its outputs"


def test_the_page_on_files_names_every_file_of_a_run() -> None:
    text = (DOCS / "runs.md").read_text(encoding="utf-8")
    files = {path.name for path in (ROOT / "tests" / "old_runs").glob("*/*") if path.is_file()}
    folders = {"adapter", "model", "checkpoints", "plots"}
    assert {"manifest.json", "job.json", "log.jsonl"} <= files
    assert [name for name in sorted(files | folders) if f"`{name}`" not in text and f"`{name}/`" not in text] == []


def test_the_page_on_names_has_every_built_in_name() -> None:
    text = (DOCS / "built-in.md").read_text(encoding="utf-8")
    names = [name for kind in ("task", "tool", "model", "method") for name in known_names(kind)]
    assert len(names) > 15 and [name for name in names if not re.search(rf"`{re.escape(name)}[`:]", text)] == []
