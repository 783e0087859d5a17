"""Two runs compare only under the same conditions, question by question and seed by seed, and what flipped is named."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command import fireact
from fakes import trajectory
from fireact.base import jsonl
from fireact.errors import ConfigError, DataError
from fireact.evaluation.compared_runs import ComparedRun, read_scored_run
from fireact.evaluation.comparison import compare_runs, compare_scores, find_blocking_differences
from fireact.evaluation.conditions import SETTINGS, Conditions, conditions_of, find_differences, require_comparable
from fireact.evaluation.evaluate import EvalConfig, evaluate
from fireact.types import Action, Step, Trajectory

SETTLED: dict[str, Any] = {
    "config": {"verb": "eval", "split": "test"},
    "manifest": {"tools": {"search": "abc"}, "limits": {"small": {"max_steps": 8, "max_tokens": 96}}, "agent": "x"},
}


def answered(index: int, answer: str | None, *, seed: int = 0, noise: str | None = None, **changes: Any) -> Trajectory:
    steps = [Step("", Action("search", {"query": "x"}), "it is a", "", noise=noise)]
    if answer is not None:
        steps.append(Step("", Action("finish", {"answer": answer}), None, answer))
    one = trajectory(index, em=float(answer == "a"))
    stop = "finish" if answer is not None else "max_steps"
    return replace(one, steps=tuple(steps), stop=stop, seed=seed, **changes)  # type: ignore[arg-type]


def run(found: Sequence[Trajectory], name: str = "run", **settled: Any) -> ComparedRun:
    return ComparedRun(name, name, name, found, conditions_of(name, found, **settled))


def test_scores_amounts_failures_and_flips_are_of_the_shared_questions() -> None:
    before = run([answered(at, "a" if at < 3 else "b") for at in range(8)], "one")
    after = run([answered(at, "b" if at < 1 else "a" if at < 6 else None) for at in range(2, 12)], "two")
    found = compare_runs(before, after)
    (task,) = found.tasks
    assert (task.n, task.episodes) == (6, 6)
    assert task.only_before == ["train-0", "train-1"] and task.only_after == [f"train-{at}" for at in range(8, 12)]
    em = task.scores["em"]
    assert (em[0].mean, em[1].mean, em[2].wins, em[2].losses) == (pytest.approx(1 / 6), pytest.approx(4 / 6), 3, 0)
    assert [(flip.gained, flip.before.example.id) for flip in task.flips] == [(True, f"train-{at}") for at in (3, 4, 5)]
    assert task.failures[1] == {**dict.fromkeys(task.failures[1], 0), "gave up": 2}
    assert task.right == (1, 4) and task.amounts["searches"].change.mean == 0.0  # type: ignore[union-attr]
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["tasks"]["small"]["flips"][0] == {
        "id": "train-3", "seed": 0, "gained": True, "question": "Question 3?", "gold": "a",
        "before": {"answer": "b", "failure": "wrong without evidence", "scores": {"em": 0.0, "f1": 0.0}},
        "after": {"answer": "a", "failure": None, "scores": {"em": 1.0, "f1": 1.0}},
    }  # fmt: skip


@given(st.integers(0, 10_000))
def test_a_comparison_is_antisymmetric_and_its_parts_add_up(seed: int) -> None:
    draw = random.Random(seed)

    def some() -> list[Trajectory]:
        return [answered(at, draw.choice(["a", "b", "", None])) for at in draw.sample(range(12), 9)]

    one, other = run(some(), "one"), run(some(), "two")
    (there,), (back,) = compare_runs(one, other).tasks, compare_runs(other, one).tasks
    assert there.right == back.right[::-1] and there.failures == back.failures[::-1]
    assert there.right[0] + sum(there.failures[0].values()) == there.episodes
    assert there.right[1] - there.right[0] == sum(1 if flip.gained else -1 for flip in there.flips)
    assert {flip.before.example.id for flip in there.flips} == {flip.before.example.id for flip in back.flips}
    assert there.n + len(there.only_before) == 9


def test_episodes_pair_by_question_and_seed_and_questions_count_once() -> None:
    seeds = (0, 1, 2)
    before = [answered(at, "b", seed=seed) for at in range(4) for seed in seeds]
    after = [answered(at, "a" if seed == 0 or at == 0 else "b", seed=seed) for at in range(4) for seed in seeds]
    (task,) = compare_runs(run(before), run([*after, answered(0, "a", seed=7)])).tasks
    assert (task.n, task.episodes, task.only_after) == (4, 12, ["train-0/7"])
    em = task.scores["em"][2]
    assert (em.n, em.wins, em.losses) == (4, 4, 0) and em.difference.mean == pytest.approx((1 + 3 * (1 / 3)) / 4)
    assert [(flip.before.example.id, flip.before.seed) for flip in task.flips][:4] == [
        ("train-0", 0), ("train-0", 1), ("train-0", 2), ("train-1", 0),
    ]  # fmt: skip
    assert compare_scores(before, after).em == em
    with pytest.raises(DataError, match="answered twice"):
        compare_runs(run([*before, before[0]]), run(after))


def test_other_seeds_do_not_pair_unless_that_is_allowed() -> None:
    before, after = run([answered(at, "b") for at in range(3)]), run([answered(at, "a", seed=5) for at in range(3)])
    assert [(one.setting, one.before, one.after) for one in find_blocking_differences(before, after)] == [
        ("seed", "0", "5")
    ]
    assert compare_runs(before, after, allow=["seed"]).tasks[0].n == 3


@pytest.mark.parametrize(
    ("change", "setting", "shown"),
    [
        ({"config": {"split": "dev"}}, "split", ("test", "dev")),
        ({"manifest": {"tools": {"search": "xyz"}}}, "tools", ("search (abc)", "search (xyz)")),
        ({"manifest": {"tools": {"search": "abc", "look": ""}}}, "tools", ("search (abc)", "look, search (abc)")),
        (
            {"manifest": {"tools": {"search": "noise-1:none=0.5,seed=0:abc"}}},
            "noise",
            ("none", "search none=0.5,seed=0"),
        ),
        (
            {"manifest": {"limits": {"small": {"max_steps": 4, "max_tokens": 96}}}},
            "limits",
            ("small max_steps 8", "small max_steps 4"),
        ),
    ],
)
def test_what_differs_is_named_and_can_be_allowed(change: dict[str, Any], setting: str, shown: tuple[str, str]) -> None:
    episodes = [answered(at, "a") for at in range(3)]
    settled = {part: {**SETTLED[part], **change.get(part, {})} for part in SETTLED}
    before, after = run(episodes, "one", **SETTLED), run(episodes, "two", **settled)
    assert not find_blocking_differences(before, before)
    (found,) = find_blocking_differences(before, after)
    assert (found.setting, found.before, found.after) == (setting, *shown)
    with pytest.raises(ConfigError, match=f"one and two do not compare: {setting}"):
        compare_runs(before, after)
    assert [one.setting for one in compare_runs(before, after, allow=[setting]).allowed] == [setting]
    with pytest.raises(ConfigError, match="one and two were made with different"):
        require_comparable([before.conditions, after.conditions])
    assert setting in SETTINGS


def test_questions_must_be_the_same_and_golds_mean_the_same() -> None:
    mine = [answered(at, "a") for at in range(3)]
    named = [replace(one, example=replace(one.example, answer="Oslo")) for one in mine]
    loud = [replace(one, example=replace(one.example, answer="OSLO.")) for one in mine]
    assert not find_differences(conditions_of("a", named), conditions_of("b", loud))
    other = [replace(one, example=replace(one.example, question="Else?")) for one in named]
    (found,) = find_differences(conditions_of("a", named), conditions_of("b", other))
    assert found.after == "small/train-0 'Else?', answer 'oslo' (and 2 more)"


def test_runs_without_a_common_task_never_compare() -> None:
    before, after = run([answered(0, "a")]), run([replace(answered(0, "a"), task="large")])
    (found,) = find_blocking_differences(before, after)
    assert (found.setting, found.before, found.after) == ("task", "small", "large")
    with pytest.raises(ConfigError, match="unknown setting to allow 'task'"):
        find_blocking_differences(before, after, ["task"])
    require_comparable([before.conditions, after.conditions])  # a report may show both


def test_runs_of_other_questions_never_compare() -> None:
    before, after = run([answered(0, "a")], **SETTLED), run([answered(1, "a")], config={"split": "dev"})
    none = "1 of small, none of them in both"
    assert [(one.setting, one.before) for one in find_blocking_differences(before, after)] == [
        ("task", none),
        ("split", "test"),
    ]
    assert [one.setting for one in find_blocking_differences(before, after, ["split"])] == ["task"]
    with pytest.raises(ConfigError, match="different split"):
        require_comparable([before.conditions, after.conditions])
    shared = replace(answered(0, "a"), task="large")
    found = compare_runs(run([answered(0, "a"), shared]), run([answered(1, "a"), shared]))
    assert [one.task for one in found.tasks] == ["large"]
    assert "the two have no question of small in common" in found.notes


def test_what_a_file_does_not_tell_is_said_and_checked_no_further() -> None:
    episodes = [answered(at, "a") for at in range(3)]
    found = compare_runs(run(episodes, **SETTLED), run([*episodes, replace(answered(0, "a"), task="large")], "two"))
    assert found.notes == [
        "only two has the task large",
        "not recorded by both runs, so not checked: split, tools, noise, limits",
    ]
    assert Conditions("x", {}, frozenset()).tools is None


def test_noise_is_measured_on_what_was_right_without_it() -> None:
    clean = run([answered(at, "a" if at < 6 else "b") for at in range(8)], "clean", **SETTLED)
    hit = [answered(at, "a" if at % 2 else "b", noise="none" if at < 4 else None) for at in range(8)]
    (task,) = compare_runs(clean, run(hit, "noisy", **SETTLED)).tasks
    assert task.under_noise is not None and task.under_noise.disturbed is not None
    assert (task.under_noise.noisy, task.under_noise.n, task.under_noise.all.mean) == ("noisy", 6, 0.5)
    assert (task.under_noise.disturbed.n, task.under_noise.disturbed.mean) == (4, 0.5)
    assert task.recovery[0] is None and task.recovery[1] is not None and task.recovery[1].episodes == 4
    (back,) = compare_runs(run(hit, "noisy"), clean, allow=["noise"]).tasks
    assert back.under_noise == task.under_noise
    assert compare_runs(run(hit), run(hit)).tasks[0].under_noise is None


def test_faults_and_unscored_episodes_are_left_out() -> None:
    down = replace(answered(1, None), stop="error", scores={}, error="down")
    unscored = [replace(answered(at, "a"), scores={}) for at in (2, 3)]
    found = compare_runs(run([answered(0, "a"), down, *unscored]), run([answered(0, "a"), answered(1, "a")]))
    (task,) = found.tasks
    assert (task.n, task.faults, task.unscored, task.only_after) == (1, (1, 0), (2, 0), ["train-1"])


def test_runs_are_right_or_wrong_by_a_score_that_both_have() -> None:
    judged = [replace(answered(at, "b"), scores={"em": 0.0, "f1": 0.0, "judge": 1.0}) for at in range(3)]
    (task,) = compare_runs(run(judged), run([answered(at, "a") for at in range(3)])).tasks
    assert task.right == (0, 3) and list(task.scores) == ["em", "f1"]
    (task,) = compare_runs(run(judged), run(judged)).tasks
    assert task.right == (3, 3) and list(task.scores) == ["em", "f1", "judge"]
    odd = [replace(one, scores={"points": 0.5}) for one in judged]
    with pytest.raises(DataError, match="share no score"):
        compare_runs(run(judged), run(odd))


def test_few_changes_that_the_test_cannot_tell_from_chance_leave_0_in_the_interval() -> None:
    before = run([answered(at, "a") for at in range(50)])
    after = run([answered(at, "b" if at < 3 else "a") for at in range(50)])
    em = compare_runs(before, after).tasks[0].scores["em"][2]
    assert em.p == 0.25 and em.difference.low < -0.06 < em.difference.high and em.difference.high >= -0.01


# ------------------------------------------------------------------------------------------------ on the command line


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the scripted expert, the second under noise and of fewer questions."""
    home = tmp_path_factory.mktemp("compare")
    evaluate(EvalConfig("scripted:expert", tasks=["geo-hop", "geo-choice"], n=30), home / "clean")
    noise = ("noise:none=0.7,wrong_page=0.2:search",)
    evaluate(EvalConfig("scripted:expert", tasks=["geo-hop"], n=25, tools=noise), home / "noisy")
    return home


