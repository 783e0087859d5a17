"""Whether a served student is asked what it was trained on, token by token, and what merging its adapter changes.

Every turn of the training data is written as an OpenAI client would send it, read as the server reads it, and compared
with the ids that training saw. Merged weights round otherwise than an adapter applied at run time; how often their
greedy answers differ is counted, not proved to be never.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from fireact.agents import load_renderer, tuned_directory, tuned_renderer, tuned_weights
from fireact.errors import ConfigError
from fireact.models.hf import HFModel, merged_student
from fireact.models.quiet import quiet
from fireact.models.stops import before
from fireact.render.react import STOP
from fireact.render.tokens import encode, prompt_ids
from fireact.serving.wire import read_request
from fireact.store import read_config, read_trajectories
from fireact.training.samples import rendered
from fireact.types import Message


@dataclass(frozen=True, slots=True)
class Conformance:
    """Turns compared and those whose tokens are equal; prompts answered both ways, and how many answers differ."""

    turns: int
    equal: int
    unequal: tuple[str, ...]
    prompts: int
    differing: int

    @property
    def holds(self) -> bool:
        return self.turns > 0 and self.equal == self.turns


def conformance(run: str, *, trajectories: int = 100, prompts: int = 20) -> Conformance:
    """Check a directory of ``train``. Raises ConfigError where there is none, or where actions are native calls."""
    directory = tuned_directory(run)
    if directory is None:
        raise ConfigError(f"{run} is no directory of 'fireact train' or 'fireact quickstart'.")
    settings = read_config(directory)
    if "data" not in settings:
        raise ConfigError(
            f"{run} is an export, which holds no training data to compare with. Check what it was made from: "
            f"fireact doctor {settings.get('run', 'RUN')} --serve"
        )
    renderer = load_renderer(tuned_renderer(directory))
    if renderer.native:
        raise ConfigError(f"{run} writes native calls; the endpoint serves students that write text.")
    place, adapter, name = tuned_weights(directory)
    data = islice(read_trajectories(Path(str(settings["data"]))), trajectories)
    lm = HFModel(place, adapter=adapter, slots=8, name=name, renderer=renderer)
    try:
        asked = [turn for one in data for turn in _turns(list(rendered(one, renderer).messages))]
        seen = list(_compared(asked, lm))
        unequal = tuple(shown for shown, trained, served in seen if trained != served)
        chosen = [messages for messages, _ in asked[:: max(1, len(asked) // max(1, prompts))]][:prompts]
        differing = _differing(chosen, lm, place, adapter) if adapter is not None else 0
    finally:
        lm.close()
    return Conformance(len(seen), len(seen) - len(unequal), unequal[:5], len(chosen), differing)


def _turns(sample: list[Message]) -> Iterator[tuple[list[Message], list[Message]]]:
    """(prompt, prompt and the student's words) of every trained turn."""
    for at, message in enumerate(sample):
        if message.train:
            yield sample[:at], sample[: at + 1]


def _compared(
    asked: Sequence[tuple[list[Message], list[Message]]], lm: HFModel
) -> Iterator[tuple[str, Sequence[int], Sequence[int]]]:
    """(the last words of the prompt, the ids that training has before the turn, those that the server feeds)."""
    tokenizer = lm.tokenizer
    for prompt, whole in asked:
        sample = encode(whole, tokenizer, ends=lm.ends)[-1]
        learnt = max(at for at, label in enumerate(sample.labels) if label < 0) + 1
        body = {"model": "student", "messages": [{"role": one.role, "content": one.content} for one in prompt]}
        served = prompt_ids(list(read_request(json.dumps(body).encode()).messages), tokenizer)
        yield prompt[-1].content[-80:], sample.input_ids[:learnt], tuple(served)


def _differing(prompts: Sequence[list[Message]], lm: HFModel, place: str, adapter: Path) -> int:
    """How many greedy answers differ between merged weights and the adapter at run time."""
    import peft
    import torch

    with quiet():
        model, tokenizer = merged_student(place, None)
        adapted: Any = peft.PeftModel.from_pretrained(model, str(adapter)).eval()
        count = 0
        for messages in prompts:
            ids = torch.tensor([prompt_ids(messages, tokenizer)])
            with torch.inference_mode():
                found = adapted.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=64, do_sample=False
                )
            text = tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True)
            count += before(text, STOP) != lm.complete(messages, stop=STOP, max_tokens=64).text
    return count
