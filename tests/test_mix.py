"""Mixtures of files: the right ones, each once, whatever the order of lines and the number of processes."""

import contextlib
import json
import os
import random
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from command import fireact
from fakes import trajectory
from fireact.base import jsonl
from fireact.base.run_directory import read_trajectories
from fireact.data import Dataset, MixConfig, list_mixtures, mix, predicate, read_mixture
from fireact.data.lines import map_in_order, read_entries, split_into_blocks
from fireact.data.selection import apportion_rows
from fireact.data.sources import is_trajectory_file
from fireact.data.steps import weigh_bad_steps
from fireact.errors import ConfigError, DataError
from fireact.formats.read import find_reader
from fireact.formats.source import open_source_file
from fireact.render.react import ReActRenderer
from fireact.types import Action, Step, Trajectory


def many(n: int = 60) -> list[Trajectory]:
    """Two tasks, two methods, one to four steps, every third wrong; each question with both methods."""
    return [
        trajectory(
            index // 2 if index % 5 else 1000 + index // 2,
            em=float(index % 3 != 0),
            task="hop" if index % 5 else "yesno",
            method="cot" if index % 2 else "react",
            steps=1 + index % 4,
        )
        for index in range(n)
    ]


def write(path: Path, rows: list[Trajectory]) -> str:
    jsonl.write_objects(path, (row.to_dict() for row in rows))
    return str(path)


def keys(path: Path) -> list[str]:
    return [one.key for one in read_trajectories(path)]


def mixed(tmp_path: Path, rows: list[Trajectory], **settings: Any) -> tuple[dict[str, Any], Path]:
    source = write(tmp_path / "source.jsonl", rows)
    out = tmp_path / "mix"
    return mix(MixConfig(sources=(source,), **settings), out, force=True), out


@given(st.randoms(use_true_random=False), st.integers(0, 3), st.booleans())
@settings(max_examples=15)
def test_the_order_of_lines_does_not_matter(tmp_path_factory: Any, draw: random.Random, seed: int, best: bool) -> None:
    tmp_path = tmp_path_factory.mktemp("mix")
    rows = many()
    options = {"seed": seed, "take": {"hop/react": 4, "yesno/cot": 1}, "best_of": int(best), "holdout": 0.3}
    first, out = mixed(tmp_path, rows, **options)
    one = (keys(out), keys(out / "holdout.jsonl"))
    draw.shuffle(rows)
    second, out = mixed(tmp_path, rows, **options)
    assert one == (keys(out), keys(out / "holdout.jsonl")) and first["sha256"] == second["sha256"]
    assert len(set(one[0] + one[1])) == len(one[0] + one[1]) and len(one[0]) == 5


def test_a_dataset_takes_what_mix_takes(tmp_path: Path) -> None:
    rows = many()
    _, out = mixed(tmp_path, rows, n=11, seed=3, best_of=1)
    data = Dataset(tuple(rows)).where("correct").best_of(1).take(11, seed=3)
    assert [one.key for one in data] == keys(out)
    _, out = mixed(tmp_path, rows, balance="method", seed=3)
    data = Dataset(tuple(rows)).where("correct").balance("method", seed=3)
    assert [one.key for one in data] == keys(out)


def test_a_smaller_sample_is_part_of_a_larger_one(tmp_path: Path) -> None:
    data = Dataset(tuple(many()))
    assert {one.key for one in data.take(9, seed=1)} < {one.key for one in data.take(20, seed=1)}
    assert {one.key for one in data.take(20, seed=1)} != {one.key for one in data.take(20, seed=2)}


def test_lines_are_copied_byte_for_byte(tmp_path: Path) -> None:
    source = Path(write(tmp_path / "source.jsonl", many()))
    lines = source.read_text().replace('"seed":0', '"seed" : 0').splitlines()
    source.write_text("\n\n".join(lines))  # blank lines between, none at the end
    manifest = mix(MixConfig(sources=(str(source),), where=()), tmp_path / "mix")
    assert sorted((tmp_path / "mix" / "trajectories.jsonl").read_text().splitlines()) == sorted(lines)
    assert manifest["history"] == [f"{source}: 60"] and manifest["counts"]["hop/cot"]["n"] == 24


