"""Generates text for many requests at once: each step runs one forward pass for all texts in progress.

Requests come from many threads, and the engine's own thread runs the steps. Each slot keeps the keys and values of its
last text, so the next request of the same episode encodes only new tokens. A prompt that shares a prefix with another
(few-shot examples) copies that prefix. Invariant: a result depends on the request's own tokens, temperature and seed;
other requests change it only by rounding. The engine knows nothing of messages, templates and tools.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fireact.errors import ContextError, FireactError, ProviderError
from fireact.models.attention import KeyValueCache, plan_pass
from fireact.models.decoder import build_decoder

CHUNK_TOKENS = 512
"""Most prompt tokens in a step: enough to keep the processor busy, few enough not to delay the texts being written."""
MIN_SHARED_TOKENS = 16
"""Fewest shared tokens for which copying or awaiting a prefix is worth it."""


MaskLogits = Callable[[list[int], torch.Tensor], torch.Tensor]
"""Takes the ids generated so far and the next logits; returns these with -inf where a token may not follow."""


@dataclass(eq=False, slots=True)
class GenerationRequest:
    """A caller's request and its result so far; ``done`` is set when ``generated`` or ``error`` is final."""

    prompt: list[int]
    max_tokens: int
    temperature: float
    is_finished: Callable[[list[int]], bool]
    """Whether the text is complete, given all generated ids; an exception here ends this text only."""
    rng: torch.Generator
    top_p: float = 1.0
    mask_logits: MaskLogits | None = None
    top_logprobs: int | None = None
    """How many likely tokens to report for each generated one; None reports nothing."""
    generated: list[int] = field(default_factory=list)
    logprobs: list[tuple[float, list[tuple[int, float]]]] = field(default_factory=list)
    """For each generated token its log probability, and the likeliest ids with theirs."""
    cached: int = 0
    cancelled: bool = False
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False, slots=True)
class Slot:
    """Rows of the cache: the ids that they hold or will hold, how many are computed, and for which request."""

    index: int
    ids: list[int] = field(default_factory=list)
    computed: int = 0
    used: int = 0
    request: GenerationRequest | None = None

    def release(self) -> None:
        """Free the slot; its computed tokens stay in the cache."""
        self.request = None
        del self.ids[self.computed :]

    @property
    def remaining(self) -> int:
        """Tokens to compute before the next one can be predicted; 1 while a text is being written."""
        return len(self.ids) - self.computed


