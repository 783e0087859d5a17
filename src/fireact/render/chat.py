"""Messages as a student's chat template takes them, and the text that the template renders from them.

Templates differ in what they support: some refuse a system message (Gemma), some show no tools or drop the thought
beside a tool call (Llama 3). Probe messages show once what a template supports; the rest is folded into messages that
it does support. Invariant: prompts and samples go through the same functions, and nothing that a template is given
(messages, names, tools) spells a special token, or lets the template compose one (``composed``); ``tokens`` checks
the ids.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import jinja2

from fireact.errors import ConfigError, FormatError
from fireact.render.composed import render_chat_safely
from fireact.types import Action, Message, Renderer
from fireact.wire.chat_completions import write_template_calls
from fireact.wire.dialect import make_call_id
from fireact.wire.schemas import Schema, make_schema, unwrap_schema
from fireact.wire.text_calls import CALL_TAGS, RESULT_TAGS, write_tagged_call

TODAY = datetime.date(2024, 7, 26)
"""The date for templates that show one: inference on a later day must see the same date as training."""

_DAY = ("%d %b %Y", "%d %B %Y", "%Y-%m-%d")
_PROBE = Action("probe_name", {"probe_key": "probe value"})
_PROBE_SCHEMA = make_schema(_PROBE.name, "probe description", {"type": "object", "properties": {}})


@dataclass(frozen=True, slots=True)
class TemplateFeatures:
    """What a chat template supports of the messages that not every template takes.

    ``system``: a system message; ``alternating``: it needs user and assistant in turns; ``schemas``: it shows tools.
    ``calls``: "beside" a thought, several at a time; or "alone", one without a thought; or "none".
    """

    system: bool
    alternating: bool
    schemas: bool
    calls: Literal["beside", "alone", "none"]


@dataclass(frozen=True, slots=True)
class ReservedTokens:
    """Strings that the tokenizer reads as one token, longest first, and that only its chat template may write.

    ``tags`` are added tokens that are not special but occur in the template; the student's own text may hold them.
    ``pattern`` matches each of both. ``guarded`` maps the ids that no text may have to their strings.
    ``unbreakable_end`` is an EOS token of a single character, or empty. ``borders`` matches tokens at which a text can
    be cut: the tokenizer reads what comes before and what comes after each by itself.
    """

    special: tuple[str, ...]
    tags: tuple[str, ...]
    pattern: re.Pattern[str]
    borders: re.Pattern[str]
    guarded: Mapping[int, str]
    unbreakable_end: str


def apply_renderer_template(tokenizer: Any, renderer: Renderer) -> Any:
    """The tokenizer with the renderer's own template, where the renderer has one (``alpaca``)."""
    template = getattr(renderer, "template", None)
    if template:
        first_ids = tokenizer("a")["input_ids"][:1]
        begins = tokenizer.bos_token_id is not None and first_ids == [tokenizer.bos_token_id]
        tokenizer.chat_template = ("{{ bos_token }}" if begins else "") + template
    return tokenizer


def render_chat(messages: Sequence[Message], tokenizer: Any, *, tools: Sequence[Schema] = (), ask: bool) -> str:
    """The text of a chat; with ``ask`` it ends where the student's turn begins.

    Raises ConfigError for a tokenizer without chat template, FormatError for a chat that the template refuses.
    """
    chat = fold_messages(messages, tokenizer, tools=tools)
    shown_tools = _break_special_tokens_in(list(tools), tokenizer) if template_features(tokenizer).schemas else []
    try:
        return _apply_template(tokenizer, chat, tools=shown_tools, ask=ask)
    except jinja2.TemplateError as error:
        roles = ", ".join(message.role for message in messages)
        raise FormatError(
            f"the chat template of {_tokenizer_name(tokenizer)} refuses a chat of {roles}: {error}. Choose another "
            "--renderer."
        ) from error


