"""llama.cpp's server (from the wheel ``xllamacpp``) in a child process on loopback: a real endpoint for slow tests.

As a script it serves the GGUF file that it is given, on a free port, until its standard input is closed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fireact.types import Completion


@contextmanager
def llama_server(gguf: Path) -> Iterator[str]:
    """Serve a GGUF file; gives the URL of the server (its OpenAI endpoint is below ``/v1``)."""
    child = subprocess.Popen(
        [sys.executable, __file__, str(gguf)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None
    try:
        url = child.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1"), url
        yield url
    finally:
        child.stdin.close()
        child.wait(600)
        child.stdout.close()


def ask_server(url: str, question: str, *, max_tokens: int) -> Any:
    """What the server answers to a question, with the log probabilities of its tokens."""
    messages = [{"role": "user", "content": question}]
    body = {"messages": messages, "max_tokens": max_tokens, "temperature": 0, "logprobs": True, "top_logprobs": 1}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    return json.load(urllib.request.urlopen(request, timeout=600))


def assert_same_but_for_ties(theirs: Any, ours: Completion, *, nats: float = 0.25) -> None:
    """The server and our engine write the same tokens as likely, up to the first two that are about as likely."""
    tokens = theirs["choices"][0]["logprobs"]["content"]
    assert tokens and ours.logprobs
    for token, own in zip(tokens, ours.logprobs, strict=False):
        likely = dict(own.top)
        assert token["token"] in likely and abs(likely[token["token"]] - token["logprob"]) < nats
        if token["token"] != own.token:
            assert abs(likely[token["token"]] - own.logprob) < nats
            return


def main() -> None:
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = sys.argv[1]
    settings.n_ctx, settings.n_parallel, settings.warmup = 4096, 2, False
    settings.cpuparams.n_threads = 2
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
