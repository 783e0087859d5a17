"""A tiny random Llama with a byte-level tokenizer and a ChatML template: a real model for tests, made in a moment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def tiny_model(
    path: Path,
    *,
    layers: int = 4,
    hidden: int = 64,
    seed: int = 0,
    positions: int = 2048,
    texts: Sequence[str] = (),
) -> Path:
    """Save a model of random weights (float32, 4 heads, 2 key heads) and its tokenizer as safetensors to ``path``.

    The tokenizer learns longer tokens from ``texts``.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer(texts)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        bos_token_id=tokenizer.convert_tokens_to_ids("<|im_start|>"),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
        initializer_range=0.2,  # wide, so that greedy choices are far from ties
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def cut_smollm2(path: Path, *, blocks: int = 4) -> Path:
    """Save the lowest blocks of SmolLM2, with its own tokenizer, shapes and head, to ``path``."""
    from fireact.models.hf import load_merged_student

    model, tokenizer = load_merged_student("smollm2-135m", None)
    del model.model.layers[blocks:]
    model.config.num_hidden_layers = blocks
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def tiny_tokenizer(texts: Sequence[str] = ()):  # type: ignore[no-untyped-def]  # transformers is imported inside
    """One token a byte, those learned from the texts, three special ones, and a chat template that only appends."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    if texts:
        raw.train_from_iterator(
            texts, trainers.BpeTrainer(vocab_size=2000, initial_alphabet=letters, show_progress=False)
        )
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = CHATML
    return tokenizer
