"""Families of models: each is found, split, adapted, trained and loaded again; what training needs is estimated."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from fakes import trajectory
from fireact.base import jsonl
from fireact.errors import ConfigError, ProviderError
from fireact.render.tokens import IGNORED, Sample
from fireact.training.recipe import Recipe, read_recipe
from test_train import RECIPE, chats, full_loss, losses, samples, shake

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from fireact.base.machine import has_bfloat16, require_memory  # noqa: E402
from fireact.models.weights import convert_gguf, student_directory  # noqa: E402
from fireact.training.loss import TargetLoss  # noqa: E402
from fireact.training.memory import (  # noqa: E402
    estimate_training_gb,
    free_gpu_gb,
    peak_training_gb,
    require_memory_for_training,
    require_memory_for_weights,
)
from fireact.training.student import find_linear_names, load_model_shape, load_student, make_trainable  # noqa: E402
from fireact.training.trainer import fine_tune  # noqa: E402
from forks import ForkServer  # noqa: E402
from small_tokenizers import tokenizer  # noqa: E402
from tiny import tiny_model, tiny_tokenizer  # noqa: E402

SHAPE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048, "initializer_range": 0.2,
}  # fmt: skip
FAMILIES: dict[str, tuple[dict[str, Any], set[str], bool]] = {
    "qwen2": ({}, {"q_proj", "down_proj"}, True),
    "qwen3": ({"head_dim": 16}, {"q_proj", "down_proj"}, True),
    "mistral": ({"sliding_window": None}, {"o_proj", "up_proj"}, True),
    "gemma2": ({"head_dim": 16, "final_logit_softcapping": 5.0}, {"q_proj", "gate_proj"}, True),
    "granite": ({"logits_scaling": 4.0, "embedding_multiplier": 3.0}, {"q_proj"}, False),
    "phi3": ({}, {"qkv_proj", "gate_up_proj"}, True),
    "gpt_neox": ({}, {"query_key_value", "dense_4h_to_h"}, True),
    "gpt2": ({"n_inner": 128}, {"c_attn", "c_fc"}, False),
}
"""Of each type: settings of its own, names of linear layers that must be found, and whether it splits into halves."""


@pytest.fixture(params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """The name of a type, and a directory such as the hub has it."""
    import transformers

    words = tiny_tokenizer()
    special = {name: getattr(words, name) for name in ("eos_token_id", "pad_token_id")}
    config = transformers.AutoConfig.for_model(
        request.param, vocab_size=len(words), bos_token_id=0, **special, **SHAPE, **FAMILIES[request.param][0]
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "student")
    words.save_pretrained(tmp_path / "student")
    return request.param, str(tmp_path / "student")


@pytest.mark.parametrize("blocks", [0, 2])
def test_the_loss_of_any_family_is_that_of_full_logits(family: tuple[str, str], blocks: int) -> None:
    """Caps and scales of logits included, and whatever else lies between the blocks and the logits."""
    name, place = family
    model, _, _ = load_student(place)
    assert FAMILIES[name][1] <= set(find_linear_names(model))
    adapted, frozen = make_trainable(model, replace(RECIPE, blocks=blocks))
    shake(adapted)
    adapted.eval()
    chosen = samples(5)
    loss = TargetLoss(adapted, chosen, frozen=frozen)
    loss.bfloat16 = False
    loss.cached_hidden_states = (
        dict(loss.frozen_blocks.iterate_hidden_states([one.input_ids for one in chosen]))
        if loss.frozen_blocks.frozen
        else {}
    )
    assert bool(loss.cached_hidden_states) == (bool(blocks) and FAMILIES[name][2])
    assert loss((0, 1, 4)).item() == pytest.approx(full_loss(adapted, [chosen[i] for i in (0, 1, 4)]), abs=1e-4)
    trained = [parameter for parameter, one in adapted.named_parameters() if one.requires_grad]
    assert trained and all("lora_" in parameter for parameter in trained)
    assert not blocks or not any(".0." in parameter.split("lora_")[0] for parameter in trained)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_any_family_learns_and_is_loaded_again(family: tuple[str, str], kind: str, tmp_path: Path) -> None:
    import peft
    import transformers

    recipe = replace(RECIPE, kind=kind, epochs=3, learning_rate=0.02 if kind == "lora" else 0.002)
    stats = fine_tune(chats(), student=family[1], recipe=recipe, out=tmp_path / "run")
    found = losses(tmp_path / "run")
    assert found[-1] < found[0]
    if kind == "full":
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    else:
        model = peft.PeftModel.from_pretrained(load_student(family[1])[0], str(tmp_path / "run" / "adapter"))
    assert full_loss(model.eval(), samples()) == pytest.approx(stats.final_loss, rel=0.3)


def test_a_gguf_file_is_a_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    from fireact.serving.gguf import write_gguf

    monkeypatch.setenv("FIREACT_CACHE", str(tmp_path / "cache"))
    words = tokenizer("llama3")
    config = transformers.LlamaConfig(vocab_size=len(words), tie_word_embeddings=True, **SHAPE)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    write_gguf(model, words, tmp_path / "mine.gguf", name="mine", dtype="float32")
    place = student_directory(str(tmp_path / "mine.gguf"))
    assert place == student_directory(str(tmp_path / "mine.gguf")) and Path(place).parent == tmp_path / "cache"
    again, tokens, _ = load_student(place)
    assert len(tokens) == len(words) and tokens.encode("<|eot_id|> a\nb") == words.encode("<|eot_id|> a\nb")
    assert full_loss(again, samples(3)) == pytest.approx(full_loss(model, samples(3)), abs=1e-3)
    (tmp_path / "torn.gguf").write_bytes(b"GGUF" + b"\0" * 40)
    with pytest.raises(ConfigError, match=r"cannot read .*torn\.gguf"):
        convert_gguf(tmp_path / "torn.gguf", tmp_path / "cache")


# --- memory ---


def run_forked(student: str, kind: str, blocks: str, folder: str) -> None:
    """Train in this process, and write the peak of memory beyond the model and its estimate, both in GB."""
    from fireact.base.progress import SILENT
    from fireact.training.trainer import _TrainingRun, build_trainer

    model, words, _ = load_student(student)
    rows = [Sample((5,) * 400, (IGNORED,) * 200 + (5,) * 200)] * 8
    recipe = Recipe(kind=kind, blocks=int(blocks), epochs=1, batch_size=8, max_length=2048)
    run = _TrainingRun(model, words, rows, [], recipe=recipe, out=Path(folder), progress=SILENT)
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # the kernel's peak begins anew
    build_trainer(run).train()
    peak = 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
    shape: dict[str, Any] = {"frozen": run.loss.frozen_blocks.frozen, "half": has_bfloat16()}
    estimate = estimate_training_gb(run.model, rows, [tuple(range(8))], is_joined=run.is_joined, **shape)
    Path(folder, "measured.json").write_text(json.dumps([(peak - before) / 1e9, estimate]))


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    with ForkServer("test_train_models", "transformers.models.llama.modeling_llama") as forks:
        yield forks


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "blocks"), [("lora", 0), ("lora", 3), ("full", 0)])
def test_the_estimate_of_memory_is_near_what_training_takes(
    kind: str, blocks: int, tmp_path: Path, forks: ForkServer
) -> None:
    student = tiny_model(tmp_path / "student", layers=8, hidden=384)
    forks.start(tmp_path, str(student), kind, str(blocks), str(tmp_path))
    assert forks.wait() == 0
    took, estimate = json.loads((tmp_path / "measured.json").read_text())
    assert 0.85 * took < estimate < 2 * took


def test_more_memory_than_a_gpu_has_is_refused_before_the_first_step(tmp_path: Path) -> None:
    """What a GPU needs holds the weights too; spread over four, a quarter of them."""
    model, _ = make_trainable(
        load_student(str(tiny_model(tmp_path / "student", layers=8, hidden=384)))[0],
        replace(RECIPE, kind="full", blocks=0),
    )
    shape: dict[str, Any] = {"frozen": 0, "half": True}
    alone, spread = (estimate_training_gb(model, samples(2), [(0, 1)], gpu=True, processes=n, **shape) for n in (1, 4))
    weights = sum(one.numel() for one in model.parameters()) * 4 / 1e9
    assert alone - spread == pytest.approx(0.75 * 4 * weights, rel=0.01)  # weights, gradients, two moments
    require_memory_for_training(model, samples(2), [(0, 1)], available=lambda: alone + 0.01, **shape)
    with pytest.raises(ConfigError, match="smaller micro_batch"):
        require_memory_for_training(model, samples(2), [(0, 1)], available=lambda: alone - 0.01, **shape)


def test_a_model_that_makes_activations_again_needs_less(tmp_path: Path) -> None:
    model, _ = make_trainable(load_student(str(tiny_model(tmp_path / "student", layers=8, hidden=384)))[0], RECIPE)
    rows = [Sample((5,) * 2000, (IGNORED,) * 1990 + (5,) * 10)] * 8
    all_kept = estimate_training_gb(model, rows, [tuple(range(8))], frozen=0, half=True)
    base = model.get_base_model()
    (getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable)()  # its new name
    assert estimate_training_gb(model, rows, [tuple(range(8))], frozen=0, half=True) < 0.4 * all_kept


def test_a_student_larger_than_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A directory with the shape of a 70B model and no weights at all."""
    words = tiny_tokenizer()
    shape = SHAPE | {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
    }
    settings = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32000, **shape}
    words.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=r"this needs about 2[0-9]{2}\.[0-9] GB.*smaller student"):
        require_memory_for_weights(load_model_shape(str(tmp_path)), str(tmp_path), "lora")
    with pytest.raises(ConfigError, match="smaller student"):
        load_student(str(tmp_path))


