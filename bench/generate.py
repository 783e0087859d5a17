"""Tokens a second of in-process generation: ReAct episodes that share batches, against one-by-one ``generate``.

Both sides write the same episodes greedily in one type of numbers: a few-shot prompt that all share, a question, and
after each completion a set observation. One by one, transformers encodes the whole prompt at every step; ``HFModel`` is
asked by one thread an episode. Run: python bench/generate.py [--episodes 24] [--slots 16] [--dtype bfloat16] [--small]
[--json]. It exits with 1 below 4x or, in float32, when the texts differ.

``to_bound`` is the share of the bound of ``bound.py`` that the engine reaches while it writes with one slot and with
all of them, and while it reads a prompt. Engine and products take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import psutil
import torch
import transformers

from bound import Form, Products, Seconds, linear_shapes
from fireact.base.machine import has_bfloat16
from fireact.models.engine import Engine
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


class Writing:
    """Texts of an engine that are written side by side; a lap is a step in which all of them are written."""

    def __init__(self, engine: Engine, slots: int, *, prompt: int = 300, tokens: int = 20) -> None:
        self.engine, self.tokens, draw = engine, tokens, torch.Generator().manual_seed(0)
        beginning = self._draw(prompt, draw)  # as few-shot examples, which all share
        self.prompts = [beginning + self._draw(40 + 3 * slot, draw) for slot in range(slots)]

    @staticmethod
    def _draw(count: int, draw: torch.Generator) -> list[int]:
        ids: list[int] = torch.randint(10, 40_000, (count,), generator=draw).tolist()
        return ids

    def laps(self) -> list[tuple[float, float]]:
        marks: list[tuple[float, float]] = []

        def mark(ids: list[int]) -> bool:
            marks.append((time.perf_counter(), time.process_time()))
            return False

        def write(slot: int) -> None:
            watch = mark if slot == len(self.prompts) - 1 else lambda ids: False
            self.engine.generate(self.prompts[slot], max_tokens=self.tokens, is_finished=watch)

        with ThreadPoolExecutor(len(self.prompts)) as pool:
            list(pool.map(write, range(len(self.prompts))))
        steps = pairwise(marks[2:-2])  # all others write, too
        return [(end[0] - start[0], end[1] - start[1]) for start, end in steps]

    def read(self, *, tokens: int) -> tuple[float, float]:
        """A lap of reading a prompt of this many tokens."""
        prompt = self._draw(tokens, torch.Generator())
        wall, processor = time.perf_counter(), time.process_time()
        self.engine.generate(prompt, max_tokens=1)
        return time.perf_counter() - wall, time.process_time() - processor


READ_TOKENS = 512
"""Tokens of the prompts whose reading is compared with the bound."""


def measure_to_bound(engine: Engine, options: argparse.Namespace, *, dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    """The share of the bound that an engine reaches in each kind of work, and milliseconds of both."""
    form = Form(dtype, packed=True)
    products = Products(linear_shapes(options.student), form)
    body = Products(linear_shapes(options.student, head=False), form)
    writings = {f"write_{slots}": Writing(engine, slots) for slots in (1, options.slots)}
    laps: dict[str, list[tuple[float, float]]] = {}
    bounds: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for name, writing in writings.items():
            laps.setdefault(name, []).extend(writing.laps())
            bounds.setdefault(name, []).extend(products.lap(len(writing.prompts)) for _ in range(5))
        laps.setdefault("read", []).append(writings["write_1"].read(tokens=READ_TOKENS))
        bounds.setdefault("read", []).append(body.lap(READ_TOKENS))
    table = {}
    for name in laps:
        ours, bound = Seconds.of(laps[name]), Seconds.of(bounds[name])
        table[name] = bound.share_of(ours) | {
            "step_ms": round(1000 * ours.processor, 1), "bound_ms": round(1000 * bound.processor, 1)
        }  # fmt: skip
    return table


def measure(options: argparse.Namespace) -> dict[str, Any]:
    dtype = getattr(torch, options.dtype)
    place = student_directory(options.student)
    lm = HFModel(options.student, slots=options.slots, dtype=options.dtype)
    lm.complete(Call([Message("user", "Hello")], max_tokens=2))
    write, indexes = batched(lm, tokens=options.tokens), range(options.episodes)
    with Stopwatch() as batch, ThreadPoolExecutor(options.threads or options.episodes) as pool:
        ours = list(pool.map(lambda index: episode(index, write, steps=options.steps), indexes))
    to_bound = measure_to_bound(lm._load().engine, options, dtype=dtype, rounds=2 if options.small else 6)
    lm.close()
    with silence_libraries():
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        model = transformers.AutoModelForCausalLM.from_pretrained(place, dtype=dtype).eval()
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
        "dtype": options.dtype,
        "to_bound": to_bound,
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
    default = "bfloat16" if has_bfloat16() else "float32"
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=default)
    parser.add_argument("--small", action="store_true", help="4 episodes of 2 steps: minutes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.small:
        options.episodes, options.steps = 4, 2
    found = measure(options)
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            shown = f"{value:.3g}" if isinstance(value, float) else value
            print(f"{name.replace('_', ' '):42} {shown}")
    is_right = found["identical"] or options.dtype != "float32"  # in bfloat16 texts part at ties
    return 0 if found["ratio"] >= WANTED and is_right else 1


if __name__ == "__main__":
    sys.exit(main())
