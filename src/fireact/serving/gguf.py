"""A merged student as one GGUF file, which llama.cpp and everything built on it load.

Covers decoders of the Llama and Qwen kind with byte-level BPE tokenizers; any other is refused with a message that
names another way. Invariant: the file computes what the model computes: greedy texts agree, which a test proves with
llama.cpp. The names of tensors and keys are the ``gguf`` package's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fireact.errors import ConfigError, missing_extra_error, unknown_name_error

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""transformers' ``model_type`` to llama.cpp's architecture."""
DTYPES = ("bfloat16", "float16", "float32")
_SPLIT_NAMES = {
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
    "\\s+(?!\\S)|\\s+": "qwen2",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+": "llama-bpe",
}
"""llama.cpp's name for the split of a text before BPE, by the split's regular expression."""


def write_gguf(model: Any, tokenizer: Any, path: Path, *, name: str, dtype: str = "float16") -> None:
    """Write a transformers model and tokenizer to ``path``. Raises ConfigError for a kind that is not covered."""
    try:
        import gguf
    except ImportError as error:
        raise missing_extra_error("gguf", "train") from error
    architecture = ARCHITECTURES.get(model.config.model_type)
    if architecture is None:
        raise _not_covered_error(f"the architecture {model.config.model_type!r}")
    if dtype not in DTYPES:
        raise unknown_name_error("dtype of GGUF", dtype, DTYPES)
    vocabulary = _read_vocabulary(tokenizer, model.config.vocab_size)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(name)
    _add_shape(writer, model.config)
    types = {"bfloat16": gguf.LlamaFileType.MOSTLY_BF16, "float16": gguf.LlamaFileType.MOSTLY_F16}
    writer.add_file_type(types.get(dtype, gguf.LlamaFileType.ALL_F32))
    _add_tokenizer(writer, tokenizer, vocabulary)
    for tensor, values in _named_tensors(model, architecture):
        if dtype == "bfloat16" and values.ndim > 1:
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(tensor, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor, values.astype(np.float16) if dtype == "float16" and values.ndim > 1 else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _not_covered_error(feature: str) -> ConfigError:
    return ConfigError(
        f"GGUF export does not cover {feature}. Export with --to merged, and run llama.cpp's convert_hf_to_gguf.py on "
        "that."
    )


def _add_shape(writer: Any, config: Any) -> None:
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        raise _not_covered_error(f"rotary embeddings of the type {rope['rope_type']!r}")
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10000.0)))


def _named_tensors(model: Any, architecture: str) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Each tensor by its GGUF name, in float32."""
    import gguf

    config = model.config
    kind = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    tied = model.get_input_embeddings().weight.data_ptr() == model.get_output_embeddings().weight.data_ptr()
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if gguf_name is None:
            raise _not_covered_error(f"the tensor {name!r}")
        values = tensor.detach().float().cpu().numpy()
        if architecture == "llama" and ".q_proj." in name:
            values = _interleave_halves(values, config.num_attention_heads)
        if architecture == "llama" and ".k_proj." in name:
            values = _interleave_halves(values, config.num_key_value_heads)
        yield gguf_name, values


def _interleave_halves(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of each head in llama.cpp's order: rotary pairs are adjacent rows there, not half a head apart."""
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def _read_vocabulary(tokenizer: Any, size: int) -> dict[str, Any]:
    """The tokenizer as its own JSON holds it. Raises ConfigError where it is no byte-level BPE."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    tokenizer_json = json.loads(backend.to_str()) if backend is not None else {}
    model = tokenizer_json.get("model", {})
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise _not_covered_error(f"a tokenizer of the type {model.get('type')!r} without byte-level BPE")
    tokens = [f"[PAD{index}]" for index in range(size)]
    kinds = [5] * size  # unused
    for token, index in model["vocab"].items():
        tokens[index], kinds[index] = token, 1
    for added in tokenizer_json.get("added_tokens", []):
        tokens[added["id"]], kinds[added["id"]] = added["content"], 3 if added["special"] else 4
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return {
        "tokens": tokens,
        "kinds": kinds,
        "merges": merges,
        "split": _find_split_name(tokenizer_json.get("pre_tokenizer") or {}),
    }


def _find_split_name(pre_tokenizer: dict[str, Any]) -> str:
    """llama.cpp's name for the split of a text before BPE."""
    steps = pre_tokenizer.get("pretokenizers") or [pre_tokenizer]
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    pattern = steps[0].get("pattern", {}).get("Regex", "") if kinds[0] == "Split" else ""
    if pattern in _SPLIT_NAMES:
        return _SPLIT_NAMES[pattern]
    raise _not_covered_error(f"a tokenizer that splits text by {kinds}")


def _add_tokenizer(writer: Any, tokenizer: Any, vocabulary: dict[str, Any]) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary["split"])
    writer.add_token_list(vocabulary["tokens"])
    writer.add_token_types(vocabulary["kinds"])
    writer.add_token_merges(vocabulary["merges"])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)  # the chat template writes the BOS token where there is one
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