def test_main_memory_is_asked_for_all_processes_of_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the weights by the launcher, of what a step adds by each process; a GPU is a process's own."""
    model, rows = load_student(str(tiny_model(tmp_path)))[0], samples(2)
    one = estimate_training_gb(model, rows, [(0, 1)], frozen=0, half=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "100000")
    with pytest.raises(ConfigError, match=f"this needs about {100000 * one:.1f} GB"):
        require_memory_for_training(model, rows, [(0, 1)], frozen=0, half=False)
    require_memory_for_training(model, rows, [(0, 1)], frozen=0, half=False, available=lambda: 10.0)
    with pytest.raises(ConfigError, match="smaller student"):
        require_memory_for_weights(model, "here", "lora", copies=10**7)
    require_memory_for_weights(model, "here", "lora", copies=2)


def test_a_process_asks_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (int(str(device)[-1]) * 10**9, 0))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: 10**9 * (10 + int(str(device)[-1])))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.delenv("FIREACT_BFLOAT16", raising=False)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert free_gpu_gb() == 3.0 and peak_training_gb() == 13.0 and not has_bfloat16()


def test_need_is_said_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"1\.5 GB of memory are available; this needs about 2\.0 GB"):
        require_memory(gigabytes=2, available=lambda: 1.5)


