"""A Modelfile: what Ollama needs besides the GGUF file, the template and the stop strings.

Ollama's templates are Go's, not jinja; the frame around each role is therefore found by rendering the chat template.
Invariant: Ollama sends the same text for a chat as the chat template renders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fireact.errors import ConfigError
from fireact.render.react import STOP

_MARK = "\x02{}\x03"
"""A placeholder for the content of a message while the frames are found."""


def render_modelfile(tokenizer: Any, gguf_name: str, *, context: int, ends: Sequence[str] = ()) -> str:
    """The text of a Modelfile; ``context`` is in tokens, ``ends`` are the renderer's own stop strings.

    Raises ConfigError for a chat template that does more than frame each message.
    """
    lines = [f"FROM ./{gguf_name}", f'TEMPLATE """{render_ollama_template(tokenizer)}"""', "PARAMETER temperature 0"]
    lines.append(f"PARAMETER num_ctx {context}")  # without it Ollama truncates at its own default
    stops = [*dict.fromkeys([tokenizer.eos_token, *ends, *STOP])]
    return "\n".join(lines + [f"PARAMETER stop {_quote(stop)}" for stop in stops]) + "\n"


def render_ollama_template(tokenizer: Any) -> str:
    """The chat template of a tokenizer as an Ollama template."""
    frames = _role_frames(tokenizer)
    bare = [{"role": "user", "content": _MARK.format(0)}]
    single_turn = _render_chat(tokenizer, bare)
    user = frames["user"].replace("{{ .Content }}", _MARK.format(0))
    if not single_turn.endswith(user):
        raise _template_error(tokenizer)
    preset = single_turn.removesuffix(user)  # the text before the first message of a chat without system message
    opening = _render_chat(tokenizer, bare, ask=True).removeprefix(single_turn)
    preset_block = f'{{{{ if ne (index .Messages 0).Role "system" }}}}{preset}{{{{ end }}}}' if preset else ""
    parts = [f'{{{{ if eq .Role "{role}" }}}}{frame}{{{{ end }}}}' for role, frame in frames.items()]
    return f"{preset_block}{{{{ range .Messages }}}}{''.join(parts)}{{{{ end }}}}{opening}"


def _role_frames(tokenizer: Any) -> dict[str, str]:
    """The text of one message by role, with Go's variable in place of its content."""
    roles = ["system", "user", "assistant", "user", "assistant"]
    chat = [{"role": role, "content": _MARK.format(index)} for index, role in enumerate(roles)]
    frames: dict[str, str] = {}
    previous_text = ""
    for index, role in enumerate(roles):
        text = _render_chat(tokenizer, chat[: index + 1])
        frame = text[len(previous_text) :].replace(_MARK.format(index), "{{ .Content }}")
        if not text.startswith(previous_text) or frames.setdefault(role, frame) != frame or "\x02" in frame:
            raise _template_error(tokenizer)
        previous_text = text
    return frames


def _render_chat(tokenizer: Any, chat: list[dict[str, str]], *, ask: bool = False) -> str:
    text: str = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=ask)
    return text


def _template_error(tokenizer: Any) -> ConfigError:
    return ConfigError(
        f"the chat template of {tokenizer.name_or_path} does more than frame each message, so it cannot be written as "
        "Ollama's. Export with --to gguf: the template is inside, and llama.cpp's server uses it."
    )


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