def fold_messages(messages: Sequence[Message], tokenizer: Any, *, tools: Sequence[Schema] = ()) -> list[dict[str, Any]]:
    """The chat as dictionaries that hold only what the template supports."""
    features = template_features(tokenizer)
    chat = [_message_entry(message, tokenizer, features) for message in messages]
    if tools and not features.schemas:
        chat = _add_to_system(chat, _describe_tools(_break_special_tokens_in(list(tools), tokenizer)))
    if not features.system:
        chat = _fold_system(chat)
    return _merge_user_turns(chat) if features.alternating else chat


def break_special_tokens(text: str, tokenizer: Any, *, is_own: bool = False) -> str:
    """The text with a space inside every string that the tokenizer would read as a special token.

    Text of the student (``is_own``) may hold tags of its template (a ``<think>``), other text may not. Samples and
    prompts both go through this function; a second pass changes nothing. Raises FormatError for a text that holds an
    EOS token of one character.
    """
    reserved = reserved_tokens(tokenizer)
    if reserved.unbreakable_end and reserved.unbreakable_end in text:
        raise FormatError(
            f"a text holds {reserved.unbreakable_end!r}, with which {_tokenizer_name(tokenizer)} ends a turn, and a "
            "single character cannot be broken up. Choose a student whose turns end with a token of their own."
        )
    if not reserved.pattern.search(text):
        return text
    for token in reserved.special if is_own else (*reserved.special, *reserved.tags):
        if token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def text_after(prompt: str, text: str, marks: Iterable[str]) -> str:
    """The part of a text after a prompt, or after their common beginning; no mark is cut in two."""
    if text.startswith(prompt):
        return text[len(prompt) :]
    shared_length = next(
        (index for index, (a, b) in enumerate(zip(prompt, text, strict=False)) if a != b), min(len(prompt), len(text))
    )
    # Where the common beginning ends inside a mark, step back to the mark's start (so <|im_end|> stays whole).
    cut = [
        length
        for mark in marks
        for length in range(1, min(shared_length, len(mark) - 1) + 1)
        if text.startswith(mark, shared_length - length)
    ]
    return text[shared_length - max(cut, default=0) :]


def special_tokens(tokenizer: Any) -> list[str]:
    """The strings that the tokenizer never splits, longest first, without single characters."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(
        {token for token in added | set(tokenizer.all_special_tokens) if len(token) > 1}, key=len, reverse=True
    )


def reserved_tokens(tokenizer: Any) -> ReservedTokens:
    """The tokens that only the tokenizer's chat template may write (collected once)."""
    return _collect_reserved_tokens(tokenizer, str(tokenizer.chat_template), len(tokenizer))


@lru_cache(maxsize=32)
def _collect_reserved_tokens(tokenizer: Any, template: str, size: int) -> ReservedTokens:
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if not token.special}
    tags = sorted((tag for tag in added if len(tag.strip()) > 1 and tag in template), key=len, reverse=True)
    special = special_tokens(tokenizer)
    longest_first = sorted({*special, *tags}, key=len, reverse=True)
    # Text without a piece of its own has the unknown token's id, which does no harm unless it ends turns too.
    harmless = {tokenizer.unk_token} - {tokenizer.eos_token}
    return ReservedTokens(
        special=tuple(special),
        tags=tuple(tags),
        pattern=_match_any(longest_first),
        borders=_match_any(_list_borders(tokenizer)),
        guarded={tokenizer.convert_tokens_to_ids(token): token for token in longest_first if token not in harmless},
        unbreakable_end=str(tokenizer.eos_token) if len(tokenizer.eos_token or "") == 1 else "",
    )


