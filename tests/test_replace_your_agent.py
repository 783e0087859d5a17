"""The circle with other people's clients: record, train, serve, and the same agent again, with its base URL changed."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("starlette")
pytest.importorskip("anthropic")
pytest.importorskip("agents")
sys.path.insert(0, str(Path(__file__).parents[1]))
from examples.replace_your_agent import CLIENTS, replace_model

from fireact.base.run_directory import read_manifest
from tiny import tiny_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("student"), layers=2, positions=4096)


@pytest.mark.parametrize("client", CLIENTS)
def test_only_the_base_url_changes(client: str, student: Path, tmp_path: Path) -> None:
    settings = {"student": str(student), "max_length": 4096, "epochs": 1}
    result = replace_model(client, tmp_path, trained=2, asked=1, settings=settings)
    assert json.loads(json.dumps(result))["client"] == client
    assert (result["recorded"], result["asked"], result["refused"], result["em_before"]) == (2, 1, 0, 100.0)
    manifest = read_manifest(tmp_path / "train")
    assert manifest["renderer"] == "recorded" and [tool["name"] for tool in manifest["tools"]] == ["search"]
    calls = [json.loads(line) for line in (tmp_path / "record" / "calls.jsonl").read_text().splitlines()]
    assert len({call["dialect"] for call in calls}) == 1 and len(calls) >= 4
