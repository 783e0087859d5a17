"""The verb ``tune``: trajectories become a file, the file a job at a provider, the job a model that ``eval`` can use.

    training.jsonl   the messages, with weight 0 on what is not to be learnt; checked before it is uploaded
    job.json         the name, the file and the job, written before and after each step: a crash never pays for two jobs
    events.jsonl     what the provider said of the job

Invariant: however often it is killed, one run directory makes one job, and none that its budget does not allow; Ctrl-C
stops following, not the job.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fireact import jsonl
from fireact.errors import BudgetError, ConfigError, DataError, ProviderError
from fireact.hosted.fireworks import FireworksProvider
from fireact.hosted.http import MissingError
from fireact.hosted.provider import ENDED, Job, Order, Provider, Quote
from fireact.hosted.wire import DIALECTS, Dialect, WireProvider
from fireact.models.limits import Amount
from fireact.progress import SILENT, Progress
from fireact.render.react import ReActRenderer
from fireact.store import MANIFEST, RunDir, absolute, read_config, typed
from fireact.training.run import learnable
from fireact.types import Trajectory, Usage

FILE, JOB, EVENTS = "training.jsonl", "job.json", "events.jsonl"
LETTERS = 4
"""Letters a token, for the estimate."""
KINDS = (*DIALECTS, "fireworks")
FREE = ("poll", "price", "budget")
"""Settings that do not change what is trained."""
PRICED = tuple(kind for kind, dialect in DIALECTS.items() if dialect.priced)
"""They tell a price once they have the file."""


@dataclass(frozen=True, slots=True)
class TuneConfig:
    """Settings of ``tune``: the mixture, ``KIND:MODEL[@BASE_URL]`` of openai, together or fireworks, and how the job is run.

    ``learning_rate``, ``rank`` (of LoRA; alpha is twice as much) and ``batch_size`` are the provider's own unless given.
    ``price`` is in US dollars a million trained tokens; without one, and where the provider tells none, the cost is said
    to be unknown. A ``budget`` (5usd or 200000tokens) that the estimate passes, or cannot be held against, stops the run
    before the job is made.
    """

    data: str
    model: str
    epochs: int = 3
    seed: int = 0
    learning_rate: float | None = None
    rank: int | None = None
    batch_size: int | None = None
    price: float | None = None
    budget: str | None = None
    poll: float = 10.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", absolute(self.data))
        kind, _, _ = split(self.model)
        takes = _of(kind).takes
        for name, over in (("learning_rate", 1), ("rank", math.inf), ("batch_size", math.inf)):
            value = getattr(self, name)
            if value is None:
                continue
            if name not in takes:
                raise ConfigError(
                    f"{kind} chooses {name} itself. Leave it out; what may be chosen there: epochs, {', '.join(takes)}."
                )
            if not 0 < value < over:
                raise ConfigError(
                    f"{name} is {value}; it must be above 0{'' if over == math.inf else f', below {over}'}."
                )
        if self.seed and "seed" not in takes:
            raise ConfigError(f"{kind} takes no seed. Leave it out.")
        if self.epochs < 1 or self.poll <= 0:
            raise ConfigError(f"epochs is {self.epochs} and poll {self.poll}; both must be above 0.")
        if self.price is not None and not 0 <= self.price < math.inf:
            raise ConfigError(f"price is {self.price}; it is dollars a million tokens, 0 or more.")
        if self.budget is not None and Amount.parse(self.budget).unit == "calls":
            raise ConfigError(f"budget {self.budget!r} counts calls; a job is measured in dollars or tokens.")


def tune(config: TuneConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Follow the job of a run directory to its model, making it where there is none yet, and return the manifest.

    Raises DataError for a file that would be rejected, BudgetError before a job that would pass the budget,
    ProviderError for a job that failed.
    """
    provider, model = from_spec(config.model, pause=min(1.0, config.poll))
    if force:
        _refuse_to_forget(out)
    with RunDir(out, verb="tune", settings=asdict(config), force=force, free=FREE) as run:
        if run.complete:
            return run.manifest
        uploaded = "file" in _state(run.path) and (run.path / FILE).is_file()
        rows = list(jsonl.read(run.path / FILE)) if uploaded else written(config, run.path / FILE, provider, progress)
        facts = _facts(config, rows)
        order = Order(
            model=model, name=_name(run.path), epochs=config.epochs, seed=config.seed,
            learning_rate=config.learning_rate, rank=config.rank, batch_size=config.batch_size,
        )  # fmt: skip
        job = made(provider, run.path, order, config=config, facts=facts, progress=progress)
        try:
            job = followed(provider, job, run.path, poll=config.poll, progress=progress)
        except KeyboardInterrupt:
            progress.say(
                f"tune: job {job.id} goes on at {provider.url}, and is paid for. Follow it again: fireact resume {typed(out)}. "
                f"Stop it: fireact cancel {typed(out)}"
            )
            raise
        if job.status != "succeeded" or not job.model:
            raise ProviderError(
                f"job {job.id} at {provider.url} {job.status}: {job.error or 'no reason was given'}. "
                "Order another with --force."
            )
        paid = job.cost if job.cost is not None else _dollars(job.tokens, config.price)
        tokens = "" if job.tokens is None else f"{job.tokens:,} tokens, "
        progress.say(f"tune: {job.model} is there; {tokens}{_cost(paid)}")
        return run.finish(
            student=model, model=job.model, agent=provider.agent(job.model), provider=config.model.partition(":")[0],
            job=job.id, estimate=facts, trained_tokens=job.tokens, cost_usd=paid,
        )  # fmt: skip