def _match_any(longest_first: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _list_borders(tokenizer: Any) -> list[str]:
    """The added tokens that a tokenizer takes out of a text as it stands, before it reads the rest, longest first.

    None where one of them depends on what stands around it, or takes spaces from the text before it.
    """
    if not tokenizer.is_fast or getattr(tokenizer, "split_special_tokens", False):
        return []
    taken_first = [token for token in tokenizer.added_tokens_decoder.values() if not token.normalized]
    if any(token.lstrip or token.single_word for token in taken_first):
        return []
    return sorted(map(str, taken_first), key=len, reverse=True)


def template_features(tokenizer: Any) -> TemplateFeatures:
    """What the tokenizer's chat template supports (probed once). Raises ConfigError where there is no template."""
    if not tokenizer.chat_template:
        raise ConfigError(
            f"{_tokenizer_name(tokenizer)} has no chat template. Choose an instruct or chat model as student."
        )
    return _probe_template(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=32)
def _probe_template(tokenizer: Any, template: str) -> TemplateFeatures:
    user = {"role": "user", "content": "probe question"}
    system = _try_template(tokenizer, [{"role": "system", "content": "probe system"}, user])
    two_user_turns = _try_template(tokenizer, [user, {"role": "user", "content": "probe other"}])
    schemas = _try_template(tokenizer, [user], tools=[_PROBE_SCHEMA])
    return TemplateFeatures(
        system="probe system" in system,
        alternating="probe other" not in two_user_turns,
        schemas=_PROBE.name in schemas and "probe description" in schemas,
        calls=_probe_calls(tokenizer, user),
    )


def _probe_calls(tokenizer: Any, user: dict[str, Any]) -> Literal["beside", "alone", "none"]:
    tool_results = [
        {"role": "tool", "name": _PROBE.name, "content": f"probe seen {number}", "tool_call_id": make_call_id(number)}
        for number in (1, 2)
    ]
    two_calls_text = _try_template(
        tokenizer, [user, _tool_call_message("probe thought", (_PROBE, _PROBE)), *tool_results]
    )
    counts = [two_calls_text.count(text) for text in ("probe thought", "probe seen 1", "probe seen 2")]
    if counts == [1, 1, 1] and two_calls_text.count(_PROBE.name) >= 2 and two_calls_text.count("probe value") == 2:
        return "beside"
    one_call_text = _try_template(tokenizer, [user, _tool_call_message("", (_PROBE,)), tool_results[0]])
    call_text = render_calls([_PROBE], tokenizer) if "probe seen 1" in one_call_text else ""
    return "alone" if _PROBE.name in call_text and "probe value" in call_text else "none"


def _try_template(tokenizer: Any, chat: Sequence[Mapping[str, Any]], *, tools: Sequence[Schema] = ()) -> str:
    """The text of a chat; empty where the template refuses it with any error."""
    try:
        return _apply_template(tokenizer, chat, tools=tools, ask=False)
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError):
        return ""


def _apply_template(tokenizer: Any, chat: Sequence[Mapping[str, Any]], *, tools: Sequence[Schema], ask: bool) -> str:
    def render(messages: Any, schemas: Any) -> str:
        text: str = tokenizer.apply_chat_template(
            messages,
            tools=schemas or None,
            add_generation_prompt=ask,
            tokenize=False,
            chat_template=template,
            date_string=TODAY.strftime(_DAY[0]),
        )
        return text

    template = fix_template_date(tokenizer.chat_template)
    reserved = reserved_tokens(tokenizer)
    return render_chat_safely(
        render,
        _break_special_tokens_in(chat, tokenizer, is_own=True),
        _break_special_tokens_in(tools, tokenizer, is_own=True),
        pattern=reserved.pattern,
        tokens=(*reserved.special, *reserved.tags),
    )


def fix_template_date(template: Any) -> Any:
    """The template with a fixed date in place of today's."""
    if not isinstance(template, str) or "strftime_now" not in template:
        return template
    days = {form: TODAY.strftime(form) for form in _DAY}
    return f"{{% macro strftime_now(form) -%}}{{{{ {days!r}.get(form, '{TODAY}') }}}}{{%- endmacro %}}{template}"


