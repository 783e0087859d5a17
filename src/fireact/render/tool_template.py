"""A chat template for other runtimes that shows tools, calls and results as this package trains them.

Training folds into plain messages what a student's own template does not support (``chat``). The template here does
the same in Jinja, before the student's own template. Invariant: for messages and tools in OpenAI's form, plain
``apply_chat_template`` gives the text of ``render_chat``; only text that spells a special token stays as it is.
"""

from __future__ import annotations

import json
from typing import Any

from fireact.errors import ConfigError
from fireact.render.call_form import CallForm, find_call_form
from fireact.render.chat import TODAY, TemplateFeatures, fix_template_date, template_features
from fireact.types import FINISH
from fireact.wire.schemas import FINISH_SCHEMA

_ENTRIES = """
{%- set folded = namespace(messages=[], names=[], results=0, text='', calls=[], tools=tools or []) -%}
{%- for message in messages -%}
  {%- if message.content is string -%}{%- set content = message.content -%}
  {%- elif message.content -%}{%- set content = message.content | map(attribute='text') | join('') -%}
  {%- else -%}{%- set content = '' -%}{%- endif -%}
  {%- set role = 'system' if message.role == 'developer' else message.role -%}
  {%- if role == 'assistant' -%}
    {%- if message.tool_calls -%}{%- set content = content | trim -%}{%- endif -%}
    {%- if message.reasoning_content -%}
      {%- set content = '<think>\\n' ~ message.reasoning_content ~ '\\n</think>\\n\\n' ~ content -%}
    {%- endif -%}
    {%- set folded.names = [] -%}{%- set folded.results = 0 -%}
    {%- set folded.calls = [] -%}{%- set folded.text = content -%}
    {%- for call in message.tool_calls or [] -%}
      {%- set function = call.function or call -%}
      {%- set folded.names = folded.names + [function.name] -%}
      CALL
    {%- endfor -%}
    {%- set entry = ASSISTANT -%}
  {%- elif role == 'tool' -%}
    {%- set name = message.name or (folded.names[folded.results] if folded.results < folded.names | length else '') -%}
    {%- set folded.results = folded.results + 1 -%}
    {%- set entry = RESULT -%}
  {%- else -%}
    {%- set entry = {'role': role, 'content': content} -%}
  {%- endif -%}
  {%- if role == 'system' and folded.messages | length == 1 and folded.messages[0].role == 'system' -%}
    {%- set folded.messages = [{'role': 'system', 'content': folded.messages[0].content ~ '\\n\\n' ~ content}] -%}
  {%- else -%}
    {%- set folded.messages = folded.messages + [entry] -%}
  {%- endif -%}
{%- endfor -%}
"""
_NATIVE_CALL = """{%- set folded.calls = folded.calls + [{'type': 'function', 'id': 'call' ~ ('0000' ~ loop.index)[-5:],
        'function': {'name': function.name, 'arguments': function.arguments}}] -%}"""
_TEXT_CALL = """{%- set arguments = function.arguments -%}
      {%- if arguments is not string -%}{%- set arguments = arguments | tojson -%}{%- endif -%}
      {%- set folded.text = folded.text ~ ('\\n' if folded.text else '') ~ OPENING ~ function.name ~ MIDDLE
        ~ arguments ~ CLOSING -%}"""
_NATIVE_ASSISTANT = """{'role': 'assistant', 'content': content, 'tool_calls': folded.calls} if folded.calls else
      {'role': 'assistant', 'content': content}"""
