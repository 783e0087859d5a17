"""``publish``: what a repository holds, what is asked for first, and that nothing leaves without the flag."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (the extra hub has it)")
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from fake_hub import FakeHub, fake_hub
from fakes import trajectory
from fireact.base import jsonl
from fireact.base.run_directory import RunDir
from fireact.data.doctor import DoctorConfig, diagnose_data
from fireact.data.mixture import MixConfig, mix
from fireact.data.teachers import Teacher, find_teachers
from fireact.errors import ConfigError, DataError, ProviderError
from fireact.pipeline.publication import PublishConfig, publish_run

TO = "hub:me/agent"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


def collected(path: Path, *, teacher: str = "openai:gpt-4o", licence: str = "", question: str = "") -> Path:
    episodes = [trajectory(index) for index in range(4)]
    if question:
        episodes[0] = replace(episodes[0], example=replace(episodes[0].example, question=question))
    with RunDir(path, verb="collect", settings={"teacher": teacher}) as run:
        jsonl.write_objects(path / "trajectories.jsonl", [episode.to_dict() for episode in episodes])
        run.finish(teacher=teacher, **({"teacher_license": licence} if licence else {}), counts={})
    return path


def trained(path: Path, data: Path, *, student: str = "org/base") -> Path:
    """A run of train as it lies on disk: an adapter, its manifest, and what two evaluations of it measured."""
    with RunDir(path, verb="train", settings={"data": str(data), "student": student}) as run:
        (path / "adapter").mkdir()
        (path / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": student, "r": 4}))
        (path / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
        run.finish(
            student=student, adapter_sha256="0" * 64, trajectories=4, renderer="react", tools=[{"name": "search"}],
            tuned=True,
        )  # fmt: skip
    rows = [
        {"run": "ev", "task": task, "n": 60, "em": 0.783, "em_interval": [0.667, 0.867]}
        for task in ("hotpotqa", "geo-hop")
    ]
    jsonl.write_objects(path / "evaluations.jsonl", rows)
    return path


LICENCES: dict[str, Any] = {"license": "apache-2.0", "base_license": "mit", "teacher_license": "openai-terms"}


def test_without_the_flag_nothing_leaves_and_what_is_missing_is_asked_for(hub: FakeHub, tmp_path: Path) -> None:
    run = trained(tmp_path / "train", collected(tmp_path / "collect"))
    shown = publish_run(PublishConfig(str(run), to=TO)).value
    assert not hub.requests and not shown.url
    assert [word for note in shown.missing for word in note.split() if word.startswith("--")] == [
        "--license.", "--teacher-license.", "--base-license.",
    ]  # fmt: skip
    assert "openai:gpt-4o" in " ".join(shown.missing)
    with pytest.raises(ConfigError, match="nothing was pushed"):
        publish_run(PublishConfig(str(run), to=TO, push=True))
    assert not hub.requests


def test_an_adapter_is_pushed_with_card_results_and_licences(hub: FakeHub, tmp_path: Path) -> None:
    run = trained(tmp_path / "train", collected(tmp_path / "collect"))
    pushed = publish_run(PublishConfig(str(run), to=TO, push=True, private=True, **LICENCES)).value
    assert pushed.url == f"{hub.address}/me/agent" and not pushed.missing
    assert (
        hub.created[0].get("private", hub.created[0].get("visibility")) in (True, "private")
        and hub.created[0]["name"] == "agent"
    )
    assert set(hub.files) == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", ".eval_results/hotpotqa.yaml",
    }  # fmt: skip
    assert hub.files["adapter_model.safetensors"] == b"weights"
    card = ModelCard(hub.files["README.md"].decode())
    assert card.data.license == "apache-2.0" and card.data.base_model == "org/base"
    results = {result.dataset_name: result for result in card.data.eval_results}
    assert results["geo-hop"].metric_value == 78.3 and "66.7 to 86.7" in results["geo-hop"].metric_name
    assert "the base org/base: mit" in card.text and "openai:gpt-4o: openai-terms" in card.text
    assert "Name it above" not in card.text and str(tmp_path) not in hub.files["README.md"].decode()
    (entry,) = parse_eval_result_entries(yaml.safe_load(hub.files[".eval_results/hotpotqa.yaml"]))
    assert entry.dataset_id == "hotpotqa/hotpot_qa" and entry.value == 78.3 and "n 60" in entry.notes


def test_a_task_that_only_the_run_names_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evilmod.py").write_text("raise SystemExit('this module must not be imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = trained(tmp_path / "train", collected(tmp_path / "collect"))
    row = {"run": "ev", "n": 60, "em": 0.5, "em_interval": [0.4, 0.6]}
    jsonl.write_objects(run / "evaluations.jsonl", [{**row, "task": task} for task in ("evilmod:x", "hub", "mmlu")])
    files = publish_run(PublishConfig(str(run), to=TO)).value.files
    assert [name for name in files if name.startswith(".eval_results")] == [".eval_results/mmlu.yaml"]
    assert "evilmod:x" in files["README.md"]


def test_a_mixture_is_a_data_set_with_its_card(hub: FakeHub, tmp_path: Path) -> None:
    source = collected(tmp_path / "collect", licence="cc-by-4.0")
    mix(MixConfig(sources=(str(source),)), tmp_path / "mix")
    assert find_teachers(tmp_path / "mix") == [Teacher("openai:gpt-4o", "cc-by-4.0")]
    publish_run(PublishConfig(str(tmp_path / "mix"), to="hub:me/data", push=True, license="cc-by-4.0"))
    assert hub.created[0]["type"] == "dataset" and "/api/datasets/me/data/commit/main" in hub.requests
    assert set(hub.files) == {"README.md", "data/train.parquet"}
    card = hub.files["README.md"].decode()
    assert "license: cc-by-4.0" in card and "the answers of openai:gpt-4o: cc-by-4.0" in card
    assert "path: data/train.parquet" in card and str(tmp_path) not in card


@pytest.mark.parametrize("question", [f"Is sk-{'a' * 40} a key?", f"Key:\nsk-proj-{'a' * 40}"])
def test_episodes_with_keys_are_not_published(hub: FakeHub, tmp_path: Path, question: str) -> None:
    run = collected(tmp_path / "collect", question=question)
    with pytest.raises(DataError, match=r"line 1 holds what looks like a key.*fireact doctor"):
        publish_run(PublishConfig(str(run), to=TO, push=True, **LICENCES))
    assert not hub.requests


def test_a_study_is_published_with_its_tables_as_the_card(hub: FakeHub, tmp_path: Path) -> None:
    with RunDir(tmp_path / "study", verb="study", settings={"study": "x"}) as run:
        (run.path / "tables.md").write_text("# Does it help?\n\n| cell | EM |\n|---|---|\n", encoding="utf-8")
        (run.path / "results.jsonl").write_text("{}\n")
        (run.path / "plots").mkdir()
        (run.path / "plots" / "a.svg").write_text("<svg/>")
        run.finish(title="Does it help?")
    publish_run(PublishConfig(str(tmp_path / "study"), to=TO, push=True, license="mit"))
    assert set(hub.files) == {"README.md", "tables.md", "results.jsonl", "plots/a.svg"}
    assert "# Does it help?" in hub.files["README.md"].decode() and hub.created[0]["type"] == "dataset"


@pytest.mark.parametrize("name", ["results.jsonl", "tables.md"])
def test_a_study_with_a_key_is_not_published(hub: FakeHub, tmp_path: Path, name: str) -> None:
    key = f"sk-{'a' * 40}"
    with RunDir(tmp_path / "study", verb="study", settings={"study": "x"}) as run:
        text = json.dumps({"note": f"Key:\n{key}"}) if name == "results.jsonl" else f"# Study\n{key}"
        (run.path / name).write_text(f"{text}\n", encoding="utf-8")
        run.finish(title="x")
    with pytest.raises(DataError, match=rf"{name}, line \d holds what looks like a key"):
        publish_run(PublishConfig(str(tmp_path / "study"), to=TO, push=True, **LICENCES))
    assert not hub.requests


def test_a_refusal_of_the_hub_is_told_with_what_to_do(hub: FakeHub, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ProviderError, match=r"the hub refused me/agent: .*HF_TOKEN"):
        publish_run(PublishConfig(str(collected(tmp_path / "c")), to=TO, push=True, **LICENCES))
    assert not hub.files


def test_a_token_is_asked_for_only_where_it_is_refused(hub: FakeHub, tmp_path: Path, monkeypatch: Any) -> None:
    config = PublishConfig(str(collected(tmp_path / "c")), to=TO, push=True, **LICENCES)
    for status, asks in ((400, False), (403, True)):
        hub.refusal = status
        with pytest.raises(ProviderError, match=r"the hub refused me/agent: .*not in this way") as refused:
            publish_run(config)
        assert ("HF_TOKEN" in str(refused.value)) is asks
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ProviderError, match=r"the hub cannot be reached at http://127\.0\.0\.1:9: .*Check") as refused:
        publish_run(config)
    assert "HF_TOKEN" not in str(refused.value) and "\n" not in str(refused.value)


def test_a_student_of_a_directory_is_named_by_its_hub_id(hub: FakeHub, tmp_path: Path) -> None:
    student = tmp_path / "weights"
    run = trained(tmp_path / "train", collected(tmp_path / "collect"), student=str(student))
    shown = publish_run(PublishConfig(str(run), to=TO, **LICENCES)).value
    assert shown.missing[0].startswith("Name the base by its hub id with --base")
    assert str(tmp_path) not in json.dumps([shown.to_dict(), shown.files["adapter_config.json"]])
    with pytest.raises(ConfigError, match="Name the base by its hub id"):
        publish_run(PublishConfig(str(run), to=TO, push=True, **LICENCES))
    with pytest.raises(ConfigError, match="give a model of the hub"):
        publish_run(PublishConfig(str(run), to=TO, base=str(student), **LICENCES))
    publish_run(PublishConfig(str(run), to=TO, push=True, base="org/base", **LICENCES))
    assert json.loads(hub.files["adapter_config.json"]) == {"base_model_name_or_path": "org/base", "r": 4}
    card = hub.files["README.md"].decode()
    assert ModelCard(card).data.base_model == "org/base" and "the base org/base: mit" in card
    assert str(tmp_path) not in card and 'from_pretrained("org/base")' in card


@pytest.mark.parametrize("to", ["me/agent", "hub:agent", "hub:me/agent/x", "hub:"])
def test_a_target_that_is_no_repository_is_refused(to: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hub:OWNER/NAME"):
        publish_run(PublishConfig(str(collected(tmp_path / "c")), to=to))


def evaluated(path: Path, agent: str) -> Path:
    with RunDir(path, verb="eval", settings={"agent": agent}) as run:
        jsonl.write_objects(path / "trajectories.jsonl", [trajectory(index).to_dict() for index in range(2)])
        run.finish(agent=agent, results={})
    return path


def test_the_model_of_an_evaluation_is_a_teacher(hub: FakeHub, tmp_path: Path) -> None:
    """A hosted model is one itself; a student of ours has those of its data."""
    student = trained(tmp_path / "train", collected(tmp_path / "collect", licence="mit"))
    teachers = {
        "openai:gpt-4o": [Teacher("openai:gpt-4o")],
        "scripted:expert": [Teacher("scripted:expert")],
        str(student): [Teacher("openai:gpt-4o", "mit")],
        str(tmp_path / "weights"): [Teacher("weights")],
        f"replay:{tmp_path / 'collect'}": [Teacher("openai:gpt-4o", "mit")],
    }
    runs = [evaluated(tmp_path / f"eval-{number}", agent) for number, agent in enumerate(teachers)]
    assert list(map(find_teachers, runs)) == list(teachers.values())
    with pytest.raises(ConfigError, match=r"answers of openai:gpt-4o: .*--teacher-license"):
        publish_run(PublishConfig(str(runs[0]), to=TO, push=True, license="mit"))
    assert not hub.requests


def test_a_source_that_cannot_be_seen_has_an_unknown_teacher(hub: FakeHub, tmp_path: Path) -> None:
    data = tmp_path / "answers.jsonl"
    jsonl.write_objects(data, [trajectory(index).to_dict() for index in range(4)])
    mix(MixConfig(sources=(str(data),)), tmp_path / "mix")
    for run in (trained(tmp_path / "train", data), trained(tmp_path / "later", tmp_path / "gone"), tmp_path / "mix"):
        shown = " ".join(publish_run(PublishConfig(str(run), to=TO)).value.missing)
        assert f"the unknown teacher of {'gone' if run.name == 'later' else 'answers.jsonl'}:" in shown
        assert str(tmp_path) not in shown
    pushed = publish_run(PublishConfig(str(tmp_path / "mix"), to="hub:me/data", push=True, **LICENCES)).value
    assert pushed.url and "the unknown teacher of answers.jsonl: openai-terms" in hub.files["README.md"].decode()


def test_the_doctor_names_teachers_without_a_licence(tmp_path: Path) -> None:
    kinds = {
        name: {finding.kind: finding.example for finding in diagnose_data(DoctorConfig(data=str(path))).findings}
        for name, path in {
            "open": collected(tmp_path / "a"),
            "named": collected(tmp_path / "b", licence="mit"),
            "script": collected(tmp_path / "c", teacher="scripted:expert"),
        }.items()
    }
    assert kinds["open"]["teacher licence"] == "openai:gpt-4o"
    assert "teacher licence" not in kinds["named"] and "teacher licence" not in kinds["script"]


def test_a_run_that_names_itself_has_an_unknown_teacher(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f'verb = "mix"\nsources = ["{tmp_path}"]\n', encoding="utf-8")
    assert [teacher.name for teacher in find_teachers(tmp_path)] == [f"the unknown teacher of {tmp_path.name}"]
