"""The verb ``tune``: fine-tunes a model at a provider on trajectories, for ``eval`` and other verbs to use.

    training.jsonl   the messages, with weight 0 where nothing is to be learnt; checked before the upload
    job.json         the name, the file and the job, written before and after each step: a crash never pays for two jobs
    events.jsonl     the provider's events of the job

Invariant: a run directory creates at most one job, however often it is killed, and none beyond its budget. Ctrl-C
stops following the job, not the job itself.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fireact.base import jsonl, names
from fireact.base.cost import CostEstimate
from fireact.base.foreign_names import refuse_foreign_names
from fireact.base.http import show_address
from fireact.base.keys import refuse_key_in_address
from fireact.base.progress import SILENT, Progress
from fireact.base.run_directory import MANIFEST, RunDir, absolute_path, read_config, shell_path
from fireact.base.settings import AGENT, check_settings, setting
from fireact.base.verbs import Verb
from fireact.data.recorded_calls import RENDERER
from fireact.errors import BudgetError, ConfigError, DataError, ProviderError
from fireact.hosted.provider import (
    ENDED_STATUSES,
    Job,
    JobQuote,
    JobRequest,
    NotFoundError,
    Provider,
    ProviderFactory,
)
from fireact.hosted.training_rows import build_training_rows, check_training_rows, count_row_chars
from fireact.models.limits import BudgetAmount
from fireact.rollout.estimate import CHARS_PER_TOKEN
from fireact.training.train import load_learnable, require_data
from fireact.training.trained_questions import hash_trained_questions, write_trained_questions
from fireact.types import Usage

FILE, JOB, EVENTS, STUDENT = "training.jsonl", "job.json", "events.jsonl", "student.json"
COST, SCHEDULE = "Cost", "Schedule"
"""Headings of options."""
NEUTRAL_SETTINGS = ("poll", "price", "budget")
"""Settings that do not change what is trained."""


@dataclass(frozen=True, slots=True)
class TuneConfig:
    """Settings of ``tune``: the mixture, the model, and the job's; what is left out has the provider's default.

    Without a ``price`` the cost is unknown unless the provider quotes one. The run stops before the job where the
    estimate passes the ``budget``, or where the cost is unknown and the budget in dollars.
    """

    data: str = setting(normalise=absolute_path, is_path=True)
    """Trajectories in any format that 'convert' reads, or a directory of 'fireact mix' or 'collect'."""
    model: str = setting()
    """The provider and its base model: openai:MODEL[@BASE_URL], together:, fireworks: or module:attribute:MODEL."""
    renderer: str = setting("auto", choices=("auto", "react", RENDERER), panel=AGENT)
    """react (actions as text) or recorded (what a recorded agent sends). auto: recorded for recordings, else react."""
    epochs: int = setting(3, low=1, panel=SCHEDULE)
    """Passes over the data."""
    seed: int = setting(0, panel=SCHEDULE)
    """Seed of the job, where the provider takes one."""
    learning_rate: float | None = setting(None, flags=("--lr",), above=0, below=1, panel=SCHEDULE)
    """Highest learning rate, where the provider takes one."""
    rank: int | None = setting(None, above=0, panel=SCHEDULE)
    """Rank of LoRA, where the provider takes one; alpha is twice the rank."""
    batch_size: int | None = setting(None, above=0, panel=SCHEDULE)
    """Trajectories in an optimizer step, where the provider takes it."""
    price: float | None = setting(None, low=0, panel=COST)
    """Dollars a million tokens that the provider trains on."""
    budget: str | None = setting(None, panel=COST)
    """5usd or 200000tokens; a job that would take more is not made."""
    poll: float = setting(10.0, above=0, is_option=False)
    """Seconds between two questions about the job."""

    def __post_init__(self) -> None:
        kind, _, _ = split_provider_spec(str(self.model))
        accepted = load_provider_factory(kind).accepted_settings
        for name in ("learning_rate", "rank", "batch_size"):
            if getattr(self, name) is not None and name not in accepted:
                raise ConfigError(
                    f"{kind} chooses {name} itself. Leave it out; what may be chosen there: epochs, "
                    f"{', '.join(accepted)}."
                )
        check_settings(self, "tune")
        if self.seed and "seed" not in accepted:
            raise ConfigError(f"{kind} takes no seed. Leave it out.")
        if self.budget is not None and BudgetAmount.parse(self.budget).unit == "calls":
            raise ConfigError(f"budget {self.budget!r} counts calls; a job is measured in dollars or tokens.")


@dataclass(frozen=True, slots=True)
class JobEstimate:
    """What a job takes, all epochs counted: samples, trained tokens, and dollars (None where no price is known)."""

    samples: int
    tokens: int
    cost_usd: float | None

    def __str__(self) -> str:
        cost = _describe_cost(self.cost_usd)
        return f"{self.samples} samples, about {self.tokens:,} tokens in all epochs, {cost}"


@dataclass(frozen=True, slots=True)
class JobState:
    """What ``job.json`` holds: the name of the job, which is drawn once, its file and the job; empty until known."""

    name: str = ""
    file: str = ""
    job: str = ""

    @classmethod
    def read(cls, out: Path) -> JobState:
        """The state of a run directory. Raises DataError when it cannot be read."""
        path = out / JOB
        try:
            state = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except (OSError, ValueError) as error:
            state = error
        if not isinstance(state, dict):
            raise DataError(
                f"cannot read {path} ({state}); it says which job is paid for. Look the job up at the provider (its "
                'name begins with fireact-) and write {"name": NAME, "file": FILE, "job": ID} there, or cancel it and '
                "begin anew in another -o."
            )
        return cls(**{entry.name: str(state[entry.name]) for entry in fields(cls) if entry.name in state})

    def write(self, out: Path) -> JobState:
        """Store the state in a run directory and return it."""
        state = {name: value for name, value in asdict(self).items() if value}
        jsonl.replace_text(out / JOB, json.dumps(state) + "\n")
        return self

    def find_job(self, provider: Provider) -> Job | None:
        """The job; it may exist unrecorded, where a crash came right after its creation."""
        if self.job:
            return provider.job(self.job)
        return provider.find(self.file, self.name) if self.file else None


def tune(config: TuneConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Create the job of a run directory unless it exists, follow it to its model, and return the manifest.

    Raises DataError for a file that would be rejected, BudgetError before a job that would pass the budget,
    ProviderError for a job that failed.
    """
    if not (out / FILE).is_file():  # an uploaded file is followed without the data
        require_data(Path(config.data))
    provider, model = load_provider(config.model, pause=min(1.0, config.poll))
    if force:
        _refuse_to_forget(out)
    with RunDir(out, verb="tune", settings=config, force=force, neutral=NEUTRAL_SETTINGS) as run:
        if run.complete:
            return run.manifest
        state = JobState.read(run.path)
        if not state.name:  # stored before anything is created
            state = replace(state, name=f"fireact-{uuid.uuid4().hex[:10]}").write(run.path)
        uploaded = state.file and (run.path / FILE).is_file()
        rows = (
            list(jsonl.read_objects(run.path / FILE))
            if uploaded
            else write_training_file(config, run.path / FILE, provider, progress)
        )
        job_request = JobRequest(
            model=model, name=state.name, epochs=config.epochs, seed=config.seed,
            learning_rate=config.learning_rate, rank=config.rank, batch_size=config.batch_size,
        )  # fmt: skip
        job, estimate = find_or_create_job(
            provider, run.path, job_request, config=config, estimate=_estimate_rows(config, rows), progress=progress
        )
        try:
            job = follow_job(provider, job, run.path, poll=config.poll, progress=progress)
        except KeyboardInterrupt:
            progress.say(
                f"tune: job {job.id} is still running at {provider.url}, and costs money. Follow it again: "
                f"fireact resume {shell_path(out)}. Stop it: fireact cancel {shell_path(out)}"
            )
            raise
        if job.status != "succeeded" or not job.model:
            raise ProviderError(
                f"job {job.id} at {provider.url} {job.status}: {job.error or 'no reason was given'}. "
                "Order another with --force."
            )
        paid = job.cost if job.cost is not None else _cost_of_tokens(job.tokens, config.price)
        tokens = "" if job.tokens is None else f"{job.tokens:,} tokens, "
        progress.say(f"tune: {job.model} is there; {tokens}{_describe_cost(paid)}")
        return run.finish(
            student=model, model=job.model, agent=provider.agent(job.model),
            provider=split_provider_spec(config.model)[0], job=job.id, estimate=asdict(estimate),
            trained_tokens=job.tokens, cost_usd=paid, **_read_student_fields(run.path),
        )  # fmt: skip


