"""The student that is trained: its weights loaded as the recipe says, and what of them is trained.

int8-lora and qlora need a GPU and bitsandbytes; they have not been run by this project's tests, which have no GPU.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fireact.errors import ConfigError, missing_extra
from fireact.models.weights import ends_of, loading, student_directory
from fireact.training.loss import device, has_bfloat16, need_gpu
from fireact.training.memory import need_weights
from fireact.training.recipe import ADAPTED, QUANTISED, Recipe


def load_student(student: str, kind: str = "lora") -> tuple[Any, Any, set[int]]:
    """The model (float32, or quantised as ``kind`` says), its tokenizer, and the ids that end a turn at inference."""
    try:
        import torch
        import transformers
        import trl  # noqa: F401
    except ImportError as error:
        raise missing_extra(error.name or "trl", "train") from error
    place = student_directory(student)
    options = _quantised(kind) if kind in QUANTISED else {"dtype": torch.float32}
    with loading(place):
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        need_weights(load_shape(student), place, kind)
        model = transformers.AutoModelForCausalLM.from_pretrained(place, **options)
    return model, tokenizer, ends_of(model.generation_config.eos_token_id, tokenizer)


def load_adapted(student: str, adapter: Path, kind: str) -> tuple[Any, Any, set[int]]:
    """What ``load_student`` loads, with an adapter that goes on being trained."""
    import peft as untyped

    peft: Any = untyped
    model, tokenizer, ends = load_student(student, kind)
    if kind in QUANTISED:
        model = _prepared(model)
    return peft.PeftModel.from_pretrained(model, str(adapter), is_trainable=True), tokenizer, ends


def load_tokenizer(student: str) -> tuple[Any, set[int]]:
    """The tokenizer alone, and the ids that end a turn at inference; needs no torch."""
    try:
        import transformers
    except ImportError as error:
        raise missing_extra("transformers", "train") from error
    place = student_directory(student)
    with loading(place):
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        try:
            eos = transformers.GenerationConfig.from_pretrained(place).eos_token_id
        except OSError:  # a model without generation settings ends where its config says
            eos = transformers.AutoConfig.from_pretrained(place).get_text_config().eos_token_id
    return tokenizer, ends_of(eos, tokenizer)


def load_shape(student: str) -> Any:
    """The model without its weights: shapes alone."""
    import torch
    import transformers

    auto: Any = transformers.AutoModelForCausalLM  # untyped
    place = student_directory(student)
    with loading(place), torch.device("meta"):
        return auto.from_config(transformers.AutoConfig.from_pretrained(place))


def _quantised(kind: str) -> dict[str, Any]:
    import torch
    import transformers

    need_gpu(kind)
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise missing_extra("bitsandbytes", "gpu") from error
    four: dict[str, Any] = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.bfloat16 if has_bfloat16() else torch.float32,
    }
    options = {"load_in_8bit": True} if kind == "int8-lora" else four
    config: Any = getattr(transformers, "BitsAndBytesConfig")(**options)  # noqa: B009  # untyped
    return {"quantization_config": config, "device_map": {"": int(os.environ.get("LOCAL_RANK", "0"))}}


def _prepared(model: Any) -> Any:
    """A quantised model, ready to be adapted; activations are made again in the backward pass, to save memory."""
    import peft as untyped

    peft: Any = untyped
    return peft.prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs={"use_reentrant": False})


def on_device(model: Any, kind: str) -> Any:
    """The model where training runs; quantised ones are put there when they are loaded."""
    return model if device() == "cpu" or kind in QUANTISED else model.to(device())


def adapt(model: Any, recipe: Recipe) -> tuple[Any, int]:
    """The model with what the recipe trains made trainable, and how many lower blocks stay as they are."""
    blocks = model.config.get_text_config().num_hidden_layers
    frozen = blocks - recipe.trained(blocks)
    trained = _lora(model, recipe, frozen, blocks) if recipe.kind in ADAPTED else _full(model, frozen)
    if not any(parameter.requires_grad for parameter in trained.parameters()):
        raise ConfigError(
            "the recipe trains nothing: no layer has its targets. Leave targets out for all linear layers."
        )
    return trained, frozen


def _lora(model: Any, recipe: Recipe, frozen: int, blocks: int) -> Any:
    import peft as untyped

    from fireact.training.halves import find_blocks

    peft: Any = untyped
    names = linear_names(model)
    absent = sorted(set(recipe.targets) - set(names))
    if absent:
        raise ConfigError(f"recipe: the student has no layers named {', '.join(absent)}. It has: {', '.join(names)}.")
    if recipe.kind in QUANTISED:
        model = _prepared(model)
    config = peft.LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=list(recipe.targets) or names,
        layers_to_transform=list(range(frozen, blocks)),
        layers_pattern=find_blocks(model)[1],
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(model, config)


def _full(model: Any, frozen: int) -> Any:
    """All weights, or those of the upper blocks and the final norm where lower ones stay."""
    from fireact.training.halves import final_norm, find_blocks

    if frozen:
        model.requires_grad_(False)
        body, _, found = find_blocks(model)
        norm = final_norm(body)
        for part in [*list(found)[frozen:], *([getattr(body, norm)] if norm else [])]:
            part.requires_grad_(True)
    return model


def linear_names(model: Any) -> list[str]:
    """The last names of the linear layers inside the blocks: q_proj and down_proj, qkv_proj, query_key_value, c_attn, ..."""
    import torch
    from transformers.pytorch_utils import Conv1D

    from fireact.training.halves import find_blocks

    linear = (torch.nn.Linear, Conv1D)  # GPT-2's layers are linear ones, the other way around
    blocks = find_blocks(model)[2]
    return sorted({name.rpartition(".")[2] for name, part in blocks.named_modules() if isinstance(part, linear)})
