"""The data card of a written dataset: its content, its origin, how to load it, what was dropped. YAML, then Markdown.

It states what is known and marks what is unknown: a licence is never guessed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fireact.base.markdown import code_span, escape_cell, escape_line
from fireact.base.run_directory import MANIFEST, TRAJECTORIES, file_hash, read_manifest


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a dataset comes from: the name of a file or run, the hash of its content, and its history."""

    name: str
    sha256: str
    history: tuple[str, ...] = ()


def origin_of(source: Path) -> Origin:
    """The origin of a path: a run's history is in its manifest; a directory of other files has no hash."""
    file = source / TRAJECTORIES if source.is_dir() else source
    manifest = read_manifest(source) if (source / MANIFEST).is_file() else {}
    digest = file_hash(file) if file.is_file() else ""
    return Origin(source.resolve().name, digest, tuple(map(str, manifest.get("history", ()))))


def build_card(
    name: str,
    *,
    counts: Mapping[str, int],
    models: Mapping[str, int],
    dropped: Mapping[str, int],
    origin: Origin | None = None,
    has_sessions: bool = False,
) -> str:
    """The text of README.md: trajectories by "task/method", by the model that wrote them, and by kind of loss.

    With ``has_sessions`` the dataset is a folder of sessions for the Hub's trace viewer, else one Parquet file.
    """
    total = sum(counts.values())
    size = next((label for top, label in _SIZES if total < top), "n>1M")
    trace_tag = "- agent-traces\n" if has_sessions else ""
    head = (
        f"---\npretty_name: {json.dumps(name)}\nlicense: unknown\ntask_categories:\n- text-generation\ntags:\n- agent\n"
        f"- tool-use\n{trace_tag}- fireact\nsize_categories:\n- {size}\n"
        "configs:\n- config_name: default\n  data_files:\n"
        f"  - split: train\n    path: {'sessions/*.jsonl' if has_sessions else 'data/train.parquet'}\n---\n"
    )
    groups = "".join(f"| {escape_cell(group)} | {count} |\n" for group, count in counts.items())
    losses = "".join(f"- {kind}: {count}\n" for kind, count in dropped.items()) or "- nothing\n"
    return (
        f"{head}\n# {escape_line(name)}\n\n"
        f"{total} episodes of tool-using agents, written by FireAct.\n\n{_TABLE}{groups}\n"
        f"{_origin_section(models, origin)}{_SESSIONS if has_sessions else _USE}{_LOSSES}{losses}"
    )


def _origin_section(models: Mapping[str, int], origin: Origin | None) -> str:
    lines = [
        f"- model {code_span(name)}: {count}" if name else f"- model not named: {count}"
        for name, count in models.items()
    ]
    if origin is not None:
        lines.insert(
            0, f"- source {code_span(origin.name)}" + (f", SHA-256 `{origin.sha256}`" if origin.sha256 else "")
        )
        lines += [f"- {escape_line(line)}" for line in origin.history]
    return "## Where it comes from\n\n" + "".join(f"{line}\n" for line in lines) + LICENCE_NOTE


_SIZES = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_TABLE = "| task / method | episodes |\n|---|---|\n"
LICENCE_NOTE = """
The licence is that of the source, and the terms of the models that wrote the turns apply. Before you share this, name
the licence above in place of `unknown`.

"""
_USE = """## Columns

`messages` are chat messages with native tool calls. They, `tools`, `scores` and `extra` are columns of JSON (`datasets`
5 or newer): each row keeps its own keys, without nulls for the keys of other rows, and arguments are objects, as chat
templates take them:

```python
from datasets import load_dataset

row = load_dataset(".", split="train")[0]
text = tokenizer.apply_chat_template(row["messages"], tools=row["tools"], tokenize=False)
```

`weight` is how much a turn is to be learned (absent: 1). `id`, `task`, `method`, `model`, `seed`, `stop` and the gold
`answer` say where an episode comes from and how it ended.

"""
_SESSIONS = """## Files

Each file in `sessions` is one episode in Hugging Face's Session Trace Simple Format: a line that heads the session,
then its messages, with reasoning and tool calls. The key `fireact` of the head has the task, the gold answer, the
scores, the usage and the tools' schemas. `fireact` reads the folder back.

"""
_LOSSES = """## Not in here

What the format cannot hold and what was left out, each with its number of episodes:

"""
