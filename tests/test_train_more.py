"""Recipes, whole-model training, validation with early stop, pieces of batches, and several processes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import Small, trajectory
from fireact.base import jsonl
from fireact.errors import ConfigError, DataError, FireactError, FormatError
from fireact.render.react import ReActRenderer
from fireact.rollout.models import load_model
from fireact.training.recipe import Recipe, list_recipes, read_recipe
from fireact.training.samples import render_trajectory
from fireact.training.train import TrainConfig, choose_held_out, train
from fireact.types import Action, Call, Message, Step, Trajectory, Usage

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from fireact.training.student import load_student, make_trainable  # noqa: E402
from fireact.training.trainer import _TrainingRun, fine_tune  # noqa: E402
from fireact.training.validation import best_epoch, is_over  # noqa: E402
from test_train import RECIPE, chats, losses, samples  # noqa: E402
from tiny import tiny_model, tiny_tokenizer  # noqa: E402


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("student")))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "trajectories.jsonl"
    jsonl.write_objects(path, (one.to_dict() for one in trajectories()))
    return path


def trajectories(n: int = 12) -> list[Trajectory]:
    found = []
    for index, example in enumerate(Small().examples("train")[:n]):
        look = Step("look", Action("search", {"query": f"{index}"}), f"it is {index}", "")
        done = Step("", Action("finish", {"answer": f"{index}"}), None, "")
        found.append(Trajectory("small", example, "react", "m", 0, (look, done), "finish", {"em": 1.0}, Usage(), 0.1))
    return found


# --- recipes ---


@pytest.mark.parametrize("name", list_recipes())
def test_every_shipped_recipe_can_be_read(name: str) -> None:
    recipe = read_recipe(name, seed=3)
    assert isinstance(recipe, Recipe) and recipe.seed == 3


def test_the_default_recipe_is_the_default() -> None:
    assert read_recipe("default") == Recipe()


def test_the_paper_s_recipe_has_the_paper_s_settings() -> None:
    paper = read_recipe("paper-lora")
    assert (paper.epochs, paper.learning_rate, paper.batch_size, paper.kind) == (30, 3e-4, 16, "int8-lora")
    assert (paper.rank, paper.alpha, paper.dropout, paper.targets) == (8, 16, 0.05, ("q_proj", "v_proj"))


@pytest.mark.parametrize(
    ("text", "said"),
    [("epochs = ", "not TOML"), ("epoch = 3", "epochs"), ("epochs = 0", "at least 1"), ('targets = "q_proj"', "list")],
)
def test_a_wrong_recipe_file_is_refused_in_words(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_recipe(str(tmp_path / "mine.toml"))
    with pytest.raises(ConfigError, match="paper-lora"):
        read_recipe("papr-lora")


def test_patience_needs_something_to_measure_on(student: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="patience needs"):
        train(TrainConfig(data=str(data), student=student, recipe=replace(RECIPE, patience=2)), tmp_path / "run")


def test_what_a_mixture_held_out_is_measured_on(student: str, tmp_path: Path) -> None:
    jsonl.write_objects(tmp_path / "mix" / "trajectories.jsonl", (one.to_dict() for one in trajectories(8)))
    jsonl.write_objects(tmp_path / "mix" / "holdout.jsonl", (one.to_dict() for one in trajectories(12)[8:]))
    recipe = replace(RECIPE, epochs=1)
    manifest = train(TrainConfig(data=str(tmp_path / "mix"), student=student, recipe=recipe), tmp_path / "run")
    assert manifest["samples"] == 8 and manifest["validation_loss"] > 0


def test_what_is_held_out_is_left_out_where_nothing_in_it_is_learnt_or_it_is_too_long(
    student: str, tmp_path: Path
) -> None:
    """Both are said; with patience there must be something left to measure on."""
    from fireact.base.progress import Progress

    said: list[str] = []

    class Listen(Progress):
        def say(self, line: str) -> None:
            said.append(line)

    found = trajectories(12)
    empty = replace(found[8], steps=tuple(replace(step, weight=0.0) for step in found[8].steps))
    long = replace(found[9], steps=(replace(found[9].steps[0], observation="long " * 300), *found[9].steps[1:]))
    jsonl.write_objects(tmp_path / "mix" / "trajectories.jsonl", (one.to_dict() for one in found[:8]))
    jsonl.write_objects(tmp_path / "mix" / "holdout.jsonl", (one.to_dict() for one in (empty, long, *found[10:])))
    config = TrainConfig(data=str(tmp_path / "mix"), student=student, recipe=replace(RECIPE, epochs=1))
    manifest = train(config, tmp_path / "run", progress=Listen())
    assert manifest["validation_loss"] > 0 and manifest["validation_dropped"] == 1 and manifest["dropped"] == 0
    assert any("1 of 4 trajectories are without a step to learn" in line for line in said)
    assert any("1 validation samples of over 1024 tokens" in line for line in said)
    jsonl.write_objects(tmp_path / "mix" / "holdout.jsonl", [long.to_dict()])
    with pytest.raises(ConfigError, match="patience needs samples to measure on, and none of 1"):
        train(replace(config, recipe=replace(RECIPE, patience=1)), tmp_path / "patient")


def test_data_that_are_not_there_are_said_before_anything_is_written(student: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no .*nowhere"):
        train(TrainConfig(data=str(tmp_path / "nowhere"), student=student), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_dry_run_counts_what_training_then_does(student: str, data: Path, tmp_path: Path) -> None:
    from fireact.training.forecast import estimate_training

    config = TrainConfig(data=str(data), student=student, recipe=replace(RECIPE, validation=0.25))
    foreseen, done = estimate_training(config).details, train(config, tmp_path / "run")
    assert estimate_training(config).tokens == done["tokens"]
    for name in ("samples", "dropped", "rewritten", "tokens", "padding", "steps"):
        assert foreseen[name] == done[name], name
    assert foreseen["validation_samples"] == 3 and 0 < foreseen["weights_gb"] < foreseen["memory_gb"] < 1
    launched = estimate_training(replace(config, processes=2)).details
    assert "fireact.training.worker" in launched["launch"] and launched["steps"] == done["steps"]
    with pytest.raises(DataError, match="none of 9 samples fits"):
        estimate_training(replace(config, recipe=replace(config.recipe, max_length=5)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("kind", ["int8-lora", "qlora"])
def test_quantised_kinds_say_that_they_need_a_gpu(student: str, kind: str) -> None:
    with pytest.raises(ConfigError, match="needs a GPU"):
        load_student(student, kind)


# --- what is trained ---


def test_targets_choose_the_layers(student: str) -> None:
    model, _ = make_trainable(load_student(student)[0], replace(RECIPE, targets=("q_proj", "v_proj"), blocks=0))
    names = {name.split(".lora_")[0].rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert names == {"q_proj", "v_proj"}
    with pytest.raises(ConfigError, match="no layers named c_attn"):
        make_trainable(load_student(student)[0], replace(RECIPE, targets=("c_attn",)))


@pytest.mark.parametrize("blocks", [0, 2])
def test_full_fine_tuning_leaves_a_model_that_runs(student: str, data: Path, tmp_path: Path, blocks: int) -> None:
    recipe = replace(RECIPE, kind="full", blocks=blocks, learning_rate=0.003, epochs=3)
    manifest = train(TrainConfig(data=str(data), student=student, recipe=recipe), tmp_path / "run")
    rows = losses(tmp_path / "run")
    assert rows[-1] < 0.8 * rows[0] and not (tmp_path / "run" / "adapter").exists()
    before, after = load_model(student), load_model(str(tmp_path / "run"))
    assert after.tuned and manifest["adapter_sha256"][:8] in after.lm.name
    said = [model.lm.complete(Call([Message("user", "Question 1?")], max_tokens=8)).text for model in (before, after)]
    assert said[0] != said[1]
    before.close(), after.close()


# --- pieces of batches ---


@pytest.mark.parametrize("size", [1, 3])
def test_pieces_of_a_batch_give_the_whole_batch_s_curve(student: str, tmp_path: Path, size: int) -> None:
    fine_tune(chats(), student=student, recipe=RECIPE, out=tmp_path / "whole")
    fine_tune(chats(), student=student, recipe=replace(RECIPE, micro_batch=size), out=tmp_path / "pieces")
    assert losses(tmp_path / "pieces") == pytest.approx(losses(tmp_path / "whole"), rel=0.01)


def test_out_of_memory_is_answered_with_the_setting_to_change(student: str, tmp_path: Path) -> None:
    model, words, _ = load_student(student)
    run = _TrainingRun(model, words, samples(), [], recipe=RECIPE, out=tmp_path, progress=_silent())

    def no_room(loss: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    with pytest.raises(ConfigError, match=r"at step 7: 4 samples .* Set micro_batch = 2"):
        run.compute_gradients((0, 1, 2, 3), number=7, backward=no_room)


def _silent() -> Any:
    from fireact.base.progress import SILENT

    return SILENT


def test_a_micro_batch_may_change_when_a_run_goes_on(student: str, data: Path, tmp_path: Path) -> None:
    config = TrainConfig(data=str(data), student=student, recipe=RECIPE)
    train(config, tmp_path / "run")
    curve = losses(tmp_path / "run")
    (tmp_path / "run" / "manifest.json").unlink()
    resumed = train(replace(config, recipe=replace(RECIPE, micro_batch=1)), tmp_path / "run")
    assert resumed["resumed_from_step"] == len(curve) and losses(tmp_path / "run") == curve


# --- validation ---


def test_questions_are_kept_out_whole() -> None:
    found = trajectories() + [replace(one, method="cot") for one in trajectories()]
    kept = choose_held_out(found, Recipe(validation=0.25))
    assert len(kept) == 3
    with pytest.raises(ConfigError, match="nothing on one side"):
        choose_held_out(found[:2], Recipe(validation=0.01))


@pytest.mark.parametrize(
    ("losses", "patience", "best", "over"),
    [
        ([], 2, None, False),
        ([3.0], 2, 0, False),
        ([3.0, 2.0, 1.0], 1, 2, False),  # better each time
        ([3.0, 2.0, 2.5], 2, 1, False),
        ([3.0, 2.0, 2.5, 2.4], 2, 1, True),
        ([3.0, 2.0, 2.5, 1.9], 2, 3, False),  # better within the patience
        ([1.0, 1.0, 1.0], 2, 0, True),  # as good is not better
        ([1.0, 2.0, 3.0, 4.0], 0, 0, False),  # no patience: never
        ([2.0, 9.0], 1, 0, True),
    ],
)
def test_whether_training_is_over_is_decided_by_the_losses(
    losses: list[float], patience: int, best: int | None, over: bool
) -> None:
    assert is_over(losses, patience=patience) is over
    assert best is None or best_epoch(losses) == best


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(1, 4))
def test_training_ends_after_so_many_epochs_without_a_better_one(losses: list[int], patience: int) -> None:
    ends = next((n for n in range(1, len(losses) + 1) if is_over(losses[:n], patience=patience)), None)
    stale = [min(losses[n - patience : n]) >= min(losses[: n - patience]) for n in range(patience + 1, len(losses) + 1)]
    assert ends == (stale.index(True) + patience + 1 if True in stale else None)


def test_training_stops_where_validation_gets_no_better_and_keeps_the_best(
    student: str, data: Path, tmp_path: Path
) -> None:
    """At a rate so low that no weight changes, the first epoch stays the best on every machine."""
    recipe = replace(RECIPE, learning_rate=1e-30, epochs=12, validation=0.25, patience=2, schedule="constant")
    manifest = train(TrainConfig(data=str(data), student=student, recipe=recipe), tmp_path / "run")
    rows = list(jsonl.read_objects(tmp_path / "run" / "validation.jsonl"))
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert manifest["validation_loss"] == rows[0]["validation_loss"] == rows[2]["validation_loss"]
    assert manifest["steps"] == rows[-1]["step"] and not (tmp_path / "run" / "best").exists()
    assert all(0 <= row["whole_sample_accuracy"] <= 1 for row in rows)


def test_the_kept_weights_are_those_of_the_best_epoch(student: str, data: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, learning_rate=0.1, epochs=12, validation=0.25, patience=2, schedule="constant", warmup=0.0)
    config = TrainConfig(data=str(data), student=student, recipe=recipe)
    train(config, tmp_path / "run")
    rows = list(jsonl.read_objects(tmp_path / "run" / "validation.jsonl"))
    epochs = min(rows, key=lambda row: row["validation_loss"])["epoch"]
    shorter = replace(recipe, epochs=epochs, patience=0)
    train(replace(config, recipe=shorter), tmp_path / "short")
    from safetensors.torch import load_file

    mine, theirs = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("run", "short"))
    for name, weight in theirs.items():
        torch.testing.assert_close(mine[name], weight, rtol=1e-2, atol=1e-4)


# --- before the first step ---


def test_a_tracker_that_is_not_there_is_refused_at_once(student: str, tmp_path: Path) -> None:
    import importlib.util

    with pytest.raises(ConfigError, match=r"unknown tracker 'tensorbord'\. Did you mean 'tensorboard'"):
        fine_tune(chats(), student=student, recipe=RECIPE, out=tmp_path, report_to=("tensorbord",))
    absent = [name for name in ("trackio", "mlflow", "wandb") if importlib.util.find_spec(name) is None]
    for name in absent:
        with pytest.raises(ConfigError, match=f"Run: pip install {name}"):
            fine_tune(chats(), student=student, recipe=RECIPE, out=tmp_path, report_to=(name,))


def test_a_sample_that_inference_would_not_ask_for_is_refused() -> None:
    class Other(ReActRenderer):
        name = "other"

        def prompt(self, question: str, *rest: Any, **options: Any) -> list[Message]:
            return super().prompt(f"{question} Please.", *rest, **options)

    with pytest.raises(FormatError, match="prompts that it was not trained on"):
        render_trajectory(trajectories(1)[0], Other())


def test_a_sample_is_shown_before_training(student: str, tmp_path: Path) -> None:
    from fireact.base.progress import Progress

    shown: list[tuple[str, bool]] = []

    class Look(Progress):
        def sample(self, spans: Any) -> None:
            shown.extend(spans)

    fine_tune(chats(), student=student, recipe=replace(RECIPE, epochs=1), out=tmp_path, progress=Look())
    trained = [text for text, learnt in shown if learnt]
    assert trained == ["Thought: look\nAction: search[0]<|im_end|>", "Action: finish[0]<|im_end|>"]
    words = tiny_tokenizer()
    assert "".join(text for text, _ in shown) == words.decode(samples(1)[0].input_ids)


def test_the_batch_of_a_loss_that_is_no_number_is_written_down(student: str, tmp_path: Path) -> None:
    model, words, _ = load_student(student)
    run = _TrainingRun(model, words, samples(), [], recipe=RECIPE, out=tmp_path, progress=_silent())
    error = run.bad_batch_error((1, 2), "the loss is nan", 3)
    assert "bad-batch.json" in str(error)
    assert json.loads((tmp_path / "bad-batch.json").read_text())["samples"] == [1, 2]


def test_a_bad_batch_is_named_by_its_episodes(student: str, tmp_path: Path) -> None:
    from fireact.training.samples import Encoder

    model, words, ends = load_student(student)
    found, _ = Encoder(words, ends).encode_chats(render_trajectory(one, ReActRenderer()) for one in trajectories(3))
    run = _TrainingRun(model, words, found, [], recipe=RECIPE, out=tmp_path, progress=_silent())
    run.bad_batch_error((2, 0), "the loss is nan", 3)
    told = json.loads((tmp_path / "bad-batch.json").read_text())
    assert told["episodes"] == [trajectories(3)[at].key for at in (2, 0)]


def test_a_gradient_that_is_no_number_names_its_own_batch(student: str, tmp_path: Path) -> None:
    model, words, _ = load_student(student)
    run = _TrainingRun(model, words, samples(), [], recipe=RECIPE, out=tmp_path, progress=_silent())

    def poisoned(loss: Any) -> None:
        loss.backward()
        next(one for one in run.model.parameters() if one.grad is not None).grad[0] = float("nan")

    with pytest.raises(FireactError, match="gradient is no number at step 2"):
        run.compute_gradients((1, 2), number=2, backward=poisoned)
    assert json.loads((tmp_path / "bad-batch.json").read_text())["samples"] == [1, 2]


# --- what the loss is over ---


def test_loss_over_all_tokens_labels_whatever_the_student_reads(student: str) -> None:
    from fireact.render.tokens import IGNORED
    from fireact.training.samples import Encoder

    words, ends = tiny_tokenizer(), {tiny_tokenizer().eos_token_id}
    (own,), (everything,) = (
        Encoder(words, ends, everything=wide).encode_chat(chat) for wide in (False, True) for chat in chats(1)
    )
    assert own.input_ids == everything.input_ids
    assert everything.labels == (IGNORED, *everything.input_ids[1:]) and everything.targets > own.targets
    assert all(label in (IGNORED, other) for label, other in zip(own.labels[1:], everything.labels[1:], strict=True))


def test_a_recipe_says_what_the_loss_is_over(student: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train_on"):
        Recipe(train_on="observations")
    one = replace(RECIPE, epochs=1)
    found = [
        train(TrainConfig(data=str(data), student=student, recipe=replace(one, train_on=what)), tmp_path / what)
        for what in ("student", "all")
    ]
    assert found[0]["tokens"] == found[1]["tokens"] and found[0]["target_tokens"] < found[1]["target_tokens"]


def test_runs_as_collected_are_learned_where_they_are_right(tmp_path: Path) -> None:
    from fireact.training.train import load_learnable

    out = tmp_path / "collect"
    (out).mkdir()
    (out / "config.toml").write_text('verb = "collect"\n')
    rows = [
        trajectory(1),
        trajectory(2, em=0.0),
        replace(trajectory(3), steps=(replace(trajectory(3).steps[0], weight=0.0),)),
    ]
    jsonl.write_objects(out / "trajectories.jsonl", (one.to_dict() for one in rows))
    assert [one.key for one in load_learnable(out)] == [trajectory(1).key]
    (out / "config.toml").write_text('verb = "mix"\n')
    assert len(load_learnable(out)) == 2
    jsonl.write_objects(out / "trajectories.jsonl", (one.to_dict() for one in rows[2:]))
    with pytest.raises(DataError, match="none to learn from"):
        load_learnable(out)


def test_the_best_weights_survive_a_kill_after_they_were_put_in_place(tmp_path: Path) -> None:
    from fireact.training.validation import BEST, EpochValidation

    validation = object.__new__(EpochValidation)
    validation.out, validation.patience = tmp_path, 1
    validation.rows = [{"validation_loss": 1.0}, {"validation_loss": 2.0}]
    for name in (BEST, "adapter"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name)
    for _ in range(2):  # the second time is the resumed run
        validation.restore_best_weights(tmp_path / "adapter")
        assert (tmp_path / "adapter" / "weights").read_text() == BEST and validation.should_stop
        (tmp_path / "adapter" / "weights").write_text("last")
    validation.patience = 0
    assert validation.final_row == {"validation_loss": 2.0} and not validation.should_stop


def test_memory_that_runs_out_beside_the_steps_is_answered_too() -> None:
    from fireact.training.memory import catch_out_of_memory
    from fireact.training.trainer import OUT_OF_MEMORY_ADVICE

    on_a_cpu = RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried")
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), on_a_cpu):
        with pytest.raises(ConfigError, match="micro_batch = 1"), catch_out_of_memory(OUT_OF_MEMORY_ADVICE):
            raise error
    with pytest.raises(RuntimeError, match="memory format"), catch_out_of_memory(OUT_OF_MEMORY_ADVICE):
        raise RuntimeError("a memory format that is not known")


def test_what_is_kept_is_computed_as_many_samples_at_a_time_as_the_recipe_allows(student: str) -> None:
    from fireact.training.loss import TargetLoss

    model, _ = make_trainable(load_student(student)[0], RECIPE)
    seen: list[int] = []
    model.get_base_model().get_decoder().layers[0].register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    kept = [TargetLoss(model, samples(), frozen=2, cache_batch_size=size).cached_hidden_states for size in (16, 2)]
    assert max(seen) == 12 and seen[-6:] == [2] * 6
    for index in kept[0]:
        assert (kept[0][index] - kept[1][index]).norm() < 0.02 * kept[0][index].norm()  # products are bfloat16


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_disk_that_a_run_takes_is_known_before(student: str, data: Path, tmp_path: Path, kind: str) -> None:
    from fireact.training.checkpoints import estimate_disk_gb, used_disk_gb

    recipe = replace(RECIPE, kind=kind, blocks=0, rank=64, alpha=64)
    manifest = train(TrainConfig(data=str(data), student=student, recipe=recipe), tmp_path / "run")
    trained = manifest["trained_parameters"]
    saved = trained if kind == "lora" else sum(one.numel() for one in load_student(student)[0].parameters())
    checkpoints = used_disk_gb(tmp_path / "run" / "checkpoints")
    assert checkpoints < estimate_disk_gb(saved=saved, trained=trained) < 2.2 * checkpoints


def test_a_disk_that_is_too_small_is_refused_before_the_first_step(
    student: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    def usage(path: Any) -> Any:
        return type("Usage", (), {"free": 0.6e9})

    model, words, _ = load_student(student)
    monkeypatch.setattr(shutil, "disk_usage", usage)
    _TrainingRun(model, words, samples(), [], recipe=RECIPE, out=tmp_path, progress=_silent())
    model.add_module("wide", torch.nn.Linear(4000, 4000))
    with pytest.raises(ConfigError, match=r"0\.6 GB of free disk; this needs 0\.7 GB"):
        _TrainingRun(
            model, words, samples(), [], recipe=replace(RECIPE, kind="full", blocks=0), out=tmp_path, progress=_silent()
        )


@pytest.mark.parametrize("text", [b"targets = 5\n", b'kind = "lora\xff"\n'])
def test_a_recipe_that_cannot_be_used_is_refused_in_words(text: bytes, tmp_path: Path) -> None:
    from fireact.training.recipe import read_recipe

    (tmp_path / "own.toml").write_bytes(text)
    with pytest.raises(ConfigError):
        read_recipe(str(tmp_path / "own.toml"))
