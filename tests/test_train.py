"""Fine-tuning: the loss is exact, the frozen half is kept exactly, and a run that was killed ends as if it was not."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireact.base import jsonl
from fireact.base.progress import Progress
from fireact.errors import ConfigError, DataError, FireactError
from fireact.render.tokens import IGNORED, Chat, Sample, encode_chat
from fireact.training.batches import (
    MOST_PADDING,
    choose_padding_limit,
    measure_padding,
    plan_batches,
    split_all_batches,
    split_by_length,
)
from fireact.training.checkpoints import PICKLES, find_last_checkpoint, is_complete_checkpoint
from fireact.training.recipe import SCHEDULES, Recipe, learning_rate_share
from fireact.types import Message

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from fireact.training.fitting import refuse_empty  # noqa: E402
from fireact.training.loss import TargetLoss  # noqa: E402
from fireact.training.memory import require_memory_for_training  # noqa: E402
from fireact.training.student import load_student, make_trainable  # noqa: E402
from fireact.training.trainer import fine_tune  # noqa: E402
from forks import ForkServer  # noqa: E402
from tiny import tiny_model, tiny_tokenizer  # noqa: E402

RECIPE = Recipe(rank=4, alpha=8, blocks=2, epochs=2, batch_size=4, learning_rate=0.02, save_every=2)
LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=60)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("student")))


def chats(n: int = 12) -> list[Chat]:
    return [
        Chat(
            [
                Message("user", f"Question {index}? " + "why " * (index % 5)),
                Message("assistant", f"Thought: look\nAction: search[{index}]", train=True),
                Message("user", f"Observation: it is {index}"),
                Message("assistant", f"Action: finish[{index}]", train=True),
            ]
        )
        for index in range(n)
    ]


def samples(n: int = 12) -> list[Sample]:
    words = tiny_tokenizer()
    return [sample for chat in chats(n) for sample in encode_chat(chat.messages, words)]


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in jsonl.read_objects(out / "log.jsonl")]


class Stop(Progress):
    """Interrupts as Ctrl-C does, after some steps."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, note: str = "") -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


# --- the loss ---


@pytest.mark.parametrize("blocks", [0, 2])
def test_the_loss_is_that_of_full_logits(student: str, blocks: int) -> None:
    model, _, _ = load_student(student)
    adapted, frozen = make_trainable(model, replace(RECIPE, blocks=blocks))
    shake(adapted)
    chosen = samples(6)
    loss = TargetLoss(adapted, chosen, frozen=frozen)
    loss.bfloat16 = False
    loss.cached_hidden_states = (
        dict(loss.frozen_blocks.iterate_hidden_states([sample.input_ids for sample in chosen])) if frozen else {}
    )
    assert bool(loss.cached_hidden_states) == (blocks > 0)
    assert loss((0, 3, 4)).item() == pytest.approx(full_loss(adapted, [chosen[i] for i in (0, 3, 4)]), abs=1e-5)


def test_bfloat16_products_change_the_loss_by_less_than_a_hundredth(student: str) -> None:
    model, _, _ = load_student(student)
    adapted, frozen = make_trainable(model, RECIPE)
    chosen = samples(6)
    loss = TargetLoss(adapted, chosen, frozen=frozen)
    loss.bfloat16 = True
    assert loss((0, 1, 2)).item() == pytest.approx(full_loss(adapted, chosen[:3]), rel=0.01)
    assert loss((0, 1, 2)).dtype == torch.float32


def test_gradients_are_those_of_the_whole_model_and_none_reach_the_frozen_half(student: str) -> None:
    model, _, _ = load_student(student)
    adapted, frozen = make_trainable(model, RECIPE)
    shake(adapted)
    chosen = samples(5)
    loss = TargetLoss(adapted, chosen, frozen=frozen)
    loss.bfloat16 = False
    loss.cached_hidden_states = dict(loss.frozen_blocks.iterate_hidden_states([sample.input_ids for sample in chosen]))
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert {int(name.split(".layers.")[1].split(".")[0]) for name in trained} == {2, 3}
    ours = torch.autograd.grad(loss((0, 1, 2, 3, 4)), list(trained.values()))
    theirs = torch.autograd.grad(_full(adapted, chosen), list(trained.values()))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-6)


