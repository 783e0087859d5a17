"""The circle with other people's clients: record, train, serve, and the same agent again, with its base URL changed."""

import importlib.util
import json
import sys
from importlib.resources import files
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("starlette")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from examples import replace_your_agent  # noqa: E402
from examples.replace_your_agent import CLIENTS, LONG_PROMPTS, replace_model  # noqa: E402

from fireact.base.run_directory import read_manifest  # noqa: E402
from tiny import tiny_model  # noqa: E402

pytestmark = pytest.mark.slow
PACKAGES = {
    "anthropic": "anthropic", "langgraph": "langchain_openai", "openai-agents": "agents",
    "openai-agents-chat": "agents", "pydantic-ai": "pydantic_ai", "pydantic-ai-structured": "pydantic_ai",
    "smolagents": "smolagents", "smolagents-code": "smolagents",
}  # fmt: skip
DIALECTS = {"openai-responses": "responses", "openai-agents": "responses", "anthropic": "messages"}
TOOLS = {
    "pydantic-ai-structured": ["search", "final_result"], "smolagents": ["search", "final_answer"],
    "smolagents-code": [],
}  # fmt: skip
ENDINGS = {"pydantic-ai-structured": ["final_result"], "smolagents": ["final_answer"]}
PROMPT_TOKENS = ("prompt_tokens", "input_tokens")
FIELDS = (
    "client", "asked", "recorded", "refused", "em_before", "em_after", "finished_after", "tokens_before",
    "tokens_after", "minutes",
)  # fmt: skip


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [(ROOT / "examples" / "replace_your_agent.py").read_text(encoding="utf-8")]
    if importlib.util.find_spec("smolagents"):
        prompts = files("smolagents") / "prompts"
        texts += [(prompts / f"{name}_agent.yaml").read_text() for name in ("code", "toolcalling")]
    return tiny_model(tmp_path_factory.mktemp("student"), layers=1, hidden=32, positions=16384, texts=texts)


@pytest.mark.parametrize("client", CLIENTS)
def test_only_the_base_url_changes(client: str, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(PACKAGES.get(client, "openai"))
    monkeypatch.setattr(replace_your_agent, "MAX_TOKENS", 30)  # of the random student; the teacher's script has none
    prompt = "drop" if client in LONG_PROMPTS else "keep"
    settings = {"student": str(student), "max_length": 4096, "epochs": 1, "prompt": prompt}
    result = replace_model(client, tmp_path, trained=2, asked=1, settings=settings)
    assert tuple(json.loads(json.dumps(result))) == FIELDS and result["client"] == client
    assert (result["recorded"], result["asked"], result["refused"], result["em_before"]) == (2, 1, 0, 100.0)
    assert result["tokens_before"] > 0 and result["tokens_after"] > 0
    for run in ("record", "before"):
        manifest = read_manifest(tmp_path / run)
        assert manifest["endings"] == [] and manifest["unrecorded"] == {}
        assert set(manifest["calls_by_dialect"]) == {DIALECTS.get(client, "chat completions")}
    manifest = read_manifest(tmp_path / "train")
    assert manifest["renderer"] == "recorded"
    assert [tool["name"] for tool in manifest["tools"]] == TOOLS.get(client, ["search"])
    assert [tool["name"] for tool in manifest["tools"] if tool["ends"]] == ENDINGS.get(client, [])
    first_call = json.loads((tmp_path / "after" / "calls.jsonl").read_text(encoding="utf-8").splitlines()[0])
    prompt_tokens = next(value for name, value in first_call["reply"]["usage"].items() if name in PROMPT_TOKENS)
    assert (prompt_tokens < 100) == (client in LONG_PROMPTS)  # there the question alone reaches the student
