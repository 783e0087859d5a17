"""A Hugging Face model as an LM: the text is that of ``generate``, cut at stop strings, with its tokens counted."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from fireact.errors import ConfigError, ProviderError  # noqa: E402
from fireact.models.hf import HFModel, cut_at_stop  # noqa: E402
from fireact.render.tokens import prompt_ids  # noqa: E402
from fireact.types import Call, Message  # noqa: E402
from tiny import tiny_model  # noqa: E402


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"), seed=1)


@pytest.fixture
def lm(directory: Path) -> Iterator[HFModel]:
    made = HFModel(directory, slots=3, dtype="float32")
    yield made
    made.close()


def ask(text: str) -> list[Message]:
    return [Message("user", text)]


def generated(model: Any, tokenizer: Any, messages: list[Message], tokens: int) -> str:
    ids = torch.tensor([prompt_ids(messages, tokenizer)])
    with torch.inference_mode():
        found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
    text: str = tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def load(directory: Path) -> tuple[Any, Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    return model, transformers.AutoTokenizer.from_pretrained(directory)


def test_concurrent_completions_equal_generate(lm: HFModel, directory: Path) -> None:
    model, tokenizer = load(directory)
    chats = [ask(f"question {index} {'x' * index}") for index in range(9)]
    with ThreadPoolExecutor(9) as pool:
        found = list(pool.map(lambda chat: lm.complete(Call(chat, max_tokens=20)), chats))
    assert [done.text for done in found] == [generated(model, tokenizer, chat, 20) for chat in chats]


def test_usage_and_finish(lm: HFModel, directory: Path) -> None:
    tokenizer = load(directory)[1]
    prompt = len(prompt_ids(ask("hello"), tokenizer))
    done = lm.complete(Call(ask("hello"), max_tokens=5))
    assert (done.usage.calls, done.usage.prompt_tokens, done.usage.cached_tokens) == (1, prompt, 0)
    assert (done.usage.completion_tokens, done.finish) == (5, "length")
    assert lm.complete(Call(ask("hello"), max_tokens=5)).usage.cached_tokens == prompt - 1


def test_a_stop_string_ends_the_text_before_it(lm: HFModel) -> None:
    whole = lm.complete(Call(ask("tell me"), max_tokens=24)).text
    stop = whole[8:10]
    done = lm.complete(Call(ask("tell me"), max_tokens=24, stop=["never written", stop]))
    assert done.text == whole[: whole.index(stop)]
    assert done.finish == "stop"
    assert done.usage.completion_tokens < 24


def test_an_adapter_is_merged(lm: HFModel, directory: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    model, tokenizer = load(directory)
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    tuned.save_pretrained(str(tmp_path / "adapter"))
    own = HFModel(directory, adapter=tmp_path / "adapter", name="tuned", dtype="float32")
    text = own.complete(Call(ask("hello"), max_tokens=12)).text
    own.close()
    assert text == generated(tuned, tokenizer, ask("hello"), 12)
    assert text != lm.complete(Call(ask("hello"), max_tokens=12)).text
    assert own.name == "tuned"


def test_it_loads_again_after_closing(lm: HFModel) -> None:
    first = lm.complete(Call(ask("a"), max_tokens=6)).text
    lm.close()
    assert lm.complete(Call(ask("a"), max_tokens=6)).text == first


def test_what_cannot_be_used_is_said(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="float8"):
        HFModel(directory, dtype="float8")
    with pytest.raises(ConfigError, match="slots is 0"):
        HFModel(directory, slots=0)
    with pytest.raises(ProviderError, match="holds no adapter"):
        HFModel(directory, adapter=tmp_path).complete(Call(ask("a")))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    with pytest.raises(ProviderError, match="cannot load"):
        HFModel(broken).complete(Call(ask("a")))


def test_a_model_without_chat_template_is_refused(directory: Path, tmp_path: Path) -> None:
    model, tokenizer = load(directory)
    tokenizer.chat_template = None
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    lm = HFModel(tmp_path)
    with pytest.raises(ConfigError, match="no chat template"):
        lm.complete(Call(ask("a")))
    lm.close()


def test_a_prompt_beyond_the_context_is_refused(lm: HFModel) -> None:
    with pytest.raises(ProviderError, match="the model takes 1 to 2048"):
        lm.complete(Call(ask("x" * 3000)))


def test_before_cuts_at_the_first_stop_string() -> None:
    assert cut_at_stop("one two three", ["three", "two"]) == "one "
    assert cut_at_stop("one", ["two"]) == "one"