def _message_entry(message: Message, tokenizer: Any, features: TemplateFeatures) -> dict[str, Any]:
    content = break_special_tokens(message.content, tokenizer, is_own=message.role == "assistant")
    if message.role == "tool":
        if features.calls == "none":
            return {"role": "user", "content": RESULT_TAGS.format(content)}
        name = break_special_tokens(message.name, tokenizer)
        return {"role": "tool", "name": name, "content": content, "tool_call_id": make_call_id(1)}
    if not message.calls:
        return {"role": message.role, "content": content}
    calls = tuple(
        Action(
            break_special_tokens(call.name, tokenizer),
            _break_special_tokens_in(call.arguments, tokenizer, is_own=True),
        )
        for call in message.calls
    )
    if features.calls == "beside":
        return _tool_call_message(content, calls)
    is_alone = features.calls == "alone"
    call_texts = [render_calls([call], tokenizer) if is_alone else write_tagged_call(call) for call in calls]
    return {"role": message.role, "content": "\n".join([content, *call_texts] if content else call_texts)}


def _tool_call_message(content: str, calls: Sequence[Action]) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **write_template_calls(calls)}


def render_calls(calls: Sequence[Action], tokenizer: Any) -> str:
    """Calls without a thought as the template writes them, up to the template's next special token."""
    question_chat = [{"role": "user", "content": "probe question"}]
    reply = {"role": "tool", "name": calls[-1].name, "content": "-", "tool_call_id": make_call_id(1)}
    prompt = _apply_template(tokenizer, question_chat, tools=(), ask=True)
    special = special_tokens(tokenizer)
    tail = text_after(prompt, _try_template(tokenizer, [*question_chat, _tool_call_message("", calls), reply]), special)
    ends = [position for token in special if (position := tail.find(token)) >= 0]
    return tail[: min(ends, default=len(tail))].strip()


def _break_special_tokens_in(value: Any, tokenizer: Any, *, is_own: bool = False) -> Any:
    if isinstance(value, str):
        return break_special_tokens(value, tokenizer, is_own=is_own)
    if isinstance(value, Mapping):
        return {
            break_special_tokens(str(name), tokenizer, is_own=is_own): _break_special_tokens_in(
                item, tokenizer, is_own=is_own
            )
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_break_special_tokens_in(item, tokenizer, is_own=is_own) for item in value]
    return value


def _describe_tools(tools: Sequence[Schema]) -> str:
    """A text that lists the tools and the form of a call, for a template that shows no tools."""
    described = "\n".join(json.dumps(unwrap_schema(tool), ensure_ascii=False) for tool in tools)
    form = CALL_TAGS.format('{"name": NAME, "arguments": {...}}')
    return f"These tools can be called:\n{described}\nA call is written so:\n{form}"


def _add_to_system(chat: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    if chat and chat[0]["role"] == "system":
        return [{**chat[0], "content": f"{chat[0]['content']}\n\n{text}"}, *chat[1:]]
    return [{"role": "system", "content": text}, *chat]


def _fold_system(chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chat with the system message put before the text of the next user turn, or as a user turn of its own."""
    if not chat or chat[0]["role"] != "system":
        return chat
    system_message, other_messages = chat[0], chat[1:]
    if other_messages and other_messages[0]["role"] == "user":
        return [
            {**other_messages[0], "content": f"{system_message['content']}\n\n{other_messages[0]['content']}"},
            *other_messages[1:],
        ]
    return [{**system_message, "role": "user"}, *other_messages]


def _merge_user_turns(chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chat with consecutive user turns merged into one."""
    merged: list[dict[str, Any]] = []
    for entry in chat:
        if merged and merged[-1]["role"] == entry["role"] == "user":
            merged[-1] = {**merged[-1], "content": f"{merged[-1]['content']}\n\n{entry['content']}"}
        else:
            merged.append(entry)
    return merged


def _tokenizer_name(tokenizer: Any) -> str:
    return tokenizer.name_or_path or "this tokenizer"
