"""A real inference server: llama.cpp's, with SmolLM2, behind ``openai:``."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fireact.base import jsonl
from fireact.models.openai import from_name
from fireact.rollout.collection import CollectConfig, collect
from fireact.types import Call, Message
from llama import llama_server

pytest.importorskip("xllamacpp")
pytest.importorskip("torch")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from fireact.models.hf import load_merged_student
    from fireact.serving.gguf import write_gguf

    path = tmp_path_factory.mktemp("gguf") / "smollm2.gguf"
    model, tokenizer = load_merged_student("smollm2-135m", None)
    write_gguf(model, tokenizer, path, name="smollm2")
    with llama_server(path) as served:
        yield f"{served}/v1"


def test_stop_strings_and_usage_are_those_of_the_server(url: str) -> None:
    lm = from_name(f"smollm2@{url}")
    whole = lm.complete(Call([Message("user", "Name three colours.")], max_tokens=24))
    assert whole.text and whole.usage.prompt_tokens > 5 and 0 < whole.usage.completion_tokens <= 24
    stop = whole.text[5:8]
    cut = lm.complete(Call([Message("user", "Name three colours.")], max_tokens=24, stop=(stop,)))
    assert cut.text == whole.text[: whole.text.index(stop)] and cut.finish == "stop"


def test_trajectories_are_collected_from_it(url: str, tmp_path: Path) -> None:
    plan = {"geo-hop/react": 1, "geo-hop/io": 1}
    config = CollectConfig(plan=plan, teacher=f"openai:smollm2@{url}", workers=2, repairs=0)
    manifest = collect(config, tmp_path / "run")
    rows = list(jsonl.read_objects(tmp_path / "run" / "trajectories.jsonl"))
    assert len(rows) == 2 and all(row["steps"] and row["stop"] != "error" for row in rows)
    assert manifest["usage"]["calls"] >= 2 and manifest["usage"]["cost"] is None
    collect(CollectConfig(plan=plan, teacher=f"replay:{tmp_path / 'run'}", repairs=0), tmp_path / "again")
    again = list(jsonl.read_objects(tmp_path / "again" / "trajectories.jsonl"))
    assert [row["steps"] for row in again] == [row["steps"] for row in rows]
