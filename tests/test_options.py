"""Options of ``fireact train``: used or refused, whichever way it trains."""

import inspect
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fireact import cli
from fireact.cli import unused as options
from fireact.errors import ConfigError

pytest.importorskip("torch")
pytest.importorskip("trl")

from test_preference import imitated, tries  # noqa: F401

EVERYWHERE = {"context", "data", "out", "force", "as_json", "dry_run"}
GIVEN = {
    "student": ["--student", "nosuch"], "recipe": ["--recipe", "default"], "renderer": ["--renderer", "react"],
    "tool": ["--tool", "search"], "kind": ["--kind", "full"], "rank": ["--rank", "99"], "blocks": ["--blocks", "2"],
    "learning_rate": ["--lr", "0.1"], "batch_size": ["--batch-size", "2"], "micro_batch": ["--micro-batch", "1"],
    "max_length": ["--max-length", "9"], "validation": ["--validation", "0.2"], "patience": ["--patience", "1"],
    "report_to": ["--report-to", "bogus"], "preference": ["--preference", "x"], "launch": ["--launch", "2"],
    "budget": ["--budget", "5usd"], "price": ["--price", "1"], "beta": ["--beta", "0.2"],
}  # fmt: skip
WAYS = {
    "--preference": (["--preference", "x"], options.PREFERENCE),
    "--hosted": (["--hosted", "openai:x"], options.HOSTED),
    "training here": ([], options.IMITATION),
}


@pytest.mark.parametrize(
    ("way", "option"), [(way, name) for way, (_, unused) in WAYS.items() for name in unused], ids=lambda one: str(one)
)
def test_an_option_that_would_be_ignored_is_refused_with_the_reason(way: str, option: str, tmp_path: Path) -> None:
    chosen, unused = WAYS[way]
    arguments = ["train", "data.jsonl", *chosen, *GIVEN[option], "-o", str(tmp_path / "run")]
    done = CliRunner().invoke(cli.app, arguments)
    assert isinstance(done.exception, ConfigError) and not (tmp_path / "run").exists()
    named = GIVEN[option][0]
    assert str(done.exception) == f"{way} does not use {named}: {unused[option]}. Leave {named} out."


def test_every_option_is_used_or_refused() -> None:
    known = set(inspect.signature(cli.train_command).parameters) - EVERYWHERE
    used = {"preference", "learning_rate", "epochs", "batch_size", "micro_batch", "max_length", "seed", "report_to"} | {
        "beta"
    }
    assert used | set(options.PREFERENCE) == known - {"hosted"}
    taken = {"hosted", "epochs", "seed", "budget", "price", "learning_rate", "rank", "batch_size"}
    assert taken | set(options.HOSTED) == known


def test_what_preference_uses_becomes_its_settings(imitated: Path, tmp_path: Path) -> None:  # noqa: F811
    """A dry run shows them, and how many pairs there are."""
    data = tries(tmp_path, 8)
    arguments = [
        "train",
        data,
        "--preference",
        str(imitated / "train"),
        "--lr",
        "0.1",
        "--epochs",
        "5",
        "--beta",
        "0.3",
    ]
    arguments += ["--batch-size", "6", "--micro-batch", "3", "--max-length", "999", "--seed", "7", "--dry-run"]
    shown = json.loads(CliRunner().invoke(cli.app, [*arguments, "-o", str(tmp_path / "run")]).stdout)
    wanted = {"learning_rate": 0.1, "epochs": 5, "batch_size": 6, "micro_batch": 3, "max_length": 999, "seed": 7}
    assert (wanted | {"beta": 0.3}).items() <= shown["settings"].items()
    assert shown["expected"]["pairs"] == 8 and shown["expected"]["steps"] == 10 and not (tmp_path / "run").exists()
