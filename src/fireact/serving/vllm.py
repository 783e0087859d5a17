"""``fireact serve RUN --engine vllm``: vLLM runs the student, and our server stands in front of it.

vLLM runs as a separate process on a free loopback port, with the adapter beside its base model, the chat template of
the training, and a key that only this process knows. It logs to ``vllm.log`` in the run's directory and ends with the
server. Sampling follows the request alone, never the model's own generation settings. This module follows vLLM's
documentation and is tested with a stand-in; it never ran on a GPU here.
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

from fireact.errors import ConfigError, ProviderError
from fireact.models.openai import OpenAIModel
from fireact.models.weights import load_tokenizer, require_existing_path, student_directory
from fireact.render.chat import TODAY, apply_renderer_template, fix_template_date
from fireact.rollout.loading import load_renderer
from fireact.rollout.models import Model
from fireact.rollout.students import tuned_directory, tuned_renderer, tuned_weights

LOG, TEMPLATE = "vllm.log", "chat_template.jinja"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes as the maximum rank of an adapter."""
MAX_LOADING_SECONDS = 1800.0
"""Seconds that loading may take."""
GRACE = 30.0
"""Seconds between asking vLLM to end and killing it."""


@contextmanager
def run_vllm(run: str, *, name: str, slots: int, say: Callable[[str], None]) -> Iterator[Model]:
    """Serve the student of a training run by vLLM in a ``with`` block; ``slots`` is the number of texts at a time.

    Raises ConfigError without vLLM, or for a run that it cannot serve, and ProviderError when it does not start.
    """
    require_existing_path(run)
    directory = tuned_directory(run)
    if directory is None:
        raise ConfigError(
            f"--engine vllm serves directories of 'fireact train' and 'export --to merged'; {run} is none. Start vLLM "
            "yourself, and give it as openai:MODEL@http://HOST:PORT/v1."
        )
    program, port = _find_program(), _free_port()
    command = [program, *vllm_arguments(directory, name=name, port=port, slots=slots)]
    say(f"Starting {shlex.join(command)}; log: {directory / LOG}")
    key = secrets.token_hex(16)
    with _unwind_on_sigterm(), _run_process(command, directory / LOG, key) as child:
        url = f"http://127.0.0.1:{port}"
        _wait_until_healthy(url, child, directory / LOG)
        lm = OpenAIModel(name, f"{url}/v1", key=key)
        try:
            yield Model(lm=lm, tuned=True, description=f"{run}, by vLLM", renderer=tuned_renderer(directory))
        finally:
            lm.close()


def vllm_arguments(directory: Path, *, name: str, port: int, slots: int) -> list[str]:
    """The arguments of ``vllm`` for a training run; writes the chat template beside the adapter's manifest."""
    renderer = load_renderer(tuned_renderer(directory))
    if renderer.native:
        raise ConfigError(f"{directory} writes native calls; --engine vllm serves students that write text.")
    weights_source, adapter, _ = tuned_weights(directory)
    base = student_directory(weights_source)
    template = directory / TEMPLATE
    template.write_text(_chat_template(base, renderer), encoding="utf-8")
    command_arguments = ["serve", base, "--host", "127.0.0.1", "--port", str(port), "--max-num-seqs", str(slots)]
    command_arguments += ["--chat-template", str(template), "--generation-config", "vllm"]
    if adapter is None:
        return [*command_arguments, "--served-model-name", name]
    rank = str(_adapter_rank(adapter))
    return [
        *command_arguments,
        "--enable-lora",
        "--max-lora-rank",
        rank,
        "--lora-modules",
        f"{name}={adapter.absolute()}",
    ]


def _find_program() -> str:
    program = shutil.which("vllm")
    if program is None:
        raise ConfigError("vllm is not installed; --engine vllm needs it, and a GPU. Run: pip install vllm")
    return program


def _adapter_rank(adapter: Path) -> int:
    """The smallest of ``RANKS`` that fits the adapter. Raises ConfigError for an adapter that vLLM cannot serve."""
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


def _chat_template(base: str, renderer: Any) -> str:
    """The chat template of the training: the renderer's own where it has one, with the fixed date of training."""
    template = str(fix_template_date(apply_renderer_template(load_tokenizer(base)[0], renderer).chat_template))
    day = f'{{%- set date_string = "{TODAY:%d %b %Y}" -%}}' if "date_string" in template else ""
    return day + template


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def _run_process(command: list[str], log: Path, key: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the process in its own session: Ctrl-C then ends our server first, which finishes requests in flight."""
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
            os.killpg(child.pid, signal.SIGKILL)  # and the workers that it started
            child.wait()


@contextmanager
def _unwind_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind this process as Ctrl-C does, so that vLLM does not outlive it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous_handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous_handler)


def _wait_until_healthy(url: str, child: subprocess.Popen[bytes], log: Path) -> None:
    """Return once vLLM is healthy. Raises ProviderError with the end of its log when it ends instead."""
    until = time.monotonic() + MAX_LOADING_SECONDS
    while time.monotonic() < until:
        if child.poll() is not None:
            raise ProviderError(f"vllm ended with {child.returncode}. The end of {log}:\n{_log_tail(log)}")
        try:
            if httpx2.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx2.HTTPError:
            pass
        time.sleep(0.2)
    raise ProviderError(f"vllm was not healthy after {MAX_LOADING_SECONDS:.0f} s. The end of {log}:\n{_log_tail(log)}")


def _log_tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
