"""Episodes on the machines of a Ray cluster: one actor a machine (a GPU, for weights in the process) runs them.

An actor plans the same episodes as the driver and is sent their keys, so that models, tools and tasks are built where
they are used. It has at most ``workers`` episodes at a time; the driver holds no more than these, whatever the number
of all. Machines that join the cluster get an actor. Invariant: an episode whose actor is lost runs again elsewhere, and
its stored calls are not made again (see ``ledger``); only the driver writes.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fireact.base.redact import excerpt
from fireact.errors import ConfigError, FireactError, ProviderError, missing_extra_error
from fireact.models.limits import Budget, Endpoint, RateLimit, sharing_rates
from fireact.rollout.call_cache import CallCache
from fireact.rollout.episodes import Episode, run_episode
from fireact.rollout.ledger import (
    Ledger,
    LedgerAddress,
    LedgerClient,
    LedgerServer,
    RemoteBudget,
    RemoteCallCache,
    RemoteRateLimit,
)
from fireact.types import Trajectory, Usage

_LOGGER = logging.getLogger("fireact")
Plan = Callable[[CallCache, Budget | None], Sequence[Episode]]
MAX_LOSSES = 3
"""How often an episode may lose its actor before it ends in a fault; a machine may lose as many actors at their start.
"""
_POLL_SECONDS = 1.0
"""How often the machines of the cluster are listed."""
_LONELY_SECONDS = 60.0
"""How long a run waits for a machine where none is left."""


class EpisodeActor:
    """What runs on a machine: plans the episodes once, then runs those whose keys it is sent, several at a time."""

    def __init__(self, worker: str, address: LedgerAddress, directory: str, path: Sequence[str]) -> None:
        self._client, self._directory, self._path = LedgerClient(address, worker), directory, path
        self._episodes: dict[str, Episode] = {}

    def prepare(self, plan: Plan) -> FireactError | None:
        """Plan the episodes. Returns the error of a name, a key or a file that this machine lacks."""
        with suppress(OSError):  # a machine without that directory may have all that the run needs
            os.chdir(self._directory)
        sys.path += [entry for entry in self._path if entry not in sys.path]
        amount = self._client.address.amount
        budget = None if amount is None else RemoteBudget(self._client, amount)
        try:
            with sharing_rates(self._make_rate):
                self._episodes = {episode.key: episode for episode in plan(RemoteCallCache(self._client), budget)}
        except FireactError as error:
            return error
        return None

    def run(self, key: str) -> Trajectory | FireactError:
        """Run an episode. Returns the error that ends the whole run, where there is one."""
        try:
            return run_episode(self._episodes[key])
        except FireactError as error:
            return error

    def _make_rate(self, endpoint: Endpoint, url: str) -> RateLimit:
        return RemoteRateLimit(self._client, url)


@dataclass(eq=False)
class _Worker:
    """An actor as the driver knows it: the machine it is on, what it prepares, and which episodes it runs."""

    name: str
    node: str
    address: str
    actor: Any
    preparation: Any = None
    episodes: dict[Any, Episode] = field(default_factory=dict)


class RayExecutor:
    """Runs episodes on a Ray cluster. Raises ConfigError where Ray is not installed or the cluster is not there."""

    def __init__(self, plan: Plan, ledger: Ledger, *, address: str, workers: int, on_gpus: bool) -> None:
        try:
            import ray
        except ImportError:
            raise missing_extra_error("ray", "ray") from None
        self._ray: Any = ray
        self._plan, self._ledger = plan, ledger
        self._address, self._slots, self._on_gpus = address, workers, on_gpus
        self._workers: list[_Worker] = []
        self._losses, self._failed_starts = Counter[str](), Counter[str]()
        self._returned = deque[Episode]()
        self._count, self._polled, self._lonely_since = 0, 0.0, time.monotonic()
        self._last_loss = "none was there"

    def run_episodes(self, episodes: Iterable[Episode]) -> Iterator[Trajectory]:
        """Run episodes and yield each Trajectory as it ends; closing the iterator stops them all."""
        started_ray = self._connect()
        waiting = iter(episodes)
        try:
            with LedgerServer(self._ledger, self._ray.util.get_node_ip_address()) as server:
                plan = self._ray.put(self._plan)
                while self._send_episodes(waiting) or self._is_waiting(waiting):
                    self._start_actors(server, plan)
                    references = [reference for worker in self._workers for reference in _pending(worker)]
                    if not references:
                        self._wait_for_machines()
                        continue
                    finished, _ = self._ray.wait(references, timeout=_POLL_SECONDS)
                    for reference in finished:
                        yield from self._take_result(reference)
        finally:
            for worker in self._workers:
                self._ray.kill(worker.actor)
            self._workers = []
            if started_ray:
                self._ray.shutdown()

    def _connect(self) -> bool:
        """Join the cluster, or start Ray on this machine. Returns whether this process started it."""
        if self._ray.is_initialized():
            return False
        options = {"address": self._address} if self._address else {"include_dashboard": False}
        try:
            self._ray.init(**options, log_to_driver=False, configure_logging=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"no Ray cluster answers at {self._address or 'this machine'}: {error}. Start one (ray start --head), "
                "or leave the address out."
            ) from error
        return True

    def _is_waiting(self, waiting: Iterator[Episode]) -> bool:
        """Whether an episode waits, which is then first in line."""
        if not self._returned and (episode := next(waiting, None)) is not None:
            self._returned.append(episode)
        return bool(self._returned)

    def _send_episodes(self, waiting: Iterator[Episode]) -> bool:
        """Fill up the actors that are ready. Returns whether any episode runs."""
        ready = [worker for worker in self._workers if worker.preparation is None]
        while ready and self._is_waiting(waiting):
            worker = min(ready, key=lambda candidate: len(candidate.episodes))
            if len(worker.episodes) >= self._slots:
                break
            episode = self._returned.popleft()
            worker.episodes[worker.actor.run.remote(episode.key)] = episode
        return any(worker.episodes for worker in self._workers)

    def _start_actors(self, server: LedgerServer, plan: Any) -> None:
        """Start an actor on each machine (or GPU) of the cluster that has none."""
        if time.monotonic() < self._polled + _POLL_SECONDS:
            return
        self._polled = time.monotonic()
        for node in self._ray.nodes():
            name, resources = node["NodeID"], node["Resources"]
            if not node["Alive"] or self._failed_starts[name] >= MAX_LOSSES:
                continue
            gpus = int(resources.get("GPU", 0)) if self._on_gpus else 0
            running = sum(worker.node == name for worker in self._workers)
            for _ in range(max(gpus, 1) - running):
                self._workers.append(self._start_actor(node, server.address, plan, gpus=min(gpus, 1)))

    def _start_actor(self, node: Mapping[str, Any], address: LedgerAddress, plan: Any, *, gpus: int) -> _Worker:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._count += 1
        name = f"{self._count} on {node['NodeManagerAddress']}"
        actor_class = self._ray.remote(EpisodeActor).options(
            num_cpus=0, num_gpus=gpus, max_concurrency=self._slots,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )  # fmt: skip
        actor: Any = actor_class.remote(name, address, str(Path.cwd()), [entry for entry in sys.path if entry])
        return _Worker(name, node["NodeID"], node["NodeManagerAddress"], actor, actor.prepare.remote(plan))

    def _take_result(self, reference: Any) -> Iterator[Trajectory]:
        """The trajectory behind a reference, if it is one. Raises what ends the whole run."""
        worker = next((worker for worker in self._workers if reference in _pending(worker)), None)
        if worker is None:  # of an actor that another result showed to be lost
            return
        faults = self._ray.exceptions
        try:
            result = self._ray.get(reference)
        except (
            faults.RayActorError, faults.OutOfMemoryError,  # its process ended
            faults.ActorUnschedulableError,  # its machine left before it began
            faults.ObjectLostError,  # its machine left with a result, which Ray keeps there where it is large
        ) as error:  # fmt: skip
            yield from self._drop_worker(worker, error)
            return
        if worker.preparation is not None:
            if result is not None:
                raise type(result)(f"on the machine {worker.address}: {result}")
            worker.preparation = None
            return
        del worker.episodes[reference]
        if isinstance(result, FireactError):
            raise result
        yield result

    def _drop_worker(self, worker: _Worker, error: Exception) -> Iterator[Trajectory]:
        """Give the episodes of a lost actor to others; one that lost too many ends in a fault."""
        self._workers.remove(worker)
        self._ray.kill(worker.actor)  # should it live on, unreachable
        self._ledger.drop_worker(worker.name)
        self._polled, self._lonely_since = 0.0, time.monotonic()
        self._failed_starts[worker.node] += worker.preparation is not None
        self._last_loss = f"{worker.address}: {_describe_loss(error)}"
        _LOGGER.warning(
            "worker %s is lost; its %d episodes go to others: %s", worker.name, len(worker.episodes),
            _describe_loss(error),
        )  # fmt: skip
        for episode in worker.episodes.values():
            self._losses[episode.key] += 1
            if self._losses[episode.key] < MAX_LOSSES:
                self._returned.append(episode)
            else:
                yield _lost_trajectory(episode, error)

    def _wait_for_machines(self) -> None:
        """Wait a moment where no actor is left. Raises ProviderError where none comes for long."""
        if time.monotonic() > self._lonely_since + _LONELY_SECONDS:
            raise ProviderError(
                f"no machine of the Ray cluster is left that can run episodes, for {_LONELY_SECONDS:.0f} s "
                f"({self._last_loss}). What is finished is kept. Start machines, and run again."
            )
        time.sleep(_POLL_SECONDS / 10)


def _pending(worker: _Worker) -> list[Any]:
    """What an actor is to return: its preparation, or its episodes."""
    return list(worker.episodes) if worker.preparation is None else [worker.preparation]


def _describe_loss(error: Exception) -> str:
    """Why an actor was lost, in one line."""
    return excerpt(" ".join(str(error).split()), 300)


def _lost_trajectory(episode: Episode, error: Exception) -> Trajectory:
    """The trajectory of an episode that ended each process it ran in: a fault."""
    return Trajectory(
        task=episode.task.name, example=episode.example, method=episode.agent.method.name, model=episode.agent.lm.name,
        seed=episode.seed, steps=(), stop="error", scores={}, usage=Usage(), seconds=0.0,
        error=f"ProcessLost: {MAX_LOSSES} processes ended while they ran this episode: {_describe_loss(error)}",
        meta=episode.meta,
    )  # fmt: skip
