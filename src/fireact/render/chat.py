"""Messages as a student's chat template takes them, and the text that the template makes of them.

Templates differ in what they know: some refuse a system message (Gemma), some show no tools or drop the thought beside
a tool call (Llama 3). What a template does is found out by asking it, once; what it lacks is folded into what it has.
Invariant: prompts and samples go through the same functions, and no text in a message becomes a special token.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import jinja2

from fireact.errors import ConfigError, FormatError
from fireact.types import Action, Message, Renderer, Tool

Schema = Mapping[str, Any]
"""A tool as chat templates and endpoints are told of it: ``{"type": "function", "function": {...}}``."""

TODAY = datetime.date(2024, 7, 26)
"""What templates that name the day are told: a student asked on another day than it was trained on must see the same."""

_DAY = ("%d %b %Y", "%d %B %Y", "%Y-%m-%d")
_SAID, _SEEN = "<tool_call>\n{}\n</tool_call>", "<tool_response>\n{}\n</tool_response>"
_PROBE = Action("probe_name", {"probe_key": "probe value"})
_PROBED: Schema = {
    "type": "function",
    "function": {"name": _PROBE.name, "description": "probe description", "parameters": {"type": "object", "properties": {}}},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a chat template does with messages that not every template takes.

    ``calls``: "beside" the thought, several at a time; or "alone", one without a thought; or "none".
    """

    system: bool
    alternating: bool
    schemas: bool
    calls: Literal["beside", "alone", "none"]


def schema(tool: Tool) -> dict[str, Any]:
    """A tool as its schema."""
    described = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": described}


def dress(tokenizer: Any, renderer: Renderer) -> Any:
    """The tokenizer with the renderer's own template, where it has one in place of the student's (``alpaca``)."""
    template = getattr(renderer, "template", None)
    if template:
        first = tokenizer("a")["input_ids"][:1]
        begins = tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]
        tokenizer.chat_template = ("{{ bos_token }}" if begins else "") + template
    return tokenizer


def text_of(messages: Sequence[Message], tokenizer: Any, *, tools: Sequence[Schema] = (), ask: bool) -> str:
    """The text of a chat; with ``ask`` it ends where the student's turn begins.

    Raises ConfigError for a tokenizer without chat template, FormatError for a chat that the template refuses.
    """
    able = abilities(tokenizer)
    shown = list(tools) if able.schemas else []
    try:
        return _text(tokenizer, folded(messages, tokenizer, tools=tools), tools=shown, ask=ask)
    except jinja2.TemplateError as error:
        roles = ", ".join(message.role for message in messages)
        raise FormatError(
            f"the chat template of {_name(tokenizer)} refuses a chat of {roles}: {error}. Choose another --renderer."
        ) from error


def folded(messages: Sequence[Message], tokenizer: Any, *, tools: Sequence[Schema] = ()) -> list[dict[str, Any]]:
    """The chat as dictionaries with nothing in it that the template lacks."""
    able = abilities(tokenizer)
    chat = [_entry(message, tokenizer, able) for message in messages]
    if tools and not able.schemas:
        chat = _with_instructions(chat, _listed(tools))
    if not able.system:
        chat = _without_system(chat)
    return _merged(chat) if able.alternating else chat


def plain(text: str, tokenizer: Any, *, own: bool = False) -> str:
    """The text with every string that the tokenizer takes for a special token broken up by a space.

    The student's ``own`` words may hold tags of its template (a ``<think>``); nobody else's may. Samples and prompts both
    go through it; it changes nothing when done again.
    """
    special, tags = _broken(tokenizer, str(tokenizer.chat_template), len(tokenizer))
    for token in special if own else (*special, *tags):
        if token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def after(prompt: str, whole: str, marks: Iterable[str]) -> str:
    """What a text goes on with after a prompt, or after what the two have in common; no mark is cut in two."""
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    at = next(
        (at for at, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), min(len(prompt), len(whole))
    )
    cut = [n for mark in marks for n in range(1, min(at, len(mark) - 1) + 1) if whole.startswith(mark, at - n)]
    return whole[at - max(cut, default=0) :]


def special_tokens(tokenizer: Any) -> list[str]:
    """The strings that the tokenizer never splits, longest first; single characters are left alone."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(
        {token for token in added | set(tokenizer.all_special_tokens) if len(token) > 1}, key=len, reverse=True
    )


def abilities(tokenizer: Any) -> Abilities:
    """What the tokenizer's chat template does, found out once. Raises ConfigError where there is none."""
    if not tokenizer.chat_template:
        raise ConfigError(f"{_name(tokenizer)} has no chat template. Choose an instruct or chat model as student.")
    return _probed(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=32)
def _probed(tokenizer: Any, template: str) -> Abilities:
    user = {"role": "user", "content": "probe question"}
    system = _tried(tokenizer, [{"role": "system", "content": "probe system"}, user])
    two = _tried(tokenizer, [user, {"role": "user", "content": "probe other"}])
    schemas = _tried(tokenizer, [user], tools=[_PROBED])
    return Abilities(
        system="probe system" in system,
        alternating="probe other" not in two,
        schemas=_PROBE.name in schemas and "probe description" in schemas,
        calls=_probed_calls(tokenizer, user),
    )


def _probed_calls(tokenizer: Any, user: dict[str, Any]) -> Literal["beside", "alone", "none"]:
    seen = [{"role": "tool", "name": _PROBE.name, "content": f"probe seen {n}", "tool_call_id": _id(n)} for n in (1, 2)]
    both = _tried(tokenizer, [user, _calling("probe thought", (_PROBE, _PROBE)), *seen])
    counts = [both.count(text) for text in ("probe thought", "probe seen 1", "probe seen 2")]
    if counts == [1, 1, 1] and both.count(_PROBE.name) >= 2 and both.count("probe value") == 2:
        return "beside"
    alone = _tried(tokenizer, [user, _calling("", (_PROBE,)), seen[0]])
    said = written([_PROBE], tokenizer) if "probe seen 1" in alone else ""
    return "alone" if _PROBE.name in said and "probe value" in said else "none"


