"""The verb ``record``: writes ``calls.jsonl`` while an agent makes calls, and ``trajectories.jsonl`` as episodes end.

Invariant: a call is on disk before its client has seen the end of the reply, and the trajectories depend on the calls
alone. So the proxy may be killed at any moment: ``conclude`` (``fireact resume``) builds the same trajectories from the
logged calls, and recording can be resumed in the same directory. Scores stay valid while their episode does not change.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fireact.base import jsonl
from fireact.base.listening import RunningServer, bind_socket, is_loopback, socket_address
from fireact.base.progress import SILENT, Progress
from fireact.base.run_directory import MANIFEST, TRAJECTORIES, RunDir, absolute_path, read_trajectories
from fireact.base.settings import check_settings, replace_fields, setting
from fireact.base.verbs import Verb
from fireact.errors import ConfigError, DataError, describe_unknown_name, unknown_name_error
from fireact.models.prices import TokenPrice, find_price
from fireact.recording.calls import RecordedCall
from fireact.recording.conversations import TurnIndex
from fireact.recording.endings import describe_endings
from fireact.recording.feedback import Feedback, read_feedback
from fireact.recording.proxy import RecordingProxy, Upstream, parse_base_url
from fireact.recording.trajectories import FindPrice, build_trajectory, measure_usage
from fireact.rollout.episode_facts import read_episode_facts, summarise_episodes
from fireact.types import Trajectory, Usage
from fireact.wire.chat_completions import CHAT_COMPLETIONS
from fireact.wire.dialect import WireRequest
from fireact.wire.dialects import DIALECTS
from fireact.wire.messages import MESSAGES
from fireact.wire.responses import RESPONSES
from fireact.wire.schemas import FINISH_NAMES

CALLS, FEEDBACK, CONVERSATIONS = "calls.jsonl", "feedback.jsonl", "conversations.jsonl"
FREE = ("finish", "host", "port", "idle", "timeout", "concurrency", "max_body", "prices", "teacher_license")
"""Settings that do not change what is recorded; the trajectories are built with the present ones."""
PROVIDERS = {
    CHAT_COMPLETIONS.name: "https://api.openai.com/v1",
    RESPONSES.name: "https://api.openai.com/v1",
    MESSAGES.name: "https://api.anthropic.com/v1",
}
"""The endpoint of each dialect where the settings name none."""
EPISODES, PROXY = "Episodes", "Proxy"
"""Headings of options."""
UNKNOWN_PRICE = TokenPrice(lambda usage: None)
MAX_ERRORS = 10
"""Errors of calls that a manifest names, the most frequent first."""
MAX_REQUEST_KINDS = 50
"""Kinds of requests that are counted apart."""
REWRITE_PAUSE = 50
"""How much longer than a rewriting of the trajectories the pause after it is."""


def _parse_upstream_for(text: str) -> tuple[str, str]:
    name, separator, url = text.partition("=")
    if not separator:
        raise ConfigError(f"--upstream-for {text!r} is no DIALECT=URL, such as messages=https://api.anthropic.com/v1.")
    return name, url


@dataclass(frozen=True, slots=True)
class RecordConfig:
    """Settings of ``record``; an episode is written again if it continues."""

    upstream: str | None = setting(None, flags=("--upstream", "-u"), normalise=parse_base_url)
    """Base URL of the endpoint that the agent uses now. Default: OpenAI, and Anthropic for Messages."""
    upstream_for: Mapping[str, str] = setting(factory=dict, flags=("--upstream-for",), parse=_parse_upstream_for)
    """Base URL for one dialect, such as messages=URL (chat-completions, responses, messages); repeatable."""
    task: str = setting("recorded", flags=("--task", "-t"), panel=EPISODES)
    """Name of the task in the trajectories."""
    finish: Sequence[str] = setting(FINISH_NAMES, panel=EPISODES)
    """Tool by which the agent gives its answer; repeatable. Default: final_answer, final_result, finish, ..."""
    host: str = setting("127.0.0.1", panel=PROXY)
    """Address to listen on; beyond loopback others can use it."""
    port: int = setting(8100, panel=PROXY)
    """Port; 0 takes a free one."""
    idle: float = setting(30.0, panel=EPISODES, above=0)
    """Seconds without a call after which an episode is written."""
    timeout: float = setting(600.0, panel=PROXY, above=0)
    """Idle timeout: the seconds for which the endpoint may stay silent."""
    concurrency: int = setting(256, panel=PROXY, above=0)
    """Calls under way at a time; more wait their turn."""
    max_body: int = setting(64_000_000, panel=PROXY, above=0)
    """Bytes of a request, and bytes that are kept of a reply."""
    prices: str | None = setting(None, panel=PROXY, is_path=True, normalise=absolute_path)
    """TOML file with prices of your own. Default: FIREACT_PRICES, then genai-prices."""
    teacher_license: str = setting("", panel=EPISODES)
    """Licence or terms of the model's answers, such as apache-2.0; the manifest keeps it."""

    def __post_init__(self) -> None:
        check_settings(self, "record")
        if not self.task or not self.finish:
            raise ConfigError("record needs a name for --task and at least one --finish.")
        for name in self.upstream_for:
            if name.replace("-", " ") not in PROVIDERS:
                known_names = [known.replace(" ", "-") for known in PROVIDERS]
                raise unknown_name_error("dialect of --upstream-for", name, known_names)
        urls = {name: parse_base_url(url, "--upstream-for") for name, url in self.upstream_for.items()}
        replace_fields(self, upstream_for=urls)

    @property
    def urls(self) -> dict[str, str]:
        """The base URL of each dialect."""
        own_urls = {name.replace("-", " "): url for name, url in self.upstream_for.items()}
        return {name: own_urls.get(name) or self.upstream or default for name, default in PROVIDERS.items()}

    def price(self) -> FindPrice:
        """A function from a model's name and a dialect to the price at its upstream; each price is looked up once."""
        table, urls = Path(self.prices) if self.prices else None, self.urls

        @functools.cache
        def look_up(model: str, dialect: str) -> TokenPrice:
            price = find_price(model, urls[dialect], table=table)
            return price if price.is_known else UNKNOWN_PRICE

        return look_up


