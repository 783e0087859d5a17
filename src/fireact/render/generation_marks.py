"""Marks in a chat template around what the student writes, by which other trainers know what to learn.

``{% generation %}`` is transformers' tag: ``apply_chat_template(return_assistant_tokens_mask=True)`` and TRL's
``assistant_only_loss`` read it. Templates are programs, so their own text is not edited: the template becomes a macro
that is asked for the text before each turn of the student and after it. Invariant: the text is that of the template
without marks, byte for byte. A turn is marked from the end of its prompt to the token that ends it, as it is trained
here. A template that rewrites earlier turns (one that drops their reasoning) gets no marks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

_MARKED = """
{%- macro plain_text(messages, tools, add_generation_prompt) -%}TEMPLATE{%- endmacro -%}
{%- set marked = namespace(text=plain_text(messages, tools, add_generation_prompt) ~ '', done=0) -%}
{%- for message in messages -%}
  {%- if message.role == 'assistant' -%}
    {%- set before = plain_text(messages[:loop.index0], tools, true) ~ '' -%}
    {%- set after = plain_text(messages[:loop.index], tools, false) ~ '' -%}
    {%- set turn = namespace(end=0) -%}
    {%- if marked.text.startswith(before) and after.startswith(before) and marked.text.startswith(after) -%}
      {%- for token in ENDS -%}
        {%- set found = after.find(token, before | length) -%}
        {%- if found >= 0 and (not turn.end or found + token | length < turn.end) -%}
          {%- set turn.end = found + token | length -%}
        {%- endif -%}
      {%- endfor -%}
    {%- endif -%}
    {%- if turn.end and before | length >= marked.done -%}
      {{- marked.text[marked.done:before | length] -}}
      {%- generation -%}{{- marked.text[before | length:turn.end] -}}{%- endgeneration -%}
      {%- set marked.done = turn.end -%}
    {%- endif -%}
  {%- endif -%}
{%- endfor -%}
{{- marked.text[marked.done:] -}}
"""
_TAG = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


_PROBE = ("probe one", "probe two")


def mark_generation(tokenizer: Any, *, ends: Collection[str]) -> str | None:
    """The tokenizer's chat template with marks around each turn of the student; None where turns cannot be marked.

    A turn ends with one of the tokens ``ends``. Marks that the template has already are replaced.
    """
    lines = "".join(line.strip() for line in _MARKED.splitlines())
    plain = _TAG.sub("", str(tokenizer.chat_template))
    marked = lines.replace("ENDS", json.dumps(sorted(ends), ensure_ascii=False), 1).replace("TEMPLATE", plain, 1)
    return marked if _marks_turns(tokenizer, marked, ends) else None


def _marks_turns(tokenizer: Any, template: str, ends: Collection[str]) -> bool:
    """Whether the marks of two turns hold their text and the token that ends each, and nothing more."""
    chat = [
        message
        for text in _PROBE
        for message in ({"role": "user", "content": "probe"}, {"role": "assistant", "content": text})
    ]
    encoded = tokenizer.apply_chat_template(
        chat, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )
    pairs = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    learned = tokenizer.decode([token for token, mask in pairs if mask], clean_up_tokenization_spaces=False)
    return any(learned.replace(" ", "") == "".join(text + end for text in _PROBE).replace(" ", "") for end in ends)
