"""Tokens a second of ``fireact serve`` with 16 clients at a time against one, and against the engine without HTTP.

    python bench/serve.py [--student smollm2-135m] [--clients 16] [--tokens 96]

Each client asks its own question and waits for its reply; one client asks them one after the other. The engine's own
rate on the same prompts (no HTTP, no JSON) is what forward passes alone allow.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import openai

from fireact.models.hf import HFModel
from fireact.types import Call, Message

PLACES = ("Norway", "Kenya", "Peru", "Japan", "Ghana", "Poland", "Chile", "Vietnam")


def questions(count: int) -> list[str]:
    return [f"Tell me about {PLACES[at % len(PLACES)]}, its capital and its history, part {at}." for at in range(count)]


def rate(ask: Callable[[str], int], count: int, clients: int) -> float:
    """Tokens a second of ``count`` questions, ``clients`` at a time."""
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        tokens = sum(pool.map(ask, questions(count)))
    return tokens / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="smollm2-135m")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=96)
    options = parser.parse_args()
    command = [
        sys.executable,
        "-m",
        "fireact",
        "serve",
        options.student,
        "--port",
        "0",
        "--slots",
        str(options.clients),
    ]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    client = openai.OpenAI(base_url=child.stderr.readline().split(" at ")[1].split()[0], api_key="none")

    def over_http(question: str) -> int:
        asked = [{"role": "user", "content": question}]
        reply = client.chat.completions.create(model="fireact", messages=asked, max_tokens=options.tokens)  # type: ignore[call-overload]
        return int(reply.usage.completion_tokens)

    over_http("Hello")
    one = rate(over_http, 4, 1)
    many = rate(over_http, 2 * options.clients, options.clients)
    child.terminate()
    child.wait()
    lm = HFModel(options.student, slots=options.clients)

    def in_process(question: str) -> int:
        return lm.complete(Call([Message("user", question)], max_tokens=options.tokens)).usage.completion_tokens

    in_process("Hello")
    bare = rate(in_process, 2 * options.clients, options.clients)
    lm.close()
    rates = {"one_client": one, "many_clients": many, "engine_alone": bare}
    ratios = {"many_to_one": many / one, "engine_alone_to_many": bare / many}
    print(json.dumps({name: round(value, 2) for name, value in {**rates, **ratios}.items()}))


if __name__ == "__main__":
    main()