def _tried(tokenizer: Any, chat: Sequence[Mapping[str, Any]], *, tools: Sequence[Schema] = ()) -> str:
    """The text of a chat, empty where the template refuses it in whatever way."""
    try:
        return _text(tokenizer, chat, tools=tools, ask=False)
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError):
        return ""


def _text(tokenizer: Any, chat: Sequence[Mapping[str, Any]], *, tools: Sequence[Schema], ask: bool) -> str:
    text: str = tokenizer.apply_chat_template(
        list(chat),
        tools=[dict(tool) for tool in tools] or None,
        add_generation_prompt=ask,
        tokenize=False,
        chat_template=undated(tokenizer.chat_template),
        date_string=TODAY.strftime(_DAY[0]),
    )
    return text


def undated(template: Any) -> Any:
    """The template with the day that it asks for fixed."""
    if not isinstance(template, str) or "strftime_now" not in template:
        return template
    days = {form: TODAY.strftime(form) for form in _DAY}
    return f"{{% macro strftime_now(form) -%}}{{{{ {days!r}.get(form, '{TODAY}') }}}}{{%- endmacro %}}{template}"


def _entry(message: Message, tokenizer: Any, able: Abilities) -> dict[str, Any]:
    content = plain(message.content, tokenizer, own=message.role == "assistant")
    if message.role == "tool":
        if able.calls == "none":
            return {"role": "user", "content": _SEEN.format(content)}
        return {"role": "tool", "name": message.name, "content": content, "tool_call_id": _id(1)}
    if not message.calls:
        return {"role": message.role, "content": content}
    calls = tuple(Action(plain(one.name, tokenizer), _plain_value(one.arguments, tokenizer)) for one in message.calls)
    if able.calls == "beside":
        return _calling(content, calls)
    said = [written([one], tokenizer) if able.calls == "alone" else _tagged(one) for one in calls]
    return {"role": message.role, "content": "\n".join([content, *said] if content else said)}


def _calling(content: str, calls: Sequence[Action]) -> dict[str, Any]:
    made = [
        {"type": "function", "id": _id(n), "function": {"name": one.name, "arguments": dict(one.arguments)}}
        for n, one in enumerate(calls, 1)
    ]
    return {"role": "assistant", "content": content, "tool_calls": made}


def _id(n: int) -> str:
    """Nine letters and digits, as the strictest templates want them."""
    return f"call{n:05d}"


def _tagged(action: Action) -> str:
    return _SAID.format(json.dumps({"name": action.name, "arguments": dict(action.arguments)}, ensure_ascii=False))


def written(calls: Sequence[Action], tokenizer: Any) -> str:
    """Calls as the template writes them with no thought beside: what stands before the next token of its own."""
    asked = [{"role": "user", "content": "probe question"}]
    reply = {"role": "tool", "name": calls[-1].name, "content": "-", "tool_call_id": _id(1)}
    prompt = _text(tokenizer, asked, tools=(), ask=True)
    special = special_tokens(tokenizer)
    tail = after(prompt, _tried(tokenizer, [*asked, _calling("", calls), reply]), special)
    ends = [at for token in special if (at := tail.find(token)) >= 0]
    return tail[: min(ends, default=len(tail))].strip()


def _plain_value(value: Any, tokenizer: Any) -> Any:
    if isinstance(value, str):
        return plain(value, tokenizer, own=True)
    if isinstance(value, Mapping):
        return {plain(str(name), tokenizer, own=True): _plain_value(one, tokenizer) for name, one in value.items()}
    return [_plain_value(one, tokenizer) for one in value] if isinstance(value, list | tuple) else value


@lru_cache(maxsize=32)
def _broken(tokenizer: Any, template: str, size: int) -> tuple[list[str], list[str]]:
    """The special tokens, and those that are none to the tokenizer but mean something to its template."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if not token.special}
    tags = [tag for tag in added if len(tag.strip()) > 1 and tag in template]
    return special_tokens(tokenizer), sorted(tags, key=len, reverse=True)


def _listed(tools: Sequence[Schema]) -> str:
    """The tools for a template that shows none, with the form of a call."""
    described = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    form = _SAID.format('{"name": NAME, "arguments": {...}}')
    return f"These tools can be called:\n{described}\nA call is written so:\n{form}"


def _with_instructions(chat: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    if chat and chat[0]["role"] == "system":
        return [{**chat[0], "content": f"{chat[0]['content']}\n\n{text}"}, *chat[1:]]
    return [{"role": "system", "content": text}, *chat]


def _without_system(chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The system message as the beginning of the user's turn that follows it, or in place of one."""
    if not chat or chat[0]["role"] != "system":
        return chat
    first, rest = chat[0], chat[1:]
    if rest and rest[0]["role"] == "user":
        return [{**rest[0], "content": f"{first['content']}\n\n{rest[0]['content']}"}, *rest[1:]]
    return [{**first, "role": "user"}, *rest]


def _merged(chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chat with turns of the user that follow each other put together."""
    found: list[dict[str, Any]] = []
    for entry in chat:
        if found and found[-1]["role"] == entry["role"] == "user":
            found[-1] = {**found[-1], "content": f"{found[-1]['content']}\n\n{entry['content']}"}
        else:
            found.append(entry)
    return found


def _name(tokenizer: Any) -> str:
    return tokenizer.name_or_path or "this tokenizer"
