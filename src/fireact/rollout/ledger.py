"""The ledger of a run whose episodes run on other machines: one place for stored calls, the budget and rates.

The driver serves it over a connection that a random key protects; each worker's calls go through it. So a call that any
worker made is stored at once and made by no other, the budget and the rates hold for all workers together, and only
the driver writes the run directory. Invariant: what was reserved over a connection that is lost, or by a worker, counts
as spent, since its calls may have been made, and a call that was begun there may be made by another. Nothing that comes
from a connection is unpickled before it showed the key.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any

from fireact.errors import FireactError, ProviderError
from fireact.models.limits import Budget, BudgetAmount, Endpoint, RateLimit
from fireact.rollout.call_cache import CallCache, Mode
from fireact.types import Usage

_LOGGER = logging.getLogger("fireact")


@dataclass(eq=False)
class Account:
    """What a worker holds over one connection: calls that it makes, and the most that each reserved call may take."""

    worker: str
    keys: set[bytes] = field(default_factory=set)
    reservations: dict[int, tuple[float, Usage]] = field(default_factory=dict)


class Ledger:
    """The driver's side: stored calls, budget and rates, for the workers of one run. Safe under threads."""

    def __init__(self, cache: CallCache, budget: Budget | None, endpoint: Endpoint) -> None:
        self.cache, self.budget, self.endpoint = cache, budget, endpoint
        self._changed = threading.Condition()
        self._accounts: set[Account] = set()
        self._lost_workers: set[str] = set()
        self._holders: dict[bytes, Account] = {}
        self._rates: dict[str, RateLimit] = {}
        self._entries: dict[int, list[float]] = {}
        self._numbers = itertools.count(1)

    def open_account(self, worker: str) -> Account:
        """A new account of a worker, to be closed when its connection ends."""
        account = Account(worker)
        with self._changed:
            self._accounts.add(account)
        return account

    def claim_call(self, account: Account, key: bytes) -> str | None:
        """The stored answer of a call; None where the worker shall make it now, and no other worker will."""
        with self._changed:
            while True:
                self._require_open(account)
                if key not in self._holders:
                    answer = self.cache.read_answer(key)
                    if answer is not None or self.cache.mode == "replay":
                        return answer
                    self.cache.require_room()
                    self._holders[key] = account
                    account.keys.add(key)
                    return None
                self._changed.wait()

    def store_call(self, account: Account, key: bytes, kind: str, answer: str) -> str:
        """Store the answer of a claimed call, and return the stored one: that of another, where the claim was lost.

        Raises DiskError where it cannot be kept.
        """
        try:
            self.cache.store_answer(key, kind, answer)
            return self.cache.read_answer(key) or answer
        finally:
            self.release_call(account, key)

    def release_call(self, account: Account, key: bytes) -> None:
        """Let others make a claimed call: it is stored, or it failed."""
        with self._changed:
            account.keys.discard(key)
            if self._holders.get(key) is account:
                del self._holders[key]
            self._changed.notify_all()

    def read_facts(self, account: Account, kind: str, spec: str) -> Any:
        """The stored facts of a model or of tools, which replay needs."""
        return self.cache.read_facts(kind, spec)

    def reserve(self, account: Account, worst: Usage) -> int:
        """Reserve in the budget what a call may take. Raises BudgetError when it cannot fit."""
        assert self.budget is not None
        share = self.budget.reserve(worst)
        with self._changed:
            if account.worker not in self._lost_workers:
                number = next(self._numbers)
                account.reservations[number] = (share, worst)
                return number
        self.budget.settle(share, Usage())
        raise _lost_error(account.worker)

    def settle(self, account: Account, number: int, used: Usage) -> None:
        """Count what a reserved call took, unless its connection was lost meanwhile."""
        with self._changed:
            reservation = account.reservations.pop(number, None)
        if reservation is not None and self.budget is not None:
            self.budget.settle(reservation[0], used)

    def enter_rate(self, account: Account, url: str, tokens: int) -> int:
        """Wait until the rates of an endpoint allow a call."""
        with self._changed:
            self._require_open(account)
            rate = self._rates.setdefault(url, RateLimit(self.endpoint.rpm, self.endpoint.tpm))
        entry = rate.enter(tokens)
        with self._changed:
            number = next(self._numbers)
            self._entries[number] = entry
        return number

    def settle_rate(self, account: Account, url: str, number: int, tokens: int) -> None:
        """Count the tokens that a call took."""
        with self._changed:
            entry = self._entries.pop(number, None)
        if entry is not None:
            self._rates[url].settle(entry, tokens)

    def close_account(self, account: Account) -> None:
        """Take back what a worker holds over a connection that ended."""
        with self._changed:
            self._accounts.discard(account)
            reservations, account.reservations = account.reservations, {}
            for key in account.keys:
                self._holders.pop(key, None)
            account.keys = set()
            self._changed.notify_all()
        for share, worst in reservations.values():
            assert self.budget is not None
            self.budget.settle(share, worst)

    def drop_worker(self, worker: str) -> None:
        """Take back what a worker holds that is lost; it can make no more calls, should it live on."""
        with self._changed:
            self._lost_workers.add(worker)
            accounts = [account for account in self._accounts if account.worker == worker]
        for account in accounts:
            self.close_account(account)

    def _require_open(self, account: Account) -> None:
        if account.worker in self._lost_workers:
            raise _lost_error(account.worker)


def _lost_error(worker: str) -> ProviderError:
    return ProviderError(f"worker {worker} counts as lost, so others make its calls")


