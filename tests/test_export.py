"""Exported students: the same texts come out of transformers, of llama.cpp, and of the template that Ollama is
given."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from fireact.base.run_directory import file_hash  # noqa: E402
from fireact.errors import ConfigError  # noqa: E402
from fireact.models.hf import load_merged_student  # noqa: E402
from fireact.rollout.models import load_model  # noqa: E402
from fireact.rollout.students import tuned_weights  # noqa: E402
from fireact.serving.export import ExportConfig, export  # noqa: E402
from fireact.serving.ollama import render_modelfile, render_ollama_template  # noqa: E402
from fireact.types import Call, Message  # noqa: E402
from llama import ask_server, assert_same_but_for_ties, llama_server  # noqa: E402
from tiny import cut_smollm2, tiny_model, tiny_tokenizer  # noqa: E402

QUESTION = "What is the currency of the country whose capital is Tashkent?"


def trained(student: str, directory: Path, *, scale: float) -> Path:
    """A directory as ``train`` leaves it, whose adapter is random."""
    import peft
    import tomli_w

    model, _ = load_merged_student(student, None)
    torch.manual_seed(0)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "k_proj", "down_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=scale)
    adapted.save_pretrained(directory / "adapter", safe_serialization=True)
    (directory / "config.toml").write_text(tomli_w.dumps({"verb": "train", "student": student}))
    (directory / "manifest.json").write_text(json.dumps({"adapter_sha256": "0123456789", "student": student}))
    return directory


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    return trained(str(tiny_model(folder / "student")), folder / "train", scale=0.2)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cut_smollm2(tmp_path_factory.mktemp("smollm2"))


def test_the_merged_student_says_what_the_adapted_one_says(run: Path, tmp_path: Path) -> None:
    manifest = export(ExportConfig(run=str(run), dtype="float32"), tmp_path / "merged")
    assert "model.safetensors" in manifest["files"] and "tokenizer.json" in manifest["files"]
    before, after = load_model(str(run)), load_model(str(tmp_path / "merged"))
    assert after.tuned and after.lm.name.startswith(before.lm.name.partition("+")[0])
    said = [model.lm.complete(Call([Message("user", QUESTION)], max_tokens=24)).text for model in (before, after)]
    assert said[0] == said[1]
    before.close(), after.close()


def test_the_merged_template_marks_what_the_student_writes(run: Path, tmp_path: Path) -> None:
    import transformers

    export(ExportConfig(run=str(run), dtype="float32"), tmp_path / "merged")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "merged")
    chat = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "It is so."}]
    found = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    learned = [id for id, mask in zip(found["input_ids"], found["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(learned) == f"It is so.{tokenizer.eos_token}"


def go(text: str, chat: list[dict[str, str]]) -> str:
    """What Go makes of a template of ours: a condition on the first message, a range with one branch a role."""
    first = re.match(r'\{\{ if ne \(index \.Messages 0\)\.Role "system" \}\}(.*?)\{\{ end \}\}', text, re.DOTALL)
    said = first[1] if first and chat[0]["role"] != "system" else ""
    body = text[first.end() :] if first else text
    inside, opening = body.removeprefix("{{ range .Messages }}").rsplit("{{ end }}{{ end }}", 1)
    branches = dict(re.findall(r'\{\{ if eq \.Role "(\w+)" \}\}(.*?)(?:\{\{ end \}\}|\Z)', inside, re.DOTALL))
    return said + "".join(branches[one["role"]].replace("{{ .Content }}", one["content"]) for one in chat) + opening


PRESET = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"


@pytest.mark.parametrize("preset", ["", PRESET], ids=["plain", "with a preset system message"])
@pytest.mark.parametrize("roles", [["user"], ["system", "user"], ["user", "assistant", "user"]])
def test_ollama_is_given_the_text_of_the_chat_template(preset: str, roles: list[str]) -> None:
    tokenizer: Any = tiny_tokenizer()
    tokenizer.chat_template = preset + tokenizer.chat_template
    chat = [{"role": role, "content": f"words of {role}"} for role in roles]
    wanted = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert go(render_ollama_template(tokenizer), chat) == wanted
    assert 'PARAMETER stop "<|im_end|>"' in render_modelfile(tokenizer, "m.gguf", context=4096)


def test_a_template_that_rewrites_is_refused_for_ollama() -> None:
    tokenizer: Any = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    with pytest.raises(ConfigError, match="--to gguf"):
        render_ollama_template(tokenizer)


def test_what_cannot_be_exported_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Known: gguf, merged, ollama"):
        ExportConfig(run=str(run), to="onnx")
    with pytest.raises(ConfigError, match="no directory of 'fireact train'"):
        export(ExportConfig(run=str(tmp_path)), tmp_path / "out")


@pytest.mark.parametrize("form", ["merged", "gguf", "ollama"])
def test_the_built_in_student_is_exported_with_no_option(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FIREACT_CACHE", str(tmp_path))
    tiny_model(tmp_path / "smollm2-135m")  # what is in the cache is taken as it is
    run = trained("smollm2-135m", tmp_path / "train", scale=0.2)
    assert export(ExportConfig(run=str(run), to=form), tmp_path / "out")["dtype"] == "float16"
    wanted = {"merged": {"model.safetensors"}, "gguf": {"model.gguf"}, "ollama": {"model.gguf", "Modelfile"}}
    assert wanted[form] <= {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(("to", "dtype"), [("ollama", "float32"), ("gguf", "bfloat16")])
def test_llama_cpp_loads_the_export_and_says_the_same(to: str, dtype: str, smollm2: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    trained(str(smollm2), tmp_path / "train", scale=0.02)
    export(ExportConfig(run=str(tmp_path / "train"), to=to, dtype=dtype), tmp_path / "out")
    if to == "ollama":
        assert "FROM ./model.gguf" in (tmp_path / "out" / "Modelfile").read_text()
    model = load_model(str(tmp_path / "train"), slots=1)
    with llama_server(tmp_path / "out" / "model.gguf") as url:
        for question in (QUESTION, "Which is larger, Vanuatu (12,200 km²) or Ghana?"):
            theirs = ask_server(url, question, max_tokens=32)
            ours = model.lm.complete(Call([Message("user", question)], max_tokens=32, top_logprobs=8))
            assert_same_but_for_ties(theirs, ours)
            assert theirs["usage"]["prompt_tokens"] == ours.usage.prompt_tokens
    model.close()


def test_a_student_of_another_renderer_keeps_its_template_and_what_has_none_is_refused(
    run: Path, tmp_path: Path
) -> None:
    from fireact.render.alpaca import AlpacaRenderer

    for renderer in ("alpaca", "tool_calls"):
        shutil.copytree(run, tmp_path / renderer)
        manifest = json.loads((run / "manifest.json").read_text())
        (tmp_path / renderer / "manifest.json").write_text(json.dumps({**manifest, "renderer": renderer}))
    export(ExportConfig(run=str(tmp_path / "alpaca")), tmp_path / "merged")
    written = "".join(path.read_text() for path in (tmp_path / "merged").glob("*chat_template*"))
    assert AlpacaRenderer.template in written
    with pytest.raises(ConfigError, match="native tool calls"):
        export(ExportConfig(run=str(tmp_path / "tool_calls"), to="ollama"), tmp_path / "ollama")


def test_a_merged_export_in_several_files_is_an_agent(run: Path, tmp_path: Path) -> None:
    """As save_pretrained writes large students: here every file holds 50 KB at most."""
    import transformers

    manifest = export(ExportConfig(run=str(run), dtype="float32"), tmp_path / "merged")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    (tmp_path / "merged" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "merged", max_shard_size="50KB")
    shards = sorted((tmp_path / "merged").glob("model-*.safetensors"))
    files = {name: sha256 for name, sha256 in manifest["files"].items() if name != "model.safetensors"}
    files |= {path.name: file_hash(path) for path in shards}
    (tmp_path / "merged" / "manifest.json").write_text(json.dumps({**manifest, "files": files}))
    before, after = load_model(str(run)), load_model(str(tmp_path / "merged"))
    assert len(shards) > 2 and after.lm.name.startswith(before.lm.name.partition("+")[0])
    said = [one.lm.complete(Call([Message("user", QUESTION)], max_tokens=24)).text for one in (before, after)]
    assert said[0] == said[1]
    before.close(), after.close()


def a_bfloat16_student(folder: Path) -> str:
    import transformers

    place = tiny_model(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16)
    model.save_pretrained(place)
    return str(place)


@pytest.mark.parametrize(("own", "dtype", "written"), [
    ("float32", "auto", "float16"), ("bfloat16", "auto", "bfloat16"), ("bfloat16", "float16", "float16"),
    ("float32", "bfloat16", "bfloat16"), ("bfloat16", "float32", "float32"),
])  # fmt: skip
def test_an_export_has_the_student_s_own_type_or_the_one_that_is_asked_for(
    own: str, dtype: str, written: str, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    make = a_bfloat16_student if own == "bfloat16" else tiny_model
    run = trained(str(make(tmp_path / "student")), tmp_path / "train", scale=0.2)
    manifest = export(ExportConfig(run=str(run), dtype=dtype), tmp_path / "out")
    assert manifest["dtype"] == written
    assert {str(one.dtype) for one in load_file(tmp_path / "out" / "model.safetensors").values()} == {
        f"torch.{written}"
    }
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == written


def test_weights_beyond_float16_are_not_written_as_infinite(tmp_path: Path) -> None:
    import transformers

    place = tiny_model(tmp_path / "student")
    model = transformers.AutoModelForCausalLM.from_pretrained(place)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e6
    model.save_pretrained(place)
    run = trained(str(place), tmp_path / "train", scale=0.2)
    with pytest.raises(ConfigError, match=r"up_proj\.weight has weights beyond float16's range"):
        export(ExportConfig(run=str(run), dtype="float16"), tmp_path / "out")
    assert export(ExportConfig(run=str(run)), tmp_path / "auto")["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("positions", "length", "context"), [(2048, 1024, 2048), (32768, 1024, 4096), (32768, 9000, 9000)]
)
def test_a_modelfile_has_room_for_what_was_trained_within_what_the_student_reads(
    positions: int, length: int, context: int, tmp_path: Path
) -> None:
    import tomli_w

    student = str(tiny_model(tmp_path / "student", positions=positions))
    run = trained(student, tmp_path / "train", scale=0.2)
    settings = {"verb": "train", "student": student, "recipe": {"max_length": length}}
    (run / "config.toml").write_text(tomli_w.dumps(settings))
    export(ExportConfig(run=str(run), to="ollama"), tmp_path / "out")
    assert f"\nPARAMETER num_ctx {context}\n" in (tmp_path / "out" / "Modelfile").read_text()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_gguf_file_has_the_weights_in_the_type_asked_for(dtype: str, run: Path, tmp_path: Path) -> None:
    import gguf

    export(ExportConfig(run=str(run), to="gguf", dtype=dtype), tmp_path / "out")
    tensors = {one.name: one for one in gguf.GGUFReader(tmp_path / "out" / "model.gguf").tensors}
    model, _ = load_merged_student(*tuned_weights(run)[:2])
    wanted = model.state_dict()["model.layers.1.mlp.down_proj.weight"].to(getattr(torch, dtype)).float()
    found = tensors["blk.1.ffn_down.weight"]
    assert found.tensor_type.name == {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}[dtype]
    plain = gguf.quants.dequantize(found.data, found.tensor_type)
    read = torch.from_numpy(plain.copy())  # what is a view of the file cannot be written
    assert torch.equal(read, wanted) and tensors["output_norm.weight"].tensor_type.name == "F32"
