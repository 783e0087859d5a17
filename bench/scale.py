"""What large runs cost on one machine, and what a second and a fourth node of Ray are worth.

Run: python bench/scale.py run DIR [N]     makes a run of N episodes (default 100,000) in DIR, and works on it
     python bench/scale.py ray [EPISODES]  latency-bound episodes with threads, and on 1, 2 and 4 nodes of Ray

Each row of ``run`` is a process of its own: its wall time, processor time and peak memory. Episodes have the three
steps of the scripted expert on one real question, and each call of theirs is stored, as ``collect`` stores it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fireact.base import jsonl
from fireact.base.progress import Progress
from fireact.base.run_directory import RunDir
from fireact.models.fake_endpoint import FakeEndpoint
from fireact.models.scripted import Expert
from fireact.rollout.call_cache import CallCache
from fireact.rollout.collection import CollectConfig, collect
from fireact.types import Call, Example, Message, Usage

SHARDS = 16
MODULE = Path(__file__)


def questions_config(folder: Path, n: int, **settings: Any) -> CollectConfig:
    """Settings of a collection of all questions of a file."""
    task = f"{folder / 'questions.jsonl'}:question,answer,id=id,split=all"
    return CollectConfig(
        plan={f"{task}/react": n}, teacher="openai:fake@http://127.0.0.1:9/v1", tools=("search",), **settings
    )


def make_run(folder: Path, n: int) -> None:
    """A run of ``n`` episodes that lacks only its manifest, with all calls stored; and the same in shards, complete."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as small:
        collect(CollectConfig(plan={"geo-hop/react": 1}), Path(small) / "run")
        from fireact.base.run_directory import read_trajectories

        sample = next(read_trajectories(Path(small) / "run"))
    rows = [{"id": f"q{number}", "question": f"Question {number}?", "answer": "a"} for number in range(n)]
    jsonl.write_objects(folder / "questions.jsonl", rows)
    usage = Usage(3, 2400, 0, 120, None)

    def build(number: int) -> dict[str, Any]:
        example = Example(f"q{number}", f"Question {number}?", "a")
        episode = replace(sample, task="questions", example=example, model="openai:fake", usage=usage, seconds=1.0)
        return episode.to_dict()

    with RunDir(folder / "run", verb="collect", settings=questions_config(folder, n)):
        jsonl.write_objects(folder / "run" / "trajectories.jsonl", map(build, range(n)))
        cache = CallCache(folder / "run" / "calls.sqlite")
        answer = {
            "text": "Thought: x\nAction: search[y]" * 4, "usage": asdict(Usage(1, 800, 0, 40, None)), "calls": [],
            "finish": "stop", "seconds": 0.5, "reasoning": "", "extra": {},
        }  # fmt: skip
        cache._execute("BEGIN")
        for number in range(3 * n):
            cache._execute(
                "INSERT INTO calls (key, kind, answer) VALUES (?, 'lm', ?)",
                (number.to_bytes(32, "big"), jsonl.dumps(answer)),
            )
        cache._execute("COMMIT")
    for index in range(1, SHARDS + 1):
        config = questions_config(folder, n, shard=f"{index}/{SHARDS}")
        with RunDir(folder / f"shard-{index}", verb="collect", settings=config) as run:
            jsonl.write_objects(run.path / "trajectories.jsonl", map(build, range(index - 1, n, SHARDS)))
            run.finish(counts={}, usage={}, tools={}, teacher="openai:fake")


def resume_all(folder: Path, n: int) -> None:
    """Resume a run of which only the manifest is missing."""
    (folder / "run" / "manifest.json").unlink(missing_ok=True)
    collect(questions_config(folder, n), folder / "run")


def resume_to_episodes(folder: Path, n: int) -> None:
    """Resume a run until its episodes would run: what a person waits for."""

    class Stop(Progress):
        def start(self, stage: str, *, total: int, done: int = 0) -> None:
            raise KeyboardInterrupt

    (folder / "run" / "manifest.json").unlink(missing_ok=True)
    with contextlib.suppress(KeyboardInterrupt):
        collect(questions_config(folder, n), folder / "run", progress=Stop())


def first_page(folder: Path, n: int) -> None:
    """What ``view`` serves first: its page, and the first episodes."""
    from starlette.testclient import TestClient

    from fireact.reporting.view import view_application

    with TestClient(view_application([folder / "run"]), base_url="http://127.0.0.1") as client:
        page = client.get("/")
        updates = client.post("/updates", content=b"{}")
    print(f"page {len(page.content) / 1e6:.1f} MB, updates {len(updates.content) / 1e6:.1f} MB", file=sys.stderr)


def run_command(*words: str) -> Callable[[Path, int], None]:
    """A command of ``fireact`` on the run."""

    def run(folder: Path, n: int) -> None:
        from fireact.cli import app

        with Path(os.devnull).open("w") as silence:
            sys.stdout = silence
            app([word.format(folder=folder) for word in words], standalone_mode=False)

    return run