@dataclass(frozen=True, slots=True)
class RecordingStatus:
    """How far a recording is: its calls by dialect, its errors by text, and the requests that it did not record."""

    episodes: int
    calls: Mapping[str, int]
    usage: Usage
    last_question: str
    errors: Mapping[str, int]
    unrecorded: Mapping[str, int]


class Recording:
    """The log and the trajectories of an open run directory; only the proxy's thread may add calls."""

    def __init__(self, config: RecordConfig, path: Path, progress: Progress = SILENT) -> None:
        self._config, self._path, self._progress = config, path, progress
        self._price = config.price()
        self._price("", CHAT_COMPLETIONS.name)  # reads the table of prices now, so that no call waits for it
        self._finish_tools = frozenset(config.finish)
        self._changed: dict[str, float] = {}
        self.book = TurnIndex()
        jsonl.cut_torn_tail(path / TRAJECTORIES)
        jsonl.cut_torn_tail(path / CALLS)
        jsonl.cut_torn_tail(path / FEEDBACK)
        jsonl.cut_torn_tail(path / CONVERSATIONS)
        self._calls: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._unrecorded: Counter[str] = Counter()
        self._usage, self._last_question = Usage(), ""
        self._feedback: dict[str, list[Feedback]] = defaultdict(list)
        self._newly_scored: set[str] = set()
        self._next_rewrite = 0.0
        self._running: dict[str, RecordedCall] = {}
        self._reads: dict[int, tuple[Mapping[str, Any], tuple[WireRequest, tuple[str, ...]]]] = {}
        for call in replay_calls(path, self.book):
            self._add(call)
        for entry in read_feedback_log(path / FEEDBACK):
            self._feedback[entry.episode].append(entry)
        self._changed.clear()
        file = path / TRAJECTORIES
        self._written_ids = (
            {trajectory.example.id for trajectory in read_trajectories(file)} if file.exists() else set()
        )
        self._log = jsonl.Appender(path / CALLS)

    @property
    def status(self) -> RecordingStatus:
        """How far the recording is."""
        return RecordingStatus(
            len(self.book.turns), dict(self._calls), self._usage, self._last_question, dict(self._errors),
            dict(self._unrecorded),
        )  # fmt: skip

    def assign_episode(self, dialect: str, request: Mapping[str, Any]) -> str:
        read = self.book.read_request(dialect, request)
        self._reads[id(request)] = (request, read)  # the request lives as long as its entry, so no other has its id
        return self.book.assign_episode(read[0].messages)

    def add_call(self, call: RecordedCall) -> None:
        self._log.append({entry.name: getattr(call, entry.name) for entry in fields(call)})
        self._add(call)

    def add_feedback(self, episode: str, values: Any) -> Feedback:
        """Log feedback on an episode. Raises FormatError or ConfigError, and DataError for an unknown episode."""
        if episode not in self.book.turns:
            latest_ids = ", ".join(list(self.book.turns)[-5:]) or "none"
            raise DataError(f"there is no episode {episode!r} in this recording. The latest are: {latest_ids}.")
        feedback = read_feedback(episode, values)
        with jsonl.Appender(self._path / FEEDBACK) as log:
            log.append({name: value for name, value in asdict(feedback).items() if value is not None})
        self._feedback[episode].append(feedback)
        self._changed[episode] = 0.0
        if feedback.score is not None:
            self._newly_scored.add(episode)
        return feedback

    def add_late_reply(self, response_id: str, reply: Any) -> None:
        """Log a call again with its reply, once a response that ran in the background has ended."""
        if response_id in self._running and not _is_running(reply):
            call = self._running[response_id]
            self.add_call(replace(call, seconds=round(time.time() - call.at, 6), reply=reply))

    def add_conversation_items(self, id: str, items: Sequence[Any]) -> None:
        """Log the items with which a conversation of the Responses API began, or which it got without a call."""
        with jsonl.Appender(self._path / CONVERSATIONS) as log:
            log.append({"id": id, "items": list(items), "calls": sum(self._calls.values())})
        self.book.add_conversation_items(id, items)

    def count_request(self, request: str) -> None:
        """Count a request that is not recorded, by its method, path and status."""
        self._unrecorded[request if len(self._unrecorded) < MAX_REQUEST_KINDS else "others"] += 1

    def note(self, line: str) -> None:
        self._progress.say(line)

    def _add(self, call: RecordedCall) -> None:
        _, read = self._reads.pop(id(call.request), (None, None))
        turn = self.book.add(call, read)
        if _is_running(call.reply):
            self._running[str(call.reply.get("id"))] = call
        elif isinstance(call.reply, dict):
            self._running.pop(str(call.reply.get("id")), None)
        self._calls[call.dialect] += 1
        self._usage += measure_usage(turn, self._price)
        self._errors.update([turn.error] if turn.error else [])
        self._last_question = turn.start.question if turn.start is not None else self._last_question
        has_answered = turn.reply is not None and any(call.name in self._finish_tools for call in turn.reply.calls)
        self._changed[turn.episode] = 0.0 if has_answered else time.monotonic()

    async def write_ended(self) -> None:
        """Write the episodes that were answered by a finish call, or have been idle, on another thread.

        Those that were written before are written again less often, since that writes the file anew.
        """
        now = time.monotonic()
        idle_episodes = [
            episode
            for episode, changed_at in self._changed.items()
            if now - changed_at > self._config.idle and (episode not in self._written_ids or now >= self._next_rewrite)
        ]
        if idle_episodes:
            await asyncio.to_thread(self._write, *self._build(idle_episodes))

    def write_all(self) -> None:
        """Write every episode from its calls."""
        self._write(*self._build(list(self.book.turns)))

    def close(self) -> None:
        self._log.close()

    def _build(self, episodes: Sequence[str]) -> tuple[dict[str, Trajectory], frozenset[str]]:
        """The trajectories of episodes as they are now, and those of them that feedback has scored."""
        for episode in episodes:
            self._changed.pop(episode, None)
        newly_scored = self._newly_scored.intersection(episodes)
        self._newly_scored -= newly_scored
        return {episode: self._trajectory(episode) for episode in episodes}, frozenset(newly_scored)

    def _write(self, fresh: Mapping[str, Trajectory], newly_scored: frozenset[str]) -> None:
        try:
            self._write_trajectories(fresh, newly_scored)
        except BaseException:
            self._newly_scored |= newly_scored  # the end of the run writes all again
            raise

    def _write_trajectories(self, fresh: Mapping[str, Trajectory], newly_scored: frozenset[str]) -> None:
        file = self._path / TRAJECTORIES
        if self._written_ids.isdisjoint(fresh):
            with jsonl.Appender(file) as appender:
                for trajectory in fresh.values():
                    appender.append(trajectory.to_dict())
        else:
            started = time.monotonic()
            merged = merge_trajectories(read_trajectories(file), fresh, newly_scored=newly_scored)
            jsonl.write_objects(file, (trajectory.to_dict() for trajectory in merged))
            ended = time.monotonic()
            self._next_rewrite = ended + REWRITE_PAUSE * (ended - started)
        self._written_ids |= set(fresh)

    def _trajectory(self, episode: str) -> Trajectory:
        config = self._config
        return build_trajectory(
            self.book.turns[episode], task=config.task, finishes=config.finish, price=self._price,
            feedback=self._feedback[episode],
        )  # fmt: skip