def test_compare_says_what_differs_and_exits_1(home: Path) -> None:
    done = fireact("compare", "clean", "noisy", cwd=home)
    assert done.returncode == 1 and done.stdout == ""
    assert "they differ in noise" in done.stderr and "--allow noise" in done.stderr and "wrong_page=0.2" in done.stderr
    told = fireact("compare", "clean", "noisy", "--json", cwd=home)
    assert told.returncode == 1
    assert json.loads(told.stdout)["differences"] == [
        {"setting": "noise", "before": "none", "after": "search none=0.7,wrong_page=0.2,seed=0"}
    ]


def test_compare_prints_both_sides(home: Path) -> None:
    done = fireact("compare", "clean", "noisy", "--allow", "noise", "--flips", "2", cwd=home)
    assert done.returncode == 0, done.stderr
    tables = [line for line in done.stdout.splitlines() if "differs, as allowed" not in line and "Only A" not in line]
    assert max(map(len, tables)) <= 80
    for said in (
        "noise differs, as allowed: none in A", "Only clean has the task geo-choice", "Only A has 5: test-025",
        "geo-hop: 25 questions", "EM", "B - A", "seconds, mean", "asked again, answered", "right without noise",
        "right in A, wrong in B:", "(2 shown",
    ):  # fmt: skip
        assert said in " ".join(done.stdout.split()), said
    found = json.loads(fireact("compare", "clean", "noisy", "--allow", "noise", "--json", cwd=home).stdout)
    task = found["tasks"]["geo-hop"]
    assert found["comparable"] and task["kept_under_noise"]["n"] > 10 and task["recovery"]["before"] is None
    assert len([flip for flip in task["flips"] if not flip["gained"]]) == task["scores"]["em"]["change"]["losses"]


