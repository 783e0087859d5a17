"""Small tokenizers in the shape of real ones, each with a chat template of ``templates/`` in the shape of its family's.

Trained in a moment on a few lines; every text has ids. They differ as the real ones do: in how newlines and spaces cut,
in whether spaces are a letter of the vocabulary (Gemma), and in which tokens end a turn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"
LINES = [
    "Thought: I look up the country.\nAction: search[ Chad]",
    "Observation: Chad lies in Africa.\n\n\n  1 2 3",
    "search[ Chad]\nObservation: Chad lies in Africa.\nsearch[Chad]\nObservation: Chad",
    'system user assistant model\n\n<tool_call>\n{"name": "search", "arguments": {"query": "Chad"}}\n</tool_call>',
]
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Family:
    """Special tokens (the first begins a text where ``bos``), tokens that are none, and the tokens that end a turn."""

    special: tuple[str, ...]
    ends: tuple[str, ...]
    tags: tuple[str, ...] = ()
    bos: bool = False
    pattern: str | None = LLAMA


CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
FAMILIES = {
    "smollm2": Family((*CHATML, "<file_sep>"), ("<|im_end|>",), pattern=GPT2),
    "marked": Family(CHATML, ("<|im_end|>",), pattern=GPT2),
    "llama3": Family(
        ("<|begin_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>"),
        ("<|eot_id|>", "<|eom_id|>"),
        bos=True,
    ),
    "qwen2_5": Family(CHATML, ("<|im_end|>", "<|endoftext|>"), tags=QWEN[:2]),
    "qwen3": Family(CHATML, ("<|im_end|>", "<|endoftext|>"), tags=QWEN),
    "gemma": Family(
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), ("<end_of_turn>", "<eos>"), bos=True, pattern=None
    ),
    "glm": Family(
        ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
        ("<|endoftext|>", "<|user|>", "<|observation|>"),
        tags=QWEN[:4],
    ),
    "thinker": Family(("<|begin|>", "<|end|>", "<|User|>", "<|Assistant|>"), ("<|end|>",), bos=True),
    "mistral": Family(
        ("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        ("</s>",),
        bos=True,
        pattern=None,
    ),
}


@cache
def tokenizer(name: str) -> Any:
    """The tokenizer of a family, with its template."""
    from transformers import PreTrainedTokenizerFast

    family = FAMILIES[name]
    core = _bytes(family) if family.pattern else _spaces()
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=family.special[0] if family.bos else None,
        eos_token=family.ends[0],
        extra_special_tokens=list(family.special),
        chat_template=(TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8").removesuffix("\n"),
    )
    made.add_tokens(list(family.tags))
    return made


def ends(name: str) -> set[int]:
    """The ids that end a turn at inference."""
    return set(tokenizer(name).convert_tokens_to_ids(list(FAMILIES[name].ends)))


def _bytes(family: Family) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(family.pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False))
    return core


def _spaces() -> Any:
    """As SentencePiece: a space is a letter, nothing is cut beforehand, and what is not known is written in bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.Replace(" ", "▁")
    core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # no piece of SentencePiece has a space within
    core.train_from_iterator(
        [line for text in LINES for line in text.splitlines()],
        trainers.BpeTrainer(vocab_size=100, show_progress=False),
    )
    model = json.loads(core.to_str())["model"]
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"], "\n", "\n\n"]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    merges = [*(tuple(pair) for pair in model["merges"]), ("\n", "\n")]
    whole = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True))
    whole.normalizer = normalizers.Replace(" ", "▁")
    whole.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return whole