def test_a_body_that_does_not_split_is_trained_whole(student: str) -> None:
    """Architectures differ in what they do around their blocks: where halves do not add up, none are used."""
    model, _, _ = load_student(student)
    adapted, frozen = make_trainable(model, RECIPE)
    body = adapted.get_base_model().get_decoder()
    body.norm.register_forward_pre_hook(lambda _, args: (args[0] * len(body.layers) + 1.0,))
    loss = TargetLoss(adapted, samples(4), frozen=frozen)
    assert not loss.cached_hidden_states
    assert loss((0, 1)).item() == pytest.approx(full_loss(adapted, samples(2)), rel=0.02)


def full_loss(model: Any, chosen: list[Sample]) -> float:
    with torch.no_grad():
        return float(_full(model, chosen))


def _full(model: Any, chosen: list[Sample]) -> Any:
    """transformers' own loss: padded, with a mask, with all logits."""
    width = max(len(sample.input_ids) for sample in chosen)
    ids = torch.tensor([[*s.input_ids, *[0] * (width - len(s.input_ids))] for s in chosen])
    labels = torch.tensor([[*s.labels, *[IGNORED] * (width - len(s.labels))] for s in chosen])
    mask = torch.tensor([[1] * len(s.input_ids) + [0] * (width - len(s.input_ids)) for s in chosen])
    return model(input_ids=ids, labels=labels, attention_mask=mask).loss


