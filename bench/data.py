"""Trajectories a second through filter, mix and render, and the memory that takes, at a size where both matter.

The trajectories are of the real shape: episodes of the scripted teacher on the built-in tasks, repeated under other ids
and with other questions and thoughts until there are enough. ``mix`` filters and copies them, then every line is
rendered to messages and written as JSON. Run: python bench/data.py [--n 1000000] [--workers 2] [--json].
It exits with 1 below 20,000 a second or above 1 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fireact.base import jsonl
from fireact.data import MixConfig, mix
from fireact.rollout.agents import build_agent
from fireact.rollout.episodes import Episode, run_episodes
from fireact.rollout.loading import load_task, load_tools
from fireact.rollout.models import load_model
from fireact.training.samples import Rendering
from fireact.types import Trajectory

WANTED, GIGABYTES = 20_000, 1.0
MARK = "@@@@@@@"
"""Stands where each copy has its number."""


def samples(n: int = 240) -> list[bytes]:
    """Lines of real episodes, with marks in id, question and every thought."""
    tools, model = load_tools(["search"]), load_model("scripted:expert", slots=4)
    episodes = []
    for name in ("geo-hop", "geo-yesno", "geo-choice"):
        task = load_task(name)
        for method in ("react", "cot"):
            agent = build_agent(model, task, method=method, tools=tools)
            episodes += [Episode(task=task, example=one, agent=agent) for one in task.examples("train")[: n // 6]]
    return [marked(trajectory) for trajectory in run_episodes(episodes, workers=4)]


def marked(trajectory: Trajectory) -> bytes:
    data = trajectory.to_dict()
    data["example"]["id"] += f"-{MARK}"
    data["example"]["question"] += f" ({MARK})"
    for step in data["steps"]:
        step["thought"] += f" ({MARK})"
    return jsonl.dumps(data).encode() + b"\n"


def generate(path: Path, n: int) -> None:
    patterns = [line.replace(MARK.encode(), b"%07d").replace(b"%07d", b"\0") for line in samples()]
    with path.open("wb", buffering=1 << 20) as file:
        file.writelines(patterns[at % len(patterns)].replace(b"\0", b"%07d" % at) for at in range(n))


def bound(path: Path, n: int = 20_000) -> float:
    """Lines a second that json.loads alone reads in one process, of processor time."""
    lines = [line for _, line in zip(range(n), path.open("rb"), strict=False)]
    started = time.process_time()
    for line in lines:
        json.loads(line)
    return len(lines) / (time.process_time() - started)


def measure(n: int, workers: int, folder: Path) -> dict[str, Any]:
    source = folder / "source.jsonl"
    generate(source, n)
    facts: dict[str, Any] = {"n": n, "workers": workers, "gigabytes": round(source.stat().st_size / 1e9, 2)}
    facts["json_loads_per_second_and_core"] = round(bound(source))
    before = os.times()
    started = time.perf_counter()
    config = MixConfig(sources=(str(source),), where=("correct", "steps<=8"), holdout=0.01, workers=workers)
    manifest = mix(config, folder / "mix")
    mixed = time.perf_counter()
    Rendering(folder / "mix", workers=workers).write(folder / "messages.jsonl", "messages")
    ended = time.perf_counter()
    after = os.times()
    own, child = (resource.getrusage(who).ru_maxrss / 1e6 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    processor = sum(after[:4]) - sum(before[:4])
    return facts | {
        "mixed": sum(count["n"] for count in manifest["counts"].values()),
        "history": manifest["history"],
        "mix_seconds": round(mixed - started, 1),
        "render_seconds": round(ended - mixed, 1),
        "per_second": round(n / (ended - started)),
        "processor_seconds": round(processor, 1),
        "per_processor_second": round(n / processor),
        "peak_gigabytes_main": round(own, 2),
        "peak_gigabytes_worker": round(child, 2),
        "peak_gigabytes_at_most": round(own + (child * workers if workers > 1 else 0), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        facts = measure(options.n, options.workers, Path(folder))
    if options.json:
        print(json.dumps(facts))
    else:
        print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    sys.exit(facts["per_second"] < WANTED or facts["peak_gigabytes_at_most"] > GIGABYTES)


if __name__ == "__main__":
    main()