def _is_running(reply: Any) -> bool:
    """Whether a reply of the Responses API says that the response runs in the background."""
    return isinstance(reply, dict) and reply.get("status") in ("queued", "in_progress")


def merge_trajectories(
    stored: Iterable[Trajectory], fresh: Mapping[str, Trajectory], *, newly_scored: Collection[str] = ()
) -> Iterator[Trajectory]:
    """The stored trajectories, each replaced by its fresh version where there is one, then the new ones.

    A fresh version keeps the scores of the stored one when its steps and its stop are the same, unless feedback has
    scored it since.
    """
    stored_ids = set()
    for old in stored:
        new = fresh.get(old.example.id)
        stored_ids.add(old.example.id)
        if new is None:
            yield old
        elif new.steps == old.steps and new.stop == old.stop:
            scores = new.scores if old.example.id in newly_scored or not old.scores else old.scores
            yield replace(new, scores=scores, example=old.example)
        else:
            yield new
    yield from (trajectory for episode, trajectory in fresh.items() if episode not in stored_ids)


def read_calls(file: Path) -> Iterator[RecordedCall]:
    """The calls of a log. Raises DataError for a line that is not a call."""
    if not file.exists():
        return
    for number, row in enumerate(jsonl.read_objects(file), 1):
        try:
            call = RecordedCall(**row)
        except TypeError as error:
            raise DataError(f"{file}, line {number}: not a call ({error}).") from error
        if call.dialect not in DIALECTS:
            raise DataError(f"{file}, line {number}: {describe_unknown_name('dialect', call.dialect, DIALECTS)}")
        yield call