def test_proportions() -> None:
    assert apportion_rows({"a": 2, "b": 1}, {"a": 10, "b": 100}, None) == {"a": 10, "b": 5}
    assert apportion_rows({"a": 1, "b": 1, "c": 1}, {"a": 5, "b": 5, "c": 5}, 10) == {"a": 4, "b": 3, "c": 3}
    assert apportion_rows({"a": 1}, {}, None) == {"a": 0}


@given(
    st.dictionaries(st.sampled_from("abcd"), st.floats(0.01, 50), min_size=1),
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 40)),
    st.integers(1, 200),
)
def test_proportions_add_up_and_fit(weights: dict[str, float], there: dict[str, int], n: int) -> None:
    exact = apportion_rows(weights, there, n)
    assert sum(exact.values()) == n
    assert all(abs(exact[name] - n * weight / sum(weights.values())) < 1 + 1e-6 for name, weight in weights.items())
    assert all(count <= there.get(name, 0) for name, count in apportion_rows(weights, there, None).items())


def test_weights_sizes_balance_and_scaling(tmp_path: Path) -> None:
    def counts(**settings: Any) -> dict[str, int]:
        return {name: count["n"] for name, count in mixed(tmp_path, many(), **settings)[0]["counts"].items()}

    assert counts(weights={"hop/react": 3, "hop/cot": 1}, n=8) == {"hop/react": 6, "hop/cot": 2}
    assert counts(take={"hop/react": 300, "hop/cot": 100}, n=8) == {"hop/react": 6, "hop/cot": 2}
    by_task = counts(balance="task")
    assert by_task["hop/cot"] + by_task["hop/react"] == by_task["yesno/cot"] + by_task["yesno/react"] == 8
    assert sum(counts(balance="difficulty", n=8).values()) == 8 and sum(counts(n=5).values()) == 5


def test_best_of_keeps_the_shortest_success_and_puts_repairs_behind(tmp_path: Path) -> None:
    base = trajectory(0, steps=2)
    repaired = replace(base, seed=1, steps=tuple(replace(step, repairs=1) for step in base.steps))
    rows = [replace(trajectory(0, steps=3), seed=2), repaired, base, replace(trajectory(0, em=0.0), seed=3)]
    rows.append(replace(trajectory(0, method="cot"), seed=4))
    assert {one.seed for one in Dataset(tuple(rows)).best_of(1)} == {4}
    assert {one.seed for one in Dataset(tuple(rows)).best_of(3)} == {0, 1, 4}
    manifest, out = mixed(tmp_path, rows, best_of=1)
    assert {one.seed for one in read_trajectories(out)} == {4} and "best 1 of each question: 4 -> 1" in manifest[
        "history"
    ]


def test_the_hold_out_is_by_question(tmp_path: Path) -> None:
    manifest, out = mixed(tmp_path, many(120), holdout=0.25, where=())
    train, held = list(read_trajectories(out)), list(read_trajectories(out / "holdout.jsonl"))
    assert len(train) + len(held) == 120 and manifest["held_out"] == len(held)
    assert not {(one.task, one.example.id) for one in train} & {(one.task, one.example.id) for one in held}
    assert {one.task for one in held} == {"hop", "yesno"}
    one, other = Dataset(tuple(many(120))).hold_out(0.25, seed=0)
    assert {t.key for t in other} == {t.key for t in held} and len(one) == len(train)


def recovered() -> Trajectory:
    def step(query: str, **more: Any) -> Step:
        return Step("t", Action("search", {"query": query}), "seen", f"search[{query}]", **more)

    steps = (
        step("a", noise="none"), step("a"), step("a"), Step("t", None, "No action found.", "t"),
        step("b"), step("b", joined=True), Step("t", Action("finish", {"answer": "a"}), None, ""),
    )  # fmt: skip
    return replace(trajectory(0), steps=steps)


