"""Studies of students that are fine-tuned at a provider, over real HTTP; and what all stages of a study may spend."""

import json
from pathlib import Path
from typing import Any

import pytest

from fake_tuning import Answer, FakeTuning
from fireact.base import jsonl
from fireact.base.verbs import resume
from fireact.errors import ConfigError, FireactError
from fireact.study.cost import StudyBudget, parse_usd_budget
from fireact.study.runner import StudyConfig, plan_study, run_study

STUDY = """
title = "Hosted"
baseline = "prompted"
[shared]
base = "openai:gpt-3.5-turbo@URL"
tasks = ["geo-hop"]
n = 2
[collect.hop]
plan = { "geo-hop/react" = 16 }
[mixtures.hop]
from = ["hop"]
[prices]
trained_tokens = { value = 8, source = "a list" }
machine_hour = { value = 1, source = "a list" }
teacher_question = { value = 1, source = "a list" }
[[cells]]
name = "prompted"
[[cells]]
name = "tuned"
mixture = "hop"
size = 10
"""


class Served(FakeTuning):
    """A provider that answers as well, at 1,000 tokens a prompt; what it was asked stands in ``prompts``."""

    def __init__(self) -> None:
        super().__init__("openai", states=("queued", "succeeded"))
        self.prompts: list[dict[str, Any]] = []

    def shown(self, job: dict[str, Any]) -> dict[str, Any]:
        row = super().shown(job)
        return row | ({"fine_tuned_model": "tuned"} if "fine_tuned_model" in row else {})

    def post(self, path: str, query: dict[str, str], raw: bytes) -> Answer:
        if path != "chat/completions":
            return super().post(path, query, raw)
        self.prompts.append(json.loads(raw))
        message = {"role": "assistant", "content": "Thought: so\nAction: finish[x]"}
        usage = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010}
        return 200, {
            "id": "1", "object": "chat.completion", "created": 0, "model": "m", "usage": usage,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }  # fmt: skip


@pytest.fixture(autouse=True)
def priced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    row = "{ input_per_million = 100, output_per_million = 100 }"
    names = ("gpt-3.5-turbo", "ft:gpt-3.5-turbo", "tuned")
    (tmp_path / "prices.toml").write_text("[prices]\n" + "".join(f'"{name}" = {row}\n' for name in names))
    monkeypatch.setenv("FIREACT_PRICES", str(tmp_path / "prices.toml"))


def config(tmp_path: Path, url: str, text: str = STUDY, **options: Any) -> StudyConfig:
    (tmp_path / "hosted.toml").write_text(text.replace("URL", url))
    return StudyConfig(str(tmp_path / "hosted.toml"), **options)


def test_a_hosted_student_is_forecast_without_a_call(tmp_path: Path) -> None:
    found = plan_study(config(tmp_path, "http://127.0.0.1:9/v1"), tmp_path / "none").to_dict()
    stages = {one["stage"].partition("/")[0]: one for one in found["cells"][1]["stages"]}
    assert list(stages) == ["collect", "mix", "tune", "eval"] and found["usd"]["whole"]
    assert stages["tune"]["training_tokens"] == 3 * 10 * 250 and stages["tune"]["usd"] == pytest.approx(0.06)
    prompted = found["cells"][0]["stages"][0]["usd"]
    assert 0 < stages["eval"]["usd"] < prompted  # no instructions, no examples
    unpriced = plan_study(
        config(tmp_path, "http://127.0.0.1:9/v1", STUDY.replace("trained_tokens", "search")), tmp_path / "none"
    )
    assert unpriced.cost.unpriced[0].startswith("the price of a trained token of ")
    short = config(tmp_path, "http://127.0.0.1:9/v1", STUDY.replace("size = 10", "size = 10\nepochs = 1"))
    assert plan_study(short, tmp_path / "none").cost.tokens == 10 * 250


def test_a_hosted_student_is_trained_asked_and_compared(tmp_path: Path) -> None:
    with Served() as served:
        manifest = run_study(config(tmp_path, served.url), tmp_path / "out")
        again = run_study(config(tmp_path, served.url), tmp_path / "out")
    assert len(served.jobs) == 1 and again["cells"] == manifest["cells"] == 2 and len(served.prompts) == 4
    prompted, tuned = jsonl.read_objects(tmp_path / "out" / "results.jsonl")
    assert tuned["tuned"] and tuned["settings"]["recipe"] == {"epochs": 3} and tuned["versions"]["tune"]
    assert tuned["against"]["geo-hop"]["cell"] == "prompted" and prompted["settings"]["recipe"] is None
    costs = manifest["economics"]["tuned"]
    assert costs["training_usd"] > 0 and costs["usd_per_question"] == pytest.approx(0.101)


def test_a_few_shot_cell_is_prompted_as_an_untuned_model_is(tmp_path: Path) -> None:
    text = STUDY.replace('name = "prompted"', 'name = "prompted"\nmethod = "cot"')
    text = text.replace("size = 10", 'size = 10\nfew_shot = 3\nmethod = "cot"')
    with Served() as served:
        run_study(config(tmp_path, served.url, text), tmp_path / "out")
    untuned, tuned = served.prompts[:2], served.prompts[2:]
    asked = [sorted(json.dumps(one["messages"]) for one in found) for found in (untuned, tuned)]
    assert len(tuned) == 2 and asked[0] == asked[1]  # instructions and examples of CoT in both
    assert list(jsonl.read_objects(tmp_path / "out" / "results.jsonl"))[1]["settings"]["method"] == "cot"


def test_a_key_is_asked_for_before_anything_is_bought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        run_study(config(tmp_path, "https://api.openai.com/v1"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_all_stages_together_stay_within_the_budget(tmp_path: Path) -> None:
    with Served() as served:
        with pytest.raises(FireactError, match="budget"):
            run_study(config(tmp_path, served.url, budget="0.25usd"), tmp_path / "out")
        assert len(served.prompts) == 2 and len(served.jobs) == 1  # 0.20 for the prompted one, some cents for the job
        prompted, tuned = jsonl.read_objects(tmp_path / "out" / "results.jsonl")
        assert "results" in prompted and "budget" in tuned["error"]
        manifest = resume(tmp_path / "out", budget="5usd")
    assert manifest["cells"] == 2 and len(served.prompts) == 4 and len(served.jobs) == 1


def test_a_budget_of_a_study_is_in_dollars() -> None:
    with pytest.raises(ConfigError, match="must be in dollars"):
        StudyConfig("scaling", budget="1000tokens")


def test_searches_count_at_the_price_of_the_file(tmp_path: Path) -> None:
    from fireact.errors import BudgetError
    from fireact.study.runner import StudyMatrix, load_rates

    text = STUDY.replace("n = 2", 'n = 2\ntools = ["serpapi"]').replace("trained_tokens", "search")
    matrix = StudyMatrix.read(config(tmp_path, "http://127.0.0.1:9/v1", text))
    (asked,) = matrix.chains["prompted"]
    known = load_rates(matrix, tmp_path)
    with pytest.raises(BudgetError, match=r"searches of eval/\w+ are expected to take \$48.00"):
        StudyBudget(parse_usd_budget("40usd"), matrix.stages, tmp_path, known).config_within_budget(asked)
    assert (
        StudyBudget(parse_usd_budget("50usd"), matrix.stages, tmp_path, known).config_within_budget(asked).budget
        == "2.000000usd"
    )
    assert StudyBudget(None, matrix.stages, tmp_path, known).config_within_budget(asked).budget is None