_NATIVE_RESULT = "{'role': 'tool', 'name': name, 'content': content, 'tool_call_id': 'call00001'}"
_TEXT_RESULT = "{'role': 'user', 'content': '<tool_response>\\n' ~ content ~ '\\n</tool_response>'}"
_ADD_FINISH = """
{%- if folded.tools and NAME not in folded.tools | map(attribute='function.name') -%}
  {%- set folded.tools = folded.tools + [SCHEMA] -%}
{%- endif -%}
"""
_DESCRIBE_TOOLS = """
{%- if folded.tools -%}
  {%- set folded.text = 'These tools can be called:' -%}
  {%- for tool in folded.tools -%}
    {%- set folded.text = folded.text ~ '\\n' ~ ((tool.function or tool) | tojson) -%}
  {%- endfor -%}
  {%- set folded.text = folded.text ~ '\\nA call is written so:\\n<tool_call>\\n'
    ~ '{"name": NAME, "arguments": {...}}\\n</tool_call>' -%}
  {%- if folded.messages and folded.messages[0].role == 'system' -%}
    {%- set folded.messages = [{'role': 'system', 'content': folded.messages[0].content ~ '\\n\\n' ~ folded.text}]
      + folded.messages[1:] -%}
  {%- else -%}
    {%- set folded.messages = [{'role': 'system', 'content': folded.text}] + folded.messages -%}
  {%- endif -%}
{%- endif -%}
{%- set folded.tools = [] -%}
"""
_FOLD_SYSTEM = """
{%- if folded.messages and folded.messages[0].role == 'system' -%}
  {%- if folded.messages | length > 1 and folded.messages[1].role == 'user' -%}
    {%- set folded.messages = [{'role': 'user', 'content': folded.messages[0].content ~ '\\n\\n'
      ~ folded.messages[1].content}] + folded.messages[2:] -%}
  {%- else -%}
    {%- set folded.messages = [{'role': 'user', 'content': folded.messages[0].content}] + folded.messages[1:] -%}
  {%- endif -%}
{%- endif -%}
"""
_MERGE_USERS = """
{%- set merged = namespace(messages=[]) -%}
{%- for entry in folded.messages -%}
  {%- if merged.messages and entry.role == 'user' and merged.messages[-1].role == 'user' -%}
    {%- set merged.messages = merged.messages[:-1] + [{'role': 'user', 'content': merged.messages[-1].content
      ~ '\\n\\n' ~ entry.content}] -%}
  {%- else -%}
    {%- set merged.messages = merged.messages + [entry] -%}
  {%- endif -%}
{%- endfor -%}
{%- set folded.messages = merged.messages -%}
"""
_PASS_ON = "{%- set messages = folded.messages -%}{%- set tools = folded.tools or none -%}"


def write_tool_template(tokenizer: Any, *, finish: bool) -> str:
    """The chat template of a tokenizer with what training does before it.

    With ``finish`` the finish action is shown where tools are, as in the training of the renderer ``tool_calls``.
    Raises ConfigError for a template whose calls have no known form.
    """
    features = template_features(tokenizer)
    steps = [_write_entries(tokenizer, features)]
    if finish:
        steps.append(_ADD_FINISH.replace("NAME", repr(FINISH)).replace("SCHEMA", json.dumps(FINISH_SCHEMA)))
    steps += [_DESCRIBE_TOOLS] if not features.schemas else []
    steps += [_FOLD_SYSTEM] if not features.system else []
    steps += [_MERGE_USERS] if features.alternating else []
    template = str(tokenizer.chat_template)
    day = f"{{%- set date_string = '{TODAY:%d %b %Y}' -%}}" if "date_string" in template else ""
    prelude = "".join(line.strip() for step in steps for line in step.replace(" -%}", "-%}").splitlines())
    return f"{prelude}{_PASS_ON}{day}{fix_template_date(template)}"


def _write_entries(tokenizer: Any, features: TemplateFeatures) -> str:
    """The loop that turns messages into entries that the template supports."""
    if features.calls == "beside":
        call, assistant, result = _NATIVE_CALL, _NATIVE_ASSISTANT, _NATIVE_RESULT
    else:
        form = find_call_form(tokenizer)
        if form is None:
            raise ConfigError(
                f"the chat template of {tokenizer.name_or_path} writes calls in a form that cannot be exported. Choose "
                "a student with another template, or serve this one with 'fireact serve'."
            )
        call, assistant = _write_text_call(form), "{'role': 'assistant', 'content': folded.text}"
        result = _TEXT_RESULT if features.calls == "none" else _NATIVE_RESULT
    return _ENTRIES.replace("CALL", call).replace("ASSISTANT", assistant).replace("RESULT", result)


def _write_text_call(form: CallForm) -> str:
    # Space around the calls is the template's own, which writes it again.
    pieces = {"OPENING": form.opening.lstrip(), "MIDDLE": form.middle, "CLOSING": form.closing.rstrip()}
    text = _TEXT_CALL
    for name, piece in pieces.items():
        text = text.replace(name, json.dumps(piece, ensure_ascii=False))
    return text