def test_bad_steps_are_kept_but_not_learned(tmp_path: Path) -> None:
    manifest, out = mixed(
        tmp_path, [recovered(), trajectory(1), replace(recovered(), seed=1, steps=recovered().steps[:1])], weigh_bad=0.0
    )
    found = {one.key: one for one in read_trajectories(out)}
    assert [step.weight for step in found[recovered().key].steps] == [0, 1, 0, 0, 0, 0, 1]
    assert manifest["history"][2:4] == ["where learnable: 3 -> 1", "bad steps weigh 0: 4 steps of 1 trajectories"]
    messages = ReActRenderer().sample(found[recovered().key])
    assert [message.train for message in messages if message.role == "assistant"] == [0, 1, 0, 0, 0, 0, 1]
    same = ReActRenderer().sample(recovered())
    assert [message.content for message in messages] == [message.content for message in same]
    assert Dataset((recovered(),)).weigh_bad(0).trajectories == (weigh_bad_steps(recovered(), 0),)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("correct and steps<=2", [1, 4, 5]),
        ("method in {react,cot} and not correct", [0, 3, 6]),
        ("(steps=1 or steps=4) and em>=0.5", [4, 7]),
        ('meta.level="hard" or meta.hops>2', [5, 6]),
        ("meta.hops!=3", [5]),
        ("not finished or max_steps>3", [3, 7]),
        ("no_repeats and learnable and undisturbed and no_repairs and steps>3", [3, 7]),
    ],
)
def test_filters_compose(text: str, kept: list[int]) -> None:
    rows = many(8)
    rows[5] = replace(rows[5], example=replace(rows[5].example, meta={"level": "hard", "hops": 2}))
    rows[6] = replace(rows[6], example=replace(rows[6].example, meta={"hops": 3}))
    rows = [
        replace(row, steps=tuple(replace(s, action=Action("x", {"n": n})) for n, s in enumerate(row.steps)))
        for row in rows
    ]
    assert [at for at, row in enumerate(rows) if predicate(text)(row)] == kept


@pytest.mark.parametrize(
    "text",
    [
        "correct and",
        "(correct",
        "correct)",
        "not",
        "in {a}",
        "method in {a",
        "method in {}",
        "steps in {a}",
        '"x"',
        "a b",
        "meta.x",
        "(" * 5000,
        "correct correct",
    ],
)
def test_filters_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="filter"):
        predicate(text)


@given(st.text(alphabet="correct steps<=(){},\"' andornot16", max_size=25))
def test_the_filter_parser_is_total(text: str) -> None:
    with contextlib.suppress(ConfigError):
        predicate(text)(trajectory(0))


def test_filters_compose_in_python() -> None:
    both = predicate("correct") & ~predicate("steps<=2") | predicate("method=cot")
    assert both.name == "(correct and not steps<=2) or method=cot"
    data = Dataset(tuple(many()))
    assert data.where(both).trajectories == data.where(both.name).trajectories
    assert data.where(both).history == (f"where {both.name}: 60 -> {len(data.where(both))}",)


def test_too_few_names_every_shortfall(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"hop/react: 90 .* 16 available, 74 short; yesno/cot: 70 .*where correct: 60 -> 40"
    ):
        mixed(tmp_path, many(), take={"hop/react": 90, "yesno/cot": 70})
    with pytest.raises(ConfigError, match="41 trajectories requested, 40 available"):
        mixed(tmp_path, many(), n=41)
    with pytest.raises(ConfigError, match=r"no trajectories of hop/io are left. There are: hop/cot"):
        mixed(tmp_path, many(), weights={"hop/io": 1})


def test_an_episode_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    one, other = write(tmp_path / "a.jsonl", many(6)), write(tmp_path / "b.jsonl", [trajectory(9), many(6)[3]])
    with pytest.raises(DataError, match=r"twice: .*a.jsonl, line 4, and .*b.jsonl, line 2"):
        mix(MixConfig(sources=(one, other)), tmp_path / "mix")


