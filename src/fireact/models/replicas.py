"""Several endpoints that serve the same model, as one LM: ``openai:MODEL@URL1,URL2``.

A new prompt goes to the replica with the fewest calls. A prompt that continues an earlier one goes to the replica of
that one, which still holds its keys and values; so an episode stays where it began. A replica that fails rests, and the
call goes to another at once; after its rest it is asked whether it answers before calls go there again.

Invariant: a fault of one replica costs only the calls that are in flight there. An LM whose replicas all fail behaves
like one endpoint that fails. Each replica has its own limits of rates. This module knows no dialect.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from fireact.base.http import MAX_BACKOFF, Retry, TransientError
from fireact.errors import ProviderError
from fireact.models.prices import TokenPrice
from fireact.types import Call, Completion, Usage

_LOGGER = logging.getLogger("fireact")
_PROMPTS = 65_536
"""How many prompts are remembered with their replica: those of as many calls."""


class SingleEndpoint(Protocol):
    """An LM at one address that can try a call once."""

    price: TokenPrice

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str: ...

    def attempt(self, call: Call, *, started: float) -> Completion: ...

    def is_reachable(self) -> bool: ...

    def explain(self, error: ProviderError) -> Exception: ...

    def close(self) -> None: ...


@dataclass(eq=False)
class Replica:
    """One endpoint and its state: calls under way, calls so far, and until when it rests after how many faults."""

    lm: SingleEndpoint
    active: int = 0
    calls: int = 0
    faults: int = 0
    rests_until: float = 0.0
    is_probed: bool = False
    is_reported: bool = False


class ReplicatedLM:
    """One LM over several endpoints of the same model."""

    def __init__(
        self, endpoints: Sequence[SingleEndpoint], *, pause: float = 0.5, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = endpoints[0].name
        self.price = TokenPrice(_dearest([endpoint.price for endpoint in endpoints]))
        self.replicas = [Replica(endpoint) for endpoint in endpoints]
        self._pause, self._clock = pause, clock
        self._lock = threading.Lock()
        self._prompts: OrderedDict[bytes, Replica] = OrderedDict()
        self._closed = threading.Event()

    def complete(self, call: Call) -> Completion:
        """Complete a call at one of the replicas. Raises ProviderError once all failed at every try."""
        started = time.perf_counter()
        retry = Retry(pause=self._pause, sleep=self._sleep)
        prompts = _hash_prompts(call)
        try:
            return retry.run(self.name, lambda: self._attempt(call, prompts, started))
        except ProviderError as error:
            explained = [replica.lm.explain(error) for replica in self.replicas]
            raise next((entry for entry in explained if entry is error), explained[0]) from None

    def close(self) -> None:
        """Wake up the threads that wait for a retry, and make them give up."""
        self._closed.set()
        for replica in self.replicas:
            replica.lm.close()

    def _sleep(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise ProviderError("the run is over")

    def _attempt(self, call: Call, prompts: Sequence[bytes], started: float) -> Completion:
        """Try a call at one replica after the other. Raises TransientError where none of them took it."""
        failed: list[Replica] = []
        while True:
            replica = self._choose(prompts, failed)
            try:
                completion = replica.lm.attempt(call, started=started)
            except TransientError as fault:
                self._note_fault(replica, fault)
                failed.append(replica)
                if all(candidate.faults for candidate in self.replicas if candidate not in failed):
                    raise
            else:
                self._note_answer(replica)
                return completion
            finally:
                with self._lock:
                    replica.active -= 1

    def _choose(self, prompts: Sequence[bytes], failed: Sequence[Replica]) -> Replica:
        """The replica for a prompt; it counts as called, and keeps the prompt. A replica that woke up is asked first.

        Where all rest, the one that wakes up first is taken: only a try shows what became of it.
        """
        self._probe_rested(failed)
        with self._lock:
            candidates = [replica for replica in self.replicas if replica not in failed]
            awake = [replica for replica in candidates if not replica.faults]
            earlier = next((self._prompts[prompt] for prompt in reversed(prompts) if prompt in self._prompts), None)
            if earlier is not None and earlier in awake:
                replica = earlier
            elif awake:
                replica = min(awake, key=lambda candidate: (candidate.active, candidate.calls))
            else:
                replica = min(candidates, key=lambda candidate: candidate.rests_until)
            replica.active += 1
            replica.calls += 1
            self._prompts[prompts[-1]] = replica
            self._prompts.move_to_end(prompts[-1])
            while len(self._prompts) > _PROMPTS:
                self._prompts.popitem(last=False)
            return replica

    def _probe_rested(self, failed: Sequence[Replica]) -> None:
        """Ask a replica whose rest is over whether it answers, one caller at a time; the others do not wait for it."""
        with self._lock:
            now = self._clock()
            rested = next(
                (
                    replica
                    for replica in self.replicas
                    if replica.faults and replica not in failed and not replica.is_probed and replica.rests_until <= now
                ),
                None,
            )
            if rested is None:
                return
            rested.is_probed = True
        answers = rested.lm.is_reachable()
        with self._lock:
            rested.is_probed = False
            if not answers:
                rested.faults += 1
                rested.rests_until = self._clock() + self._rest_seconds(rested)
        if answers:
            self._note_answer(rested)

    def _rest_seconds(self, replica: Replica) -> float:
        return min(self._pause * 2.0 ** min(replica.faults, 64), MAX_BACKOFF)  # a power of 1,024 is no float

    def _note_fault(self, replica: Replica, fault: TransientError) -> None:
        """Let a replica rest. The calls that were in flight when it failed are no further faults, and end no rest."""
        with self._lock:
            now = self._clock()
            if replica.rests_until <= now:
                replica.faults += 1
            seconds = self._rest_seconds(replica) if fault.retry_after is None else fault.retry_after
            replica.rests_until = max(replica.rests_until, now + seconds)
            is_news = not replica.is_reported and fault.retry_after is None  # a limit of rates is no news
            replica.is_reported |= is_news
        if is_news:
            _LOGGER.warning("%s at %s rests, and others take its calls: %s", self.name, replica.lm.address, fault)

    def _note_answer(self, replica: Replica) -> None:
        with self._lock:
            replica.faults, replica.rests_until = 0, 0.0
            is_news, replica.is_reported = replica.is_reported, False
        if is_news:
            _LOGGER.warning("%s at %s answers again", self.name, replica.lm.address)


def _hash_prompts(call: Call) -> list[bytes]:
    """The hash of each beginning of a prompt, the whole prompt last: a later call of an episode repeats an earlier one.

    The shortest beginnings are the same in many episodes, but only whole prompts are remembered.
    """
    state, hashes = hashlib.sha256(), []
    for message in call.messages:
        state.update(repr((message.role, message.content, message.calls)).encode("utf-8", "surrogatepass"))
        hashes.append(state.digest())
    return hashes or [state.digest()]


def _dearest(prices: Sequence[TokenPrice]) -> Callable[[Usage], float | None]:
    """The cost of a usage at the dearest endpoint; None where a price is not known."""

    def dollars(usage: Usage) -> float | None:
        costs = [cost for price in prices if (cost := price.cost(usage)) is not None]
        return max(costs) if len(costs) == len(prices) else None

    return dollars
