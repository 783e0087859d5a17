"""A Modelfile: what Ollama needs besides the GGUF file, the template and the stop strings.

Ollama's templates are Go's, not jinja; the frame around each role is therefore read off the chat template by rendering
it. Invariant: what Ollama sends for a chat is the text that the chat template gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fireact.errors import ConfigError
from fireact.render.react import STOP

_MARK = "\x02{}\x03"
"""Stands for the words of a message while the template is read."""


def modelfile(tokenizer: Any, gguf_name: str, *, context: int, ends: Sequence[str] = ()) -> str:
    """The text of a Modelfile; ``context`` is in tokens, ``ends`` are the renderer's own stop strings.

    Raises ConfigError for a chat template that does more than frame each message.
    """
    lines = [f"FROM ./{gguf_name}", f'TEMPLATE """{template(tokenizer)}"""', "PARAMETER temperature 0"]
    lines.append(f"PARAMETER num_ctx {context}")  # without it Ollama cuts what is longer than its own default
    stops = [*dict.fromkeys([tokenizer.eos_token, *ends, *STOP])]
    return "\n".join(lines + [f"PARAMETER stop {_quoted(stop)}" for stop in stops]) + "\n"


def template(tokenizer: Any) -> str:
    """Ollama's template of a tokenizer's chat template."""
    frames = _frames(tokenizer)
    bare = [{"role": "user", "content": _MARK.format(0)}]
    alone = _rendered(tokenizer, bare)
    user = frames["user"].replace("{{ .Content }}", _MARK.format(0))
    if not alone.endswith(user):
        raise _too_much(tokenizer)
    preset = alone.removesuffix(user)  # what stands before the first message when the chat has no system message
    opening = _rendered(tokenizer, bare, ask=True).removeprefix(alone)
    first = f'{{{{ if ne (index .Messages 0).Role "system" }}}}{preset}{{{{ end }}}}' if preset else ""
    parts = [f'{{{{ if eq .Role "{role}" }}}}{frame}{{{{ end }}}}' for role, frame in frames.items()]
    return f"{first}{{{{ range .Messages }}}}{''.join(parts)}{{{{ end }}}}{opening}"


def _frames(tokenizer: Any) -> dict[str, str]:
    """By role, the text of one message, with Go's name for its words."""
    roles = ["system", "user", "assistant", "user", "assistant"]
    chat = [{"role": role, "content": _MARK.format(index)} for index, role in enumerate(roles)]
    frames: dict[str, str] = {}
    before = ""
    for index, role in enumerate(roles):
        piece = _rendered(tokenizer, chat[: index + 1])
        frame = piece[len(before) :].replace(_MARK.format(index), "{{ .Content }}")
        if not piece.startswith(before) or frames.setdefault(role, frame) != frame or "\x02" in frame:
            raise _too_much(tokenizer)
        before = piece
    return frames


def _rendered(tokenizer: Any, chat: list[dict[str, str]], *, ask: bool = False) -> str:
    text: str = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=ask)
    return text


def _too_much(tokenizer: Any) -> ConfigError:
    return ConfigError(
        f"the chat template of {tokenizer.name_or_path} does more than frame each message, so it cannot be written as "
        "Ollama's. Export with --to gguf: the template is inside, and llama.cpp's server uses it."
    )


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