def cancel_job(out: Path) -> Job:
    """Ask for the job of a run directory to be stopped. Raises DataError where it has none."""
    settings = read_config(out)
    if settings.get("verb") != "tune":
        raise DataError(
            f"{out} is a directory of 'fireact {settings.get('verb')}'; only jobs at a provider are cancelled."
        )
    refuse_foreign_names(out, settings)
    provider, _ = load_provider(str(settings["model"]))
    job = JobState.read(out).find_job(provider)
    if job is None:
        raise DataError(f"{out} has no job yet, so nothing is paid for.")
    return provider.cancel(job.id)


def _refuse_to_forget(out: Path) -> None:
    """Raise ConfigError where ``--force`` would delete the only record of a running job, which is paid for."""
    if not (out / JOB).exists() or (out / MANIFEST).exists():
        return
    settings = read_config(out)
    refuse_foreign_names(out, settings)
    provider, _ = load_provider(str(settings["model"]))
    try:
        job = JobState.read(out).find_job(provider)
    except NotFoundError:
        return
    if job is not None and job.status not in ENDED_STATUSES:
        raise ConfigError(
            f"job {job.id} of {out} is {job.status} at {provider.url}, and costs money; --force would forget it. "
            f"Follow it: fireact resume {shell_path(out)}. Stop it: fireact cancel {shell_path(out)}"
        )


