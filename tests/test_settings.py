"""Settings: each is declared once, and everything else follows from that."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command_from_info
from typer.models import CommandInfo
from typer.testing import CliRunner

import fireact
from fireact import cli
from fireact.base.commands import COMMANDS
from fireact.base.run_directory import RunDir, build_settings, read_config
from fireact.base.settings import check_settings, fill_defaults, nested_settings, read_settings, setting
from fireact.base.verbs import VERBS, Verb, import_object, load_command
from fireact.cli.options import make_callback
from fireact.errors import ConfigError, DataError
from fireact.evaluation.evaluate import EvalConfig
from fireact.study.cells import SETTINGS
from fireact.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Part:
    """Settings in a table of their own."""

    speed: float = setting(1.0, above=0)
    """How fast."""

    def __post_init__(self) -> None:
        check_settings(self, "part")


@dataclass(frozen=True, slots=True)
class Before:
    """Settings of a version that did not have all fields yet."""

    data: str = setting()
    """What is read."""
    part: Part = setting(factory=Part)

    def __post_init__(self) -> None:
        check_settings(self, "before")


@dataclass(frozen=True, slots=True)
class Now(Before):
    """The same, with more fields."""

    depth: int = setting(3, low=1, high=9, panel="Schedule")
    """How deep it goes."""
    names: Sequence[str] = setting(("a",), flags=("--name",))
    """A name; repeatable."""
    share: float | None = setting(None, low=0, below=1)
    mode: str = setting("fast", choices=("fast", "slow"))


def run_now(config: Now, out: Path, *, force: bool = False, progress: Any = None) -> dict[str, Any]:
    with RunDir(out, verb="now", settings=config, force=force) as run:
        return run.finish(depth=config.depth)


NOW = Verb("now", Now, run_now, example="`fireact now`", out="runs/now")


def invoke(*arguments: str) -> str:
    """What the command of the verb prints."""
    info = CommandInfo("now", callback=make_callback(NOW), help="Now.")
    command = get_command_from_info(info, pretty_exceptions_short=False, rich_markup_mode=None)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        command.main(list(arguments), standalone_mode=False)
    return printed.getvalue()


def test_a_field_is_an_option_a_line_of_help_and_a_key_of_the_config(tmp_path: Path) -> None:
    text = invoke("--help")
    assert "--depth" in text and "How deep it goes." in text and "[default: 3]" in text
    assert "--speed" in text and "--name" in text
    invoke("data.jsonl", "--depth", "5", "--name", "b", "--name", "c", "--speed", "2", "-o", str(tmp_path / "run"))
    stored = read_config(tmp_path / "run")
    assert (stored["depth"], stored["names"], stored["part"], stored["mode"]) == (5, ["b", "c"], {"speed": 2.0}, "fast")
    settings = {key: value for key, value in stored.items() if key != "verb"}
    assert build_settings(Now, settings, tmp_path) == Now("data.jsonl", Part(2.0), depth=5, names=("b", "c"))


def test_every_setting_of_every_command_is_in_the_page_of_commands() -> None:
    page = (Path(__file__).parents[1] / "docs" / "cli.md").read_text()
    sections = {part.split("`")[0]: part for part in page.split("\n## `fireact ")[1:]}
    for name in COMMANDS:
        for entry in read_settings(load_command(name).config):
            flag = next(iter(entry.flags), f"--{entry.name.replace('_', '-')}").partition("/")[0]
            words = (flag, f"* `{(entry.metavar or (entry.flags or (entry.name,))[0]).upper()} ")
            assert (
                not entry.is_option or nested_settings(entry.kind) or any(word in sections[name] for word in words)
            ), entry


def test_every_setting_of_episodes_and_recipes_is_an_axis_of_studies() -> None:
    recipe_settings = {entry.name for entry in read_settings(Recipe)}
    episode_settings = {entry.name for entry in read_settings(EvalConfig)} - {
        "agent",
        "calls",
        "cache",
        "endpoint",
        "shard",
    }
    assert recipe_settings | episode_settings <= set(SETTINGS)


def test_a_run_of_before_a_setting_existed_counts_as_made_with_its_default(tmp_path: Path) -> None:
    with RunDir(tmp_path / "run", verb="now", settings=Before("d")) as run:
        (run.path / "rows.jsonl").write_text("{}\n")
    with RunDir(tmp_path / "run", verb="now", settings=Now("d")):
        pass
    with (
        pytest.raises(DataError, match="depth: 3 there, 4 now"),
        RunDir(tmp_path / "run", verb="now", settings=Now("d", depth=4)),
    ):
        pass


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depth": "x"}, "before: depth is 'x'; it must be a whole number."),
        ({"depth": True}, "before: depth is True; it must be a whole number."),
        ({"depth": 0}, "before: depth is 0; it must be from 1 to 9."),
        ({"names": "abc"}, "before: names is 'abc'; it must be a list, each item a text."),
        ({"names": ["a", 3]}, "before: names (number 2) is 3; it must be a text."),
        ({"share": 1.0}, "before: share is 1.0; it must be at least 0 and below 1."),
        ({"share": float("nan")}, "before: share is nan; it must be a number of at least 0 and below 1."),
        ({"mode": "slaw"}, "unknown mode of before 'slaw'. Did you mean 'slow'? Known: fast, slow."),
        ({"part": 3}, "before: part is 3; it must be a table with speed."),
        ({"part": {"speed": 0}}, "part: speed is 0; it must be above 0."),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Now("d", **wrong)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("arguments", "spelling"),
    [
        (["chat"], "ask without a question"),
        (["rescore", "run", "-t", "geo-hop"], "score FILE --task TASK"),
        (["train", "data", "--hosted", "openai:x"], "tune DATA KIND:MODEL"),
        (["train", "data", "--preference=run"], "prefer DATA RUN"),
        (["doctor", "run", "--serve"], "validate RUN"),
    ],
)
def test_an_old_spelling_is_refused_with_the_new_one(arguments: list[str], spelling: str) -> None:
    refused = CliRunner().invoke(cli.app, arguments).exception
    assert isinstance(refused, ConfigError) and str(refused).endswith(f"is now: fireact {spelling}")


def test_every_command_has_a_record_with_its_name() -> None:
    assert set(VERBS) < set(COMMANDS)
    for name, entry in COMMANDS.items():
        record = load_command(name)
        assert record.name == name and isinstance(record, Verb) == entry.is_verb
        assert callable(import_object(record.command_line))


def test_help_imports_no_verb_and_the_version_is_printed(tmp_path: Path) -> None:
    code = (
        "import sys; from fireact.cli import app; app(['--help'], standalone_mode=False); "
        "print([name for name in ('torch', 'numpy', 'pydantic', 'httpx2', 'fireact.rollout') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    assert CliRunner().invoke(cli.app, ["--version"]).stdout.startswith("fireact ")
    assert CliRunner().invoke(cli.app, ["eval", "-h"]).exit_code == 0


def test_options_of_preference_become_its_settings(tmp_path: Path) -> None:
    """A dry run shows them, and how many pairs there are."""
    pytest.importorskip("torch")
    pytest.importorskip("trl")
    from fireact.base import jsonl
    from fireact.training.train import TrainConfig, train
    from test_preference import tried, tries
    from tiny import tiny_model

    jsonl.write_objects(tmp_path / "data.jsonl", (tried(at, "ab"[at % 2], em=1.0).to_dict() for at in range(8)))
    student = str(tiny_model(tmp_path / "student"))
    train(TrainConfig(str(tmp_path / "data.jsonl"), student=student, recipe=Recipe(epochs=1)), tmp_path / "train")
    arguments = ["prefer", tries(tmp_path, 8), str(tmp_path / "train"), "--lr", "0.1", "--epochs", "5", "--beta", "0.3"]
    arguments += [
        "--batch-size",
        "6",
        "--micro-batch",
        "3",
        "--max-length",
        "999",
        "--seed",
        "7",
        "--dry-run",
        "--json",
    ]
    shown = json.loads(CliRunner().invoke(cli.app, [*arguments, "-o", str(tmp_path / "run")]).stdout)
    wanted = {"learning_rate": 0.1, "epochs": 5, "batch_size": 6, "micro_batch": 3, "max_length": 999, "seed": 7}
    assert (wanted | {"beta": 0.3}).items() <= shown["settings"].items()
    assert shown["expected"]["pairs"] == 8 and shown["expected"]["steps"] == 10 and not (tmp_path / "run").exists()


NEW_FIELD = '''    workers: int = setting(16)
    """Episodes at a time, on each machine; they share the batches of an in-process model."""
    patience: int = setting(3, low=0, high=9, panel=AGENT)
    """Failed searches after which an episode ends."""
'''
STUDY_OF_NEW_FIELD = """
title = "Patience"
[shared]
base = "scripted:expert"
tasks = ["geo-hop"]
n = 2
[axes]
patience = [1, 2]
[[cells]]
name = "{patience}"
axes = ["patience"]
"""
USE_NEW_FIELD = """
import sys
sys.path.insert(0, {package!r})
from typer.testing import CliRunner
import fireact
from fireact import cli
import fireact
assert fireact.__file__.startswith({package!r}), fireact.__file__
for words in {commands!r}:
    result = CliRunner().invoke(cli.app, words, env={{"COLUMNS": "120"}})
    print(result.output, result.exception or "")
