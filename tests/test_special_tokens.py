"""No text becomes a special token: not of messages, names, tools or schemas, however the tokenizer reads text."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireact.errors import FormatError
from fireact.render.chat import break_special_tokens, reserved_tokens
from fireact.render.requests import client_tools, student_messages
from fireact.render.tokens import encode_chat, prompt_ids
from fireact.types import Action, Message
from fireact.wire.chat_completions import CHAT_COMPLETIONS
from fireact.wire.messages import MESSAGES
from fireact.wire.responses import RESPONSES
from small_tokenizers import FAMILIES, tokenizer

pytest.importorskip("transformers")

HARMLESS = "look"
TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def schema(text: str) -> dict[str, Any]:
    """A tool in which every text that a client, or an MCP server, chooses is ``text``."""
    parameter = {"type": "string", "description": text, "enum": [text, "b"], "default": text, "title": text}
    parameters = {"type": "object", "properties": {text: parameter}, "required": [text], "$defs": {text: {}}}
    return {"type": "function", "function": {"name": text, "description": text, "parameters": parameters}}


def messages(text: str) -> list[Message]:
    """A chat in which every text of other people is ``text``."""
    return [
        Message("system", text),
        Message("user", text),
        Message("assistant", "a", calls=(Action(text, {text: [text, {text: text}]}),), train=True),
        Message("tool", text, name=text),
        Message("assistant", "b", train=True),
    ]


def count_reserved(ids: Any, tokenizer: Any) -> Counter[int]:
    """How often each special token occurs; the unknown token, which any text may become, is none of them."""
    special = set(tokenizer.convert_tokens_to_ids(list(reserved_tokens(tokenizer).special)))
    return Counter(token_id for token_id in ids if token_id in special and token_id != tokenizer.unk_token_id)


def assert_as_harmless(text: str, tokenizer: Any) -> None:
    """The prompt and the samples have the special tokens that the same chat has with a harmless text."""
    counts = []
    for content in (HARMLESS, text):
        chat, tools = messages(content), [schema(content)]
        sampled = [
            token_id
            for sample in encode_chat(chat, tokenizer, ends=tokenizer.ends, tools=tools)
            for token_id in sample.input_ids
        ]
        counts.append(count_reserved([*prompt_ids(chat, tokenizer, tools=tools), *sampled], tokenizer))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_no_text_of_messages_names_or_tools_becomes_a_special_token(family: str) -> None:
    how = tokenizer(family)
    how.ends = how.convert_tokens_to_ids(list(FAMILIES[family].ends))
    reserved = reserved_tokens(how)
    for text in (" ".join(reserved.special), "x".join(reserved.special), *(token for token in reserved.tags)):
        assert_as_harmless(f"look{text}", how)


@pytest.mark.parametrize("dialect", [CHAT_COMPLETIONS, RESPONSES, MESSAGES], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("family", ["qwen3", "llama3", "smollm2"])
def test_the_tools_that_a_client_sends_become_no_special_token(family: str, dialect: Any) -> None:
    how, counts = tokenizer(family), []
    for text in (HARMLESS, "look" + "".join(reserved_tokens(how).special)):
        body = {"model": "m", "messages": [{"role": "user", "content": "q"}], "tools": [schema(text)]}
        neutral = CHAT_COMPLETIONS.read_request(body)
        request = dialect.read_request(dialect.write_request(neutral))
        assert text in str(request.tools)
        tools = [tool.schema for tool in client_tools(request)]
        counts.append(count_reserved(prompt_ids(student_messages(request.messages), how, tools=tools), how))
    assert counts[0] == counts[1]


# --- templates that compose special tokens ---

XML = (
    "{% for t in tools or [] %}{{ t.function.name }}{% for key, value in t.function.parameters.properties.items() %}"
    "<{{ key }}>{{ value.description | replace('\n', '') }}</{{ key }}>{% endfor %}{% endfor %}"
) + TEMPLATE[TEMPLATE.index("{% for m") :].replace("{{ m.content }}", "{{ m.content | trim('*') | replace('*', '') }}")


@pytest.mark.parametrize("text", ["|im_end|", "/s", "s", " s", "<|im_\nend|>", "</\ns> on", "<|im_*end|>", "a </*s> b"])
def test_no_template_composes_a_special_token_of_a_text(text: str) -> None:
    how = reading("lower", template=XML)
    assert_as_harmless(text, how)
    harmless = "a <b> in html </b>, 5 > 4, |x|"
    assert harmless in how.decode(prompt_ids([Message("user", harmless)], how)), "only what is composed is broken up"


def test_a_text_that_no_space_breaks_up_is_refused() -> None:
    how = reading("lower", template=TEMPLATE.replace("{{ m.content }}", "{{ m.content | replace(' ', '') }}"))
    assert "ab" in how.decode(prompt_ids([Message("user", "a b")], how))
    with pytest.raises(FormatError, match="makes a special token of a text such as"):
        prompt_ids([Message("user", "<|im_end|>")], how)


# --- tokenizers that read text otherwise than it is written ---


@cache
def reading(kind: str, *, template: str = TEMPLATE) -> Any:
    """A tokenizer that normalises text before it looks for special tokens, which no text spells then."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ("<|im_start|>", "<|im_end|>", "</s>")
    if kind == "unigram":  # as T5 and XLNet: special tokens are pieces of the vocabulary, which win over others
        characters = [chr(code) for code in range(32, 127)] + ["\n", "\uff1c", "\uff1e"]
        core = Tokenizer(models.Unigram([("<unk>", 0.0), *((token, 0.0) for token in special)]
                                        + [(character, -10.0) for character in characters], unk_id=0))  # fmt: skip
        core.decoder = decoders.Fuse()
    else:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        core = Tokenizer(models.BPE(vocab={character: index for index, character in enumerate(alphabet)}, merges=[]))
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
    core.normalizer = normalizers.Lowercase() if kind == "lower" else normalizers.NFKC()
    core.add_special_tokens([AddedToken(token, special=True, normalized=kind != "unigram") for token in special])
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", unk_token="<unk>" if kind == "unigram" else None,
        chat_template=template, extra_special_tokens=list(special),
    )  # fmt: skip
    made.ends = [made.eos_token_id]
    return made


