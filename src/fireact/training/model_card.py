"""The model card of a trained student, and the hub id of its base: what a reader needs before the weights.

Invariant: the card states what the run's manifest and the evaluations of it hold, and marks what is unknown: a licence
is never guessed. It is written anew after training and after each ``eval`` of the student.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fireact.base import jsonl
from fireact.base.jsonl import replace_text
from fireact.base.markdown import code_span, escape_cell
from fireact.base.progress import Progress
from fireact.base.run_directory import read_config, read_manifest
from fireact.models.weights import BUILT_IN, BUILT_IN_HUB_ID, PACKAGE
from fireact.rollout.students import find_hosted_model, tuned_directory

EVALUATIONS = "evaluations.jsonl"
ADAPTER_CONFIG = "adapter_config.json"
CARD = "README.md"
LICENCE_NOTE = "\nThe licence is that of the base and of the data. Name it above before you share this.\n"
_HUB_ID = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?")


def write_model_card(run: Path) -> None:
    """Write the card beside the weights of a complete run, and name the base of an adapter by its hub id."""
    manifest = read_manifest(run)
    weights = run / ("model" if (run / "model").is_dir() else "adapter")
    base = find_hub_id(str(manifest["student"]))
    if (weights / ADAPTER_CONFIG).is_file():
        config = json.loads((weights / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        replace_text(weights / ADAPTER_CONFIG, json.dumps({**config, "base_model_name_or_path": base}, indent=2) + "\n")
    replace_text(weights / CARD, build_model_card(run, is_adapter=weights.name == "adapter"))


def find_hub_id(student: str) -> str:
    """The hub id of a student: its name, or for a directory the id that its own config names; else its path."""
    if student == BUILT_IN:
        return BUILT_IN_HUB_ID
    config_file = Path(student) / "config.json"
    if not config_file.is_file():
        return student
    name = str(json.loads(config_file.read_text(encoding="utf-8")).get("_name_or_path") or "")
    return name if name.count("/") == 1 and not name.startswith((".", "/")) else student


def is_hub_id(name: str) -> bool:
    """Whether a name may be a model's on the hub; the path of a directory is none."""
    return _HUB_ID.fullmatch(name) is not None


def show_on_card(agent: str, out: Path, results: Mapping[str, Mapping[str, Any]], progress: Progress) -> None:
    """Add the results of an evaluation in ``out`` to the card of the agent, where it is a run that has one."""
    directory = None if find_hosted_model(agent) else tuned_directory(agent)
    if directory is None or not (directory / "adapter").is_dir():
        return
    try:
        record_evaluation(directory, out, results)
    except OSError as error:  # the evaluation is complete, and the student may be in a place that is read alone
        progress.say(f"the model card of {directory} does not show this: {error.strerror or error}")


def record_evaluation(run: Path, out: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Store what an evaluation of a run measured, in place of an earlier one of the same directory, in its card."""
    file = run / EVALUATIONS
    rows = [row for row in jsonl.read_objects(file) if row["run"] != out.name] if file.is_file() else []
    rows += [
        {"run": out.name, "task": task, "n": result["n"], "em": result["em"], "em_interval": result["em_interval"]}
        for task, result in results.items()
    ]
    jsonl.write_objects(file, rows)
    write_model_card(run)


def build_model_card(run: Path, *, is_adapter: bool, base: str = "") -> str:
    """The card of a complete run, for its adapter or for whole weights. Default of ``base``: the student's hub id."""
    manifest, settings = read_manifest(run), read_config(run)
    base = base or find_hub_id(str(manifest["student"]))
    kind = "trajectories" if "trajectories" in manifest else "pairs"
    head = {
        "base_model": json.dumps(base), "library_name": "peft" if is_adapter else "transformers", "license": "unknown",
        "pipeline_tag": "text-generation", "tags": "[agent, tool-use, fireact]",
    }  # fmt: skip
    facts = {
        "base": code_span(base) + _describe_quantisation(str(manifest["student"])),
        "data": f"{code_span(Path(str(settings['data'])).name)}, {manifest.get(kind, 0)} {kind}",
        "tools": ", ".join(code_span(tool["name"]) for tool in manifest.get("tools", ())) or "none",
        "prompt": f"renderer {code_span(str(manifest.get('renderer', 'react')))}"
        + (", with the system prompt in the manifest" if manifest.get("prompt", {}).get("system") else ""),
        "weights": f"SHA-256 {code_span(str(manifest['adapter_sha256']))}",
    }
    return (
        "---\n" + "".join(f"{name}: {value}\n" for name, value in head.items()) + "---\n"
        f"\n# {run.resolve().name}\n\nA language agent, fine-tuned by FireAct.\n\n| | |\n|---|---|\n"
        + "".join(f"| {name} | {text} |\n" for name, text in facts.items())
        + f"\n## Results\n\n{_results_section(run)}\n## Run it\n\n{_usage_section(run, base, is_adapter=is_adapter)}"
        + LICENCE_NOTE
    )  # fmt: skip


def _describe_quantisation(student: str) -> str:
    return f", from the 4-bit weights in {code_span(PACKAGE)}" if student == BUILT_IN else ""


def _results_section(run: Path) -> str:
    file = run / EVALUATIONS
    if not file.is_file():
        return f"Not measured yet: `fireact eval {run.name} -t TASK`.\n"
    rows = "".join(
        f"| {escape_cell(row['task'])} | {row['n']} | {100 * row['em']:.1f} "
        f"({100 * row['em_interval'][0]:.1f} to {100 * row['em_interval'][1]:.1f}) |\n"
        for row in jsonl.read_objects(file)
    )
    return f"| task | questions | EM, % (95 % interval) |\n|---|---|---|\n{rows}"


def _usage_section(run: Path, base: str, *, is_adapter: bool) -> str:
    if not is_adapter:
        return f"```\nfireact serve {run.name}\n```\n"
    return (
        f"```\nfireact serve {run.name}\n```\n\nor with peft alone:\n\n```python\n"
        f"model = AutoModelForCausalLM.from_pretrained({json.dumps(base)})\n"
        'model = PeftModel.from_pretrained(model, "this directory")\n```\n\n'
        f"`fireact export {run.name} --to merged` writes a chat template that shows tools as the training did.\n"
    )