"""


def test_one_more_field_is_an_option_its_help_a_check_a_key_a_line_of_the_docs_and_an_axis(tmp_path: Path) -> None:
    package = tmp_path / "package"
    shutil.copytree(Path(fireact.__file__).parent, package / "fireact", ignore=shutil.ignore_patterns("__pycache__"))
    module = package / "fireact/evaluation/evaluate.py"
    text = module.read_text()
    declared = NEW_FIELD[: NEW_FIELD.index("    patience")]
    assert text.count(declared) == 1
    module.write_text(text.replace(declared, NEW_FIELD))
    study, run = tmp_path / "study.toml", tmp_path / "run"
    study.write_text(STUDY_OF_NEW_FIELD)
    commands = [
        ["eval", "--help"],
        ["eval", "scripted:expert", "-t", "geo-hop", "-n", "1", "--patience", "12", "-o", str(run)],
        ["eval", "scripted:expert", "-t", "geo-hop", "-n", "1", "--patience", "5", "-o", str(run)],
        ["study", str(study), "-o", str(tmp_path / "study")],
    ]
    code = USE_NEW_FIELD.format(package=str(package), commands=commands)
    page = [sys.executable, "-m", "typer", "fireact.cli", "utils", "docs", "--name", "fireact"]
    environment = {**os.environ, "PYTHONPATH": str(package)}
    used = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    docs = subprocess.run(page, capture_output=True, text=True, cwd=tmp_path, env=environment)
    helped = "Failed searches after which an episode ends."
    assert "--patience" in used.stdout and helped in used.stdout, used.stdout + used.stderr
    assert "patience is 12" in " ".join(used.stdout.split()) and "from 0 to 9" in " ".join(used.stdout.split())
    assert read_config(run)["patience"] == 5
    assert any("--patience" in line and helped in line for line in docs.stdout.splitlines())
    stages = sorted(read_config(path)["patience"] for path in (tmp_path / "study").rglob("eval/*") if path.is_dir())
    assert stages == [1, 2]


def test_a_run_without_a_setting_has_the_default_of_its_time(tmp_path: Path) -> None:
    stored = {key: value for key, value in asdict(Recipe()).items() if key not in ("blocks", "max_length")}
    assert build_settings(Recipe, stored, tmp_path).blocks == 10 and Recipe().blocks == 0
    assert fill_defaults(Recipe, stored)["blocks"] == 10
    assert build_settings(Recipe, {**stored, "blocks": 0}, tmp_path).blocks == 0
    assert build_settings(Recipe, stored, tmp_path).max_length is None  # a file holds no None
