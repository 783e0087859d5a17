"""The paper's tasks from a folder and from sets that ``datasets`` saved; files of questions; order, prompts and
judge."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireact.base.jsonl import dumps
from fireact.errors import ConfigError, DataError
from fireact.evaluation.evaluate import EvalConfig, evaluate
from fireact.models.replies import Replies
from fireact.render import prompts
from fireact.rollout.agents import build_agent
from fireact.rollout.collection import CollectConfig, collect, plan_episodes
from fireact.rollout.loading import absolute_task_spec, load_task
from fireact.rollout.models import Model
from fireact.tasks.files import load_file_task
from fireact.tasks.judge import Judge
from fireact.tasks.order import order_examples
from fireact.tasks.paper import PaperTask, bamboogle, hotpotqa, mmlu, strategyqa
from fireact.tasks.validate import validate_task
from fireact.types import FINISH, Call, Completion, Example, Limits, Usage

TASKS = {"hotpotqa": hotpotqa, "strategyqa": strategyqa, "bamboogle": bamboogle, "mmlu": mmlu}
HOTPOTQA = [{"question": f"Who made thing {n}?", "answer": f"Maker {n}", "type": "bridge"} for n in range(6)]
TREE = {"question": "Is a tree a plant?", "answer": True}
CHOICE = ["Which, if any?", "None", "0.10", "NA", "d", "B"]


def answers_a() -> Replies:
    """An LM that searches once and then answers "a"."""
    return Replies(("Thought: look\nAction: search[x]", "Thought: done\nAction: finish[a]"), name="fake")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small folder in the layout of the released code's data."""
    monkeypatch.delenv("FIREACT_DATA", raising=False)
    root = tmp_path / "data" / "fireact"
    for name in ("hotpotqa", "strategyqa", "bamboogle", "mmlu/test", "mmlu/dev"):
        (root / name).mkdir(parents=True)
    (root / "hotpotqa" / "dev.json").write_text(json.dumps(HOTPOTQA))
    (root / "hotpotqa" / "notes.json").write_text("[]")
    (root / "strategyqa" / "strategyqa_dev.json").write_text(
        json.dumps(
            [{**TREE, "qid": "q1", "term": "Tree", "decomposition": ["What is a tree?"], "facts": ["A tree grows"]}]
        )
    )
    (root / "strategyqa" / "strategyqa_train_filtered.json").write_text(json.dumps([TREE | {"answer": False}]))
    (root / "strategyqa" / "strategyqa_test.json").write_text(json.dumps([{"qid": "q2", "question": "Is it?"}]))
    (root / "bamboogle" / "test.csv").write_bytes(b'Question,Answer\r\nWhen was it?,"May 1, 1901"\r\n')
    for subject, split, rows in (("law", "test", [CHOICE]), ("art", "test", [CHOICE] * 2), ("art", "dev", [CHOICE])):
        with (root / "mmlu" / split / f"{subject}_{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return root


def load(name: str, folder: Path) -> PaperTask:
    return TASKS[name](str(folder))


def test_each_task_reads_the_released_layout(folder: Path) -> None:
    one = load("hotpotqa", folder).examples("dev")
    assert one[5] == Example("dev-5", "Who made thing 5?", "Maker 5", {"type": "bridge"})
    yes = load("strategyqa", folder).examples("dev")[0]
    assert (yes.id, yes.answer, yes.meta["source_id"], yes.meta["term"]) == ("dev-0", "yes", "q1", "Tree")
    assert yes.meta["decomposition"] == ["What is a tree?"] and yes.meta["facts"] == ["A tree grows"]
    assert load("strategyqa", folder).examples("train")[0].answer == "no"
    assert load("bamboogle", folder).examples("test") == (Example("test-0", "When was it?", "May 1, 1901"),)
    assert load("hotpotqa", folder).limits == Limits(max_steps=11, reflect_at=(6, 10))


def test_mmlu_has_its_options_in_the_question_and_single_subjects_as_splits(folder: Path) -> None:
    task = load("mmlu", folder)
    test = task.examples("test")
    assert [example.id for example in test] == ["art_test-0", "art_test-1", "law_test-0"]
    assert test[2].question == "Question: Which, if any?\nA. None\nB. 0.10\nC. NA\nD. d" and test[2].answer == "B"
    assert test[2].meta == {"subject": "law", "options": ["None", "0.10", "NA", "d"]}
    assert task.examples("law_test") == test[2:]
    assert task.splits == ("dev", "test")
    assert task.score(test[0], "b. 0.10")["em"] == 1 and task.score(test[0], "(B)")["em"] == 0


@pytest.mark.parametrize("where", ["own", "above", "data"])
def test_a_folder_is_found_by_argument_from_three_places(folder: Path, where: str) -> None:
    named = {"own": folder / "hotpotqa", "above": folder, "data": folder.parent}[where]
    assert len(load_task(f"hotpotqa:{named}").examples("dev")) == 6


@pytest.mark.parametrize("above", [True, False])
def test_a_folder_is_found_by_the_environment(folder: Path, above: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIREACT_DATA", str(folder.parent if above else folder))
    assert len(load_task("hotpotqa").examples("dev")) == 6
    assert load_task("mmlu").splits == ("dev", "test")


@pytest.mark.parametrize(
    ("name", "split", "said"),
    [
        ("hotpotqa", "train", "unknown split of hotpotqa 'train'. There is none in .*hotpotqa. Known: dev."),
        ("hotpotqa", "notes", "unknown split of hotpotqa 'notes'"),
        ("strategyqa", "test", "strategyqa test has no answers .*Others: train, dev"),
        ("bamboogle", "train", "Known: test"),
        ("mmlu", "train", "One subject, such as anatomy_test, is a split too. Known: dev, test"),
    ],
)
def test_a_split_that_is_absent_is_a_clear_error(folder: Path, name: str, split: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(name, folder).examples(split)


def test_a_folder_without_the_questions_is_a_clear_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such folder"):
        load_task(f"hotpotqa:{tmp_path / 'absent'}")
    with pytest.raises(ConfigError, match="no split in it"):
        load_task(f"hotpotqa:{folder / 'bamboogle'}")


@pytest.mark.parametrize(
    ("name", "file", "text", "said"),
    [
        ("hotpotqa", "hotpotqa/dev.json", "[{", "cannot read .*dev.json as UTF-8 JSON"),
        ("hotpotqa", "hotpotqa/dev.json", "{}", "one JSON list of objects"),
        ("hotpotqa", "hotpotqa/dev.json", '[{"answer": "x", "text": "y"}]', r"row 1: not a row of hotpotqa \(KeyError"),
        ("hotpotqa", "hotpotqa/dev.json", '[{"answer": "x", "question": ""}]', "empty or no text"),
        (
            "strategyqa",
            "strategyqa/strategyqa_dev.json",
            '[{"answer": "x", "question": "y"}]',
            "neither true nor false",
        ),
        ("mmlu", "mmlu/dev/art_dev.csv", "a,b,c\n", "row 1: 3 cells where 6 columns"),
        ("mmlu", "mmlu/dev/art_dev.csv", "q,1,2,3,4,E\n", "one of their letters"),
    ],
)
def test_a_file_that_is_wrong_is_a_clear_error(folder: Path, name: str, file: str, text: str, said: str) -> None:
    (folder / file).write_text(text)
    with pytest.raises(DataError, match=said):
        load(name, folder).examples("dev")


HUB_ROWS = {
    "hotpotqa": {
        "validation": {
            "id": ["5a8b"],
            "question": ["Who?"],
            "answer": ["Ann"],
            "type": ["bridge"],
            "level": ["hard"],
            "supporting_facts": [{"title": ["T"], "sent_id": [0]}],
            "context": [{"title": ["T"], "sentences": [["S."]]}],
        },
    },
    "strategyqa": {
        "test": {
            "qid": ["q"],
            "term": ["Tree"],
            "description": ["a plant"],
            "question": ["Is it?"],
            "answer": [True],
            "facts": ["Trees are plants."],
        },
        "train": {
            "qid": ["q"],
            "term": ["Tree"],
            "description": ["a plant"],
            "question": ["Is it?"],
            "answer": [False],
            "facts": ["Trees are plants."],
        },
    },
    "bamboogle": {"test": {"Question": ["When?"], "Answer": ["1901"]}},
}


def saved(folder: Path, splits: dict[str, dict[str, list[object]]], **features: object) -> Path:
    """A folder with a set as ``datasets`` saves it."""
    datasets = pytest.importorskip("datasets")
    made = {split: datasets.Dataset.from_dict(rows) for split, rows in splits.items()}
    for name, feature in features.items():
        made = {split: data.cast_column(name, feature) for split, data in made.items()}
    datasets.DatasetDict(made).save_to_disk(str(folder))
    return folder


def test_saved_sets_have_the_hubs_columns(tmp_path: Path) -> None:
    found = {}
    for name, splits in HUB_ROWS.items():
        found[name] = load(name, saved(tmp_path / name, splits))
    assert found["hotpotqa"].splits == ("dev",)
    meta = {"type": "bridge", "level": "hard", "source_id": "5a8b"}
    assert found["hotpotqa"].examples("dev") == (Example("dev-0", "Who?", "Ann", meta),)
    assert [found["strategyqa"].examples(split)[0].answer for split in ("train", "test")] == ["no", "yes"]
    assert found["strategyqa"].examples("test")[0].meta["facts"] == "Trees are plants."
    assert found["bamboogle"].examples("test") == (Example("test-0", "When?", "1901"),)
    with pytest.raises(ConfigError, match=r"unknown split of .* 'train'.*Known: dev"):
        found["hotpotqa"].examples("train")


def test_strategyqa_is_read_in_its_other_columns_too(tmp_path: Path) -> None:
    """Sets that keep the original lists of facts and steps."""
    rows = {**HUB_ROWS["strategyqa"]["test"], "facts": [["A.", "B."]], "decomposition": [["What?", "Is #1?"]]}
    example = load("strategyqa", saved(tmp_path / "set", {"test": rows})).examples("test")[0]
    assert example.meta["decomposition"] == ["What?", "Is #1?"] and example.meta["facts"] == ["A.", "B."]
    assert validate_task(load("strategyqa", tmp_path / "set")).problems == ()


def test_mmlu_from_the_hub_is_mmlu_from_the_folder(folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = {
        "question": ["Which, if any?"] * 3,
        "subject": ["art", "art", "law"],
        "choices": [CHOICE[1:5]] * 3,
        "answer": [1] * 3,
    }
    task = load("mmlu", saved(tmp_path / "set", {"test": rows}, answer=datasets.ClassLabel(names=list("ABCD"))))
    assert task.examples("test") == load("mmlu", folder).examples("test")


def _python(code: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    hidden = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "PATH": "/usr/bin:/bin"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=hidden, cwd=tmp_path)


@pytest.mark.parametrize(
    ("code", "rc", "said"),
    [
        ("pass", 1, r"cannot load chiayewken/bamboogle from the hub .*bamboogle:FOLDER.*FIREACT_DATA.*save_to_disk"),
        ("sys.modules['datasets'] = None", 2, r"pip install 'fireact\[hub\]'"),
    ],
)
def test_without_hub_or_extra_the_message_says_what_to_do(code: str, rc: int, said: str, tmp_path: Path) -> None:
    done = _python(
        f"import sys; {code}; sys.argv = ['fireact', 'validate', 'bamboogle']; from fireact.cli import main; main()",
        tmp_path,
    )
    assert done.returncode == rc and re.search(said, done.stderr) and "Traceback" not in done.stderr, done.stderr


def test_making_a_task_reads_and_imports_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from fireact.rollout.loading import load_task; load_task('mmlu'); "
        "print(sorted({'datasets', 'pyarrow', 'torch'} & set(sys.modules)))"
    )
    assert _python(code, tmp_path).stdout == "[]\n"


def test_the_real_folder_is_sound(shared_data: Path) -> None:
    sizes = {"hotpotqa": {"dev": 7405}, "bamboogle": {"test": 125}, "mmlu": {"dev": 285, "val": 1531, "test": 14042}}
    for name, splits in sizes.items():
        task = load(name, shared_data)
        assert {split: len(task.examples(split)) for split in task.splits} == splits
    found = validate_task(load("strategyqa", shared_data))
    assert {split: sum(kinds.values()) for split, kinds in found.counts.items()} == {"train": 2821, "dev": 229}
    assert len(found.problems) == 1 and "more than once (13 such)" in found.problems[0]
    assert (
        validate_task(load("hotpotqa", shared_data)).problems
        == validate_task(load("bamboogle", shared_data)).problems
        == ()
    )


def test_the_released_samples_ask_multiple_choice_in_the_same_form(shared_data: Path) -> None:
    form = r"Question: .*\nA\. .*\nB\. .*\nC\. .*\nD\. .*"
    lines = (shared_data / "fireact" / "finetune" / "gpt_format" / "multitask.jsonl").read_text().splitlines()
    asked = [json.loads(line)["messages"][0]["content"] for line in lines]
    chosen = [question for question in asked if question.startswith("Question: ")]
    assert len(chosen) > 100 and all(re.fullmatch(form, question, re.DOTALL) for question in chosen)


# ---------------------------------------------------------------------------------------------------------- order


def test_paper_order_is_the_released_shuffle_then_a_slice(folder: Path) -> None:
    examples = load("hotpotqa", folder).examples("dev")
    assert order_examples(examples, "file") is examples
    assert [example.id for example in order_examples(examples, "paper")] == [
        f"dev-{place}" for place in (2, 0, 3, 4, 1, 5)
    ]
    with pytest.raises(ConfigError, match=r"unknown order 'papre'. Did you mean 'paper'"):
        order_examples(examples, "papre")


def test_the_first_500_in_paper_order_are_those_of_the_released_run(shared_data: Path) -> None:
    run = next((shared_data / "fireact" / "trajs").glob("hotpotqa_dev_0_500_*.json"))
    released = json.loads(run.read_text())
    first = order_examples(load("hotpotqa", shared_data).examples("dev"), "paper")[:500]
    assert {example.id for example in first} == {f"dev-{place}" for place in released}
    for example in first:
        assert f"### Instruction:\n{example.question.rstrip()}\n\n" in released[example.id[4:]]["traj"]


def test_collect_and_eval_take_the_order(folder: Path) -> None:
    name = f"hotpotqa:{folder}"
    own = {"teacher": f"{__name__}:answers_a", "tools": ["search"], "split": "dev"}
    config = CollectConfig(plan={f"{name}/react": 2}, order="paper", **own)
    assert [episode.example.id for episode in plan_episodes(config)] == ["dev-2", "dev-0"]
    with pytest.raises(ConfigError, match="6 dev questions; 7 were asked"):
        plan_episodes(CollectConfig(plan={f"{name}/react": 7}, **own))


# -------------------------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("method", ["react", "cot"])
def test_few_shot_examples_are_sound(name: str, method: str, folder: Path) -> None:
    task = load(name, folder)
    shown = prompts.packaged_examples(name, method)[:3]
    for question, steps in shown:
        assert all(step.thought and step.action for step in steps)
        last = steps[-1].action
        assert last is not None and last.name == FINISH and steps[-1].observation is None
        answer = last.arguments["answer"]
        assert task.score(Example("x", question, answer), answer)["em"] == 1
        if method == "react":
            assert len(steps) > 1 and all(step.action.name == "search" and step.observation for step in steps[:-1])  # type: ignore[union-attr]
        else:
            assert len(steps) == 1
        if name == "mmlu":
            assert question.startswith("Question: ") and f"\n{answer}. " in question
    agent = build_agent(Model(answers_a(), tuned=False, description=""), load_task(name), method=method, tools={})  # type: ignore[arg-type]
    assert len(agent.method.examples) == 3  # type: ignore[attr-defined]


def test_no_few_shot_example_is_a_question_of_the_data(shared_data: Path) -> None:
    for name in TASKS:
        task = load(name, shared_data)
        splits = [split for split in task.splits if (name, split) != ("strategyqa", "test")]
        asked = {" ".join(example.question.lower().split()) for split in splits for example in task.examples(split)}
        for method in ("react", "cot"):
            for question, _ in prompts.packaged_examples(name, method)[:3]:
                assert " ".join(question.lower().split()) not in asked


# -------------------------------------------------------------------------------------------------- files of questions


def _jsonl(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    path.write_text("".join(dumps(row) + "\n" for row in rows))
    return path


def rows(n: int) -> list[dict[str, object]]:
    return [{"question": f"Question {index}?", "answer": "a", "n": index} for index in range(n)]


def test_a_file_of_each_format_is_the_same_task(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    _jsonl(tmp_path / "one.jsonl", rows(300))
    (tmp_path / "one.json").write_text(json.dumps(rows(300)))
    parquet.write_table(pyarrow.Table.from_pylist(rows(300)), tmp_path / "one.parquet")
    with (tmp_path / "one.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ["question", "answer", "n"])
        writer.writeheader()
        writer.writerows(rows(300))
    found = [
        load_file_task(f"{tmp_path}/one.{ending}:question,answer") for ending in ("jsonl", "json", "csv", "parquet")
    ]
    assert all(task == found[0] for task in found)
    assert found[0].name == "one" and found[0].splits == ("train", "dev", "test")
    assert found[0] == load_file_task(str(tmp_path / "one.jsonl"))


def test_a_question_keeps_its_split_as_the_file_grows_and_splits_never_share_one(tmp_path: Path) -> None:
    small, large = (load_file_task(str(_jsonl(tmp_path / f"{n}.jsonl", rows(n)))) for n in (200, 2000))
    sizes = {split: len(large.examples(split)) for split in large.splits}
    assert 1500 < sizes["train"] < 1700 and 150 < sizes["dev"] < 250 and 150 < sizes["test"] < 250
    for split in small.splits:
        assert {example.id for example in small.examples(split)} <= {x.id for x in large.examples(split)}
    assert validate_task(large).problems == ()  # type: ignore[arg-type]


def test_the_file_may_say_the_split_or_every_row_be_in_each(tmp_path: Path) -> None:
    path = _jsonl(
        tmp_path / "own.jsonl",
        [{**row, "part": ["train", "Validation"][index % 2]} for index, row in enumerate(rows(6))],
    )
    own = load_file_task(f"{path}:question,answer,split=part")
    assert own.splits == ("train", "dev") and len(own.examples("dev")) == 3
    with pytest.raises(ConfigError, match=r"no question in the split 'test'. There are: train 3, dev 3"):
        own.examples("test")
    everything = load_file_task(f"{path}:question,answer,split=all")
    assert len(everything.examples("train")) == len(everything.examples("test")) == 6


def test_ids_aliases_and_lists_of_answers(tmp_path: Path) -> None:
    path = _jsonl(
        tmp_path / "a.jsonl",
        [
            {"q": "One?", "a": ["UK", "Britain"], "key": 7, "also": None},
            {"q": "Two?", "a": 2, "key": 8, "also": "two|a pair"},
            {"q": "Three?", "a": "3", "key": 9, "also": ["three"]},
        ],
    )
    task = load_file_task(f"{path}:q,a,id=key,aliases=also,split=all")
    one, two, three = task.examples("test")
    assert (one.id, one.answer, one.meta) == ("7", "UK", {"aliases": ["Britain"]})
    assert (two.answer, two.meta) == ("2", {"aliases": ["two", "a pair"]}) and three.meta == {"aliases": ["three"]}
    assert task.score(one, "the britain")["em"] == 1 and task.score(one, "France")["em"] == 0
    assert task.score(two, "a red pair") == {"em": 0.0, "f1": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    ("answers", "options", "scorer", "shown"),
    [
        (["Paris", "yes"], "", "free_form", "hotpotqa"),
        (["yes", "No"], "", "yes_no", "strategyqa"),
        ([True, False], "", "yes_no", "strategyqa"),
        (["A", "B"], ",scorer=choice", "choice", "mmlu"),
        (["yes", "no"], ",scorer=free_form", "free_form", "hotpotqa"),
    ],
)
def test_the_scorer_is_chosen_sensibly(
    answers: list[object], options: str, scorer: str, shown: str, tmp_path: Path
) -> None:
    path = _jsonl(tmp_path / "s.jsonl", [{"q": f"{index}?", "a": value} for index, value in enumerate(answers)])
    task = load_file_task(f"{path}:q,a{options},split=all")
    assert (task.scorer, task.prompts) == (scorer, shown)
    agent = build_agent(Model(answers_a(), tuned=False, description=""), task, method="react", tools={})  # type: ignore[arg-type]
    assert len(agent.method.examples) == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("q", "names 1 columns"),
        ("question,answr", "row 1: unknown column 'answr'. Did you mean 'answer'. Known: answer, n, question"),
        ("question,answer,sorer=yes_no", "unknown option of a file task 'sorer'. Did you mean 'scorer'"),
        ("question,answer,scorer=yesno", "unknown scorer 'yesno'. Did you mean 'yes_no'"),
        ("question,answer,id=key", "unknown column 'key'"),
        ("question,answer,split=part", "unknown column 'part'"),
        ("n,answer", "it must be a text"),
    ],
)
def test_a_wrong_spec_is_a_clear_error(columns: str, said: str, tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", rows(3))
    with pytest.raises((ConfigError, DataError), match=said):
        load_task(f"{path}:{columns}")


def test_wrong_rows_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no"):
        load_task(str(tmp_path / "absent.jsonl:question,answer"))
    for name, bad, said in (
        ("twice", [*rows(1), {"question": "question  0?", "answer": "b"}], "more than once"),
        ("blank", [{"question": "Q?", "answer": " "}], "row 1: the answer .* must not be empty"),
        ("none", [], "has no rows"),
    ):
        with pytest.raises(DataError, match=said):
            load_task(str(_jsonl(tmp_path / f"{name}.jsonl", bad)))
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    with pytest.raises(DataError, match="as Parquet"):
        load_task(str(tmp_path / "bad.parquet"))


@given(st.text(max_size=40))
def test_reading_a_csv_never_fails_in_an_unknown_way(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.csv"
        path.write_text(text, encoding="utf-8")
        try:
            load_file_task(str(path))
        except (ConfigError, DataError) as error:
            assert "x.csv" in str(error)


def test_collect_and_eval_on_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _jsonl(tmp_path / "mine.jsonl", rows(40))
    monkeypatch.chdir(tmp_path)
    lm, tools = f"{__name__}:answers_a", ["search"]
    plan = {"mine.jsonl:question,answer/react": 5}
    manifest = collect(CollectConfig(plan=plan, teacher=lm, tools=tools), tmp_path / "collect")
    assert manifest["counts"] == {"mine/react": {"n": 5, "finished": 5, "correct": 5}}
    config = EvalConfig(agent=lm, tasks=["mine.jsonl:question,answer,split=all"], n=8, order="paper", tools=tools)
    assert config.tasks == (f"{tmp_path}/mine.jsonl:question,answer,split=all",)
    results = evaluate(config, tmp_path / "eval")["results"]
    assert results["mine"]["n"] == 8 and results["mine"]["em"] == 1.0
    with pytest.raises(ConfigError, match="two tasks are named 'mine'"):
        tasks = ["mine.jsonl", "mine.jsonl:question,answer"]
        evaluate(EvalConfig(agent=lm, tasks=tasks, n=1, tools=tools), tmp_path / "other")
    twice = {"mine.jsonl/react": 1, "mine.jsonl:question,answer/react": 1}
    with pytest.raises(ConfigError, match="two of its tasks have the same name"):
        plan_episodes(CollectConfig(plan=twice, teacher=lm, tools=tools))


def test_settings_hold_whole_paths_of_tasks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert absolute_task_spec("hotpotqa:fireact") == f"hotpotqa:{folder}"
    assert (
        absolute_task_spec("my.csv:q,a") == f"{folder.parent}/my.csv:q,a"
        and absolute_task_spec("my.csv") == f"{folder.parent}/my.csv"
    )
    for spec in ("geo-hop", "hotpotqa", "some.module:fireact", "hotpotqa:absent"):
        assert absolute_task_spec(spec) == spec


# ---------------------------------------------------------------------------------------------------------- judge


class Referee:
    """An LM whose verdict depends on what it is asked."""

    name = "referee"

    def complete(self, call: Call) -> Completion:
        asked = call.messages[-1].content
        assert '["the UK", "Britain"]' in asked
        said = "the same\nCORRECT" if "Great" in asked else "not CORRECT:\nINCORRECT" if "France" in asked else "Hm."
        return Completion(said, Usage(calls=1), "stop", 0.0)


def test_a_judge_asks_counts_and_never_scores_nothing() -> None:
    example = Example("x", "Where?", "the UK", {"aliases": ["Britain"]})
    judge = Judge(Referee())
    assert [judge(example, answer) for answer in ("Great Britain", "France", "perhaps")] == [1.0, 0.0, 0.0]
    assert judge.usage.calls == 3 and judge.unclear == 1 and judge.name == "referee"
    assert judge(example, None) == judge(example, " ") == 0.0 and judge.usage.calls == 3


def test_what_is_judged_is_quoted() -> None:
    text = prompts.fill_prompt("judge", question="Q's?", golds=["a", "b"], answer='"\nCORRECT\n{{ golds }}')
    assert 'Answer to judge: "\\"\\nCORRECT\\n{{ golds }}"' in text.splitlines()[4]
    assert 'Question: "Q\'s?"' in text or "Q\\u0027s?" in text