def replay_calls(run: Path, index: TurnIndex) -> Iterator[RecordedCall]:
    """The calls of a run; what conversations got before each call is added to the index before it."""
    file = run / CONVERSATIONS
    additions = deque(jsonl.read_objects(file) if file.exists() else ())
    for number, call in enumerate(read_calls(run / CALLS)):
        while additions and additions[0]["calls"] <= number:
            addition = additions.popleft()
            index.add_conversation_items(addition["id"], addition["items"])
        yield call
    for addition in additions:
        index.add_conversation_items(addition["id"], addition["items"])


def read_feedback_log(file: Path) -> Iterator[Feedback]:
    """The feedback of a log. Raises DataError for a line that is no feedback."""
    for number, row in enumerate(jsonl.read_objects(file) if file.exists() else (), 1):
        try:
            yield Feedback(**row)
        except TypeError as error:
            raise DataError(f"{file}, line {number}: no feedback ({error}).") from error


def conclude(config: RecordConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Build trajectories from the calls that a proxy logged, and return the manifest; ``fireact resume`` calls this."""
    with RunDir(out, verb="record", settings=config, force=force, neutral=FREE) as run:
        if run.complete:
            return run.manifest
        with closing(Recording(config, run.path, progress)) as recording:
            return _write_manifest(run, config, recording)


def _write_manifest(run: RunDir, config: RecordConfig, recording: Recording) -> dict[str, Any]:
    recording.write_all()
    status = recording.status
    return run.finish(
        **({"teacher_license": config.teacher_license} if config.teacher_license else {}),
        upstream=config.urls[CHAT_COMPLETIONS.name],
        episodes=status.episodes,
        calls=sum(status.calls.values()),
        calls_by_dialect=status.calls,
        unrecorded=status.unrecorded,
        failed_calls=sum(status.errors.values()),
        errors=dict(Counter(status.errors).most_common(MAX_ERRORS)),
        endings=describe_endings(read_trajectories(run.path)),
        **summarise_episodes(read_episode_facts(run.path)),
    )


class RecorderAddress(str):
    """The address of a running recorder, as text; it also takes feedback, and tells how far the recording is."""

    _recording: Recording

    @classmethod
    def of_recording(cls, text: str, recording: Recording) -> RecorderAddress:
        """The address at which a recording is made."""
        address = cls(text)
        address._recording = recording
        return address

    @property
    def status(self) -> RecordingStatus:
        """How far the recording is."""
        return self._recording.status

    def feedback(
        self,
        episode: str,
        *,
        answer: str | None = None,
        score: float | None = None,
        comment: str | None = None,
        demonstration: str | None = None,
    ) -> None:
        """Send feedback on an episode: its answer, a score from 0 to 1, a comment, or the answer that would be right.

        Raises ConfigError where the recorder refuses it, with its reason.
        """
        import httpx2

        values = {"answer": answer, "score": score, "comment": comment, "demonstration": demonstration}
        given_values = {name: value for name, value in values.items() if value is not None}
        response = httpx2.post(f"{self}/e/{quote(episode, safe='')}/feedback", json=given_values, trust_env=False)
        if response.status_code != 200:
            raise ConfigError(response.json()["error"]["message"])


@contextmanager
def record_calls(
    config: RecordConfig, out: Path, *, force: bool = False, progress: Progress = SILENT
) -> Iterator[RecorderAddress]:
    """Record the calls through a local proxy while in the ``with`` statement; yields the proxy's address.

    An agent's base URL is ADDRESS/v1, or ADDRESS/e/ID/v1 for the episode ID (for Messages without /v1). At the end,
    calls in flight are finished, and the trajectories and the manifest are written. Raises ConfigError for a taken port
    or a missing extra.
    """
    upstream = Upstream(config.urls, config.timeout, config.concurrency, config.max_body)
    with RunDir(out, verb="record", settings=config, force=force, neutral=FREE) as run:
        with (
            bind_socket(config.host, config.port) as listener,
            closing(Recording(config, run.path, progress)) as recording,
        ):
            app = RecordingProxy(upstream, recording, is_local=is_loopback(config.host))
            (run.path / MANIFEST).unlink(missing_ok=True)  # recording resumes, so the run is not complete
            if not is_loopback(config.host):
                progress.say(
                    f"warning: {config.host} can be reached from other machines, and the proxy asks for no key."
                )
            address = socket_address(config.host, listener)
            with RunningServer(
                app, listener, url=address, lifespan="on", log_level="critical",
                callback_notify=functools.partial(_write_ended, recording), timeout_notify=1,
            ):  # fmt: skip
                yield RecorderAddress.of_recording(address, recording)
        _write_manifest(run, config, recording)


async def _write_ended(recording: Recording) -> None:
    """Write the episodes that have ended; the server calls it each second."""
    try:
        await recording.write_ended()
    except (OSError, DataError) as error:  # the calls are logged, and the end of the run writes all episodes again
        recording.note(f"episodes could not be written: {error}")


RECORD = Verb(
    "record", RecordConfig, conclude, out="runs/record", neutral=FREE, has_dry_run=False,
    example="`fireact record -o runs/mine`, then "
    'base_url="http://127.0.0.1:8100/v1", or "http://127.0.0.1:8100/e/ID/v1" with an ID for each episode',
    command_line="fireact.cli.running:record_command", function="fireact.pipeline.functions:record_agent",
)  # fmt: skip
