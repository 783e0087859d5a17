"""``hf:NAME``: a model that transformers loads, run in this process; episodes that run at a time share its batches.

The prompt goes through ``render.tokens``, the same function that training samples go through. Adapters are merged into
the weights when they are loaded. Invariant: greedy text is that of transformers' own ``generate`` on the same weights.
It does not train, and it does not batch by itself: many threads call ``complete``, the engine puts them together.
"""

from __future__ import annotations

import shlex
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fireact.errors import ConfigError, ProviderError, missing_extra
from fireact.models.quiet import quiet
from fireact.models.stops import before, held_back
from fireact.models.weights import ends_of, loading, student_directory
from fireact.render.chat import dress, schema
from fireact.render.tokens import prompt_ids
from fireact.types import Completion, Message, Renderer, Tool, Usage

if TYPE_CHECKING:
    from fireact.models.engine import Engine

MAX_TOKENS = 256
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is in memory after the first use."""

    engine: Engine
    tokenizer: Any
    close: Callable[[], object]


class HFModel:
    """An LM on transformers' weights, loaded on first use; ``slots`` is how many texts are written at a time.

    A LoRA ``adapter`` directory is merged into the weights; a ``renderer`` with a template of its own takes the place of the
    student's. ``tools`` are shown to the student by its chat template; it writes its calls as text, which the renderer
    reads. Raises ConfigError for an unknown student or dtype.
    """

    def __init__(
        self,
        student: str | Path,
        *,
        adapter: Path | None = None,
        slots: int = 16,
        name: str | None = None,
        dtype: str = "float32",
        renderer: Renderer | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise ConfigError(f"dtype {dtype!r} is not known. Known: {', '.join(DTYPES)}.")
        if slots < 1:
            raise ConfigError(f"slots is {slots}; at least one text must be written at a time. Give 1 or more.")
        self.name = name or str(student)
        self._adapter, self._slots, self._dtype, self._renderer = adapter, slots, dtype, renderer
        self._place = student_directory(str(student))
        self._loading, self._tokenizing = threading.Lock(), threading.Lock()
        self._loaded: Loaded | None = None

    def complete(
        self,
        messages: Sequence[Message],
        *,
        stop: Sequence[str] = (),
        max_tokens: int | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        tools: Sequence[Tool] = (),
        heard: Callable[[str], None] | None = None,
    ) -> Completion:
        """Complete a chat; safe from many threads. ``heard`` is given the text piece by piece while it is written;
        what it raises ends the text.

        ``completion_tokens`` counts the token that ends the text. Raises ProviderError when the prompt does not fit
        into the model's context, and ConfigError when the model has no chat template.
        """
        started = time.perf_counter()
        loaded = self._load()
        with self._tokenizing:  # a tokenizer is not safe under threads
            prompt = prompt_ids(messages, loaded.tokenizer, tools=[schema(tool) for tool in tools])
        done = loaded.engine.generate(
            prompt,
            max_tokens=MAX_TOKENS if max_tokens is None else max_tokens,
            temperature=temperature,
            seed=seed,
            finished=self._stopper(stop, loaded.tokenizer) if heard is None else self._teller(stop, loaded, heard),
        )
        text = self._text(done.generated, loaded.tokenizer)
        cut = before(text, stop)
        ended = done.generated[-1] in loaded.engine.ends or len(cut) < len(text)
        return Completion(
            text=cut,
            usage=Usage(1, len(prompt), done.cached, len(done.generated)),
            finish="stop" if ended else "length",
            seconds=time.perf_counter() - started,
        )

    @property
    def ends(self) -> frozenset[int]:
        """The ids that end a text."""
        return self._load().engine.ends

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that prompts go through; not to be used while texts are written."""
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

    def _stopper(self, stop: Sequence[str], tokenizer: Any) -> Callable[[list[int]], bool]:
        """Whether a stop string is in the text, looked for in its last tokens: each token adds a byte at least."""
        tail = max((len(string.encode()) for string in stop), default=0) + 8
        return lambda ids: bool(stop) and any(string in self._text(ids[-tail:], tokenizer) for string in stop)

    def _teller(self, stop: Sequence[str], loaded: Loaded, heard: Callable[[str], None]) -> Callable[[list[int]], bool]:
        """As ``_stopper``, and hands on what is certain of the text: no half letter, no beginning of a stop string."""
        told = 0

        def tell(ids: list[int]) -> bool:
            nonlocal told
            text = self._text(ids, loaded.tokenizer)
            cut = before(text, stop)
            sure = len(cut) if len(cut) < len(text) else len(text.rstrip("\ufffd")) - held_back(text, stop)
            if sure > told:
                heard(cut[told:sure])
                told = sure
            return len(cut) < len(text)

        return tell

    def _load(self) -> Loaded:
        with self._loading:
            if self._loaded is None:
                engine, tokenizer = self._read()
                close = weakref.finalize(self, engine.close)  # at exit too: the thread must not die inside a kernel
                self._loaded = Loaded(engine, tokenizer, close)
            return self._loaded

    def _read(self) -> tuple[Engine, Any]:
        try:
            import torch

            from fireact.models.engine import Engine
            from fireact.models.packed import pack
        except ImportError as error:
            raise missing_extra(error.name or "transformers", "train") from error
        model, tokenizer = _loaded(self._place, self._adapter, self._dtype)
        if self._renderer is not None:
            dress(tokenizer, self._renderer)
        model.eval()
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        ends, limit = (
            sorted(ends_of(model.generation_config.eos_token_id, tokenizer)),
            _limit(model.config.get_text_config()),
        )
        return Engine(pack(model), slots=self._slots, ends=ends, limit=limit), tokenizer


def merged_student(student: str, adapter: Path | None) -> tuple[Any, Any]:
    """transformers' model in float32 with the adapter in its weights, and its tokenizer."""
    return _loaded(student_directory(student), adapter, "float32")


def _loaded(place: str, adapter: Path | None, dtype: str) -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise missing_extra(error.name or "transformers", "train") from error
    with quiet():
        with loading(place):
            tokenizer = transformers.AutoTokenizer.from_pretrained(place)
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(place, dtype=getattr(torch, dtype))
        return (model if adapter is None else _merged(model, adapter)), tokenizer


def from_name(name: str, *, slots: int = 16) -> HFModel:
    """The LM behind ``hf:NAME``."""
    return HFModel(name, slots=slots)


def _merged(model: Any, adapter: Path) -> Any:
    import peft

    if not (adapter / "adapter_config.json").is_file():
        raise ProviderError(f"{adapter} holds no adapter. Train it: fireact resume {shlex.quote(str(adapter.parent))}")
    return peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()


def _limit(config: Any) -> int:
    """The longest text in tokens; within a sliding window, where there is one, attention is plain."""
    window = getattr(config, "sliding_window", None)
    return int(min(config.max_position_embeddings, window or config.max_position_embeddings))
