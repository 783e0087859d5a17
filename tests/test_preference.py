"""Preference: pairs of one question, only the student's words count, and what is preferred becomes likelier."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from fakes import trajectory
from fireact.base import jsonl
from fireact.base.progress import Progress
from fireact.base.verbs import resume
from fireact.errors import ConfigError, DataError, FireactError
from fireact.types import Action, Step, Trajectory

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from fireact.base.machine import training_device  # noqa: E402
from fireact.models.hf import load_merged_student  # noqa: E402
from fireact.render.react import ReActRenderer  # noqa: E402
from fireact.render.tokens import IGNORED, encode_chat  # noqa: E402
from fireact.training.pairs import PairRows, collate_pairs  # noqa: E402
from fireact.training.preference import PreferConfig, pair_by_outcome, prefer  # noqa: E402
from fireact.training.train import TrainConfig, train  # noqa: E402
from test_train import RECIPE  # noqa: E402
from tiny import tiny_model, tiny_tokenizer  # noqa: E402


def tried(index: int, answer: str, *, em: float, seed: int = 0, steps: int = 1) -> Trajectory:
    look = Step("look", Action("search", {"query": f"{index}"}), "it is written here", "")
    done = Step("so", Action("finish", {"answer": answer}), None, "")
    return replace(trajectory(index, em=em), seed=seed, steps=(*[look] * steps, done))


def test_a_pair_is_the_shortest_success_and_a_failure_of_one_question() -> None:
    data = [
        tried(1, "a", em=1.0, steps=2), tried(1, "a", em=1.0, seed=1), tried(1, "b", em=0.0, seed=2),
        tried(2, "a", em=1.0), tried(3, "b", em=0.0), replace(tried(2, "b", em=0.0, seed=1), stop="error"),
    ]  # fmt: skip
    ((good, bad),) = pair_by_outcome(data, seed=0)
    assert (good.seed, bad.seed) == (1, 2) and pair_by_outcome(reversed(data), seed=0) == [(good, bad)]


def test_only_the_student_s_words_count() -> None:
    words = tiny_tokenizer()
    one, other = (encode_chat(ReActRenderer().sample(tried(1, answer, em=0.0)), words)[0] for answer in ("a", "bcd"))
    batch = collate_pairs([((one,), (other,))])
    assert batch["input_ids"].shape[0] == 2
    for row, sample in zip(range(2), (one, other), strict=True):
        wrote = [at for at, label in enumerate(sample.labels) if label != IGNORED]
        assert batch["completion_mask"][row].nonzero().flatten().tolist() == wrote
        assert int(batch["attention_mask"][row].sum()) == len(sample.input_ids)
    text = words.decode(batch["input_ids"][0][batch["completion_mask"][0].bool()])
    assert "written here" not in text and "finish[ a]" in text


@pytest.fixture(scope="module")
def imitated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prefer")
    student = str(tiny_model(folder / "student", layers=3, hidden=32))
    jsonl.write_objects(folder / "data.jsonl", (tried(index, "ab"[index % 2], em=1.0).to_dict() for index in range(8)))
    train(TrainConfig(data=str(folder / "data.jsonl"), student=student, recipe=RECIPE), folder / "train")
    return folder


def likelihood(run: Path, one: Trajectory) -> float:
    from fireact.rollout.students import tuned_weights

    place, adapter, _ = tuned_weights(run)
    model, tokenizer = load_merged_student(place, adapter)
    (sample,) = encode_chat(ReActRenderer().sample(one), tokenizer)
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor([sample.input_ids])).logits[0, :-1]
    labels = torch.tensor(sample.labels[1:])
    wanted = labels != IGNORED
    return float(torch.log_softmax(logits[wanted], -1).gather(1, labels[wanted, None]).sum())


def test_what_is_preferred_becomes_likelier_than_what_is_not(imitated: Path, tmp_path: Path) -> None:
    both = [tried(index, answer, em=float(answer == "a"), seed=ord(answer)) for index in range(8) for answer in "ab"]
    jsonl.write_objects(tmp_path / "tries.jsonl", (one.to_dict() for one in both))
    config = PreferConfig(
        data=str(tmp_path / "tries.jsonl"), start=str(imitated / "train"), learning_rate=0.002, epochs=3
    )
    manifest = prefer(config, tmp_path / "dpo")
    rows = list(jsonl.read_objects(tmp_path / "dpo" / "log.jsonl"))
    assert manifest["pairs"] == 8 and rows[0]["loss"] == pytest.approx(0.6931, abs=0.01)
    assert manifest["rewritten"] == 0 and manifest["device"] == training_device()
    assert [manifest[f"final_{name}"] for name in ("loss", "accuracy", "margin")] == [
        rows[-1][name] for name in ("loss", "accuracy", "margin")
    ]
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["accuracy"] == 1.0
    before, after = (
        likelihood(run, both[0]) - likelihood(run, both[1]) for run in (imitated / "train", tmp_path / "dpo")
    )
    assert after > before


FORGETS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' and not loop.last "
    "%}{{ message['content'].split('\n')[-1] }}{% else %}{{ message['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A template that shows of earlier turns their last line alone, so that a trajectory is one sample a step."""


