"""The released fine-tuning files: every sample loads, task and method are right, and all eight come out byte for
byte."""

import json
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from fireact.base.run_directory import read_trajectories
from fireact.data import MixConfig, mix, read_mixture
from fireact.data.doctor import DoctorConfig, diagnose_data
from fireact.data.repair import write_repaired_copy
from fireact.formats.conversion import convert
from fireact.formats.read import read_any
from fireact.formats.released import damage_of

FILES = [
    (folder, stem, count)
    for folder, counts in (("alpaca_format", (500, 734, 1344, 2063)), ("gpt_format", (500, 733, 1344, 2063)))
    for stem, count in zip(
        ("hotpotqa", "hotpotqa_multimethod", "multitask", "multitask_multimethod"), counts, strict=True
    )
]
GROUPS = {
    "hotpotqa": {"hotpotqa/react": 500},
    "hotpotqa_multimethod": {"hotpotqa/react": 500, "hotpotqa/cot": 187, "hotpotqa/reflexion": 47},
    "multitask": {"hotpotqa/react": 500, "mmlu/react": 456, "strategyqa/react": 388},
    "multitask_multimethod": {
        "hotpotqa/react": 500, "hotpotqa/cot": 186, "hotpotqa/reflexion": 47, "mmlu/react": 456, "mmlu/cot": 247,
        "mmlu/reflexion": 9, "strategyqa/react": 388, "strategyqa/cot": 215, "strategyqa/reflexion": 15,
    },
}  # fmt: skip


MOST = "multitask_multimethod"


def file_of(shared_data: Path, folder: str, stem: str) -> Path:
    path = shared_data / "fireact" / "finetune" / folder / (stem + (".json" if folder == "alpaca_format" else ".jsonl"))
    if not path.is_file():
        pytest.skip(f"{path.name} is not among the real data")
    return path


@pytest.mark.parametrize(("folder", "stem", "count"), FILES)
def test_a_released_file_comes_out_byte_for_byte(
    folder: str, stem: str, count: int, shared_data: Path, tmp_path: Path
) -> None:
    path = file_of(shared_data, folder, stem)
    report = convert(path, tmp_path / "again", to=folder.removesuffix("_format"))
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    assert report.trajectories == count and "unreadable" not in report.damage
    episodes = list(read_any(path))
    assert all(episode.answer is not None and episode.stop == "finish" for episode in episodes)
    rows_apart = count == 733  # the gpt form lacks one CoT sample that the alpaca form has
    expected = GROUPS[stem] | ({"hotpotqa/cot": 186} if rows_apart else {})
    assert Counter(f"{it.task}/{it.method}" for it in episodes) == expected
    assert not {"method", "task", "seed"} & report.dropped.keys()


@pytest.mark.parametrize(("folder", "stem"), [("gpt_format", "multitask"), ("alpaca_format", "hotpotqa_multimethod")])
def test_method_and_task_do_not_hang_on_the_name(folder: str, stem: str, shared_data: Path, tmp_path: Path) -> None:
    path = file_of(shared_data, folder, stem)
    (tmp_path / "train").write_bytes(path.read_bytes())
    assert Counter(f"{it.task}/{it.method}" for it in read_any(tmp_path / "train")) == GROUPS[stem]


def test_digests_say_what_the_files_and_their_marks_say(shared_data: Path) -> None:
    """The alpaca files tell without digests: CoT samples do not end their line, and one file holds HotpotQA alone."""
    rows = {
        stem: json.loads(file_of(shared_data, "alpaca_format", stem).read_text())
        for stem in ("hotpotqa_multimethod", MOST)
    }
    hotpotqa = {row["instruction"] for row in rows["hotpotqa_multimethod"]}
    for row, episode in zip(rows[MOST], read_any(file_of(shared_data, "alpaca_format", MOST)), strict=True):
        mmlu = row["instruction"].startswith("Question:")
        reflected = "let me do a reflection" in row["output"]
        react = row["output"].endswith("\n")
        assert episode.task == ("mmlu" if mmlu else "hotpotqa" if row["instruction"] in hotpotqa else "strategyqa")
        assert episode.method == ("reflexion" if reflected else "react" if react else "cot")


@pytest.mark.parametrize("to", ["alpaca", "gpt"])
@pytest.mark.parametrize(("folder", "stem", "count"), FILES)
def test_a_repaired_copy_reads_as_the_same_tasks_and_methods(
    folder: str, stem: str, count: int, to: str, shared_data: Path, tmp_path: Path
) -> None:
    path = file_of(shared_data, folder, stem)
    convert(path, tmp_path / "fixed", to=to, fix=True)
    kept, fixed = list(read_any(path)), list(read_any(tmp_path / "fixed"))
    assert len(kept) == len(fixed) == count
    assert [(it.task, it.method, it.answer) for it in kept] == [(it.task, it.method, it.answer) for it in fixed]