def estimate_job(config: TuneConfig) -> CostEstimate:
    """The cost estimate of a job before anything is sent: samples, tokens of all epochs, dollars.

    Raises DataError for a file that would be rejected.
    """
    data = Path(config.data)
    rows, _ = build_training_rows(load_learnable(data), config.renderer, data)
    kind, _, _ = split_provider_spec(config.model)
    check_training_rows(rows, min_samples=load_provider_factory(kind).min_samples)
    estimate = _estimate_rows(config, rows)
    prices = {f"the price of a trained token of {config.model}": estimate.cost_usd}
    return CostEstimate.from_terms(dollars=prices, tokens={"": estimate.tokens}, details=asdict(estimate))


def split_provider_spec(spec: str) -> tuple[str, str, str]:
    """Kind, model and base URL of ``KIND:MODEL[@BASE_URL]``; KIND is a name or module:attribute. Raises ConfigError."""
    kind, model, url = names.split_model_spec(spec)
    known_kinds = names.known_names("provider")
    if kind not in known_kinds and ":" in model:
        attribute, _, model = model.partition(":")
        kind = f"{kind}:{attribute}"
    if (kind not in known_kinds and ":" not in kind) or not model:
        raise ConfigError(
            f"hosted training {spec!r} is not of the form KIND:MODEL[@BASE_URL], where KIND is "
            f"{', '.join(known_kinds)} or module:attribute."
        )
    refuse_key_in_address(url)
    if url and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
        raise ConfigError(
            f"{show_address(url)!r} is no address of a provider. Give one such as "
            "https://NAME.openai.azure.com/openai/v1, or leave it out."
        )
    return kind, model, url


def is_provider_spec(spec: str) -> bool:
    """Whether the name of a model is one at a provider, such as together:MODEL or module:attribute:MODEL."""
    kind, _, model_and_url = spec.partition(":")
    return kind in names.known_names("provider") or ":" in model_and_url.partition("@")[0]


def load_provider_factory(kind: str) -> ProviderFactory:
    """What makes the providers of a kind: an entry point of ``fireact.providers``, or module:attribute."""
    factory: ProviderFactory = names.resolve_plugin("provider", kind)
    names.require_attributes("provider", kind, factory, "min_samples", "accepted_settings", "priced")
    return factory


def load_provider(spec: str, *, pause: float = 1.0) -> tuple[Provider, str]:
    """The provider and the base model of ``KIND:MODEL[@BASE_URL]``. Raises ConfigError."""
    kind, model, url = split_provider_spec(spec)
    return load_provider_factory(kind)(url, pause=pause), model


def write_training_file(config: TuneConfig, file: Path, provider: Provider, progress: Progress) -> list[dict[str, Any]]:
    """Write and check the training file, and return its samples; an uploaded file is never written again."""
    trajectories = load_learnable(Path(config.data), progress)
    rows, student_fields = build_training_rows(trajectories, config.renderer, Path(config.data), progress)
    check_training_rows(rows, min_samples=provider.min_samples)
    jsonl.write_objects(file, rows)
    write_trained_questions(file.parent, hash_trained_questions(trajectories))
    if student_fields:
        jsonl.replace_text(file.with_name(STUDENT), json.dumps(student_fields) + "\n")
    return rows