def shake(model: Any) -> None:
    """LoRA begins at zero, where an adapter that is not applied would go unseen."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.05)


# --- whole runs ---


def test_a_run_learns_writes_its_curve_and_an_adapter_that_peft_loads(
    student: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stats = fine_tune(chats(), student=student, recipe=replace(RECIPE, epochs=6), out=tmp_path)
    assert capfd.readouterr() == ("", "")
    rows = list(jsonl.read_objects(tmp_path / "log.jsonl"))
    assert [row["step"] for row in rows] == list(range(1, 19))
    assert rows[-1]["epoch"] == 6.0
    assert all(row["seconds"] > 0 and 0 < row["learning_rate"] <= 0.02 for row in rows)
    assert sum(row["tokens"] for row in rows) == stats.tokens == 6 * sum(len(s.input_ids) for s in samples())
    assert sum(row["target_tokens"] for row in rows) == stats.target_tokens == 6 * sum(s.targets for s in samples())
    assert stats.steps == 18 and stats.dropped == 0 and stats.resumed_from_step == 0
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]
    assert loaded_loss(student, tmp_path / "adapter") == pytest.approx(stats.final_loss, rel=0.2)


def test_golden_losses(student: str, tmp_path: Path) -> None:
    fine_tune(chats(), student=student, recipe=RECIPE, out=tmp_path)
    assert losses(tmp_path) == pytest.approx(GOLDEN, rel=0.01)  # bfloat16 or float32


GOLDEN = [6.7717, 6.4979, 6.4665, 5.2995, 5.2748, 4.5634]


def loaded_loss(student: str, adapter: Path) -> float:
    import peft

    model, _, _ = load_student(student)
    return full_loss(peft.PeftModel.from_pretrained(model, str(adapter)).eval(), samples())


# --- going on after an end ---


@pytest.fixture(scope="module")
def uninterrupted(student: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    fine_tune(chats(), student=student, recipe=replace(RECIPE, dropout=0.1), out=out)
    return out


@pytest.mark.parametrize("after", [1, 2, 3, 5, 6])
def test_going_on_after_ctrl_c_ends_as_if_nothing_had_happened(
    student: str, uninterrupted: Path, tmp_path: Path, after: int
) -> None:
    recipe = replace(RECIPE, dropout=0.1)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(chats(), student=student, recipe=recipe, out=tmp_path, progress=Stop(after))
    stats = fine_tune(chats(), student=student, recipe=recipe, out=tmp_path)
    assert stats.resumed_from_step == (after - 1) // 2 * 2  # the step under way is logged before it is saved
    same_end(tmp_path, uninterrupted)


def test_a_torn_checkpoint_is_passed_over(student: str, uninterrupted: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, dropout=0.1)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(chats(), student=student, recipe=recipe, out=tmp_path, progress=Stop(5))
    newest = tmp_path / "checkpoints" / "checkpoint-4"
    data = (newest / "optimizer.pt").read_bytes()
    (newest / "optimizer.pt").write_bytes(data[: len(data) // 2])
    assert fine_tune(chats(), student=student, recipe=recipe, out=tmp_path).resumed_from_step == 2
    same_end(tmp_path, uninterrupted)


def test_a_run_killed_after_its_last_step_only_writes_the_adapter(
    student: str, uninterrupted: Path, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, dropout=0.1)
    fine_tune(chats(), student=student, recipe=recipe, out=tmp_path)
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    assert fine_tune(chats(), student=student, recipe=recipe, out=tmp_path).resumed_from_step == 6
    same_end(tmp_path, uninterrupted)


def same_end(out: Path, other: Path) -> None:
    from safetensors.torch import load_file

    assert [row["step"] for row in jsonl.read_objects(out / "log.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert losses(out) == pytest.approx(losses(other), abs=1e-4)
    mine, theirs = (load_file(where / "adapter" / "adapter_model.safetensors") for where in (out, other))
    for name, weight in theirs.items():
        torch.testing.assert_close(mine[name], weight, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", *PICKLES, "trainer_state.json"])
@pytest.mark.parametrize("share_kept", [None, 0.0, 0.5, 0.99])
def test_a_checkpoint_with_a_file_missing_or_cut_is_not_whole(
    uninterrupted: Path, tmp_path: Path, name: str, share_kept: float | None
) -> None:
    copy = tmp_path / "checkpoint-6"
    copy.mkdir()
    for file in (uninterrupted / "checkpoints" / "checkpoint-6").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert find_last_checkpoint(tmp_path) == (copy, 6)
    data = (copy / name).read_bytes()
    (copy / name).unlink()
    if share_kept is not None:
        (copy / name).write_bytes(data[: int(share_kept * len(data))])
    assert not is_complete_checkpoint(copy, 6)
    assert find_last_checkpoint(tmp_path) == (None, 0)


def run_forked(student: str, out: str, kind: str) -> None:
    """Train in a process that the test kills."""
    fine_tune(chats(), student=student, recipe=killed(kind), out=Path(out))


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    with ForkServer(
        "test_train", "transformers.models.llama.modeling_llama", "transformers.trainer", "trl", "peft"
    ) as forks:
        yield forks


def killed(kind: str) -> Recipe:
    rate = {"lora": 0.02, "full": 0.002}[kind]
    return replace(RECIPE, kind=kind, epochs=10, dropout=0.1 if kind == "lora" else 0.0, learning_rate=rate)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_kill_9_at_any_moment_loses_at_most_what_came_after_the_last_checkpoint(
    student: str, tmp_path: Path, kind: str, forks: ForkServer
) -> None:
    """Killed twice; the curve and the weights are those of a run that was not, within what floats allow."""
    recipe, whole, out = killed(kind), tmp_path / "whole", tmp_path / "killed"
    fine_tune(chats(), student=student, recipe=recipe, out=whole)
    for rows in (5, 16):
        process = forks.start(tmp_path, student, str(out), kind)
        try:
            wait_for(out / "log.jsonl", rows, forks)
        finally:
            os.kill(process, signal.SIGKILL)  # nothing in it can catch that
        assert forks.wait() == -signal.SIGKILL
        written = len(list(jsonl.read_objects(out / "log.jsonl")))
        assert written - find_last_checkpoint(out / "checkpoints")[1] <= 2 * RECIPE.save_every
    assert fine_tune(chats(), student=student, recipe=recipe, out=out).resumed_from_step >= 14
    assert [row["step"] for row in jsonl.read_objects(out / "log.jsonl")] == list(range(1, 31))
    assert losses(out) == pytest.approx(losses(whole), rel=1e-3, abs=1e-4)
    mine, theirs = (weights(where, kind) for where in (out, whole))
    for name, weight in theirs.items():
        torch.testing.assert_close(mine[name], weight, rtol=1e-2, atol=1e-4)


def weights(out: Path, kind: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    name = "adapter/adapter_model.safetensors" if kind == "lora" else "model/model.safetensors"
    return dict(load_file(out / name))


def wait_for(path: Path, lines: int, forks: ForkServer) -> None:
    until = time.monotonic() + 600
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert not forks.has_ended(within=0.01) and time.monotonic() < until, "the run ended before it could be killed"


# --- what is refused ---


def test_samples_over_the_limit_are_counted_and_said_never_cut(student: str, tmp_path: Path) -> None:
    said: list[str] = []

    class Listen(Progress):
        def say(self, line: str) -> None:
            said.append(line)

    limit = sorted(len(sample.input_ids) for sample in samples())[7]
    over = sum(len(sample.input_ids) > limit for sample in samples())
    recipe = replace(RECIPE, epochs=1, max_length=limit)
    stats = fine_tune(chats(), student=student, recipe=recipe, out=tmp_path, progress=Listen())
    assert over and (stats.samples, stats.dropped) == (12 - over, over)
    longest = max(len(sample.input_ids) for sample in samples())
    assert said == [f"train: {over} samples of over {limit} tokens are left out. --max-length {longest} takes all."]
    with pytest.raises(DataError, match="none of 12 samples fits into max_length 5"):
        fine_tune(chats(), student=student, recipe=replace(RECIPE, max_length=5), out=tmp_path / "none")


def test_a_sample_without_a_trained_token_is_refused() -> None:
    with pytest.raises(DataError, match="no token to train on"):
        refuse_empty([Sample((1, 2), (IGNORED, IGNORED))], 1, RECIPE)


def test_more_blocks_than_there_are_is_refused(student: str) -> None:
    with pytest.raises(ConfigError, match="blocks is 9, but the student has 4"):
        make_trainable(load_student(student)[0], replace(RECIPE, blocks=9))


def test_a_batch_that_cannot_fit_is_refused(student: str) -> None:
    model, _, _ = load_student(student)
    require_memory_for_training(model, samples(2), [(0, 1)], frozen=2, half=False)
    model.config.hidden_size = 10**12
    with pytest.raises(ConfigError, match="smaller micro_batch"):
        require_memory_for_training(model, samples(2), [(0, 1)], frozen=2, half=False)


def test_a_loss_that_is_no_number_ends_the_run(student: str, tmp_path: Path) -> None:
    model, words, _ = load_student(student)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    words.save_pretrained(tmp_path / "broken")
    with pytest.raises(FireactError, match="the loss is nan at step 1"):
        fine_tune(chats(), student=str(tmp_path / "broken"), recipe=RECIPE, out=tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("kind", "prefix"), ("rank", 0), ("rank", 2.5), ("rank", True), ("blocks", -1), ("epochs", 0), ("seed", -1)],
        *[("learning_rate", 0.0), ("learning_rate", "2e-3"), ("learning_rate", float("nan")), ("learning_rate", 2)],
        *[("dropout", 1.0), ("warmup", -0.1), ("weight_decay", float("inf")), ("schedule", "cosin"), ("schedule", 3)],
        *[("batch_size", 0), ("max_length", 0), ("save_every", 0), ("alpha", 0)],
    ],
)
def test_a_senseless_recipe_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        Recipe(**{name: value})


# --- the order and the rate ---


@given(LENGTHS, st.integers(1, 4), st.integers(1, 9), st.integers(0, 5))
def test_each_sample_stands_once_in_every_epoch(lengths: list[int], epochs: int, size: int, seed: int) -> None:
    batches = plan_batches(lengths, epochs=epochs, batch_size=size, seed=seed)
    assert batches == plan_batches(lengths, epochs=epochs, batch_size=size, seed=seed)
    assert all(1 <= len(batch) <= size for batch in batches)
    steps = len(batches) // epochs
    for epoch in range(epochs):
        indices = [index for batch in batches[epoch * steps : (epoch + 1) * steps] for index in batch]
        assert sorted(indices) == list(range(len(lengths)))
    assert 0 <= measure_padding(batches, lengths) < 1


def test_batches_of_like_length_are_padded_less_than_drawn_ones() -> None:
    lengths = [20 + 7 * (index * 37 % 50) for index in range(128)]
    drawn = [tuple(range(start, start + 8)) for start in range(0, 128, 8)]
    assert measure_padding(plan_batches(lengths, epochs=1, batch_size=8, seed=0), lengths) < 0.4 * measure_padding(
        drawn, lengths
    )


@given(LENGTHS, st.integers(1, 16), st.integers(0, 5), st.integers(1, 4))
def test_padding_stays_under_a_twentieth_of_the_tokens(
    lengths: list[int], size: int, micro: int, processes: int
) -> None:
    """Whatever the lengths: a batch is computed in pieces of like length, and all of it is computed."""
    batches = plan_batches(lengths, epochs=2, batch_size=size, seed=0)
    limit = choose_padding_limit(batches, lengths, size=micro, processes=processes)
    made = split_all_batches(batches, lengths, size=micro, limit=limit, processes=processes)
    assert sorted(index for piece in made for index in piece) == sorted(index for batch in batches for index in batch)
    assert all(piece and (not micro or len(piece) <= micro) for piece in made)
    assert measure_padding(made, lengths) <= MOST_PADDING


def test_batches_that_are_padded_little_stay_whole() -> None:
    lengths = [100 + index for index in range(16)]
    batches = plan_batches(lengths, epochs=1, batch_size=4, seed=0)
    limit = choose_padding_limit(batches, lengths)
    assert all(len(split_by_length(batch, lengths, limit=limit)) == 1 for batch in batches)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hotpotqa", "hotpotqa_multimethod", "multitask", "multitask_multimethod"])
def test_the_released_mixtures_are_padded_under_a_twentieth(shared_data: Path, name: str) -> None:
    """Lengths in bytes: as uneven as in tokens. Batches of the paper and of the default recipe."""
    from fireact.formats.read import read_any
    from fireact.render.react import ReActRenderer

    file = shared_data / "fireact" / "finetune" / "alpaca_format" / f"{name}.json"
    lengths = [sum(len(m.content) for m in ReActRenderer().sample(one)) for one in read_any(file)]
    for size, micro in ((4, 0), (16, 0), (16, 4)):
        batches = plan_batches(lengths, epochs=1, batch_size=size, seed=0)
        limit = choose_padding_limit(batches, lengths, size=micro)
        made = [piece for batch in batches for piece in split_by_length(batch, lengths, size=micro, limit=limit)]
        assert measure_padding(made, lengths) <= MOST_PADDING < measure_padding(batches, lengths)
        assert len(made) < 0.75 * len(lengths)


@given(st.integers(1, 400), st.floats(0, 0.99), st.sampled_from(SCHEDULES))
def test_no_step_is_without_a_rate(total: int, warmup: float, schedule: str) -> None:
    rates = [learning_rate_share(step, total=total, warmup=warmup, schedule=schedule) for step in range(total)]
    assert all(0 < rate <= 1 for rate in rates)
    assert max(rates) == 1
    top = rates.index(1)
    assert rates == [*sorted(rates[:top]), *sorted(rates[top:], reverse=True)]
