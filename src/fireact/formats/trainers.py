"""How other trainers load a written file: LLaMA-Factory's entry in dataset_info.json, axolotl's YAML, TRL's code.

Invariant: a format that a trainer is known to mishandle is refused, and the error names one that it handles. It is also
known which trainers learn turns of weight 0 (axolotl reads the weight as its mark of what to train).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fireact.errors import ConfigError, unknown_name_error

_CHATS = ("gpt", "messages", "openai", "parquet", "dataset")
"""Formats that axolotl reads as chats, with the weight of each turn."""
_SKIPS_WEIGHT_0 = {
    *(("axolotl", format) for format in _CHATS),
    ("trl", "prompt-completion"),
}
"""Pairs of trainer and format in which a turn of weight 0 is not learned."""
_REFUSED = {
    "llama-factory": (
        "sharegpt (tool calls), or gpt or alpaca (actions in text)",
        {
            **dict.fromkeys(("messages", "openai", "parquet", "dataset"), "it drops the text beside a tool call"),
            "prompt-completion": "it takes a prompt and its completion as text, not as messages",
        },
    ),
    "axolotl": (
        "messages (tool calls), or gpt or alpaca (actions in text)",
        {
            "sharegpt": "a chat template has no turns of function_call and observation",
            "prompt-completion": "it takes whole conversations, not a prompt and its completion",
        },
    ),
    "trl": (
        "dataset or parquet (tool calls), or gpt or prompt-completion (actions in text)",
        {
            **dict.fromkeys(("messages", "openai"), "a chat template writes arguments in text as a string in a string"),
            "alpaca": "it has no columns of instruction and output",
            "sharegpt": "a chat template has no turns of function_call and observation",
        },
    ),
}
"""For each trainer the formats that it takes, and why it does not take the others (none knows our own format)."""
_TAGS = {
    "role_tag": "role", "content_tag": "content",
    "user_tag": "user", "assistant_tag": "assistant", "system_tag": "system",
}  # fmt: skip


def build_trainer_config(trainer: str, format: str, path: Path) -> str:
    """The text to paste into a trainer's configuration for a file. Raises ConfigError for a format it cannot take."""
    if trainer not in _TRAINERS:
        raise unknown_name_error("trainer", trainer, _TRAINERS)
    return _TRAINERS[trainer](format, path)


def learns_all(trainer: str, format: str) -> bool:
    """Whether a trainer learns every turn of the student in a format, even turns of weight 0."""
    return (trainer, format) not in _SKIPS_WEIGHT_0


def _llama_factory_config(format: str, path: Path) -> str:
    entries: dict[str, dict[str, Any]] = {
        "alpaca": {},
        "gpt": {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": _TAGS},
        "sharegpt": {"formatting": "sharegpt", "columns": {"messages": "conversations", "tools": "tools"}},
    }
    if format not in entries:
        raise _refuse_format("llama-factory", format)
    if path.suffix not in (".json", ".jsonl"):
        raise ConfigError(
            f"LLaMA-Factory recognises a file by its name, and {path.name!r} ends in neither .json nor .jsonl. "
            "Choose another -o."
        )
    return json.dumps({path.stem: {"file_name": path.name, **entries[format]}}, indent=2)


def _axolotl_config(format: str, path: Path) -> str:
    head = f"datasets:\n  - path: {json.dumps(str(path))}\n"
    if format == "alpaca":
        return f"{head}    ds_type: json\n    type: alpaca"
    if format not in _CHATS:
        raise _refuse_format("axolotl", format)
    kind = {"parquet": "    ds_type: parquet\n", "dataset": ""}.get(format, "    ds_type: json\n")
    since = "" if format == "openai" else "  # JSON text, which axolotl reads from version 0.17 on"
    tools = "" if format == "gpt" else f"    field_tools: tools{since}\n"
    return (
        f"{head}{kind}    type: chat_template\n    field_messages: messages\n{tools}"
        "    message_property_mappings:\n      role: role\n      content: content\n"
        "    message_field_training: weight\n    roles_to_train: [assistant]\n    train_on_eos: turn"
    )


def _trl_config(format: str, path: Path) -> str:
    if format in ("dataset", "parquet"):
        loaded = f"{str(path)!r}" if format == "dataset" else f"'parquet', data_files={str(path)!r}"
        keep = ".select_columns(['messages', 'tools'])"
    elif format in ("gpt", "prompt-completion"):
        loaded, keep = f"'json', data_files={str(path)!r}", ""
    else:
        raise _refuse_format("trl", format)
    only = "" if format == "prompt-completion" else ", assistant_only_loss=True"
    return (
        f"from datasets import load_dataset\nfrom trl import SFTConfig, SFTTrainer\n\n"
        f"data = load_dataset({loaded}, split='train'){keep}\n"
        f"SFTTrainer(MODEL, args=SFTConfig(max_length=None{only}), train_dataset=data).train()"
    )


def _refuse_format(trainer: str, format: str) -> ConfigError:
    takes, reasons = _REFUSED[trainer]
    return ConfigError(
        f"{trainer} does not take {format!r}: {reasons.get(format, 'it is our own form')}. Write {takes}."
    )


_TRAINERS: dict[str, Callable[[str, Path], str]] = {
    "axolotl": _axolotl_config,
    "llama-factory": _llama_factory_config,
    "trl": _trl_config,
}