def _read_student_fields(out: Path) -> dict[str, Any]:
    """What the manifest tells of a student of a recorded agent: its renderer, tools and prompt."""
    file = out / STUDENT
    fields: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return fields


def _estimate_rows(config: TuneConfig, rows: list[dict[str, Any]]) -> JobEstimate:
    """Samples, tokens and cost, all epochs counted."""
    char_count = sum(count_row_chars(row) for row in rows)
    tokens = char_count // CHARS_PER_TOKEN * config.epochs
    return JobEstimate(len(rows), tokens, _cost_of_tokens(tokens, config.price))


def _cost_of_tokens(tokens: int | None, price: float | None) -> float | None:
    return None if tokens is None or price is None else tokens * price / 1e6


def find_or_create_job(
    provider: Provider,
    out: Path,
    job_request: JobRequest,
    *,
    config: TuneConfig,
    estimate: JobEstimate,
    progress: Progress,
) -> tuple[Job, JobEstimate]:
    """The job of the run directory: the recorded one, one from before a crash, or a new one within the budget.

    Its estimate comes with it, which is the provider's own where a new job is created and the provider quotes one.
    """
    state = JobState.read(out)
    job = state.find_job(provider)
    if state.job and job is not None:
        return job, estimate
    if not state.file:
        progress.say(f"tune: {estimate}")
        _require_within_budget(config, estimate, is_final=False)
        state = replace(state, file=provider.upload(out / FILE, job_request.name)).write(out)
    if job is None:
        quote = provider.quote(state.file, job_request)
        if quote != JobQuote():
            tokens = quote.tokens or estimate.tokens
            cost = quote.cost if quote.cost is not None else _cost_of_tokens(tokens, config.price)
            estimate = JobEstimate(estimate.samples, tokens, cost)
            progress.say(f"tune: by the provider's reckoning {estimate}")
        _require_within_budget(config, estimate, is_final=True)
        job = provider.create(state.file, job_request)
    replace(state, job=job.id).write(out)
    progress.say(f"tune: job {job.id} at {provider.url}")
    return job, estimate


def _require_within_budget(config: TuneConfig, estimate: JobEstimate, *, is_final: bool) -> None:
    """Raise BudgetError where the estimate passes the budget, or where the cost is unknown at the final check."""
    if config.budget is None:
        return
    amount = BudgetAmount.parse(config.budget)
    if amount.unit == "usd" and estimate.cost_usd is None:
        if is_final or not load_provider_factory(split_provider_spec(config.model)[0]).priced:
            raise BudgetError(
                f"the cost is not known, so a budget of {amount} cannot be kept; no job was made. Give --price, or a "
                "budget in tokens."
            )
        return
    needed = amount.measure(Usage(prompt_tokens=estimate.tokens, cost=estimate.cost_usd))
    if needed > amount.value:
        raise BudgetError(
            f"the job would take {amount.format_value(needed)}, more than the budget of {amount}; it was not made. Mix "
            "fewer trajectories, give fewer --epochs, or a larger --budget."
        )


def follow_job(provider: Provider, job: Job, out: Path, *, poll: float, progress: Progress) -> Job:
    """Wait for the end of a job and report its events; each is reported once, also over several runs.

    ``poll`` is the longest pause in seconds; the first ones are shorter, so that a short job is not waited for.
    """
    pause = 0.1
    with jsonl.Appender(out / EVENTS) as file:
        seen_ids = {str(row["id"]) for row in jsonl.read_objects(out / EVENTS)}
        while True:
            for name, message in _new_events(provider, job.id, seen_ids):
                file.append({"id": name, "message": message})
                progress.say(f"tune: {message}")
            if job.status in ENDED_STATUSES:
                return job
            time.sleep(min(pause, poll))
            pause *= 2
            job = provider.job(job.id)


def _new_events(provider: Provider, id: str, seen_ids: set[str]) -> Iterator[tuple[str, str]]:
    for name, message in provider.events(id, seen_ids):
        if name not in seen_ids:
            seen_ids.add(name)
            yield name, message


def _describe_cost(dollars: float | None) -> str:
    return "its cost is not known (give --price)" if dollars is None else f"about ${dollars:,.2f}"


TUNE = Verb(
    "tune", TuneConfig, tune, out="runs/tune", neutral=NEUTRAL_SETTINGS, estimate=estimate_job,
    example="`fireact tune runs/mix openai:gpt-4.1-mini-2025-04-14 --budget 5usd -o runs/tune`",
)  # fmt: skip