@pytest.fixture(scope="module")
def forgetful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("forgetful")
    student = tiny_model(folder / "student", layers=3, hidden=32)
    words = AutoTokenizer.from_pretrained(student)
    words.chat_template = FORGETS
    words.save_pretrained(student)
    jsonl.write_objects(folder / "data.jsonl", (tried(index, "ab"[index % 2], em=1.0).to_dict() for index in range(8)))
    config = TrainConfig(data=str(folder / "data.jsonl"), student=str(student), recipe=RECIPE)
    assert train(config, folder / "train")["rewritten"] == 8
    return folder


def test_a_row_of_several_samples_is_as_likely_as_they_are(forgetful: Path) -> None:
    """A success of two steps and a failure of three, in one batch with one of a single sample."""
    from fireact.training.student import load_student

    model, words, _ = load_student(str(forgetful / "student"))
    sides = [encode_chat(ReActRenderer().sample(tried(1, "abc", em=0.0, steps=steps)), words) for steps in (1, 2)]
    assert [len(side) for side in sides] == [2, 3]
    short = sides[0][:1]
    batch = collate_pairs([(sides[0], sides[1]), (short, sides[0])])
    wrote = batch.pop("completion_mask").bool()
    with torch.no_grad():
        logits = torch.log_softmax(model(**batch).logits[:, :-1], -1)
        mine = logits.gather(2, batch["input_ids"][:, 1:, None])[..., 0] * wrote[:, 1:]
        theirs = [sum(alone(model, one) for one in side) for side in (sides[0], short, sides[1], sides[0])]
    assert mine.sum(1).tolist() == pytest.approx(theirs, rel=1e-4)


def alone(model: object, sample: object) -> float:
    ids, labels = torch.tensor([sample.input_ids]), torch.tensor(sample.labels[1:])  # type: ignore[attr-defined]
    wanted = labels != IGNORED
    logits = torch.log_softmax(model(input_ids=ids).logits[0, :-1], -1)  # type: ignore[operator]
    return float(logits[wanted].gather(1, labels[wanted, None]).sum())


def test_a_template_that_rewrites_earlier_turns_is_preferred_step_by_step(forgetful: Path, tmp_path: Path) -> None:
    both = [tried(index, answer, em=float(answer == "a"), seed=ord(answer)) for index in range(8) for answer in "ab"]
    jsonl.write_objects(tmp_path / "tries.jsonl", (one.to_dict() for one in both))
    config = PreferConfig(
        data=str(tmp_path / "tries.jsonl"), start=str(forgetful / "train"), learning_rate=0.002, epochs=3
    )
    manifest = prefer(config, tmp_path / "dpo")
    rows = list(jsonl.read_objects(tmp_path / "dpo" / "log.jsonl"))
    assert manifest["pairs"] == 8 and manifest["rewritten"] == 16
    assert rows[0]["loss"] == pytest.approx(0.6931, abs=0.01)
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["accuracy"] == 1.0


def test_preference_goes_on_from_preference(imitated: Path, tmp_path: Path) -> None:
    both = [tried(index, answer, em=float(answer == "a"), seed=ord(answer)) for index in range(4) for answer in "ab"]
    jsonl.write_objects(tmp_path / "tries.jsonl", (one.to_dict() for one in both))
    data = str(tmp_path / "tries.jsonl")
    prefer(PreferConfig(data=data, start=str(imitated / "train"), epochs=1), tmp_path / "once")
    assert prefer(PreferConfig(data=data, start=str(tmp_path / "once"), epochs=1), tmp_path / "twice")["pairs"] == 4


def test_a_run_goes_on_by_its_directory(imitated: Path, tmp_path: Path) -> None:
    both = [tried(index, answer, em=float(answer == "a"), seed=ord(answer)) for index in range(4) for answer in "ab"]
    jsonl.write_objects(tmp_path / "tries.jsonl", (one.to_dict() for one in both))
    prefer(PreferConfig(data=str(tmp_path / "tries.jsonl"), start=str(imitated / "train")), tmp_path / "dpo")
    (tmp_path / "dpo" / "manifest.json").unlink()
    assert resume(tmp_path / "dpo")["pairs"] == 4


def test_what_cannot_be_preferred_is_said(imitated: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="both a success and a failure"):
        prefer(PreferConfig(data=str(imitated / "data.jsonl"), start=str(imitated / "train")), tmp_path / "a")
    with pytest.raises(ConfigError, match="no directory of 'fireact train'"):
        prefer(PreferConfig(data=str(imitated / "data.jsonl"), start=str(tmp_path)), tmp_path / "b")
    with pytest.raises(ConfigError, match="beta is 0"):
        PreferConfig(data="x", start="y", beta=0)
    with pytest.raises(ConfigError, match=r"learning_rate is 1e\+30; it must be between 0 and 1"):
        PreferConfig(data="x", start="y", learning_rate=1e30)