@pytest.mark.parametrize("stem", ["multitask", "multitask_multimethod"])
def test_fix_leaves_no_known_damage(stem: str, shared_data: Path, tmp_path: Path) -> None:
    report = convert(file_of(shared_data, "alpaca_format", stem), tmp_path / "fixed.json", to="alpaca", fix=True)
    assert report.damage["options-in-output"] == report.fixed["options-in-output"] > 400
    rows = json.loads((tmp_path / "fixed.json").read_text())
    assert not any(row["output"].startswith("A.") for row in rows)
    assert all(row["output"].endswith(("reward = True\n", "reward = False\n")) for row in rows)
    again = convert(tmp_path / "fixed.json", tmp_path / "twice.json", to="alpaca", fix=True)
    assert set(again.damage) <= {"no-action", "no-thought"}


def test_options_stand_in_the_question_as_in_the_other_form(shared_data: Path) -> None:
    """What is moved back in the alpaca form is what the gpt form of the same sample has."""
    stem = "multitask"
    one, other = (
        {
            "\n".join(line.strip() for line in it.example.question.splitlines())
            for it in read_any(file_of(shared_data, folder, stem))
            if it.task == "mmlu"
        }
        for folder in ("alpaca_format", "gpt_format")
    )
    assert len(one & other) >= 0.99 * len(one)


def test_a_changed_step_is_not_overruled_by_what_was_kept(shared_data: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from fireact.formats import alpaca

    first = next(read_any(file_of(shared_data, "alpaca_format", "hotpotqa")))
    changed = replace(first, steps=(replace(first.steps[0], thought="Something else."), *first.steps[1:]))
    assert "Something else." in alpaca.alpaca_row(changed)["output"]


@pytest.mark.parametrize(
    ("path", "format", "count"),
    [
        ("r1_searcher/hotpotqa_qwen.jsonl", "tagged", 500),
        ("reflexion_logs/100_questions_5_trials.txt", "react-log", 498),
        ("tau_bench/gpt-4o-airline.json", "messages", 200),
        ("llamafactory_demo/glaive_toolcall_en_demo.json", "sharegpt", 300),
        ("llamafactory_demo/reason_tool_use_demo_50.jsonl", "messages", 50),
        ("llamafactory_demo/v1_sft_demo.jsonl", "messages", 500),
        ("llamafactory_demo/alpaca_en_demo.json", "alpaca", 999),
        ("fastchat/dummy_conversation.json", "sharegpt", 500),
        ("toolbench/119_ChatGPT_DFS_woFilter_w2.json", "toolbench", 1),
    ],
)
def test_real_samples_of_other_formats(path: str, format: str, count: int, shared_data: Path, tmp_path: Path) -> None:
    if not (shared_data / path).is_file():
        pytest.skip(f"{path} is not among the real data")
    report = convert(shared_data / path, tmp_path / "out.jsonl", to="messages")
    assert (report.source_format, report.trajectories) == (format, count)
    assert set(report.dropped) <= {"verbatim words", "steps"}


def test_the_released_evaluation_run(shared_data: Path) -> None:
    path = next((shared_data / "fireact" / "trajs").glob("*.json"))
    episodes = list(read_any(path))
    assert len(episodes) == 500
    assert sum(it.scores["em"] for it in episodes) / 5 == pytest.approx(26.2)


def test_mixtures_and_the_doctor_repair_known_damage(shared_data: Path, tmp_path: Path) -> None:
    path = file_of(shared_data, "alpaca_format", "multitask")
    told = {finding.kind: finding.count for finding in diagnose_data(DoctorConfig(str(path))).findings}
    assert told["options-in-output"] == 456 and told["reward-as-number"] == 844
    manifest = mix(MixConfig(sources=(str(path),), **read_mixture("paper-multitask")), tmp_path / "mix")
    assert manifest["history"][-1] == "repaired: reward-as-number 844, options-in-output 456"
    write_repaired_copy(DoctorConfig(str(path), against=("geo-compose",)), tmp_path / "fixed")
    for made in (tmp_path / "mix", tmp_path / "fixed"):
        kept = list(read_trajectories(made))
        assert len(kept) == 1344 and not any(damage_of(one) for one in kept)
        assert not {"options-in-output", "reward-as-number"} & {
            finding.kind for finding in diagnose_data(DoctorConfig(str(made))).findings
        }


MIXTURES = {
    "paper-hotpotqa": "hotpotqa", "paper-react-cot": "hotpotqa_multimethod",
    "paper-react-reflexion": "hotpotqa_multimethod", "paper-multimethod": "hotpotqa_multimethod",
    "paper-multitask": "multitask", "paper-multitask-multimethod": "multitask_multimethod",
}  # fmt: skip


@pytest.mark.parametrize(
    "name", sorted(file.name.removesuffix(".toml") for file in files("fireact.mixtures").iterdir())
)
def test_every_shipped_mixture_repairs_what_it_takes(name: str, shared_data: Path, tmp_path: Path) -> None:
    path = file_of(shared_data, "alpaca_format", MIXTURES[name])
    mix(MixConfig(sources=(str(path),), **read_mixture(name)), tmp_path / "mix")
    kept = list(read_trajectories(tmp_path / "mix"))
    assert len(kept) == sum(GROUPS[MIXTURES[name]].get(group, 0) for group in read_mixture(name)["take"])
    assert not any(damage_of(one) or "released" in one.meta for one in kept)
    assert not any(step.text.startswith(("A.", "A:", "A)")) for one in kept for step in one.steps)