@pytest.mark.parametrize("bad", ['{"task": "hop", "exa', "[1, 2]", "{}", '{"task": 3}', "\x00", "[" * 100_000])
def test_a_bad_line_is_named_and_skipped_only_on_request(bad: str, tmp_path: Path) -> None:
    source = Path(write(tmp_path / "a.jsonl", many(6)))
    lines = source.read_text().splitlines()
    source.write_text("\n".join([*lines[:3], bad, *lines[3:], bad]))
    with pytest.raises(DataError, match=r"a.jsonl, line 4: .*--skip-bad"):
        mix(MixConfig(sources=(str(source),), where=()), tmp_path / "mix")
    manifest = mix(MixConfig(sources=(str(source),), where=(), skip_bad=True), tmp_path / "skipped")
    assert manifest["history"][0].endswith("a.jsonl: 6 (2 bad lines skipped)") and len(keys(tmp_path / "skipped")) == 6


def test_processes_change_nothing(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", many(400))
    every = split_into_blocks(Path(source), size=5000)
    assert len(every) > 10 and sum(len(list(read_entries(block))) for block in every) == 400
    work = [(block,) for block in every]
    assert list(map_in_order(_names, work, workers=2)) == list(map_in_order(_names, work, workers=1))
    assert [name for part in map_in_order(_names, work, workers=2) for name in part] == keys(Path(source))


def _names(block: Any) -> list[str]:
    return [entry.sound.key for entry in read_entries(block)]


def test_a_killed_process_is_said() -> None:
    with pytest.raises(DataError, match="was killed"):
        list(map_in_order(_die, [(1,), (2,), (3,)], workers=2))


def _die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_history_goes_on(tmp_path: Path) -> None:
    _, out = mixed(tmp_path, many())
    again = mix(MixConfig(sources=(str(out),), where=("steps<=2",)), tmp_path / "again")
    assert again["history"][1] == "where correct: 60 -> 40" and again["history"][-1] == "where steps<=2: 40 -> 20"
    assert Dataset.read(tmp_path / "again").history[:-1] == tuple(again["history"])


@pytest.mark.parametrize("name", list_mixtures())
def test_the_papers_mixtures(name: str, tmp_path: Path) -> None:
    sizes = {
        "paper-hotpotqa": 500, "paper-react-cot": 687, "paper-react-reflexion": 547,
        "paper-multimethod": 734, "paper-multitask": 1344, "paper-multitask-multimethod": 2063,
    }  # fmt: skip
    config = MixConfig(sources=("a",), **read_mixture(name))
    assert sum({**config.take, **config.weights}.values()) == sizes[name]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("takes = 5", "Did you mean 'take'"),
        ("take = 5", "take is 5"),
        ('where = "correct"', "it must be a list"),
        ('best_of = "2"', "best_of is '2'"),
        ("holdout = 1", "holdout"),
        ("weigh_bad = 1.5", "from 0 to 1"),
        ('balance = "colour"', "balance 'colour'"),
        ('balance = "task"\ntake = {"a/b" = 1}', "exclude each other"),
        ('take = {"a" = 1}', "TASK/METHOD"),
        ('weights = {"a/b" = 0}', "over 0"),
        ("n = 1.5", "n is 1.5"),
        ("= 1", "cannot read the mixture"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_said(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        MixConfig(sources=(), **read_mixture(tmp_path / "r.toml"))
    with pytest.raises(ConfigError, match="Did you mean 'paper-hotpotqa'"):
        read_mixture("paper-hotpot")


def test_a_recipe_on_the_command_line(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", many())
    (tmp_path / "r.toml").write_text('seed = 4\nholdout = 0.2\n[take]\n"hop/react" = 4\n"hop/cot" = 2\n')

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return fireact("mix", "a.jsonl", "--recipe", *options, cwd=tmp_path)

    shown = json.loads(run("r.toml", "--seed", "5", "--dry-run", "--json").stdout)["settings"]
    assert shown["seed"] == 5 and shown["take"] == {"hop/react": 4, "hop/cot": 2} and shown["holdout"] == 0.2
    done = json.loads(run("r.toml", "-o", "out", "--json").stdout)
    assert sum(count["n"] for count in done["counts"].values()) == 6 and done["held_out"] > 0
    missing = run("paper-multimethod", "-o", "other")
    assert missing.returncode == 2 and "hotpotqa/react" in missing.stderr


def test_rows_of_another_format_that_are_skipped_are_told(tmp_path: Path) -> None:
    row = '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "Action: finish[a]"}]}\n'
    (tmp_path / "torn.jsonl").write_text('{"messages": [\n' + row + row.replace("q", "r"))
    with pytest.raises(DataError, match="not JSON"):
        mix(MixConfig(sources=(str(tmp_path / "torn.jsonl"),), where=()), tmp_path / "out")
    config = MixConfig(sources=(str(tmp_path / "torn.jsonl"),), where=(), skip_bad=True)
    assert mix(config, tmp_path / "skipped")["history"][0].endswith("torn.jsonl: 2 (1 bad lines skipped)")


def test_known_damage_is_repaired_whatever_form_it_comes_in(tmp_path: Path) -> None:
    damaged = replace(trajectory(1), meta={"released": {"damage": ["options-in-output", "no-action"]}})
    manifest, out = mixed(tmp_path, [damaged, trajectory(2)])
    assert manifest["history"][-1] == "repaired: options-in-output 1"
    assert all("released" not in one.meta for one in read_trajectories(out))
    assert all("released" not in one.meta for one in Dataset.read(tmp_path / "source.jsonl"))


def test_one_question_under_two_ids_is_on_one_side_of_a_hold_out(tmp_path: Path) -> None:
    rows = [trajectory(at) for at in range(40)]
    again = [replace(one, task="other", example=replace(one.example, id=f"x{at}")) for at, one in enumerate(rows)]
    _, out = mixed(tmp_path, [*rows, *again], holdout=0.3)
    sides = [{one.example.question for one in read_trajectories(path)} for path in (out, out / "holdout.jsonl")]
    assert len(sides[0] | sides[1]) == 40 and not sides[0] & sides[1]


def test_repeats_are_told_and_scores_that_are_missing_fit_nothing(tmp_path: Path) -> None:
    manifest, _ = mixed(tmp_path, [trajectory(1), replace(trajectory(1), seed=9)])
    assert manifest["history"][-1] == "1 duplicate of another trajectory (doctor names them)"
    bare = replace(trajectory(1), scores={"reward": 1.0, "judge": 0.5})
    for text, kept in (("f1<0.5", 0), ("em!=1", 0), ("reward>=1", 1), ("scores.judge=0.5", 1), ("correct", 1)):
        assert len(Dataset((bare,)).where(text)) == kept
    for text in ("em>=nan", "method=~react"):
        with pytest.raises(ConfigError, match="filter"):
            predicate(text)
    assert len(Dataset((bare,)).where("task='hop'")) == (bare.task == "hop")


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_are_finite(weight: float) -> None:
    with pytest.raises(ConfigError, match="over 0"):
        MixConfig(sources=("a",), weights={"hop/react": weight})


def test_bad_lines_among_the_first_do_not_hide_that_a_file_is_ours(tmp_path: Path) -> None:
    own = json.dumps(trajectory(1).to_dict())
    for first in ('{"hello": 1}', '{"task": "torn'):
        (tmp_path / "a.jsonl").write_text(f"{first}\n{own}\n")
        assert is_trajectory_file(tmp_path / "a.jsonl")
        assert find_reader(open_source_file(tmp_path / "a.jsonl", skip=True)).name == "fireact"
    (tmp_path / "b.jsonl").write_text('{"instruction": "q", "output": "Action: finish[a]"}\n')
    assert not is_trajectory_file(tmp_path / "b.jsonl")


def test_a_source_that_is_named_twice_is_said_to_be(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", many(2))
    with pytest.raises(ConfigError, match="named twice"):
        MixConfig((path, path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps", "'steps' has a value: compare it"),
        ("meta.hops", "'meta.hops' has a value"),
        ("correct=1", "'correct' is true or false"),
        ("corect", "there is no 'corect', but 'correct'"),
        ("step<=3", "there is no 'step', but 'steps'"),
        ("qqq", "there is no 'qqq'. Known: .*difficulty, meta.NAME"),
    ],
)
def test_a_wrong_filter_is_told_what_would_be_right(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        predicate(text)


def test_the_name_of_a_composed_filter_gives_the_same_filter() -> None:
    composed = predicate("correct or(finished)") & predicate("steps<=0")
    for one in many(6):
        assert composed(one) == predicate(composed.name)(one) is False
