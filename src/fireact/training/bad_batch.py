"""Reports a batch whose loss or gradient is not finite: a file that names its episodes, and an error.

Invariant: training never continues after such a batch, since its gradient would spoil all weights. Not done here:
detection across several processes, which is the trainer's business.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fireact.errors import FireactError
from fireact.render.tokens import Sample

BAD_BATCH = "bad-batch.json"


def has_finite_gradients(model: Any) -> bool:
    """Whether all gradients in this process are finite; else the next step would fail and blame its own batch."""
    import torch

    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    local_gradients = [gradient.to_local() if hasattr(gradient, "to_local") else gradient for gradient in gradients]
    return all(bool(torch.isfinite(gradient).all()) for gradient in local_gradients)


def write_bad_batch(
    problem: str,
    *,
    step: int,
    indices: Sequence[int],
    samples: Sequence[Sample],
    tokenizer: Any,
    out: Path,
    write: bool = True,
) -> FireactError:
    """Write the batch that caused the ``problem`` to a file, if this process may ``write``, and return the error."""
    path = out / BAD_BATCH
    episodes, texts = [sample.key for sample in samples], [tokenizer.decode(sample.input_ids) for sample in samples]
    row = {"step": step, "samples": list(indices), "episodes": episodes, "texts": texts}
    if write:
        path.write_text(json.dumps(row, indent=2, ensure_ascii=False), encoding="utf-8")
    return FireactError(f"{problem} at step {step}. The batch that made it is in {path}. Lower the learning rate.")
