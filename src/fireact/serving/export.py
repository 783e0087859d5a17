"""The verb ``export``: a fine-tuned student for other runtimes.

merged   safetensors with the adapter in the weights, and the tokenizer: for transformers, vLLM, SGLang, TGI
gguf     one file for llama.cpp
ollama   the GGUF file and a Modelfile: ``ollama create NAME -f Modelfile``
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fireact.base.machine import release_memory, require_disk
from fireact.base.progress import SILENT, Progress
from fireact.base.run_directory import RunDir, absolute_path, file_hash
from fireact.base.settings import OUTPUT, CheckedSettings, setting
from fireact.base.verbs import Verb
from fireact.errors import ConfigError
from fireact.models.weights import student_directory
from fireact.render.chat import apply_renderer_template
from fireact.render.generation_marks import mark_generation
from fireact.render.tool_template import write_tool_template
from fireact.rollout.loading import load_renderer
from fireact.rollout.students import require_tuned_directory, training_fields, tuned_renderer, tuned_weights
from fireact.training.fitting import find_max_length
from fireact.training.trained_questions import read_trained_questions, write_trained_questions
from fireact.types import Renderer

FORMS = ("merged", "gguf", "ollama")
DTYPES = ("auto", "bfloat16", "float16", "float32")
GGUF = "model.gguf"
OLLAMA_CONTEXT = 4096
"""The smallest context in tokens of a Modelfile, unless the student's own is smaller."""


@dataclass(frozen=True, slots=True)
class ExportConfig(CheckedSettings):
    """Settings of ``export``: a directory of ``train``, the form, and the type of the numbers, one of ``DTYPES``.

    ``auto`` is bfloat16 where the student's own weights are bfloat16 or exceed float16's range; else float16.
    """

    run: str = setting(normalise=absolute_path)
    """A directory of 'fireact train' or 'fireact quickstart'."""
    to: str = setting("merged", choices=FORMS, panel=OUTPUT)
    """merged (safetensors), gguf (llama.cpp) or ollama (GGUF and Modelfile)."""
    dtype: str = setting("auto", choices=DTYPES, panel=OUTPUT)
    """Type of the numbers: bfloat16, float16, float32, or auto: bfloat16 where the student's is."""


def export(config: ExportConfig, out: Path, *, force: bool = False, progress: Progress = SILENT) -> dict[str, Any]:
    """Write the student of a training run to ``out`` in the chosen form, and return the manifest."""
    directory = require_tuned_directory(config.run)
    if training_fields(directory).get("prompt", {}).get("dropped"):
        raise ConfigError(
            f"{config.run} was trained without its agent's prompt (--prompt drop), which a chat template cannot take "
            "out of requests. Serve it with 'fireact serve', or train with --prompt keep."
        )
    if config.to == "ollama" and load_renderer(tuned_renderer(directory)).native:
        raise ConfigError(
            f"{config.run} is a student of native tool calls, and a Modelfile cannot hold its template: Ollama has a "
            "template language of its own, without the tools and calls as they were trained. Export with --to gguf, "
            "whose template llama.cpp's server uses, or --to merged for vLLM; or serve it with 'fireact serve'."
        )
    with RunDir(out, verb="export", settings=config, force=force) as run:
        if run.complete:
            return run.manifest
        weights_source, adapter, name = tuned_weights(directory)
        progress.say(f"export: {name} to {config.to}")
        student = name.rpartition("+")[0]
        renderer = load_renderer(tuned_renderer(directory))
        length = find_max_length(directory)
        dtype = _write_student(
            config, weights_source, adapter, renderer=renderer, name=Path(student).name, length=length, out=out
        )
        release_memory()
        files = sorted(path for path in out.iterdir() if path.is_file() and not path.name.startswith("."))
        exported_files = [path for path in files if path.name not in ("config.toml", "manifest.json")]
        if config.to == "merged":  # the form that 'eval' runs
            write_trained_questions(run.path, read_trained_questions(directory))
        return run.finish(
            student=student,
            renderer=tuned_renderer(directory),
            **training_fields(directory),
            to=config.to,
            dtype=dtype,
            files={path.name: file_hash(path) for path in exported_files},
        )


def _write_student(
    config: ExportConfig,
    weights_source: str,
    adapter: Path | None,
    *,
    renderer: Renderer,
    name: str,
    length: int,
    out: Path,
) -> str:
    """Write the student with the chat template and stop strings of its training; returns the dtype of its weights."""
    import torch

    from fireact.models.hf import load_merged_student
    from fireact.models.quiet import silence_libraries
    from fireact.serving.gguf import write_gguf
    from fireact.serving.ollama import render_modelfile

    model, tokenizer = load_merged_student(weights_source, adapter)
    tokenizer, dtype = apply_renderer_template(tokenizer, renderer), _choose_dtype(config, weights_source, model)
    if renderer.native:
        finish = not getattr(renderer, "ends_itself", False)
        tokenizer.chat_template = write_tool_template(tokenizer, finish=finish)
    require_disk(out, gigabytes=0.1 + model.num_parameters() * getattr(torch, dtype).itemsize / 1e9)
    if config.to == "merged":
        tokenizer.chat_template = mark_generation(tokenizer, ends=_end_tokens(model, tokenizer)) or (
            tokenizer.chat_template
        )
        with silence_libraries():
            model.to(getattr(torch, dtype)).save_pretrained(out, safe_serialization=True)
            tokenizer.save_pretrained(out)
        return dtype
    if config.to == "ollama":
        context = min(model.config.get_text_config().max_position_embeddings, max(length, OLLAMA_CONTEXT))
        text = render_modelfile(tokenizer, GGUF, ends=getattr(renderer, "ends", ()), context=context)
        (out / "Modelfile").write_text(text, encoding="utf-8")
    write_gguf(model, tokenizer, out / GGUF, name=name, dtype=dtype)
    return dtype


def _end_tokens(model: Any, tokenizer: Any) -> set[str]:
    """The tokens that end a turn: the tokenizer's, and those of the student's own settings of generation."""
    ids = model.generation_config.eos_token_id if model.generation_config is not None else None
    more = ids if isinstance(ids, list) else [] if ids is None else [ids]
    return {tokenizer.eos_token, *(tokenizer.convert_ids_to_tokens(id) for id in more)} - {None}


def _choose_dtype(config: ExportConfig, weights_source: str, model: Any) -> str:
    """The dtype to write. Raises ConfigError for float16 where a weight would overflow in it."""
    import torch
    import transformers

    if config.dtype not in ("auto", "float16"):
        return config.dtype
    float16_max = torch.finfo(torch.float16).max
    beyond = next(
        (name for name, tensor in model.state_dict().items() if bool((tensor.abs() > float16_max).any())), None
    )
    if config.dtype == "auto":
        student_dtype = (
            transformers.AutoConfig.from_pretrained(student_directory(weights_source)).get_text_config().dtype
        )
        return "bfloat16" if student_dtype is torch.bfloat16 or beyond else "float16"
    if beyond:
        raise ConfigError(f"{beyond} has weights beyond float16's range. Export with --dtype bfloat16 or float32.")
    return "float16"


EXPORT = Verb(
    "export", ExportConfig, export, out=lambda given: f"runs/export-{given.get('to', 'merged')}",
    out_help="Directory. Default: runs/export-FORM.",
    example="`fireact export runs/quickstart --to ollama -o runs/ollama`, then "
    "`ollama create my-agent -f runs/ollama/Modelfile`",
)  # fmt: skip
