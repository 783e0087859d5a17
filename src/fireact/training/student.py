"""The student to train: loads its weights as the recipe says, and makes the recipe's share of them trainable.

int8-lora and qlora need a GPU and bitsandbytes; they have not been run by this project's tests, which have no GPU.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fireact.base.machine import choose_product_dtype, training_device
from fireact.errors import ConfigError, missing_extra_error
from fireact.models.weights import load_tokenizer, student_directory, translate_load_errors
from fireact.training.loss import require_gpu
from fireact.training.memory import require_memory_for_weights
from fireact.training.recipe import ADAPTED, QUANTISED, Recipe


def load_student(student: str, kind: str = "lora") -> tuple[Any, Any, frozenset[int]]:
    """Load the model (float32, or quantised by ``kind``), its tokenizer, and the ids that end a turn at inference."""
    try:
        import torch
        import transformers
        import trl  # noqa: F401
    except ImportError as error:
        raise missing_extra_error(error.name or "trl", "train") from error
    tokenizer, ends = load_tokenizer(student)
    directory = student_directory(student)
    options = _quantisation_options(kind) if kind in QUANTISED else {"dtype": torch.float32}
    with translate_load_errors(directory):
        require_memory_for_weights(load_model_shape(student), directory, kind)
        model = transformers.AutoModelForCausalLM.from_pretrained(directory, **options)
    return model, tokenizer, ends


def load_adapted(student: str, adapter: Path, kind: str) -> tuple[Any, Any, frozenset[int]]:
    """Load what ``load_student`` does, with an adapter to train further."""
    import peft as untyped

    peft: Any = untyped
    model, tokenizer, ends = load_student(student, kind)
    if kind in QUANTISED:
        model = _prepare_quantised(model)
    adapted = peft.PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
    for config in adapted.peft_config.values():  # its hub id would make PEFT ask the hub when it saves
        config.base_model_name_or_path = student_directory(student)
    return adapted, tokenizer, ends


def load_model_shape(student: str) -> Any:
    """Load the model with shapes alone, without weights."""
    import torch
    import transformers

    auto: Any = transformers.AutoModelForCausalLM  # untyped
    directory = student_directory(student)
    with translate_load_errors(directory), torch.device("meta"):
        return auto.from_config(transformers.AutoConfig.from_pretrained(directory))


def _quantisation_options(kind: str) -> dict[str, Any]:
    import transformers

    require_gpu(kind)
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise missing_extra_error("bitsandbytes", "gpu") from error
    four_bit: dict[str, Any] = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": choose_product_dtype(),
    }
    options = {"load_in_8bit": True} if kind == "int8-lora" else four_bit
    config: Any = getattr(transformers, "BitsAndBytesConfig")(**options)  # noqa: B009  # untyped
    return {"quantization_config": config, "device_map": {"": int(os.environ.get("LOCAL_RANK", "0"))}}


def _prepare_quantised(model: Any) -> Any:
    """Prepare a quantised model for an adapter; the backward pass recomputes activations, to save memory."""
    import peft as untyped

    peft: Any = untyped
    return peft.prepare_model_for_kbit_training(model, gradient_checkpointing_kwargs={"use_reentrant": False})


def move_to_device(model: Any, kind: str) -> Any:
    """Move the model to the training device; quantised models are there already."""
    return model if training_device() == "cpu" or kind in QUANTISED else model.to(training_device())


def make_trainable(model: Any, recipe: Recipe) -> tuple[Any, int]:
    """Make the recipe's part of a model trainable; returns the model and the number of frozen lower blocks."""
    blocks = model.config.get_text_config().num_hidden_layers
    frozen = blocks - recipe.count_trained_blocks(blocks)
    trained = (
        _add_lora(model, recipe, frozen, blocks) if recipe.kind in ADAPTED else _unfreeze_upper_blocks(model, frozen)
    )
    if not any(parameter.requires_grad for parameter in trained.parameters()):
        raise ConfigError(
            "the recipe trains nothing: no layer has its targets. Leave targets out for all linear layers."
        )
    return trained, frozen


def _add_lora(model: Any, recipe: Recipe, frozen: int, blocks: int) -> Any:
    import peft as untyped

    from fireact.training.frozen_blocks import find_blocks

    peft: Any = untyped
    names = find_linear_names(model)
    unknown_targets = sorted(set(recipe.targets) - set(names))
    if unknown_targets:
        raise ConfigError(
            f"recipe: the student has no layers named {', '.join(unknown_targets)}. It has: {', '.join(names)}."
        )
    if recipe.kind in QUANTISED:
        model = _prepare_quantised(model)
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


def _unfreeze_upper_blocks(model: Any, frozen: int) -> Any:
    """Make all weights trainable, or, with frozen blocks, those of the upper blocks and the final norm."""
    from fireact.training.frozen_blocks import find_blocks, find_final_norm

    if frozen:
        model.requires_grad_(False)
        body, _, blocks = find_blocks(model)
        norm = find_final_norm(body)
        for module in [*list(blocks)[frozen:], *([getattr(body, norm)] if norm else [])]:
            module.requires_grad_(True)
    return model


def find_linear_names(model: Any) -> list[str]:
    """Find the last names of the linear layers in the blocks: q_proj and down_proj, qkv_proj, c_attn, ..."""
    import torch
    from transformers.pytorch_utils import Conv1D

    from fireact.training.frozen_blocks import find_blocks

    linear = (torch.nn.Linear, Conv1D)  # GPT-2 has linear layers with transposed weights
    blocks = find_blocks(model)[2]
    return sorted({name.rpartition(".")[2] for name, module in blocks.named_modules() if isinstance(module, linear)})
