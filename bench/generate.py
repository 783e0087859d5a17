"""Tokens a second of in-process generation: ReAct episodes that share batches, against one-by-one ``generate``.

Both sides write the same episodes greedily in float32: a few-shot prompt that all share, a question, and after each
completion a set observation. One by one, transformers encodes the whole prompt at every step; ``HFModel`` is asked by
one thread an episode. Run: python bench/generate.py [--episodes 24] [--slots 16] [--json]. It exits with 1 below 4x or
when the texts differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import torch
import transformers

from fireact.models.hf import HFModel, cut_at_stop
from fireact.models.packed import pack_linears
from fireact.models.quiet import silence_libraries
from fireact.models.weights import student_directory
from fireact.render.react import STOP
from fireact.render.tokens import prompt_ids
from fireact.types import Call, Message

WANTED = 4.0
RULES = (
    "Answer the question in rounds. In each round write one line that begins with Thought: and one that begins with "
    "Action:. An action is search[query], which looks something up in a collection of short articles about "
    "countries, or finish[answer], which gives the answer and ends the work. Write nothing else."
)
PLACES = (
    ("Norway", "Oslo", "krone", "5.5 million"), ("Kenya", "Nairobi", "shilling", "53 million"),
    ("Peru", "Lima", "sol", "34 million"), ("Japan", "Tokyo", "yen", "124 million"),
    ("Ghana", "Accra", "cedi", "33 million"), ("Poland", "Warsaw", "zloty", "38 million"),
    ("Chile", "Santiago", "peso", "19 million"), ("Vietnam", "Hanoi", "dong", "98 million"),
)  # fmt: skip


def observation(index: int, step: int) -> str:
    """What the search is said to have found, about 40 tokens."""
    country, capital, money, people = PLACES[(index * 3 + step) % len(PLACES)]
    return (
        f"Observation: {country} is a country of about {people} people. Its capital, and seat of its parliament, is "
        f"{capital}. One pays there with the {money}. Article {index + 1}.{step + 1} of the collection."
    )


def question(index: int) -> str:
    country = PLACES[index % len(PLACES)][0]
    return f"Question {index + 1}: which money do people use in the capital of {country}, and how many live there?"


def shots() -> list[Message]:
    """The beginning that all prompts share, about 500 tokens."""
    messages = [Message("system", RULES)]
    for index in (2, 3, 5):
        country, capital, money, people = PLACES[index]
        messages += [
            Message("user", question(index)),
            Message("assistant", f"Thought: I have to look up {country}.\nAction: search[{country} money and people]"),
            Message("user", observation(index * 3, index * 6)),
            Message("assistant", f"Thought: {capital} pays with the {money}.\nAction: finish[{money}, {people}]"),
        ]
    return messages


Ask = Callable[[Sequence[Message]], tuple[str, int, int, int]]
"""Messages to a text, and the tokens of the prompt, of it those from the cache, and those written."""


def episode(index: int, ask: Ask, *, steps: int) -> list[tuple[str, int, int, int]]:
    """One episode: the completions of its steps."""
    messages = [*shots(), Message("user", question(index + 7))]
    done = []
    for step in range(steps):
        done.append(ask(messages))
        messages += [Message("assistant", done[-1][0].strip()), Message("user", observation(index, step))]
    return done


def one_by_one(model: Any, tokenizer: Any, *, tokens: int) -> Ask:
    """Plain transformers, the whole prompt at every step."""

    def over(ids: torch.Tensor, scores: Any, *, start: int) -> bool:
        text = tokenizer.decode(ids[0, max(start, ids.shape[1] - 24) :], skip_special_tokens=True)
        return any(string in text for string in STOP)

    def ask(messages: Sequence[Message]) -> tuple[str, int, int, int]:
        prompt = torch.tensor([prompt_ids(messages, tokenizer)])
        start = prompt.shape[1]
        with torch.inference_mode():
            ids = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=tokens,
                do_sample=False,
                stopping_criteria=[lambda ids, scores, **_: torch.tensor([over(ids, scores, start=start)])],
            )[0, start:]
        text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return cut_at_stop(text, STOP), start, 0, len(ids)

    return ask


def batched(lm: HFModel, *, tokens: int) -> Ask:
    def ask(messages: Sequence[Message]) -> tuple[str, int, int, int]:
        done = lm.complete(Call(messages, stop=STOP, max_tokens=tokens))
        return done.text, done.usage.prompt_tokens, done.usage.cached_tokens, done.usage.completion_tokens

    return ask


class Stopwatch:
    """Wall and processor seconds of a block, and the share of the machine that other processes took meanwhile.

    Wall seconds are worth something where that share is near 0; on a busy machine, compare the processor seconds of a
    run with OMP_NUM_THREADS=1 (with more threads, waiting for each other counts as work).
    """

    def __enter__(self) -> Stopwatch:
        self._started, self._cpu, self._busy = time.perf_counter(), time.process_time(), _busy()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._started
        self.cpu = time.process_time() - self._cpu
        others = _busy() - self._busy - self.cpu
        self.others = max(0.0, others) / self.seconds / (psutil.cpu_count() or 1)


def _busy() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def forward_only(model: Any, *, rows: int) -> float:
    """Tokens a second when each of ``rows`` texts is one token long: matrices alone, no attention to speak of."""
    ids = torch.arange(rows)[:, None]
    seconds = []
    with torch.inference_mode():
        for _ in range(12):
            started = time.perf_counter()
            model(input_ids=ids, use_cache=False)
            seconds.append(time.perf_counter() - started)
    return rows / statistics.median(seconds)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    place = student_directory(options.student)
    lm = HFModel(options.student, slots=options.slots)
    lm.complete(Call([Message("user", "Hello")], max_tokens=2))
    write, indexes = batched(lm, tokens=options.tokens), range(options.episodes)
    with Stopwatch() as batch, ThreadPoolExecutor(options.threads or options.episodes) as pool:
        ours = list(pool.map(lambda index: episode(index, write, steps=options.steps), indexes))
    lm.close()
    with silence_libraries():
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        model = transformers.AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
        write = one_by_one(model, tokenizer, tokens=options.tokens)
        write([Message("user", "Hello")])
        with Stopwatch() as single:
            theirs = [episode(index, write, steps=options.steps) for index in indexes]
        plain = forward_only(model, rows=options.slots)
        packed = forward_only(pack_linears(model), rows=options.slots)
    mine, other = ([step for steps in side for step in steps] for side in (ours, theirs))
    our_rate, their_rate = sum(s[3] for s in mine) / batch.seconds, sum(s[3] for s in other) / single.seconds
    return {
        "episodes": options.episodes,
        "slots": options.slots,
        "threads_of_torch": torch.get_num_threads(),
        "tokens": sum(s[3] for s in mine),
        "prompt_tokens": sum(s[1] for s in mine),
        "one_by_one_seconds": single.seconds,
        "batched_seconds": batch.seconds,
        "one_by_one_cpu_seconds": single.cpu,
        "batched_cpu_seconds": batch.cpu,
        "taken_by_others_one_by_one": single.others,
        "taken_by_others_batched": batch.others,
        "one_by_one_tokens_per_second": their_rate,
        "batched_tokens_per_second": our_rate,
        "ratio": our_rate / their_rate,
        "ratio_of_cpu_seconds": single.cpu / batch.cpu,
        "identical": [s[0] for s in mine] == [s[0] for s in other],
        "completions_that_differ": sum(a[0] != b[0] for a, b in zip(mine, other, strict=True)),
        "cached_share": sum(s[2] for s in mine) / sum(s[1] for s in mine),
        "forward_only_tokens_per_second": packed,
        "forward_only_unpacked_tokens_per_second": plain,
        "share_of_forward_only": our_rate / packed,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--student", default="smollm2-135m")
    parser.add_argument("--episodes", type=int, default=24)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32, help="most tokens a completion")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--threads", type=int, default=0, help="episodes at a time (default: all)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options)
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            shown = f"{value:.3g}" if isinstance(value, float) else value
            print(f"{name.replace('_', ' '):42} {shown}")
    return 0 if found["ratio"] >= WANTED and found["identical"] else 1


if __name__ == "__main__":
    sys.exit(main())
