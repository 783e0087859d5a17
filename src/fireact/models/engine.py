"""Generates text for many requests at once: one forward pass a step serves every text that is being written or read.

Requests come from many threads; one thread of the engine's own runs the steps. Each slot keeps the keys and values of
the text it last held, so the next request of the same episode encodes only what is new, and a prompt that begins like
another (few-shot examples) copies that beginning. Invariant: what a request gets depends on its own tokens, temperature
and seed; the other requests change it by rounding alone. Messages, templates and tools are not its business.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fireact.errors import ConfigError, ContextError, FireactError, ProviderError
from fireact.models.attention import NAME, KeyValues, attend, plan_pass

CHUNK = 512
"""Most prompt tokens that a step reads: enough to keep the processor busy, few enough that writing goes on."""
WORTH = 16
"""Tokens in common from which a copied or awaited beginning is worth it."""


@dataclass(eq=False, slots=True)
class Request:
    """What a caller wants, and what it has got so far; ``done`` is set when ``generated`` or ``error`` is final."""

    prompt: list[int]
    max_tokens: int
    temperature: float
    finished: Callable[[list[int]], bool]
    """Whether the text is over, given all generated ids; what it raises ends this text alone."""
    draw: torch.Generator
    generated: list[int] = field(default_factory=list)
    cached: int = 0
    given_up: bool = False
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False, slots=True)
class Slot:
    """Rows of the cache: the ids that they hold or will hold, how many of them are computed, and for whom."""

    index: int
    ids: list[int] = field(default_factory=list)
    computed: int = 0
    used: int = 0
    request: Request | None = None

    def release(self) -> None:
        """Make the slot free; what is computed stays."""
        self.request = None
        del self.ids[self.computed :]

    @property
    def left(self) -> int:
        """Tokens to compute before the next one is known; 1 while a text is being written."""
        return len(self.ids) - self.computed


class Engine:
    """Continuous batching over a causal LM that transformers loaded; ``slots`` texts at a time.

    ``ends`` are the ids that end a text, ``limit`` is the longest text in tokens.
    """

    def __init__(self, model: Any, *, slots: int, ends: Sequence[int], limit: int) -> None:
        _take_over_attention(model)
        self.ends, self.limit = frozenset(ends), limit
        self._model = model
        self._device: torch.device = model.device
        self._slots = [Slot(index) for index in range(slots)]
        self._kv = KeyValues(slots)
        self._waiting: list[Request] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._clock = 0

    def generate(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        finished: Callable[[list[int]], bool] = lambda ids: False,
    ) -> Request:
        """Generate after a prompt and wait for the end; safe from many threads. Temperature 0 is greedy.

        Raises ContextError when the prompt does not fit into the model's context, ProviderError when the engine failed.
        """
        room = self.limit - len(prompt)
        if not prompt or room < 1 or max_tokens < 1:
            raise ContextError(
                f"a prompt of {len(prompt)} tokens and {max_tokens} to write: the model takes 1 to {self.limit}. "
                "Use fewer examples or steps, or a model with a longer context."
            )
        draw = torch.Generator().manual_seed(seed)
        request = Request(list(prompt), min(max_tokens, room), temperature, finished, draw)
        self._submit(request)
        try:
            request.done.wait()
        except BaseException:  # Ctrl-C: nobody waits for it any more
            request.given_up = True
            raise
        if request.error is not None:
            if isinstance(request.error, FireactError) or not isinstance(request.error, Exception):
                raise request.error
            what = f"{type(request.error).__name__}: {request.error}"
            raise ProviderError(f"generation failed: {what}") from request.error
        return request

    def close(self) -> None:
        """Stop the engine's thread; requests under way fail. Closing twice is harmless."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _submit(self, request: Request) -> None:
        with self._changed:
            if self._closed:
                raise ProviderError("the model was closed while requests were coming in. Build it anew.")
            self._waiting.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="fireact-engine", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _serve(self) -> None:
        while self._wait():
            try:
                with torch.inference_mode():
                    self._admit()
                    self._step()
            except Exception as error:  # whoever waits must hear of it, or would wait for ever
                self._fail(error)
        self._fail(ProviderError("the model was closed before the text was written."))

    def _wait(self) -> bool:
        """Sleep until there is work; False when the engine was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._busy())
            return not self._closed

    def _busy(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.request is not None]

    def _fail(self, error: Exception) -> None:
        with self._changed:
            failed = [slot.request for slot in self._slots if slot.request is not None] + self._waiting
            self._slots = [Slot(slot.index) for slot in self._slots]
            self._waiting = []
        for request in failed:
            request.error = error
            request.done.set()

    def _admit(self) -> None:
        """Free the slots that nobody waits for, and give waiting requests to free ones."""
        for slot in self._busy():
            if slot.request is not None and slot.request.given_up:
                slot.release()
        with self._changed:
            waiting = [request for request in self._waiting if not request.given_up]
            self._waiting = waiting
        placed = set()
        for request in waiting:
            free = [slot for slot in self._slots if slot.request is None]
            if not free:
                break
            if self._place(request, free):
                placed.add(id(request))
        with self._changed:
            self._waiting = [request for request in self._waiting if id(request) not in placed]

    def _place(self, request: Request, free: Sequence[Slot]) -> bool:
        """Give a request the free slot that holds most of its beginning, or a copy of another slot's beginning.

        False while a beginning worth sharing is still being computed elsewhere: it is read once, then copied.
        """
        useful = len(request.prompt) - 1  # the last token must be computed to know what follows
        shared = [min(useful, common(request.prompt, slot.ids)) for slot in self._slots]
        ready = [min(count, slot.computed) for count, slot in zip(shared, self._slots, strict=True)]
        most = max(ready)
        if max(shared) >= most + WORTH:
            return False
        own = max(free, key=lambda slot: (ready[slot.index], -slot.used))
        have = ready[own.index]
        if most >= have + WORTH:
            own = min(free, key=lambda slot: slot.used)
            self._kv.copy(ready.index(most), own.index, most)
            have = most
        self._clock += 1
        own.ids, own.computed, own.used, own.request = list(request.prompt), have, self._clock, request
        request.cached = have
        return True

    def _step(self) -> None:
        """One forward pass, and one more token for each text whose prompt is read."""
        writing = [slot for slot in self._busy() if slot.left == 1]
        reading, room = [], CHUNK
        for slot in sorted(self._busy(), key=lambda slot: slot.used):
            if slot.left > 1 and room:
                count = min(room, slot.left)
                reading.append((slot, count))
                room -= count
        if not writing and not reading:
            return
        ripe, logits = self._forward(writing, reading)
        for slot, count in [*((slot, 1) for slot in writing), *reading]:
            slot.computed += count
        best = logits.argmax(-1).tolist()
        for slot, row, token in zip(ripe, logits, best, strict=True):
            self._extend(slot, row, token)

    def _forward(self, writing: Sequence[Slot], reading: Sequence[tuple[Slot, int]]) -> tuple[list[Slot], torch.Tensor]:
        """The slots whose next token is known by this pass, and the logits for it, [slots, vocabulary]."""
        ids = [slot.ids[-1] for slot in writing]
        last = list(range(len(writing)))
        ripe = list(writing)
        for slot, count in reading:
            ids += slot.ids[slot.computed : slot.computed + count]
            if count == slot.left:
                ripe.append(slot)
                last.append(len(ids) - 1)
        batch = plan_pass(
            self._kv,
            [(slot.index, slot.computed) for slot in writing],
            [(slot.index, slot.computed, count) for slot, count in reading],
            shared=_shared(writing),
            device=self._device,
        )
        logits: torch.Tensor = self._model(
            input_ids=torch.tensor([ids], device=self._device),
            position_ids=batch.positions[None],
            use_cache=False,
            logits_to_keep=torch.tensor(last or [0], device=self._device),  # some models fail when asked for none
            batch=batch,
        ).logits[0]
        return ripe, logits[: len(last)].float().cpu()

    def _extend(self, slot: Slot, logits: torch.Tensor, best: int) -> None:
        request = slot.request
        assert request is not None
        token = best if request.temperature <= 0 else _sample(logits, request)
        request.generated.append(token)
        over = token in self.ends or len(request.generated) >= request.max_tokens
        try:
            over = request.finished(request.generated) or over
        except BaseException as error:  # the caller's own; its thread is the one to hear of it
            request.error, over = error, True
        if over:
            slot.release()
            request.done.set()
        else:
            slot.ids.append(token)


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first ids two texts have in common."""
    count = min(len(one), len(other))
    if one[:count] == other[:count]:
        return count
    return bisect_left(range(count), True, key=lambda at: one[: at + 1] != other[: at + 1])


def _shared(writing: Sequence[Slot]) -> int:
    """How many computed positions all writing slots begin with."""
    if len(writing) < 2:
        return 0
    first, rest = writing[0], writing[1:]
    least = min(slot.computed for slot in writing)
    beginning = first.ids[:least]
    for slot in rest:
        beginning = beginning[: common(beginning, slot.ids)]
    return len(beginning)


def _sample(logits: torch.Tensor, request: Request) -> int:
    odds = torch.softmax(logits / request.temperature, dim=-1)
    return int(torch.multinomial(odds, 1, generator=request.draw))


def _take_over_attention(model: Any) -> None:
    """Let transformers call ``attend``. Raises ConfigError for a model that would go past it."""
    from transformers import AttentionInterface

    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds or not getattr(model, "_supports_attention_backend", False):
        what = f"layers of kind {sorted(kinds)}" if kinds else "attention that cannot be exchanged"
        raise ConfigError(
            f"{type(model).__name__} has {what}; in-process generation needs plain attention. "
            "Serve the model and name its endpoint."
        )
    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)