@pytest.mark.parametrize("number", [8, 7])
def test_pieces_of_a_batch_give_the_whole_batch_s_curve(imitated: Path, tmp_path: Path, number: int) -> None:
    both = [tried(at, answer, em=float(answer == "a"), seed=ord(answer)) for at in range(number) for answer in "ab"]
    jsonl.write_objects(tmp_path / "tries.jsonl", (one.to_dict() for one in both))
    config = PreferConfig(data=str(tmp_path / "tries.jsonl"), start=str(imitated / "train"), learning_rate=0.002)
    prefer(config, tmp_path / "whole")
    prefer(replace(config, micro_batch=2), tmp_path / "pieces")
    whole, pieces = (list(jsonl.read_objects(tmp_path / name / "log.jsonl")) for name in ("whole", "pieces"))
    assert [row["step"] for row in pieces] == [row["step"] for row in whole]
    assert [row["loss"] for row in pieces] == pytest.approx([row["loss"] for row in whole], rel=0.02)
    with pytest.raises(ConfigError, match="must divide the batch_size of 4"):
        replace(config, micro_batch=3)


def test_what_nobody_scored_is_no_failure() -> None:
    from fireact.training.preference import pair_by_outcome

    unscored, won = replace(trajectory(1), scores={}), replace(trajectory(1), scores={"reward": 1.0})
    lost = replace(trajectory(1), scores={"reward": 0.0})
    assert pair_by_outcome([unscored, won], seed=0) == []
    ((good, bad),) = pair_by_outcome([won, lost], seed=0)
    assert good.scores["reward"] == 1.0 and bad.scores["reward"] == 0.0


def tries(folder: Path, number: int = 8) -> str:
    """A success and a failure of each question, of unlike lengths."""
    found = [
        tried(at, answer, em=float(answer == "a"), seed=ord(answer), steps=1 + at % 3)
        for at in range(number)
        for answer in "ab"
    ]
    jsonl.write_objects(folder / "tries.jsonl", (one.to_dict() for one in found))
    return str(folder / "tries.jsonl")


def test_a_loss_that_is_no_number_stops_it_and_names_the_episodes(imitated: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(imitated / "train", tmp_path / "train")
    file = tmp_path / "train" / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({**weights, (name := min(weights)): weights[name] * float("nan")}, file)
    config = PreferConfig(data=tries(tmp_path), start=str(tmp_path / "train"), epochs=1)
    with pytest.raises(FireactError, match="the loss is nan at step 1"):
        prefer(config, tmp_path / "dpo")
    bad = json.loads((tmp_path / "dpo" / "bad-batch.json").read_text())
    assert len(bad["samples"]) == 4 and len(bad["episodes"]) == 8 and all("small" in key for key in bad["episodes"])
    assert not (tmp_path / "dpo" / "manifest.json").exists()


def test_a_kill_at_any_step_changes_nothing(imitated: Path, tmp_path: Path) -> None:
    """A run that is cut back to its first checkpoint ends in the very same adapter and curve."""
    config = PreferConfig(data=tries(tmp_path, 12), start=str(imitated / "train"), learning_rate=0.002, epochs=3)
    whole = prefer(config, tmp_path / "dpo")
    rows = list(jsonl.read_objects(tmp_path / "dpo" / "log.jsonl"))
    assert whole["steps"] == 9
    (tmp_path / "dpo" / "manifest.json").unlink()
    shutil.rmtree(tmp_path / "dpo" / "adapter")
    shutil.rmtree(tmp_path / "dpo" / "checkpoints" / "checkpoint-9")
    again = prefer(config, tmp_path / "dpo")
    assert again["adapter_sha256"] == whole["adapter_sha256"]
    assert list(jsonl.read_objects(tmp_path / "dpo" / "log.jsonl")) == rows


def test_pairs_are_compared_with_pairs_of_their_length(imitated: Path, tmp_path: Path) -> None:
    shown: list[str] = []

    class Look(Progress):
        def sample(self, spans: Sequence[tuple[str, bool]]) -> None:
            shown.append("".join(text for text, trained in spans if trained))

    config = PreferConfig(data=tries(tmp_path, 24), start=str(imitated / "train"), epochs=1)
    manifest = prefer(config, tmp_path / "dpo", progress=Look())
    assert manifest["padding"] < 0.05 and manifest["tokens"] > 0 and manifest["tokens_per_second"] > 0
    assert len(shown) == 2 and "finish[ a]" in shown[0] and "finish[ b]" in shown[1]


def test_each_pair_stands_once_in_every_epoch() -> None:
    words = tiny_tokenizer()
    made = [
        [encode_chat(ReActRenderer().sample(tried(at, one, em=0.0)), words) for one in ("a", "bc")] for at in range(7)
    ]
    rows = PairRows(made, epochs=2, batch_size=4, pairs_at_once=2, seed=0)
    assert sorted(index for batch in rows.batches[:2] for index in batch) == list(range(7))
    assert all(len(piece) <= 2 for batch in rows.batches for piece in rows.split_batch(batch))
