"""Records under load while everything fails: no call that a client saw answered may be lost.

    python tests/soak.py [--minutes 30] [--clients 64] [--seed 0] [--out DIR]

Clients ask ``fireact record`` whole and streamed, and some leave early. The endpoint is slow, refuses, breaks off and
sends no JSON. The proxy is killed (SIGKILL) at random and started again, and now and then its disk is full: its files
may not grow (RLIMIT_FSIZE). At the end every answer that a client read to its end must be in the log, every file must
be readable, and memory flat. Exits 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import psutil

from fireact.base.run_directory import read_manifest, read_trajectories
from fireact.models.fake_endpoint import FakeEndpoint, Fault
from fireact.wire.chat_completions import CHAT_COMPLETIONS
from fireact.wire.sse import read_stream

TIMEOUT = 3.0
"""Seconds that the proxy waits for the endpoint; some replies take longer."""


class Soak:
    """The state of one soak: the proxy's process, what clients read, and the memory that was seen."""

    def __init__(self, out: Path, *, seed: int) -> None:
        self.run, self.chance = out / "run", random.Random(seed)
        self.answers: dict[str, str] = {}
        self.outcomes: Counter[str] = Counter()
        self.memory: list[tuple[int, int, float]] = []  # the proxy's life, its requests so far, its MB
        self.finished = threading.Event()
        self.lives, self.full_disks = 0, 0
        self.log = (out / "record.log").open("ab")
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.port = listening.getsockname()[1]

    def start_proxy(self, upstream: str) -> None:
        command = [sys.executable, "-m", "fireact", "record", "--upstream", upstream, "--port", str(self.port)]
        options = ["--timeout", str(TIMEOUT), "--idle", "2", "-o", str(self.run)]
        self.child = subprocess.Popen([*command, *options], stdout=self.log, stderr=self.log)
        self.lives += 1
        while self.child.poll() is None and not self.finished.is_set():
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        if self.child.poll() is not None:
            raise SystemExit(f"record ended with {self.child.returncode}; see {self.log.name}")

    def ask(self, client_number: int) -> None:
        """One client: calls one after another, each with words of its own."""
        chance, number = random.Random(client_number), 0
        address = f"http://127.0.0.1:{self.port}"
        client = httpx2.Client(timeout=30)
        while not self.finished.is_set():
            number += 1
            name = f"client{client_number}-call{number}"
            body = {"model": "fake", "messages": [{"role": "user", "content": name}], "stream": chance.random() < 0.5}
            try:
                with client.stream("POST", f"{address}/e/{name}/v1/chat/completions", json=body) as reply:
                    if chance.random() < 0.03:
                        self.outcomes["left"] += 1
                        continue
                    text = reply.read().decode("utf-8", "replace")
                answer_text = read_answer(text) if reply.status_code == 200 else ""
                if answer_text.startswith(f"words for {name}."):
                    self.answers[name] = answer_text
                self.outcomes[str(reply.status_code)] += 1
            except httpx2.HTTPError as error:
                self.outcomes[type(error).__name__] += 1
                time.sleep(0.2)

    def disturb(self, upstream: str, minutes: float) -> None:
        """Kill the proxy, or fill its disk, every few seconds until the time is over."""
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            self._watch(self.chance.uniform(4, 15))
            if self.chance.random() < 0.4:
                self._fill_disk()
            else:
                self.child.send_signal(signal.SIGKILL)
                self.child.wait()
                self.start_proxy(upstream)

    def _watch(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            time.sleep(1)
            if self.child.poll() is not None:
                raise SystemExit(f"record ended with {self.child.returncode}; see {self.log.name}")
            size = psutil.Process(self.child.pid).memory_info().rss / 1e6
            self.memory.append((self.lives, sum(self.outcomes.values()), size))

    def _fill_disk(self) -> None:
        self.full_disks += 1
        _, hard = resource.prlimit(self.child.pid, resource.RLIMIT_FSIZE)
        size = (self.run / "calls.jsonl").stat().st_size
        resource.prlimit(self.child.pid, resource.RLIMIT_FSIZE, (size + 20_000, hard))
        time.sleep(self.chance.uniform(1, 3))
        if self.child.poll() is None:
            resource.prlimit(self.child.pid, resource.RLIMIT_FSIZE, (hard, hard))


def read_answer(body: str) -> str:
    """The text of a whole reply, or of a stream that came to its end; empty for anything else."""
    try:
        reply = CHAT_COMPLETIONS.read_reply(json.loads(body))
    except ValueError:
        reply = read_stream(CHAT_COMPLETIONS, body)
        return reply.text if reply.complete else ""
    return reply.text if reply.answered else ""


def answer(request: Mapping[str, Any]) -> Any:
    """The endpoint's reply to a call: mostly its own words, else a fault."""
    name = request["messages"][-1]["content"]
    draw = random.Random(name).random()
    if draw < 0.03:
        return Fault(status=429)
    if draw < 0.06:
        return Fault(status=500)
    if draw < 0.09:
        return Fault(cut=True)
    if draw < 0.11:
        return Fault(body="<html>no JSON</html>")
    return f"words for {name}." + " more" * random.Random(name).randrange(300)


def wait_seconds(request: Mapping[str, Any]) -> float:
    chance = random.Random(request["messages"][-1]["content"] + " wait")
    return TIMEOUT * 1.5 if chance.random() < 0.01 else chance.uniform(0, 0.5)


def list_faults(soak: Soak) -> list[str]:
    """What is wrong after the soak: lost calls, files that cannot be read, memory that grew."""
    faults: list[str] = []
    lines = (soak.run / "calls.jsonl").read_bytes().splitlines()
    logged: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        try:
            call = json.loads(line)
            reply = call["reply"]
            logged[call["episode"]] = read_answer(reply if isinstance(reply, str) else json.dumps(reply))
        except (ValueError, KeyError) as error:
            faults.append(f"calls.jsonl:{number} cannot be read: {error}")
    lost = [name for name, text in soak.answers.items() if logged.get(name) != text]
    if lost:
        faults.append(f"{len(lost)} calls are lost that a client saw answered: {', '.join(lost[:5])}")
    episodes = {trajectory.example.id: trajectory for trajectory in read_trajectories(soak.run)}
    unread = [name for name, text in soak.answers.items() if name not in episodes or episodes[name].answer != text]
    if unread:
        faults.append(f"{len(unread)} episodes lack the answer that a client read: {', '.join(unread[:5])}")
    sizes = [size for _, _, size in soak.memory]
    early, late = (sorted(part)[len(part) // 2] for part in (sizes[len(sizes) // 4 :][: len(sizes) // 4 + 1],
                                                            sizes[-len(sizes) // 4 :]))  # fmt: skip
    if late > 1.5 * early + 20:
        faults.append(f"memory grew from {early:.0f} to {late:.0f} MB")
    if read_manifest(soak.run)["calls"] != len(lines):
        faults.append("the manifest counts other calls than the log has")
    return faults


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--minutes", type=float, default=30)
    options.add_argument("--clients", type=int, default=64)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path)
    given = options.parse_args()
    out = given.out or Path(tempfile.mkdtemp(prefix="fireact-soak-"))
    out.mkdir(parents=True, exist_ok=True)
    soak = Soak(out, seed=given.seed)
    with FakeEndpoint(answer, latency=wait_seconds) as endpoint:
        soak.start_proxy(endpoint.url)
        clients = [threading.Thread(target=soak.ask, args=(number,), daemon=True) for number in range(given.clients)]
        for client in clients:
            client.start()
        try:
            soak.disturb(endpoint.url, given.minutes)
        finally:
            soak.finished.set()
        for client in clients:
            client.join(60)
        soak.child.send_signal(signal.SIGINT)
        status = soak.child.wait(600)
    faults = list_faults(soak)
    firsts = [size for life, _, size in soak.memory if life == 1] or [0.0]
    lasts = [size for life, _, size in soak.memory if life == soak.lives] or [0.0]
    print(f"{given.minutes:g} minutes, {given.clients} clients: {sum(soak.outcomes.values())} calls, "
          f"{len(soak.answers)} read to their end, {soak.lives - 1} kills, {soak.full_disks} full disks")  # fmt: skip
    print(f"outcomes: {dict(soak.outcomes.most_common())}")
    print(f"memory in MB: first life {firsts[0]:.0f} to {firsts[-1]:.0f}, last life {lasts[0]:.0f} to {lasts[-1]:.0f}, "
          f"peak {max(size for _, _, size in soak.memory):.0f}; record ended with {status}")  # fmt: skip
    for fault in faults:
        print(f"FAULT: {fault}")
    print(f"files: {out}")
    return 1 if faults or status else 0


if __name__ == "__main__":
    sys.exit(main())
