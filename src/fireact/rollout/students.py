"""What a directory of ``train``, ``prefer``, ``tune`` or ``export`` tells of the student in it; nothing is loaded.

Invariant: a name that runs code of others is refused before it is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fireact.base.foreign_names import refuse_foreign_names
from fireact.base.run_directory import read_config, read_fact, read_manifest
from fireact.errors import ConfigError, DataError, missing_path_error
from fireact.render.requests import KnownPrompts, RecordedRenderer
from fireact.rollout.loading import SEARCH


@dataclass(frozen=True, slots=True)
class TrainedTool:
    """A tool of a student's training; ``ends`` tells that a call of it is the agent's answer.

    ``schema`` and its hash are None for a tool whose schema is not known.
    """

    name: str
    schema: Mapping[str, Any] | None
    sha256: str | None
    ends: bool = False


@dataclass(frozen=True, slots=True)
class TrainedPrompt:
    """The tools and the most frequent system prompt that a student was trained with.

    ``dropped`` are the hashes of prompts that it was trained without: the server takes them out of requests.
    """

    tools: tuple[TrainedTool, ...]
    system: str
    dropped: frozenset[str] = frozenset()
    known: KnownPrompts | None = None
    """The prompts of a recorded agent's student."""

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> TrainedPrompt | None:
        """What a manifest tells; None where it is of a version that told nothing."""
        if "prompt" not in manifest:
            return None
        prompt = manifest["prompt"]
        tools = tuple(TrainedTool(**tool) for tool in manifest["tools"])
        known = None
        if manifest.get("renderer") == RecordedRenderer.name:
            hashes = prompt.get("sha256", {})
            systems = frozenset[str](hashes) if prompt.get("prompts") == len(hashes) else None
            known = KnownPrompts(systems, frozenset(tool.sha256 for tool in tools if tool.sha256))
        return cls(tools, str(prompt["system"]), frozenset(prompt.get("dropped", ())), known)

    @property
    def tools_to_run(self) -> list[TrainedTool]:
        """The tools that somebody must run: all but those that end an episode."""
        return [tool for tool in self.tools if not tool.ends]


def find_hosted_model(spec: str) -> str:
    """The model that ``tune`` made in a directory; empty where the path is no such directory."""
    path = Path(spec)
    if not (path / "config.toml").is_file() or read_config(path).get("verb") != "tune":
        return ""
    agent = read_fact(path, "agent")
    refuse_foreign_names(path, [agent], advice=f"name it yourself: -a {agent}.")
    return agent


def tuned_directory(spec: str) -> Path | None:
    """The run directory of ``train`` or ``export --to merged`` behind a path; None where it is no run directory."""
    path = Path(spec)
    if not (path / "config.toml").is_file():
        return None
    settings = read_config(path)
    if settings.get("verb") == "quickstart":
        path = path / "train"
    elif settings.get("verb") not in ("train", "prefer") and not _is_merged(settings):
        raise ConfigError(
            f"{spec} is a directory of 'fireact {settings.get('verb')}'; an agent is one of 'fireact train'."
        )
    read_manifest(path)
    return path


def require_tuned_directory(spec: str) -> Path:
    """``tuned_directory``; raises DataError where there is nothing, ConfigError where it is no run directory."""
    if not Path(spec).exists():
        raise missing_path_error(spec)
    if (directory := tuned_directory(spec)) is None:
        raise ConfigError(
            f"{spec} is no directory of 'fireact train' or 'fireact quickstart'. Train by imitation first."
        )
    return directory


def _is_merged(settings: Mapping[str, Any]) -> bool:
    return (settings.get("verb"), settings.get("to")) == ("export", "merged")


def tuned_weights(directory: Path) -> tuple[str, Path | None, str]:
    """What to load for a fine-tuned student, the adapter to merge (or None), and its name with a fingerprint."""
    settings, manifest = read_config(directory), read_manifest(directory)
    if _is_merged(settings):
        student, sha256 = read_fact(directory, "student"), _hash_weight_files(manifest.get("files") or {})
        weights_source, adapter = str(directory), None
    else:
        student, sha256 = read_fact(directory, "student"), read_fact(directory, "adapter_sha256")
        is_full_model = (directory / "model").is_dir()  # full fine-tuning leaves a model, LoRA an adapter
        weights_source, adapter = (
            (str(directory / "model"), None) if is_full_model else (student, directory / "adapter")
        )
    return weights_source, adapter, f"{student}+{sha256[:8]}"


def _hash_weight_files(files: Mapping[str, str]) -> str:
    """One hash over all weight files; a large student has several."""
    hashes = [sha256 for name, sha256 in sorted(files.items()) if name.endswith(".safetensors")]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def student_name(directory: Path) -> str:
    """The name or path of the student that was fine-tuned in a run directory."""
    return read_fact(directory, "student")


def tuned_renderer(directory: Path) -> str:
    """The name of the renderer that a student was trained with, to be loaded. Raises DataError as ``tuned_tools``."""
    name = str(read_manifest(directory).get("renderer", "react"))
    refuse_foreign_names(directory, [name])
    return name


def tuned_tools(directory: Path) -> tuple[str, ...]:
    """The tools that a student saw in training, to be loaded.

    A run of preference or of export has no tools of its own: they are those of the run it was made from. Raises
    DataError for a tool that runs code and that this user did not set there.
    """
    source, tools = find_stored_tools(directory)
    refuse_foreign_names(source, tools, advice="name it yourself: --tool NAME.")
    return tools


def find_stored_tools(directory: Path) -> tuple[Path, tuple[str, ...]]:
    """The run whose settings name the tools of a student, and the tools."""
    settings = read_config(directory)
    if "tools" in settings:
        return directory, tuple(map(str, settings["tools"]))
    origin = settings.get("start") or settings.get("run")
    try:
        origin_directory = tuned_directory(str(origin)) if origin else None
    except (ConfigError, DataError):  # that run is gone
        origin_directory = None
    return (directory, SEARCH) if origin_directory is None else find_stored_tools(origin_directory)


def training_fields(directory: Path) -> dict[str, Any]:
    """The fields of a manifest that tell what a student was trained with, for the manifests of runs made from it."""
    manifest = read_manifest(directory)
    return {name: manifest[name] for name in ("tools", "prompt") if "prompt" in manifest}