def cancel(out: Path) -> Job:
    """Ask for the job of a run directory to be stopped. Raises DataError where it has none."""
    settings = read_config(out)
    if settings.get("verb") != "tune":
        raise DataError(
            f"{out} is a directory of 'fireact {settings.get('verb')}'; only jobs at a provider are cancelled."
        )
    provider, _ = from_spec(str(settings["model"]))
    job = _ordered(provider, _state(out))
    if job is None:
        raise DataError(f"{out} has no job yet, so nothing is paid for.")
    return provider.cancel(job.id)


def _ordered(provider: Provider, state: dict[str, Any]) -> Job | None:
    """The job that a run directory has; a crash may have come between making it and noting it."""
    if "job" in state:
        return provider.job(str(state["job"]))
    return provider.find(str(state["file"]), str(state["name"])) if "file" in state else None


def _refuse_to_forget(out: Path) -> None:
    """Raise ConfigError where ``--force`` would delete the only note of a job that goes on and is paid for."""
    if not (out / JOB).exists() or (out / MANIFEST).exists():
        return
    provider, _ = from_spec(str(read_config(out)["model"]))
    try:
        job = _ordered(provider, _state(out))
    except MissingError:
        return
    if job is not None and job.status not in ENDED:
        raise ConfigError(
            f"job {job.id} of {out} is {job.status} at {provider.url}, and is paid for; --force would forget it. Follow it: "
            f"fireact resume {typed(out)}. Stop it: fireact cancel {typed(out)}"
        )


def expected(config: TuneConfig) -> dict[str, Any]:
    """What a job will take, before anything is sent: samples, tokens of all epochs, dollars.

    Raises DataError for a file that would be rejected.
    """
    rows = list(map(row_of, learnable(Path(config.data))))
    kind, _, _ = split(config.model)
    check(rows, fewest=_of(kind).fewest)
    return _facts(config, rows)


def split(spec: str) -> tuple[str, str, str]:
    """Kind, model and base URL of ``KIND:MODEL[@BASE_URL]``. Raises ConfigError."""
    kind, _, rest = spec.partition(":")
    model, _, url = rest.partition("@")
    if kind not in KINDS or not model:
        raise ConfigError(
            f"hosted training {spec!r} is not of the form KIND:MODEL[@BASE_URL], where KIND is {', '.join(KINDS)}."
        )
    if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
        raise ConfigError(
            f"{url!r} is no address of a provider. Give one such as https://NAME.openai.azure.com/openai/v1, or leave it out."
        )
    return kind, model, url


def _of(kind: str) -> Dialect | type[FireworksProvider]:
    """What is known of a kind of provider before it is asked: the fewest samples, and which settings it takes."""
    return DIALECTS.get(kind, FireworksProvider)


def from_spec(spec: str, *, pause: float = 1.0) -> tuple[Provider, str]:
    """The provider and the base model of ``KIND:MODEL[@BASE_URL]``. Raises ConfigError."""
    kind, model, url = split(spec)
    return (FireworksProvider(url, pause=pause) if kind == "fireworks" else WireProvider(kind, url, pause=pause)), model


def written(config: TuneConfig, file: Path, provider: Provider, progress: Progress) -> list[dict[str, Any]]:
    """Write and check the training file; returns its samples. Once it is uploaded, it is not written again."""
    rows = list(map(row_of, learnable(Path(config.data), progress)))
    check(rows, fewest=provider.fewest)
    jsonl.write(file, rows)
    return rows


