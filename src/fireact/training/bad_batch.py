"""What is left of a batch whose loss or gradient is no number: a file that names its episodes, and an error that says so.

Invariant: training never goes on from such a batch, since whatever it is added to is lost too. Not done here: noticing
it in several processes at once, which is the trainer's business.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fireact.errors import FireactError
from fireact.render.tokens import Sample

BAD_BATCH = "bad-batch.json"


def sound_gradients(model: Any) -> bool:
    """Whether all gradients that this process holds are numbers: else the next step would fail, and blame its own batch."""
    import torch

    found = [one.grad for one in model.parameters() if one.grad is not None]
    here = [one.to_local() if hasattr(one, "to_local") else one for one in found]
    return all(bool(torch.isfinite(one).all()) for one in here)


def no_number(
    said: str,
    *,
    step: int,
    indices: Sequence[int],
    samples: Sequence[Sample],
    tokenizer: Any,
    out: Path,
    write: bool = True,
) -> FireactError:
    """The error for a loss or gradient that is no number; the batch that made it is written down, if this process may ``write``."""
    path = out / BAD_BATCH
    episodes, texts = [one.key for one in samples], [tokenizer.decode(one.input_ids) for one in samples]
    row = {"step": step, "samples": list(indices), "episodes": episodes, "texts": texts}
    if write:
        path.write_text(json.dumps(row, indent=2, ensure_ascii=False), encoding="utf-8")
    return FireactError(f"{said} at step {step}. The batch that made it is in {path}. Lower the learning rate.")
