"""``hf:NAME``: a model that transformers loads and this process runs; concurrent episodes share its batches.

Prompts use the same function of ``render.tokens`` as training samples. Adapters are merged into the weights when they
are loaded. Invariant: greedy text equals that of transformers' own ``generate`` on the same weights. This module
neither trains nor batches: many threads call ``complete``, and the engine batches them.
"""

from __future__ import annotations

import shlex
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fireact.base.machine import has_bfloat16
from fireact.errors import ConfigError, ProviderError, missing_extra_error, unknown_name_error
from fireact.models.quiet import silence_libraries
from fireact.models.stops import cut_at_stop, held_back_length
from fireact.models.weights import load_tokenizer, student_directory, translate_load_errors
from fireact.render.call_form import CallForm, find_call_form
from fireact.render.chat import apply_renderer_template
from fireact.render.tokens import prompt_ids
from fireact.types import Call, Completion, OnDelta, Renderer, TokenLogprob, Usage
from fireact.wire.schemas import tool_schema

if TYPE_CHECKING:
    from fireact.models.engine import Engine, GenerationRequest, MaskLogits
    from fireact.models.grammar import GrammarCompiler

DTYPES = ("auto", "float32", "bfloat16", "float16")
"""Types of the weights; auto is the one that training multiplies in here."""


@dataclass(frozen=True)
class LoadedModel:
    """The engine and the tokenizer, in memory after the first use."""

    engine: Engine
    tokenizer: Any
    close: Callable[[], object]
    vocabulary_size: int

    @cached_property
    def call_form(self) -> CallForm | None:
        """How the student writes native calls."""
        return find_call_form(self.tokenizer, self.engine.ends)

    @cached_property
    def grammars(self) -> GrammarCompiler:
        """The compiler of constraints, which takes a second to make."""
        from fireact.models.grammar import GrammarCompiler

        return GrammarCompiler(self.tokenizer, ends=sorted(self.engine.ends), vocabulary_size=self.vocabulary_size)