def _facts(config: TuneConfig, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Samples, tokens and cost, all epochs counted."""
    letters = sum(len(message["content"]) for row in rows for message in row["messages"])
    tokens = letters // LETTERS * config.epochs
    return {"samples": len(rows), "tokens": tokens, "cost_usd": _dollars(tokens, config.price)}


def _dollars(tokens: int | None, price: float | None) -> float | None:
    return None if tokens is None or price is None else tokens * price / 1e6


def row_of(trajectory: Trajectory) -> dict[str, Any]:
    """One sample, to the last turn that is learnt; one before it that is not has the weight 0."""
    messages = []
    sample = ReActRenderer().sample(trajectory)
    odd = [message.weight for message in sample if message.weight != 1]
    if odd:
        raise DataError(
            f"{trajectory.key} has a step of weight {odd[0]:g}; providers know 0 and 1 alone. Set one of them."
        )
    for message in sample[: max((at for at, one in enumerate(sample, 1) if one.train), default=len(sample))]:
        entry: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.role == "assistant" and not message.train:
            entry["weight"] = 0
        messages.append(entry)
    return {"messages": messages}


def check(rows: list[dict[str, Any]], *, fewest: int) -> None:
    """Raise DataError for what providers reject, before it is uploaded."""
    if len(rows) < fewest:
        raise DataError(f"{len(rows)} samples; the provider asks for {fewest} at least. Mix more.")
    for number, row in enumerate(rows, 1):
        last = row["messages"][-1]
        if last["role"] != "assistant" or last.get("weight") == 0:
            raise DataError(f"sample {number} does not end with words of the student. Filter with --where finished.")
        if any(not message["content"].strip() for message in row["messages"]):
            raise DataError(f"sample {number} has an empty message. Repair or filter it.")


def made(
    provider: Provider, out: Path, order: Order, *, config: TuneConfig, facts: dict[str, Any], progress: Progress
) -> Job:
    """The job of the run directory: the one it has, or that was made before a crash, or a new one within the budget."""
    state = _state(out)
    if "job" in state:
        return provider.job(str(state["job"]))
    found = None
    if "file" in state:
        found = provider.find(str(state["file"]), order.name)
    else:
        progress.say(f"tune: {_estimate(facts)}")
        _allow(config, facts, asked=False)
        state["file"] = provider.upload(out / FILE, order.name)
        _keep(out, state)
    if found is None:
        quote = provider.quote(str(state["file"]), order)
        if quote != Quote():
            tokens = quote.tokens or facts["tokens"]
            cost = quote.cost if quote.cost is not None else _dollars(tokens, config.price)
            facts |= {"tokens": tokens, "cost_usd": cost}
            progress.say(f"tune: by the provider's reckoning {_estimate(facts)}")
        _allow(config, facts, asked=True)
        found = provider.create(str(state["file"]), order)
    _keep(out, state | {"job": found.id})
    progress.say(f"tune: job {found.id} at {provider.url}")
    return found


def _allow(config: TuneConfig, facts: dict[str, Any], *, asked: bool) -> None:
    """Raise BudgetError for more than the budget, or for a cost that is not known once the provider was ``asked``."""
    if config.budget is None:
        return
    amount = Amount.parse(config.budget)
    if amount.unit == "usd" and facts["cost_usd"] is None:
        if asked or split(config.model)[0] not in PRICED:
            raise BudgetError(
                f"the cost is not known, so a budget of {amount} cannot be kept; no job was made. Give --price, or a budget "
                "in tokens."
            )
        return
    needed = amount.of(Usage(prompt_tokens=facts["tokens"], cost=facts["cost_usd"]))
    if needed > amount.value:
        raise BudgetError(
            f"the job would take {amount.written(needed)}, more than the budget of {amount}; it was not made. Mix fewer "
            "trajectories, give fewer --epochs, or a larger --budget."
        )


def _estimate(facts: dict[str, Any]) -> str:
    return f"{facts['samples']} samples, about {facts['tokens']:,} tokens in all epochs, {_cost(facts['cost_usd'])}"


def followed(provider: Provider, job: Job, out: Path, *, poll: float, progress: Progress) -> Job:
    """Wait for the end of a job, saying what happens; nothing is said twice, also over several runs."""
    with jsonl.Appender(out / EVENTS) as file:
        seen = {str(row["id"]) for row in jsonl.read(out / EVENTS)}
        while True:
            for name, message in _new(provider, job.id, seen):
                file.append({"id": name, "message": message})
                progress.say(f"tune: {message}")
            if job.status in ENDED:
                return job
            time.sleep(poll)
            job = provider.job(job.id)


def _new(provider: Provider, id: str, seen: set[str]) -> Iterator[tuple[str, str]]:
    for name, message in provider.events(id, seen):
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
    """The name, file and job of a run directory, as far as there are any. Raises DataError when they cannot be read."""
    path = out / JOB
    try:
        state = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        state = error
    if not isinstance(state, dict):
        raise DataError(
            f"cannot read {path} ({state}); it says which job is paid for. Look the job up at the provider (its name begins "
            'with fireact-) and write {"name": NAME, "file": FILE, "job": ID} there, or cancel it and begin anew in another -o.'
        )
    return state


def _keep(out: Path, state: dict[str, Any]) -> None:
    jsonl.replace_text(out / JOB, json.dumps(state) + "\n")


def _cost(dollars: float | None) -> str:
    return "its cost is not known (give --price)" if dollars is None else f"about ${dollars:,.2f}"
