"""``fireact serve RUN --engine vllm``: vLLM writes the student's words, our server stands in front of it.

vLLM is started as a process of its own on a free port of loopback, with the adapter beside its base model, the chat
template that the student was trained with, and a key that only this process knows; it logs to ``vllm.log`` in the run's
directory and ends with the server. Sampling is by what a request says alone, never by the model's own generation
settings. Written by vLLM's documentation, and tested with a stand-in for it: it never ran on a GPU here.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from fireact.agents import Model, load_renderer, tuned_directory, tuned_renderer, tuned_weights
from fireact.errors import ConfigError, ProviderError, missing_extra
from fireact.models.openai import OpenAIModel
from fireact.models.weights import student_directory
from fireact.render.chat import TODAY, dress, undated

LOG, TEMPLATE = "vllm.log", "chat_template.jinja"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as the highest rank of an adapter."""
LONGEST = 1800.0
"""Seconds that loading may take."""
GRACE = 30.0
"""Seconds between asking vLLM to end and killing it."""


@contextmanager
def served(run: str, *, name: str, slots: int, say: Callable[[str], None]) -> Iterator[Model]:
    """The student of a training run behind vLLM, while in the ``with`` block; ``slots`` is how many texts run at a time.

    Raises ConfigError without vLLM, or for a run that it cannot serve, and ProviderError when it does not start.
    """
    directory = tuned_directory(run)
    if directory is None:
        raise ConfigError(
            f"--engine vllm serves directories of 'fireact train' and 'export --to merged'; {run} is none. Start vLLM "
            "yourself, and give it as openai:MODEL@http://HOST:PORT/v1."
        )
    program, port = _program(), _free_port()
    command = [program, *arguments(directory, name=name, port=port, slots=slots)]
    say(f"Starting {shlex.join(command)}; log: {directory / LOG}")
    key = secrets.token_hex(16)
    with _ended_in_order(), _running(command, directory / LOG, key) as child:
        url = f"http://127.0.0.1:{port}"
        _wait(url, child, directory / LOG)
        lm = OpenAIModel(name, f"{url}/v1", key=key)
        try:
            yield Model(lm=lm, tuned=True, description=f"{run}, by vLLM", renderer=tuned_renderer(directory))
        finally:
            lm.close()


def arguments(directory: Path, *, name: str, port: int, slots: int) -> list[str]:
    """The arguments of ``vllm`` for a training run; writes the chat template beside the adapter's manifest."""
    renderer = load_renderer(tuned_renderer(directory))
    if renderer.native:
        raise ConfigError(f"{directory} writes native calls; --engine vllm serves students that write text.")
    place, adapter, _ = tuned_weights(directory)
    base = student_directory(place)
    template = directory / TEMPLATE
    template.write_text(_template(base, renderer), encoding="utf-8")
    found = ["serve", base, "--host", "127.0.0.1", "--port", str(port), "--max-num-seqs", str(slots)]
    found += ["--chat-template", str(template), "--generation-config", "vllm"]
    if adapter is None:
        return [*found, "--served-model-name", name]
    rank = str(_rank(adapter))
    return [*found, "--enable-lora", "--max-lora-rank", rank, "--lora-modules", f"{name}={adapter.absolute()}"]


def _program() -> str:
    found = shutil.which("vllm")
    if found is None:
        raise ConfigError("vllm is not installed; --engine vllm needs it, and a GPU. Run: pip install vllm")
    return found


def _rank(adapter: Path) -> int:
    """The smallest rank of vLLM's that the adapter fits in. Raises ConfigError for an adapter that it cannot serve."""
    try:
        config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{adapter} holds no adapter that can be read: {error}.") from error
    merge = f"Run: fireact export {adapter.parent} --to merged, and serve that"
    if config.get("modules_to_save") or config.get("use_dora"):
        raise ConfigError(f"vLLM serves no adapter with whole modules or DoRA ({adapter}). {merge}.")
    highest = max([int(config["r"]), *(config.get("rank_pattern") or {}).values()])
    fitting = [rank for rank in RANKS if rank >= highest]
    if not fitting:
        raise ConfigError(f"the adapter's rank is {highest}; vLLM takes at most {RANKS[-1]}. {merge}.")
    return fitting[0]


def _template(base: str, renderer: Any) -> str:
    """The chat template as training had it: the renderer's own where it has one, and on the day that training told it."""
    try:
        import transformers
    except ImportError as error:
        raise missing_extra("transformers", "train") from error
    tokenizer = dress(transformers.AutoTokenizer.from_pretrained(base), renderer)
    template = str(undated(tokenizer.chat_template))
    day = f'{{%- set date_string = "{TODAY:%d %b %Y}" -%}}' if "date_string" in template else ""
    return day + template


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def _running(command: list[str], log: Path, key: str) -> Iterator[subprocess.Popen[bytes]]:
    """The process, in a session of its own: a Ctrl-C ends our server first, which finishes what is in flight."""
    with log.open("wb") as file:
        file.write(f"{shlex.join(command)}\n".encode())
        file.flush()
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "VLLM_API_KEY": key},
        )  # fmt: skip
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)  # with the workers that it started
            child.wait()


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """A SIGTERM unwinds this process as a Ctrl-C does, so that vLLM does not outlive it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait(url: str, child: subprocess.Popen[bytes], log: Path) -> None:
    """Return once vLLM is healthy. Raises ProviderError with the end of its log when it ends instead."""
    until = time.monotonic() + LONGEST
    while time.monotonic() < until:
        if child.poll() is not None:
            raise ProviderError(f"vllm ended with {child.returncode}. The end of {log}:\n{_tail(log)}")
        try:
            if httpx2.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.2)
    raise ProviderError(f"vllm was not healthy after {LONGEST:.0f} s. The end of {log}:\n{_tail(log)}")


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