CASES: Mapping[str, Callable[[Path, int], None]] = {
    "resume, until episodes run": resume_to_episodes,
    "resume, all finished": resume_all,
    "show -n 5": run_command("show", "{folder}/run", "-n", "5"),
    "show -n 5 -w steps>9": run_command("show", "{folder}/run", "-n", "5", "-w", "steps>9"),
    "doctor": run_command("doctor", "{folder}/run"),
    "join of 16 shards": run_command(
        "join", *(f"{{folder}}/shard-{index}" for index in range(1, SHARDS + 1)), "-o", "{folder}/joined", "--force"
    ),
    "convert --to parquet": run_command(
        "convert", "{folder}/run", "--to", "parquet", "-o", "{folder}/run.parquet", "--force"
    ),
    "view, first page": first_page,
    "report": run_command("report", "{folder}/run", "-o", "{folder}/report", "--force"),
}


def measure(name: str, folder: Path, n: int) -> None:
    """Run a case in a process of its own, and print a row."""
    shutil.rmtree(folder / "joined", ignore_errors=True)
    done = subprocess.run(
        [sys.executable, str(MODULE), "case", name, str(folder), str(n)], capture_output=True, text=True
    )
    lines = done.stdout.strip().splitlines()
    row = json.loads(lines[-1]) if done.returncode == 0 and lines else {"error": done.stderr.strip()[-300:]}
    print(f"| {name} | {n:,} | " + " | ".join(f"{key} {value}" for key, value in row.items()) + " |", flush=True)


def run_case(name: str, folder: Path, n: int) -> None:
    """A case in this process, and its figures as JSON."""
    printed, started = sys.stdout, time.perf_counter()
    CASES[name](folder, n)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = time.perf_counter() - started
    figures = {
        "seconds": round(seconds, 2), "processor": round(usage.ru_utime + usage.ru_stime, 2),
        "peak MB": round(usage.ru_maxrss / 1024),
    }  # fmt: skip
    print(json.dumps(figures), file=printed)


class Clock(Progress):
    """Notes when each episode ends."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []

    def advance(self, note: str = "") -> None:
        self.ends.append(time.perf_counter())

    @property
    def ms_an_episode(self) -> float:
        """Milliseconds from one end to the next, without the start."""
        return 1000 * (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)


def draw_latency(request: Mapping[str, Any]) -> float:
    """Seconds of a request, drawn by its prompt: log-normal, with a median of half a second."""
    digest = hashlib.sha256(json.dumps(request["messages"]).encode()).hexdigest()
    return random.Random(digest).lognormvariate(math.log(0.5), 0.5)


def answer(request: Mapping[str, Any]) -> str:
    """The scripted expert behind an endpoint."""
    messages = [Message(entry["role"], entry["content"]) for entry in request["messages"]]
    return Expert().complete(Call(messages)).text


def measure_ray(episodes: int, *, workers: int = 4) -> None:
    """Print a row for threads, and for 1, 2 and 4 nodes of Ray on this machine, each with ``workers`` at a time."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  # by default workers get what others leave
    node = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    with tempfile.TemporaryDirectory() as folder, FakeEndpoint(answer, latency=draw_latency) as server:
        plan, nodes = {"geo-hop/react": episodes}, 0
        for name, count in (("threads", 0), ("ray", 1), ("ray", 2), ("ray", 4)):
            while nodes < count - 1:
                cluster.add_node(**node)
                nodes += 1
            for label, teacher in (("latency", f"openai:fake@{server.url}"), ("no latency", "scripted:expert")):
                config = CollectConfig(plan=plan, teacher=teacher, workers=workers, executor=name)
                clock, started = Clock(), time.perf_counter()
                collect(config, Path(folder) / f"{name}-{count}-{label}", progress=clock)
                seconds = time.perf_counter() - started
                print(
                    f"| {name}, {count} nodes | {label} | {episodes} episodes | {seconds:.1f} s | "
                    f"{clock.ms_an_episode:.1f} ms an episode |",
                    flush=True,
                )
    ray.shutdown()
    cluster.shutdown()


def main() -> None:
    """Read the arguments."""
    match sys.argv[1:]:
        case ["run", folder, *rest]:
            n = int(rest[0]) if rest else 100_000
            if not (Path(folder) / "run" / "trajectories.jsonl").exists():
                make_run(Path(folder), n)
            for name in CASES:
                measure(name, Path(folder), n)
        case ["ray", *rest]:
            measure_ray(int(rest[0]) if rest else 200)
        case ["case", name, folder, n]:
            run_case(name, Path(folder), int(n))
        case _:
            print(__doc__)


if __name__ == "__main__":
    main()