# --- what cannot be loaded, and what is small ---


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", None), ("model.safetensors", b"torn"), ("config.json", b"{}"), ("config.json", b"[]"),
        ("config.json", b'{"mod'), ("config.json", b'{"model_type": "t5"}'), ("tokenizer.json", b'{"a'),
    ],
)  # fmt: skip
def test_a_place_that_cannot_be_loaded_is_one_clear_error(file: str, content: bytes | None, tmp_path: Path) -> None:
    from fireact.models.hf import load_merged_student

    place = tiny_model(tmp_path / "student")
    (place / file).unlink()
    if content is not None:
        (place / file).write_bytes(content)
    for load in (load_student, lambda name: load_merged_student(name, None)):
        with pytest.raises(ProviderError, match=r"transformers cannot load '.*student' \(.*\)\. Give a directory"):
            load(str(place))


def test_a_hub_id_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    """In a process of its own: the hub's address is read when its client is imported."""
    jsonl.write_objects(tmp_path / "data.jsonl", [trajectory(1, steps=1).to_dict()])
    command = [sys.executable, "-m", "fireact", "train", "data.jsonl", "--student", "no/such", "-o", "run"]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "1000", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=offline, timeout=600)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "cannot load 'no/such'" in done.stderr and "check the hub id and the connection" in done.stderr


@pytest.mark.parametrize("name", ["absent.gguf", "models/absent.gguf"])
def test_a_gguf_file_that_is_not_there_is_no_hub_id(name: str) -> None:
    with pytest.raises(ConfigError, match=f"there is no file {name}"):
        student_directory(name)


@pytest.mark.parametrize(("blocks", "trained"), [(0, {0, 1, 2, 3}), (3, {1, 2, 3})])
def test_all_blocks_are_trained_or_the_uppermost_that_were_asked_for(
    blocks: int, trained: set[int], tmp_path: Path
) -> None:
    student = str(tiny_model(tmp_path / "student"))
    recipe = replace(read_recipe("default"), epochs=1, rank=4, blocks=blocks)
    fine_tune(chats(4), student=student, recipe=recipe, out=tmp_path / "run")
    from safetensors import safe_open

    with safe_open(tmp_path / "run" / "adapter" / "adapter_model.safetensors", "pt") as file:
        assert {int(name.split(".layers.")[1].split(".")[0]) for name in file.keys()} == trained  # noqa: SIM118
    with pytest.raises(ConfigError, match=f"trains the uppermost {len(trained)} blocks"):
        fine_tune(chats(4), student=student, recipe=replace(recipe, blocks=2), out=tmp_path / "run")
    with pytest.raises(ConfigError, match="blocks is 13, but the student has"):
        fine_tune(chats(4), student=student, recipe=replace(recipe, blocks=13), out=tmp_path / "more")


def test_how_many_blocks_are_trained() -> None:
    assert [Recipe(blocks=n).count_trained_blocks(4) for n in (0, 3, 4)] == [4, 3, 4]
    with pytest.raises(ConfigError, match="blocks is 10, but the student has 4"):
        Recipe(blocks=10).count_trained_blocks(4)