class LedgerServer:
    """Serves a ledger at an address of this machine while in a ``with`` statement; each connection has a thread."""

    def __init__(self, ledger: Ledger, host: str) -> None:
        self._ledger, self._key = ledger, secrets.token_bytes(32)
        self._listener = Listener((host, 0), backlog=256)  # _serve asks for the key
        self._is_closed = False
        self._thread = threading.Thread(target=self._accept, name="ledger", daemon=True)

    @property
    def address(self) -> LedgerAddress:
        """Where workers reach the ledger, and the key that they need."""
        host, port = self._listener.address[:2]
        return LedgerAddress(str(host), int(port), self._key, self._ledger.cache.mode, _amount_of(self._ledger.budget))

    def __enter__(self) -> LedgerServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        with suppress(OSError):  # wakes the thread that waits for a connection
            socket.create_connection((self.address.host, self.address.port), timeout=5).close()
        self._thread.join(5)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError as error:
                if self._is_closed:
                    return
                _LOGGER.info("the ledger lost a connection at its start: %s", error)
                continue
            if self._is_closed:
                connection.close()
                return
            threading.Thread(target=self._serve, args=(connection,), name="ledger", daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        """Serve one connection, which first has to show the key; who says nothing keeps nobody else waiting."""
        with connection:
            try:
                deliver_challenge(connection, self._key)
                answer_challenge(connection, self._key)
                account = self._ledger.open_account(connection.recv())
            except (OSError, EOFError, AuthenticationError) as error:  # someone without the key, or who left
                _LOGGER.info("the ledger refused a connection: %s", type(error).__name__)
                return
            try:
                self._answer_requests(connection, account)
            except (OSError, EOFError):
                pass
            finally:
                self._ledger.close_account(account)

    def _answer_requests(self, connection: Connection, account: Account) -> None:
        while True:
            method, arguments = connection.recv()
            try:
                reply = getattr(self._ledger, method)(account, *arguments)
            except FireactError as error:
                reply = error
            connection.send(reply)


def _amount_of(budget: Budget | None) -> BudgetAmount | None:
    return None if budget is None else budget.amount


@dataclass(frozen=True, slots=True)
class LedgerAddress:
    """Where a ledger is served, and what a worker needs to know of it. It holds a key, and is never stored."""

    host: str
    port: int
    key: bytes = field(repr=False)
    mode: Mode
    amount: BudgetAmount | None

    def connect(self, worker: str) -> Connection:
        """A new connection of a worker."""
        connection = Client((self.host, self.port), authkey=self.key)
        connection.send(worker)
        return connection


class LedgerClient:
    """A worker's side of the ledger. Each thread has a connection of its own, since a call of the ledger may wait."""

    def __init__(self, address: LedgerAddress, worker: str) -> None:
        self.address, self.worker = address, worker
        self._local = threading.local()

    def send(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """What a method of the ledger returns for this worker. Raises what it raises there.

        A connection that is broken is made anew; a claim or a reservation over it that nobody knows of ends with it.
        """
        request = (method.__name__, arguments)
        try:
            try:
                reply = self._exchange(request)
            except (OSError, EOFError):
                reply = self._exchange(request)
        except (OSError, EOFError, AuthenticationError) as error:
            raise ProviderError(f"the driver of the run cannot be reached ({error!r})") from error
        if isinstance(reply, FireactError):
            raise reply
        return reply

    def _exchange(self, request: tuple[str, tuple[Any, ...]]) -> Any:
        """The reply to a request over this thread's connection, which is kept only if nothing goes wrong."""
        connection: Connection = getattr(self._local, "connection", None) or self.address.connect(self.worker)
        self._local.connection = None
        try:
            connection.send(request)
            reply = connection.recv()
        except BaseException:
            connection.close()
            raise
        self._local.connection = connection
        return reply


class RemoteCallCache(CallCache):
    """The stored calls of the driver, for a worker; it writes no file."""

    def __init__(self, client: LedgerClient) -> None:
        super().__init__(Path("calls of the driver"), "off")
        self.mode, self._client = client.address.mode, client

    def read_facts(self, kind: str, spec: str) -> Any:
        return self._client.send(Ledger.read_facts, kind, spec)

    def _note_facts(self, kind: str, spec: str, facts: Any) -> None:
        """The driver notes them, which built the same."""

    def _read_or_make(self, key: bytes, kind: str, make: Callable[[], str]) -> str | None:
        answer: str | None = self._client.send(Ledger.claim_call, key)
        if answer is not None or self.mode == "replay":
            return answer
        try:
            answer = make()
        except BaseException:
            self._client.send(Ledger.release_call, key)
            raise
        return str(self._client.send(Ledger.store_call, key, kind, answer))


class RemoteBudget(Budget):
    """The budget of the driver, for a worker: a share is the number of the reservation."""

    def __init__(self, client: LedgerClient, amount: BudgetAmount) -> None:
        super().__init__(amount)
        self._client = client

    def reserve(self, worst: Usage) -> float:
        return float(self._client.send(Ledger.reserve, worst))

    def settle(self, share: float, used: Usage) -> None:
        self._client.send(Ledger.settle, int(share), used)


class RemoteRateLimit(RateLimit):
    """The rates of an endpoint that the driver keeps, for a worker."""

    def __init__(self, client: LedgerClient, url: str) -> None:
        super().__init__()
        self._client, self._url = client, url

    def enter(self, tokens: int) -> list[float]:
        return [float(self._client.send(Ledger.enter_rate, self._url, tokens))]

    def settle(self, entry: list[float], tokens: int) -> None:
        self._client.send(Ledger.settle_rate, self._url, int(entry[0]), tokens)
