"""The data card of a written dataset: what is in it, how it is loaded, what was dropped. Markdown with YAML before it."""

from __future__ import annotations

import json
from collections.abc import Mapping


def card(name: str, *, counts: Mapping[str, int], dropped: Mapping[str, int]) -> str:
    """The text of README.md; ``counts`` are trajectories by "task/method", ``dropped`` trajectories by kind of loss."""
    total = sum(counts.values())
    size = next((label for top, label in _SIZES if total < top), "n>1M")
    head = (
        f"---\npretty_name: {json.dumps(name)}\ntask_categories:\n- text-generation\ntags:\n- agent\n- tool-use\n- fireact\n"
        f"size_categories:\n- {size}\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n"
        "    path: data/train.parquet\n---\n"
    )
    groups = "".join(f"| {_cell(group)} | {count} |\n" for group, count in counts.items())
    losses = "".join(f"- {kind}: {count} of {total}\n" for kind, count in dropped.items()) or "- nothing\n"
    return f"{head}\n# {name}\n\n{total} episodes of tool-using agents, written by FireAct.\n\n{_TABLE}{groups}\n{_USE}{losses}"


_SIZES = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_TABLE = "| task / method | episodes |\n|---|---|\n"
_USE = """## Columns

`messages` are chat messages with native tool calls. They, `tools`, `scores` and `extra` are columns of JSON (`datasets` 5 or newer): each row keeps its own keys, with no nulls for those of others, and arguments are objects, as chat templates take them:

```python
from datasets import load_dataset

row = load_dataset(".", split="train")[0]
text = tokenizer.apply_chat_template(row["messages"], tools=row["tools"], tokenize=False)
```

`weight` is how much a turn is to be learned (absent: 1). `id`, `task`, `method`, `model`, `seed`, `stop` and the gold
`answer` say where an episode comes from and how it ended.

## Not in here

What these columns cannot hold of the episodes, and of how many:

"""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