DISGUISES = {"lower": ("<|IM_END|>", "<|Im_start|>", "</S>"), "nfkc": ("＜|im_end|＞", "<｜im_start｜>", "＜/s＞")}
DISGUISES["unigram"] = DISGUISES["nfkc"]


@pytest.mark.parametrize("kind", DISGUISES)
def test_no_text_becomes_a_special_token_by_being_normalised(kind: str) -> None:
    how = reading(kind)
    for text in DISGUISES[kind]:
        assert any(token_id in reserved_tokens(how).guarded for token_id in how(text)["input_ids"])
        assert_as_harmless(f"look {text}{text} on", how)


disguised = st.sampled_from([text for texts in DISGUISES.values() for text in texts] + ["<|im_end|>", "<", "＜", " "])


@pytest.mark.parametrize("kind", DISGUISES)
@given(text=st.lists(disguised | st.text(max_size=3), max_size=5).map("".join))
def test_prompts_begin_samples_whatever_is_broken_up(kind: str, text: str) -> None:
    how = reading(kind)
    chat = [Message("user", text), Message("assistant", "a" + text, train=True)]
    (sample,) = encode_chat(chat, how, ends=how.ends)
    prompt = prompt_ids(chat[:1], how)
    assert list(sample.input_ids[: len(prompt)]) == prompt
    assert sum(count_reserved(sample.input_ids, how).values()) == 4


def test_one_character_that_is_read_as_a_special_token_is_refused() -> None:
    from tokenizers import AddedToken, Tokenizer

    core = Tokenizer.from_str(reading("nfkc").backend_tokenizer.to_str())
    core.add_special_tokens([AddedToken("TM", special=True, normalized=True)])
    how = type(reading("nfkc"))(tokenizer_object=core, eos_token="<|im_end|>", chat_template=TEMPLATE)
    assert prompt_ids([Message("user", "TM")], how) == prompt_ids([Message("user", "T M")], how)
    with pytest.raises(FormatError, match="reads '™' in a text as a special token"):
        prompt_ids([Message("user", "A brand™")], how)


def test_an_end_token_of_one_character_is_refused_where_a_text_holds_it() -> None:
    how = type(reading("lower"))(
        tokenizer_object=reading("lower").backend_tokenizer, eos_token="#", chat_template=TEMPLATE
    )
    assert break_special_tokens("no hash", how) == "no hash"
    with pytest.raises(FormatError, match="a text holds '#', with which"):
        prompt_ids([Message("user", "issue #1")], how)
