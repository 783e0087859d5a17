"""Filters, sampling and mixtures: immutable, with a true history, independent of file order."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import trajectory
from fireact.base import jsonl
from fireact.data import Dataset, MixConfig, list_mixtures, mix, predicate, read_mixture, weigh_bad_steps
from fireact.errors import ConfigError, DataError
from fireact.types import Action, Step


def some() -> Dataset:
    return Dataset(
        tuple(
            trajectory(i, em=float(i % 3 != 0), method="react" if i % 2 else "cot", steps=1 + i % 4) for i in range(30)
        )
    )


@pytest.mark.parametrize(
    ("text", "kept"),
    [("correct", 20), ("em<1", 10), ("method=react", 15), ("steps<=2", 16), ("method!=react", 15), ("finished", 30)],
)
def test_filters(text: str, kept: int) -> None:
    data = some().where(text)
    assert len(data) == kept
    assert data.history == (f"where {text}: 30 -> {kept}",)


@pytest.mark.parametrize("text", ["corect", "steps", "steps<=x", "colour=red", ""])
def test_unknown_filters_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="filter"):
        predicate(text)


@given(st.permutations(range(12)), st.integers(0, 12), st.integers(0, 5))
def test_sampling_depends_on_the_seed_and_never_on_the_order(order: list[int], n: int, seed: int) -> None:
    whole = Dataset(tuple(trajectory(i) for i in range(12)))
    shuffled = Dataset(tuple(trajectory(i) for i in order))
    taken = whole.take(n, seed=seed)
    assert taken.trajectories == shuffled.take(n, seed=seed).trajectories
    assert len({one.key for one in taken}) == n


def test_asking_for_too_many_names_the_shortfall() -> None:
    with pytest.raises(
        ConfigError, match=r"40 trajectories requested, 20 available \(where correct: 30 -> 20\): 20 short"
    ):
        some().where("correct").take(40, seed=0)


def test_groups_partition_the_data() -> None:
    groups = some().group(lambda one: one.method)
    assert list(groups) == ["cot", "react"] and sum(map(len, groups.values())) == 30


def write(path: Path, rows: Dataset) -> Path:
    jsonl.write_objects(path, (one.to_dict() for one in rows))
    return path


def test_a_mixture_has_the_counts_asked_for(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", some())
    config = MixConfig(sources=(str(source),), take={"small/react": 5, "small/cot": 3}, seed=1)
    manifest = mix(config, tmp_path / "mix")
    assert {name: count["n"] for name, count in manifest["counts"].items()} == {"small/react": 5, "small/cot": 3}
    assert "where correct: 30 -> 20" in manifest["history"] and set(manifest["sources"]) == {str(source)}
    assert mix(config, tmp_path / "mix") == manifest
    assert Dataset.read(tmp_path / "mix").group(lambda one: one.method)["react"].trajectories


def test_what_cannot_be_mixed_is_said(tmp_path: Path) -> None:
    source = str(write(tmp_path / "a.jsonl", some()))
    with pytest.raises(ConfigError, match="no trajectories of small/io"):
        mix(MixConfig(sources=(source,), take={"small/io": 1}), tmp_path / "io")
    with pytest.raises(ConfigError, match="nothing is left"):
        mix(MixConfig(sources=(source,), where=("steps>9",)), tmp_path / "long")
    write(tmp_path / "b.jsonl", Dataset((trajectory(1), trajectory(1))))
    with pytest.raises(DataError, match="twice"):
        Dataset.read(tmp_path / "b.jsonl")


# --- filters, the best of each question, balance, hold-outs, weights, shipped mixtures ---


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("method in {react,cot}", 3),
        ("not correct", 1),
        ("correct and steps<=1", 1),
        ("correct and steps<=1 or method=io", 2),
        ("no_repeats", 3),
        ("not no_repeats", 1),
        ("undisturbed", 3),
        ("max_steps<=1", 2),
        ("repairs=0", 4),
    ],
)
def test_filters_compose(text: str, kept: int) -> None:
    again = Step("x", Action("search", {"query": "a"}), "o", "x")
    data = [
        trajectory(1, em=1.0, steps=1), trajectory(2, em=1.0, steps=3, method="cot"),
        replace(trajectory(3, em=0.0, steps=1, method="io"), steps=(replace(again, noise="none"),)),
        replace(trajectory(4, em=1.0), steps=(again, again)),
    ]  # fmt: skip
    assert len(Dataset(tuple(data)).where(text)) == kept


@pytest.mark.parametrize("text", ["", "method in react", "steps in {one}", "em>=high", "correct and", "hello"])
def test_a_filter_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="filter"):
        predicate(text)


def test_the_best_of_a_question_is_right_short_and_not_repaired() -> None:
    repaired = replace(trajectory(1, em=1.0, method="b"), steps=(replace(trajectory(1).steps[0], repairs=2),))
    data = (trajectory(1, em=0.0, method="a"), trajectory(1, em=1.0, steps=4, method="c"), repaired,
            trajectory(1, em=1.0, method="d"), trajectory(2, em=0.0))  # fmt: skip
    best = Dataset(data).best_of(1)
    assert {(one.example.id, one.method) for one in best} == {("train-1", "d"), ("train-2", "react")}
    assert best.history == ("best 1 of each question: 5 -> 2",)
    assert [one.method for one in Dataset(data).best_of(2)][:2] == ["b", "d"]


def test_balance_takes_as_many_as_there_are_of_the_rarest() -> None:
    data = Dataset(tuple(trajectory(index, method="react" if index % 3 else "cot") for index in range(9)))
    even = data.balance("method", seed=0)
    assert Counter(one.method for one in even) == {"react": 3, "cot": 3}
    with pytest.raises(ConfigError, match="difficulty"):
        data.balance("colour", seed=0)


@given(st.integers(0, 5), st.floats(0.1, 0.9))
def test_a_hold_out_splits_by_question(seed: int, share: float) -> None:
    data = Dataset(tuple(trajectory(index, method=method) for index in range(10) for method in ("react", "cot")))
    kept, held = data.hold_out(share, seed=seed)
    assert len(kept) + len(held) == 20
    assert not {one.example.id for one in kept} & {one.example.id for one in held}


def test_bad_steps_lose_their_weight_and_stay() -> None:
    look = Step("x", Action("search", {"query": "a"}), "o", "x")
    steps = (
        look,
        look,
        replace(look, action=None, observation="No action found. Write one line."),
        replace(look, action=Action("finish", {"answer": "a"}), noise=None),
    )
    one = weigh_bad_steps(replace(trajectory(1), steps=steps), 0.0)
    assert [step.weight for step in one.steps] == [1.0, 0.0, 0.0, 1.0]


def test_weights_are_shares_of_what_there_is(tmp_path: Path) -> None:
    data = [trajectory(index, method="react" if index < 40 else "cot") for index in range(50)]
    source = str(write(tmp_path / "a.jsonl", Dataset(tuple(data))))
    mix(MixConfig(sources=(source,), weights={"small/react": 2, "small/cot": 1}), tmp_path / "mix")
    assert Counter(one.method for one in Dataset.read(tmp_path / "mix")) == {"react": 20, "cot": 10}
    with pytest.raises(ConfigError, match="exclude each other"):
        MixConfig(sources=(source,), weights={"a/b": 1}, take={"a/b": 1})


def test_a_mixture_is_written_with_what_it_held_out(tmp_path: Path) -> None:
    source = str(write(tmp_path / "a.jsonl", Dataset(tuple(trajectory(index) for index in range(20)))))
    manifest = mix(MixConfig(sources=(source,), holdout=0.25), tmp_path / "mix")
    assert manifest["held_out"] == 5 and manifest["counts"]["small/react"]["n"] == 15
    assert len((tmp_path / "mix" / "holdout.jsonl").read_text().splitlines()) == 5


@pytest.mark.parametrize("name", list_mixtures())
def test_every_shipped_mixture_can_be_read(name: str) -> None:
    assert MixConfig(sources=("x",), **read_mixture(name))


def test_the_paper_s_mixtures_come_out_of_the_released_samples(shared_data: Path, tmp_path: Path) -> None:
    for name, file, count in (
        ("paper-hotpotqa", "hotpotqa", 500), ("paper-multimethod", "hotpotqa_multimethod", 734),
    ):  # fmt: skip
        source = str(shared_data / "fireact" / "finetune" / "alpaca_format" / f"{file}.json")
        manifest = mix(MixConfig(sources=(source,), **read_mixture(name)), tmp_path / name)
        assert sum(part["n"] for part in manifest["counts"].values()) == count


def test_a_wrong_mixture_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text("wher = []")
    with pytest.raises(ConfigError, match="where"):
        read_mixture(str(tmp_path / "m.toml"))
    with pytest.raises(ConfigError, match="paper-hotpotqa"):
        read_mixture("paper-hotpot")
