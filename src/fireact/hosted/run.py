"""The verb ``tune``: trajectories become a file, the file a job at a provider, the job a model that ``eval`` can use.

    training.jsonl   the messages, with weight 0 on what is not to be learnt; checked before it is uploaded
    job.json         the name, the file and the job, written before and after each step: a crash never pays for two jobs
    events.jsonl     what the provider said of the job

Invariant: however often it is killed, one run directory makes one job; Ctrl-C stops following, not the job.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fireact import jsonl
from fireact.errors import ConfigError, DataError, ProviderError
from fireact.hosted.provider import ENDED, Job, Order, Provider
from fireact.hosted.wire import from_spec
from fireact.progress import SILENT, Progress
from fireact.render.react import ReActRenderer
from fireact.store import RunDir, absolute, read_trajectories
from fireact.types import Trajectory

FILE, JOB, EVENTS = "training.jsonl", "job.json", "events.jsonl"
FEWEST = 10
"""Samples that providers ask for at least."""
LETTERS = 4
"""Letters a token, for the estimate."""


@dataclass(frozen=True, slots=True)
class TuneConfig:
    """Settings of ``tune``: the mixture, ``openai:MODEL[@BASE_URL]`` or ``together:MODEL``, and how the job is run.

    ``price`` is in US dollars a million trained tokens; without one the cost is said to be unknown.
    """

    data: str
    model: str
    epochs: int = 3
    seed: int = 0
    price: float | None = None
    poll: float = 10.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", absolute(self.data))
        if self.epochs < 1 or self.poll <= 0:
            raise ConfigError(f"epochs is {self.epochs} and poll {self.poll}; both must be above 0.")


def tune(config: TuneConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Follow the job of a run directory to its model, making it where there is none yet, and return the manifest.

    Raises DataError for a file that would be rejected, ProviderError for a job that failed.
    """
    provider, model = from_spec(config.model)
    with RunDir(out, verb="tune", settings=asdict(config), force=force, free=("poll", "price")) as run:
        if run.complete:
            return run.manifest
        facts = written(config, run.path / FILE)
        progress.say(f"tune: {facts['samples']} samples, about {facts['tokens']:,} tokens, {_cost(facts['cost_usd'])}")
        job = started(
            provider, run.path, Order(model=model, name=_name(run.path), epochs=config.epochs, seed=config.seed)
        )
        try:
            job = followed(provider, job, run.path, poll=config.poll, progress=progress)
        except KeyboardInterrupt:
            progress.say(f"tune: job {job.id} goes on at {provider.url}. Follow it again: fireact resume {out}")
            raise
        if job.status != "succeeded" or not job.model:
            raise ProviderError(f"job {job.id} at {provider.url} {job.status}: {job.error or 'no reason was given'}")
        paid = None if job.tokens is None or config.price is None else job.tokens * config.price / 1e6
        kind = config.model.partition(":")[0]
        return run.finish(
            student=model, model=job.model, agent=f"openai:{job.model}@{provider.url}", provider=kind, job=job.id,
            estimate=facts, trained_tokens=job.tokens, cost_usd=paid,
        )  # fmt: skip


def cancel(out: Path) -> Job:
    """Ask for the job of a run directory to be stopped. Raises DataError where it has none."""
    from fireact.store import read_config

    state = _state(out)
    if "job" not in state:
        raise DataError(f"{out} has no job yet.")
    provider, _ = from_spec(str(read_config(out)["model"]))
    return provider.cancel(str(state["job"]))


def written(config: TuneConfig, file: Path) -> dict[str, Any]:
    """Write and check the training file; returns its samples, tokens and cost, all epochs counted."""
    rows = list(map(row_of, read_trajectories(Path(config.data))))
    check(rows)
    jsonl.write(file, rows)
    letters = sum(len(message["content"]) for row in rows for message in row["messages"])
    tokens = letters // LETTERS * config.epochs
    return {
        "samples": len(rows), "tokens": tokens, "cost_usd": None if config.price is None else tokens * config.price / 1e6,
    }  # fmt: skip


def row_of(trajectory: Trajectory) -> dict[str, Any]:
    """One sample; a turn that is not to be learnt has the weight 0."""
    messages = []
    for message in ReActRenderer().sample(trajectory):
        entry: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.role == "assistant" and not message.train:
            entry["weight"] = 0
        messages.append(entry)
    return {"messages": messages}


def check(rows: list[dict[str, Any]]) -> None:
    """Raise DataError for what providers reject, before it is uploaded."""
    if len(rows) < FEWEST:
        raise DataError(f"{len(rows)} samples; providers ask for {FEWEST} at least. Mix more.")
    for number, row in enumerate(rows, 1):
        last = row["messages"][-1]
        if last["role"] != "assistant" or last.get("weight") == 0:
            raise DataError(f"sample {number} does not end with words of the student. Filter with --where finished.")
        if any(not message["content"].strip() for message in row["messages"]):
            raise DataError(f"sample {number} has an empty message. Repair or filter it.")


def started(provider: Provider, out: Path, order: Order) -> Job:
    """The job of the run directory: the one it has, or that was made before a crash, or a new one."""
    state = _state(out)
    if "job" in state:
        return provider.job(str(state["job"]))
    found = provider.find(order.name) if "file" in state else None
    if found is None:
        if "file" not in state:
            state["file"] = provider.upload(out / FILE)
            _keep(out, state)
        found = provider.create(str(state["file"]), order)
    _keep(out, state | {"job": found.id})
    return found


def followed(provider: Provider, job: Job, out: Path, *, poll: float, progress: Progress) -> Job:
    """Wait for the end of a job, saying what happens; nothing is said twice, also over several runs."""
    seen = {str(row["id"]) for row in jsonl.read(out / EVENTS)} if (out / EVENTS).exists() else set()
    with jsonl.Appender(out / EVENTS) as file:
        while True:
            for name, message in _new(provider, job.id, seen):
                file.append({"id": name, "message": message})
                progress.say(f"tune: {message}")
            if job.status in ENDED:
                return job
            time.sleep(poll)
            job = provider.job(job.id)


def _new(provider: Provider, id: str, seen: set[str]) -> Iterator[tuple[str, str]]:
    for name, message in provider.events(id):
        if name not in seen:
            seen.add(name)
            yield name, message


def _name(out: Path) -> str:
    """What marks the job; drawn once and kept before anything is created."""
    state = _state(out)
    if "name" not in state:
        state["name"] = f"fireact-{uuid.uuid4().hex[:10]}"
        _keep(out, state)
    return str(state["name"])


def _state(out: Path) -> dict[str, Any]:
    path = out / JOB
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return state


def _keep(out: Path, state: dict[str, Any]) -> None:
    jsonl.replace_text(out / JOB, json.dumps(state) + "\n")


def _cost(dollars: float | None) -> str:
    return "its price is not known (give --price)" if dollars is None else f"about ${dollars:,.2f}"
