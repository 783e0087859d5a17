"""Exported chat templates: plain transformers renders tools, calls and results as training does."""

import json
import re
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("transformers")

from fireact.methods.react import offered_schemas
from fireact.render.chat import render_chat
from fireact.render.generation_marks import mark_generation
from fireact.render.requests import student_messages
from fireact.render.tokens import IGNORED, encode_chat
from fireact.render.tool_template import write_tool_template
from fireact.types import Message
from fireact.wire.chat_completions import CHAT_COMPLETIONS
from small_tokenizers import FAMILIES, tokenizer

POPULATION = {
    "type": "function",
    "function": {
        "name": "population", "description": "people in a “country”", "strict": True,
        "parameters": {"type": "object", "properties": {"country": {"type": "string"}}, "required": ["country"]},
    },
}  # fmt: skip
CLOCK = {
    "type": "function",
    "function": {"name": "clock", "description": "", "parameters": {"type": "object", "properties": {}}},
}
SYSTEM, DEVELOPER = {"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be kind."}
QUESTION = {"role": "user", "content": "How many live in Chad?"}


def calls(*countries: str, text: str | None) -> dict[str, Any]:
    made = [
        {"id": f"c{name}", "type": "function", "function": {"name": "population", "arguments": {"country": name}}}
        for name in countries
    ]
    return {"role": "assistant", "content": text, "tool_calls": made}


def result(country: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"c{country}", "content": f"{country}: many"}


ONE = [calls("Tschad", text=None), result("Tschad")]
CHATS = {
    "question": [QUESTION],
    "system": [SYSTEM, QUESTION],
    "developer": [SYSTEM, DEVELOPER, QUESTION],
    "call": [SYSTEM, QUESTION, *ONE],
    "thought": [QUESTION, calls("Côte d'Ivoire", text="I look.\n"), result("Côte d'Ivoire")],
    "two": [QUESTION, calls("A", "B", text="Both."), result("A"), result("B")],
    "long": [SYSTEM, QUESTION, *ONE, {"role": "assistant", "content": "Many."}, QUESTION, *ONE],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "How "}, {"type": "text", "text": "many?"}]}],
}


@pytest.mark.parametrize("tools", [[], [POPULATION, CLOCK]], ids=["bare", "tools"])
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("family", FAMILIES)
def test_plain_transformers_gets_the_trained_ids(family: str, chat: str, tools: list[Any]) -> None:
    exported = deepcopy(tokenizer(family))
    exported.chat_template = write_tool_template(tokenizer(family), finish=False)
    plain = exported.apply_chat_template(
        CHATS[chat], tools=tools or None, add_generation_prompt=True, return_dict=False
    )
    assert plain == tokenizer(family)(trained_text(family, CHATS[chat], tools), add_special_tokens=False)["input_ids"]


def trained_text(family: str, chat: list[Any], tools: list[Any]) -> str:
    """The prompt of training, as the server builds it from a request of a client."""
    return render_chat(trained_messages(chat), tokenizer(family), tools=tools, ask=True)


def trained_messages(chat: list[Any]) -> list[Message]:
    """The messages of training, as the server reads them from a request of a client."""
    sent = json.loads(json.dumps(chat))
    for function in [call["function"] for message in sent for call in message.get("tool_calls", ())]:
        function["arguments"] = json.dumps(function["arguments"])
    request = CHAT_COMPLETIONS.read_request({"model": "m", "messages": sent})
    assert not request.damage
    return list(student_messages(request.messages))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_finish_action_is_shown_where_it_was_trained(family: str) -> None:
    exported = deepcopy(tokenizer(family))
    exported.chat_template = write_tool_template(tokenizer(family), finish=True)
    plain = exported.apply_chat_template([QUESTION], tools=[POPULATION], add_generation_prompt=True, tokenize=False)
    assert plain == trained_text(family, [QUESTION], list(offered_schemas([POPULATION])))
    bare = exported.apply_chat_template([QUESTION], add_generation_prompt=True, tokenize=False)
    assert "finish" not in bare and bare == trained_text(family, [QUESTION], [])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_exported_template_is_read_here_as_the_student_s_own(family: str) -> None:
    exported = deepcopy(tokenizer(family))
    exported.chat_template = write_tool_template(tokenizer(family), finish=False)
    request = CHAT_COMPLETIONS.read_request({"messages": [SYSTEM, QUESTION]})
    text = render_chat(student_messages(request.messages), exported, tools=[POPULATION], ask=True)
    assert text == trained_text(family, [SYSTEM, QUESTION], [POPULATION])


REWRITING = {"qwen3", "glm", "thinker"}
"""Families whose templates drop or change what earlier turns said."""


@pytest.mark.parametrize("family", FAMILIES)
def test_marks_of_generation_hold_what_training_learns_and_change_no_text(family: str) -> None:
    plain = deepcopy(tokenizer(family))
    plain.chat_template = write_tool_template(tokenizer(family), finish=False)
    marked = deepcopy(plain)
    marked.chat_template = mark_generation(plain, ends=FAMILIES[family].ends)
    assert (marked.chat_template is None) == (family in REWRITING)
    if marked.chat_template is None:
        return
    answered = [[*chat, {"role": "assistant", "content": "Done."}] for chat in CHATS.values()]
    for chat in [*CHATS.values(), *answered]:
        for tools in (None, [POPULATION, CLOCK]):
            for ask in (True, False):
                texts = [
                    one.apply_chat_template(chat, tools=tools, add_generation_prompt=ask, tokenize=False)
                    for one in (plain, marked)
                ]
                assert texts[0] == texts[1]
    for chat in answered:
        found = marked.apply_chat_template(
            chat, tools=[POPULATION], return_dict=True, return_assistant_tokens_mask=True
        )
        learned = [token for token, mask in zip(found["input_ids"], found["assistant_masks"], strict=True) if mask]
        messages = [replace(message, train=message.role == "assistant") for message in trained_messages(chat)]
        (sample,) = encode_chat(messages, tokenizer(family), tools=[POPULATION], ends=FAMILIES[family].ends)
        assert learned == [label for label in sample.labels if label != IGNORED]
        assert list(sample.input_ids) == found["input_ids"][: len(sample.input_ids)]


def test_marks_of_a_template_are_replaced_by_ours() -> None:
    own = deepcopy(tokenizer("marked"))
    assert "generation" in own.chat_template
    marked = mark_generation(own, ends=FAMILIES["marked"].ends)
    assert marked is not None and len(re.findall(r"\{%-?\s*generation", marked)) == 1
