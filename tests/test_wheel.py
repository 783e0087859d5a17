"""The built wheel has all files that it needs: it runs from a folder of its own, away from the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="hatchling is not installed (the extra dev has it)")
ROOT = Path(__file__).parents[1]


def run(*command: str | Path, folder: Path, path: Path | None = None) -> str:
    environment = {**os.environ, "COLUMNS": "100"} | ({} if path is None else {"PYTHONPATH": str(path)})
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", folder, ROOT, folder=folder)
    (built,) = folder.glob("fireact-*.whl")
    return built


def test_the_wheel_holds_types_templates_and_no_test(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "fireact/py.typed" in names and "fireact/reporting/templates/report.css" in names
    assert any(name.startswith("fireact/study/files/") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "docs/", "shared/"))]
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "fireact").rglob("*.*")}
    assert {name for name in sources if "__pycache__" not in name} <= names


@pytest.mark.slow
def test_the_wheel_runs_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = ("-m", "pip", "install", "--no-deps", "--no-index", "--quiet")
    run(*pip, "--target", site, wheel, folder=tmp_path)
    where = run("-c", "import fireact; print(fireact.__file__)", folder=tmp_path, path=site)
    assert Path(where.strip()).is_relative_to(site)
    run("-m", "fireact", "collect", "-t", "geo-hop", "-n", "4", "-o", "c", folder=tmp_path, path=site)
    run("-m", "fireact", "report", "c", "-o", "r", folder=tmp_path, path=site)
    assert "<html" in (tmp_path / "r" / "report.html").read_text(encoding="utf-8")


def test_the_extra_all_has_every_extra_that_runs_on_any_machine() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    assert set(everything.removeprefix("fireact[").removesuffix("]").split(",")) == set(extras) - {"all", "gpu", "dev"}