class HFModel:
    """An LM with transformers' weights, loaded on first use; ``slots`` sequences are generated in parallel.

    A LoRA ``adapter`` directory is merged into the weights. The chat template of a ``renderer`` replaces the student's.
    ``dtype`` is that of the weights: bfloat16 where the hardware multiplies it, float32 elsewhere, or as given.
    The chat template shows ``tools`` to the student, which writes its calls as text that the renderer reads. Raises
    ConfigError for an unknown student or dtype.
    """

    constrains = True
    """Whether a call's ``form`` is kept."""
    reports_logprobs = True
    """Whether completions have the log probabilities that a call asks for."""

    def __init__(
        self,
        student: str | Path,
        *,
        adapter: Path | None = None,
        slots: int = 16,
        name: str | None = None,
        dtype: str = "auto",
        renderer: Renderer | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise unknown_name_error("dtype", dtype, DTYPES)
        if slots < 1:
            raise ConfigError(f"slots is {slots}; at least one sequence must be generated. Give 1 or more.")
        self.name = name or str(student)
        self._adapter, self._slots, self._renderer = adapter, slots, renderer
        self._dtype = dtype
        self._location = student_directory(str(student))
        self._loading, self._tokenizing = threading.Lock(), threading.Lock()
        self._loaded: LoadedModel | None = None

    def complete(self, call: Call) -> Completion:
        """Complete a call; safe from many threads.

        Without ``call.max_tokens`` the text may fill the context. An exception that ``call.on_delta`` raises ends it.
        ``completion_tokens`` counts the token that ends the text. Raises ProviderError when the prompt does not fit
        into the model's context, and ConfigError when the model has no chat template.
        """
        started = time.perf_counter()
        loaded = self._load()
        with self._tokenizing:  # tokenizers are not thread-safe
            prompt = prompt_ids(call.messages, loaded.tokenizer, tools=[tool_schema(tool) for tool in call.tools])
            mask_logits = self._start_constraint(call, loaded)
        request = loaded.engine.generate(
            prompt,
            max_tokens=call.max_tokens,
            temperature=call.temperature or 0.0,
            seed=call.seed,
            is_finished=self._stop_checker(call.stop, loaded.tokenizer)
            if call.on_delta is None
            else self._stream_checker(call.stop, loaded, call.on_delta),
            top_p=1.0 if call.top_p is None else call.top_p,
            mask_logits=mask_logits,
            top_logprobs=call.top_logprobs,
        )
        text = self._text(request.generated, loaded.tokenizer)
        visible_text = cut_at_stop(text, call.stop)
        ended = request.generated[-1] in loaded.engine.ends or len(visible_text) < len(text)
        return Completion(
            text=visible_text,
            usage=Usage(1, len(prompt), request.cached, len(request.generated)),
            finish="stop" if ended else "length",
            seconds=time.perf_counter() - started,
            logprobs=self._name_logprobs(request, loaded.tokenizer),
        )

    def count_prompt_tokens(self, call: Call) -> int:
        """The tokens of a call's prompt; safe from many threads."""
        loaded = self._load()
        with self._tokenizing:
            return len(prompt_ids(call.messages, loaded.tokenizer, tools=[tool_schema(tool) for tool in call.tools]))

    def _start_constraint(self, call: Call, loaded: LoadedModel) -> MaskLogits | None:
        if call.form is None or call.form.is_free:
            return None
        schemas = call.form.schemas or [tool_schema(tool) for tool in call.tools]
        return loaded.grammars.compile(call.form, schemas, loaded.call_form if call.form.callable else None).start()

    def _name_logprobs(self, request: GenerationRequest, tokenizer: Any) -> tuple[TokenLogprob, ...]:
        """The log probabilities of a text with tokens as text, without the token that ends it."""

        def name(token: int) -> str:
            return self._text([token], tokenizer)

        named_tokens = zip(request.generated, request.logprobs, strict=False)
        return tuple(
            TokenLogprob(name(token), logprob, tuple((name(other_id), value) for other_id, value in top))
            for token, (logprob, top) in named_tokens
            if token not in self._load().engine.ends
        )

    @property
    def ends(self) -> frozenset[int]:
        """The ids that end a text."""
        return self._load().engine.ends

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of prompts; do not use it while texts are written."""
        return self._load().tokenizer

    def close(self) -> None:
        """Free the memory; the next use loads the weights again. Requests under way fail with ProviderError."""
        with self._loading:
            loaded, self._loaded = self._loaded, None
        if loaded is not None:
            loaded.close()

    def _text(self, ids: Sequence[int], tokenizer: Any) -> str:
        with self._tokenizing:
            text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _stop_checker(self, stop: Sequence[str], tokenizer: Any) -> Callable[[list[int]], bool]:
        """Checks the last tokens of a text for a stop string; each token adds at least one byte, so they suffice."""
        tail = max((len(string.encode()) for string in stop), default=0) + 8
        return lambda ids: bool(stop) and any(string in self._text(ids[-tail:], tokenizer) for string in stop)

    def _stream_checker(
        self, stop: Sequence[str], loaded: LoadedModel, on_delta: OnDelta
    ) -> Callable[[list[int]], bool]:
        """Like ``_stop_checker``, but also sends the text that is certain to ``on_delta``.

        An incomplete character and a possible start of a stop string are held back.
        """
        sent_chars = 0

        def emit(ids: list[int]) -> bool:
            nonlocal sent_chars
            text = self._text(ids, loaded.tokenizer)
            visible_text = cut_at_stop(text, stop)
            safe_chars = (
                len(visible_text)
                if len(visible_text) < len(text)
                else len(text.rstrip("\ufffd")) - held_back_length(text, stop)
            )
            if safe_chars > sent_chars:
                on_delta(visible_text[sent_chars:safe_chars])
                sent_chars = safe_chars
            return len(visible_text) < len(text)

        return emit

    def _load(self) -> LoadedModel:
        with self._loading:
            if self._loaded is None:
                engine, tokenizer, vocabulary_size = self._load_engine()
                close = weakref.finalize(
                    self, engine.close
                )  # also at exit, since the thread must not die inside a kernel
                self._loaded = LoadedModel(engine, tokenizer, close, vocabulary_size)
            return self._loaded

    def _load_engine(self) -> tuple[Engine, Any, int]:
        try:
            import torch

            from fireact.models.engine import Engine
        except ImportError as error:
            raise missing_extra_error(error.name or "transformers", "train") from error
        dtype = self._dtype if self._dtype != "auto" else "bfloat16" if has_bfloat16() else "float32"
        model, tokenizer, ends = _load_model(self._location, self._adapter, dtype)
        if self._renderer is not None:
            apply_renderer_template(tokenizer, self._renderer)
        model.eval()
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        config = model.config.get_text_config()
        engine = Engine(model, slots=self._slots, ends=sorted(ends), limit=context_length(config))
        return engine, tokenizer, config.vocab_size


def load_merged_student(student: str, adapter: Path | None) -> tuple[Any, Any]:
    """The float32 model of transformers with the adapter merged into its weights, and its tokenizer."""
    return _load_model(student_directory(student), adapter, "float32")[:2]


def _load_model(location: str, adapter: Path | None, dtype: str) -> tuple[Any, Any, frozenset[int]]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise missing_extra_error(error.name or "transformers", "train") from error
    tokenizer, ends = load_tokenizer(location)
    with silence_libraries():
        with translate_load_errors(location):
            loaded_dtype = dtype if adapter is None else "float32"  # an adapter is merged before anything is rounded
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(location, dtype=getattr(torch, loaded_dtype))
        if adapter is not None:
            model = _merge_adapter(model, adapter)
            for parameter in model.parameters():  # the buffers of rotary embeddings stay float32
                parameter.data = parameter.data.to(getattr(torch, dtype))
        return model, tokenizer, ends


def from_name(name: str, *, slots: int = 16) -> HFModel:
    """The LM behind ``hf:NAME``."""
    return HFModel(name, slots=slots)


def _merge_adapter(model: Any, adapter: Path) -> Any:
    import peft

    if not (adapter / "adapter_config.json").is_file():
        raise ProviderError(f"{adapter} holds no adapter. Train it: fireact resume {shlex.quote(str(adapter.parent))}")
    return peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()


def context_length(config: Any) -> int:
    """The longest text in tokens; it stays within a sliding window, so that attention is plain."""
    window = getattr(config, "sliding_window", None)
    return int(min(config.max_position_embeddings, window or config.max_position_embeddings))