def test_compare_takes_files_and_refuses_what_has_no_scores(home: Path, tmp_path: Path) -> None:
    file = home / "clean" / "trajectories.jsonl"
    done = fireact("compare", str(file), str(home / "clean"), cwd=tmp_path)
    assert done.returncode == 0 and "not checked: split, tools, noise, limits" in done.stdout
    rows = [{**row, "scores": {}} for row in jsonl.read_objects(file)]
    jsonl.write_objects(tmp_path / "bare.jsonl", rows)
    with pytest.raises(DataError, match=r"no episode in .* has scores"):
        read_scored_run(tmp_path / "bare.jsonl")
    for arguments, said in (
        (["nothing", str(file)], "there is no nothing"),
        ([str(file), str(file), "--allow", "noize"], "Did you mean 'noise'?"),
    ):
        done = fireact("compare", *arguments, cwd=tmp_path)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_an_unfinished_run_is_not_compared(home: Path, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.toml").write_bytes((home / "clean" / "config.toml").read_bytes())
    with pytest.raises(DataError, match="not complete"):
        read_scored_run(tmp_path / "half")


def test_the_released_run_compares_with_itself(shared_data: Path) -> None:
    (file,) = (shared_data / "fireact" / "trajs").glob("hotpotqa_dev*.json")
    found = read_scored_run(file)
    (task,) = compare_runs(found, found).tasks
    assert (task.n, task.right, task.flips) == (500, (131, 131), [])
    assert task.amounts["tokens_per_question"].before is None and not task.latency


def test_text_of_models_is_shown_and_never_read_as_markup(tmp_path: Path) -> None:
    for name, answer in (("a", "[red]a[/red]"), ("b", "a")):
        one = replace(answered(0, answer), scores={"em": float(answer == "a"), "f1": 0.0})
        jsonl.write_objects(tmp_path / f"{name}.jsonl", [one.to_dict()])
    done = fireact("compare", "a.jsonl", "b.jsonl", cwd=tmp_path)
    assert done.returncode == 0 and "[red]a[/red]" in done.stdout


def test_text_of_models_gives_a_terminal_no_orders(tmp_path: Path) -> None:
    for name, answer in (("a", "\x1b[2J\x1b]0;owned\x07\x9bA\r"), ("b", "a")):
        one = replace(answered(0, answer), scores={"em": float(answer == "a"), "f1": 0.0}, error=answer)
        jsonl.write_objects(tmp_path / f"{name}.jsonl", [replace(one, task=f"t\x1b[31m{name[:0]}").to_dict()])
    for command in (("compare", "a.jsonl", "b.jsonl"), ("show", "a.jsonl"), ("show", "\x1b[2Jx")):
        done = fireact(*command, cwd=tmp_path)
        assert not set(done.stdout + done.stderr) & set("\x1b\x07\x9b\r"), command
        assert done.returncode == 0 or "\x1b[2Jx" in command
    told = fireact("compare", "a.jsonl", "b.jsonl", "--json", cwd=tmp_path).stdout
    assert (
        not set(told) & set("\x1b\x07\x9b\x7f")
        and "\x9bA" in json.loads(told)["tasks"]["t\x1b[31m"]["flips"][0]["before"]["answer"]
    )


def test_noise_in_the_episodes_counts_where_a_run_does_not_tell() -> None:
    """A file knows no tools, but its steps say what was done to them."""
    clean, noisy = ([answered(at, "a", noise=noise) for at in range(4)] for noise in (None, "none"))
    (said,) = find_blocking_differences(run(clean, **SETTLED), run(noisy, "two"))
    assert str(said) == "noise: not in its episodes | of the kind none"
    assert find_blocking_differences(run(noisy), run(noisy, "two")) == []
    assert compare_runs(run(clean, **SETTLED), run(noisy, "two"), allow=["noise"]).allowed == [said]