class Engine:
    """Continuous batching over a causal LM that transformers loaded; ``slots`` texts at a time.

    ``ends`` are the ids that end a text, ``limit`` is the longest text in tokens.
    """

    def __init__(self, model: Any, *, slots: int, ends: Sequence[int], limit: int) -> None:
        self._device: torch.device = model.device
        self._model = build_decoder(model)
        self.ends, self.limit = frozenset(ends), limit
        self._slots = [Slot(index) for index in range(slots)]
        self._kv = KeyValueCache(slots)
        self._waiting: list[GenerationRequest] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._clock = 0

    def generate(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int | None,
        temperature: float = 0.0,
        seed: int = 0,
        is_finished: Callable[[list[int]], bool] = lambda ids: False,
        top_p: float = 1.0,
        mask_logits: MaskLogits | None = None,
        top_logprobs: int | None = None,
    ) -> GenerationRequest:
        """Generate after a prompt and wait for the end; safe from many threads. Temperature 0 is greedy.

        ``max_tokens`` of None fills the context. With ``top_p`` below 1 only the likeliest tokens with that share of
        the probability are drawn.

        Raises ContextError when the prompt does not fit into the model's context, ProviderError when the engine failed.
        """
        room = self.limit - len(prompt)
        max_tokens = max(1, room) if max_tokens is None else max_tokens
        if not prompt or room < 1 or max_tokens < 1:
            raise ContextError(
                f"a prompt of {len(prompt)} tokens and {max_tokens} to write: the model takes 1 to {self.limit}. "
                "Use fewer examples or steps, or a model with a longer context."
            )
        rng = torch.Generator().manual_seed(seed)
        request = GenerationRequest(
            list(prompt), min(max_tokens, room), temperature, is_finished, rng, top_p, mask_logits, top_logprobs
        )
        self._submit(request)
        try:
            request.done.wait()
        except BaseException:  # Ctrl-C: the caller no longer waits for it
            request.cancelled = True
            raise
        if request.error is not None:
            if isinstance(request.error, FireactError) or not isinstance(request.error, Exception):
                raise request.error
            cause = f"{type(request.error).__name__}: {request.error}"
            raise ProviderError(f"generation failed: {cause}") from request.error
        return request

    def close(self) -> None:
        """Stop the engine's thread; requests under way fail. Closing twice is harmless."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _submit(self, request: GenerationRequest) -> None:
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
            except Exception as error:  # waiting callers must get the error, or they would wait for ever
                self._fail(error)
        self._fail(ProviderError("the model was closed before the text was written."))

    def _wait(self) -> bool:
        """Sleep until there is work; False when the engine was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self._busy_slots())
            return not self._closed

    def _busy_slots(self) -> list[Slot]:
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
        """Free the slots of cancelled requests, and give free slots to waiting requests."""
        for slot in self._busy_slots():
            if slot.request is not None and slot.request.cancelled:
                slot.release()
        with self._changed:
            waiting = [request for request in self._waiting if not request.cancelled]
            self._waiting = waiting
        placed = set()
        for request in waiting:
            free = [slot for slot in self._slots if slot.request is None]
            if not free:
                break
            if self._assign_slot(request, free):
                placed.add(id(request))
        with self._changed:
            self._waiting = [request for request in self._waiting if id(request) not in placed]

    def _assign_slot(self, request: GenerationRequest, free: Sequence[Slot]) -> bool:
        """Give a request the free slot that holds most of its prefix, or a copy of another slot's prefix.

        False while another slot is still computing a prefix worth sharing: it is read once, then copied.
        """
        useful = len(request.prompt) - 1  # the last token must be computed to predict the next
        shared = [min(useful, common_prefix_length(request.prompt, slot.ids)) for slot in self._slots]
        ready = [min(count, slot.computed) for count, slot in zip(shared, self._slots, strict=True)]
        longest_prefix = max(ready)
        if max(shared) >= longest_prefix + MIN_SHARED_TOKENS:
            return False
        target = max(free, key=lambda slot: (ready[slot.index], -slot.used))
        reused = ready[target.index]
        if longest_prefix >= reused + MIN_SHARED_TOKENS:
            target = min(free, key=lambda slot: slot.used)
            self._kv.copy(ready.index(longest_prefix), target.index, longest_prefix)
            reused = longest_prefix
        self._clock += 1
        target.ids, target.computed, target.used, target.request = list(request.prompt), reused, self._clock, request
        request.cached = reused
        return True

    def _step(self) -> None:
        """Run one forward pass, and add one token to each text whose prompt is computed."""
        writing = [slot for slot in self._busy_slots() if slot.remaining == 1]
        reading, room = [], CHUNK_TOKENS
        for slot in sorted(self._busy_slots(), key=lambda slot: slot.used):
            if slot.remaining > 1 and room:
                token_count = min(room, slot.remaining)
                reading.append((slot, token_count))
                room -= token_count
        if not writing and not reading:
            return
        predicted_slots, logits = self._forward(writing, reading)
        for slot, token_count in [*((slot, 1) for slot in writing), *reading]:
            slot.computed += token_count
        best = logits.argmax(-1).tolist()
        for slot, row, token in zip(predicted_slots, logits, best, strict=True):
            self._extend(slot, row, token)

    def _forward(self, writing: Sequence[Slot], reading: Sequence[tuple[Slot, int]]) -> tuple[list[Slot], torch.Tensor]:
        """The slots whose next token this pass predicts, and its logits [slots, vocabulary]."""
        ids = [slot.ids[-1] for slot in writing]
        last = list(range(len(writing)))
        predicted_slots = list(writing)
        for slot, count in reading:
            ids += slot.ids[slot.computed : slot.computed + count]
            if count == slot.remaining:
                predicted_slots.append(slot)
                last.append(len(ids) - 1)
        batch = plan_pass(
            self._kv,
            [(slot.index, slot.computed) for slot in writing],
            [(slot.index, slot.computed, count) for slot, count in reading],
            shared=_shared_prefix_length(writing),
            device=self._device,
        )
        logits = self._model(
            ids=torch.tensor(ids, device=self._device),
            last=torch.tensor(last, dtype=torch.long, device=self._device),
            batch=batch,
        )
        return predicted_slots, logits.float().cpu()

    def _extend(self, slot: Slot, logits: torch.Tensor, best: int) -> None:
        request = slot.request
        assert request is not None
        try:
            if request.mask_logits is not None:
                logits = request.mask_logits(request.generated, logits)
                best = int(logits.argmax())
            token = best if request.temperature <= 0 else _sample_token(logits, request)
            if request.top_logprobs is not None:
                request.logprobs.append(_measure_logprobs(logits, token, request.top_logprobs))
            request.generated.append(token)
            is_over = token in self.ends or len(request.generated) >= request.max_tokens
            is_over = request.is_finished(request.generated) or is_over
        except BaseException as error:  # the caller's own exception, which is raised in its thread
            request.error, is_over = error, True
        if is_over:
            slot.release()
            request.done.set()
        else:
            slot.ids.append(token)


def common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    """The number of leading ids that two texts have in common."""
    count = min(len(first), len(second))
    if first[:count] == second[:count]:
        return count
    # Bisection compares slices, which is much faster than comparing ids one by one in Python.
    return bisect_left(range(count), True, key=lambda index: first[: index + 1] != second[: index + 1])


def _shared_prefix_length(writing: Sequence[Slot]) -> int:
    """The length of the computed prefix that all writing slots share."""
    if len(writing) < 2:
        return 0
    first, following = writing[0], writing[1:]
    least = min(slot.computed for slot in writing)
    prefix = first.ids[:least]
    for slot in following:
        prefix = prefix[: common_prefix_length(prefix, slot.ids)]
    return len(prefix)


def _sample_token(logits: torch.Tensor, request: GenerationRequest) -> int:
    odds = torch.softmax(logits / request.temperature, dim=-1)
    if request.top_p < 1:
        ordered, ids = odds.sort(descending=True)
        odds[ids[ordered.cumsum(-1) - ordered >= request.top_p]] = 0  # the first token always stays
    return int(torch.multinomial(odds, 1, generator=request.rng))


def _measure_logprobs(logits: torch.Tensor, token: int, count: int) -> tuple[float, list[tuple[int, float]]]:
    """The log probability of a token, and the ``count`` likeliest tokens with theirs."""
    logprobs = torch.log_softmax(logits, dim=-1)
    top = logprobs.topk(min(count, len(logprobs)))
    return float(logprobs[token]), list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
