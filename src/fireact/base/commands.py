"""The one list of commands, in the order and under the headings of ``fireact --help``.

A command is a function of ``fireact`` too. A verb writes a run directory; the others read one, or serve.
Invariant: this module imports nothing of ours, so that help is quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class CommandEntry(NamedTuple):
    """A command in the list: its line of help, and where its record is (module:attribute).

    ``function`` is its name in Python where that is another: ``eval`` is a function of Python itself. A verb
    ``gathers`` where its runs hold episodes to learn from, which nothing has measured or used yet.
    """

    summary: str
    record: str
    is_verb: bool = True
    function: str = ""
    gathers: bool = False


HEADINGS: Mapping[str, Mapping[str, CommandEntry]] = {
    "The whole pipeline": {
        "quickstart": CommandEntry(
            "Everything, from nothing to a fine-tuned, measured agent.", "fireact.pipeline.quickstart:QUICKSTART"
        ),
        "resume": CommandEntry(
            "Resume an interrupted run by its directory alone.", "fireact.pipeline.commands:RESUME", is_verb=False
        ),
        "launch": CommandEntry(
            "Print a script that runs a verb as a job of Slurm, SkyPilot or Kubernetes.",
            "fireact.pipeline.jobs:LAUNCH",
            is_verb=False,
        ),
    },
    "Collect": {
        "collect": CommandEntry(
            "Collect a teacher's trajectories; every episode is kept, failed ones too.",
            "fireact.rollout.collection:COLLECT",
            gathers=True,
        ),
        "join": CommandEntry(
            "Join the shards of a run into one run, as if one machine had run it.",
            "fireact.pipeline.join:JOIN",
            is_verb=False,
        ),
        "record": CommandEntry(
            "Record your own agent: point its base URL here, and its calls become trajectories until Ctrl-C.",
            "fireact.recording.recorder:RECORD",
            gathers=True,
        ),
        "score": CommandEntry(
            "Attach scores to trajectories by a function or a file of answers, or score a run again by a task.",
            "fireact.pipeline.commands:SCORE",
            is_verb=False,
        ),
    },
    "Data": {
        "mix": CommandEntry(
            "Filter trajectories and mix them into training data, by options or by a recipe; options override the "
            "recipe.",
            "fireact.data.mixture:MIX",
        ),
        "doctor": CommandEntry(
            "Describe a set of trajectories and report what is wrong with it, with line numbers. Exit 1 on errors.",
            "fireact.data.repair:DOCTOR",
        ),
        "render": CommandEntry(
            "Show what a student is trained on, token by token, or write it for another trainer.",
            "fireact.pipeline.commands:RENDER",
            is_verb=False,
        ),
        "convert": CommandEntry(
            "Convert episodes from one format to another, and say what was damaged and what the format cannot hold.",
            "fireact.pipeline.commands:CONVERT",
            is_verb=False,
        ),
        "show": CommandEntry("Print trajectories of a run.", "fireact.pipeline.commands:SHOW", is_verb=False),
        "validate": CommandEntry(
            "Prove that a task is sound, or that a served student gets the tokens it was trained on.",
            "fireact.pipeline.commands:VALIDATE",
            is_verb=False,
        ),
    },
    "Train": {
        "train": CommandEntry(
            "Fine-tune a student on trajectories, loss on its own words only.", "fireact.training.train:TRAIN"
        ),
        "prefer": CommandEntry(
            "Continue a fine-tuned student by preference (DPO) on its successes and failures.",
            "fireact.training.preference:PREFER",
        ),
        "tune": CommandEntry(
            "Fine-tune a model at a provider: openai, together or fireworks.", "fireact.hosted.tune:TUNE"
        ),
        "improve": CommandEntry(
            "Rounds of rejection sampling: the student learns from its own successes, until a round gains nothing.",
            "fireact.pipeline.improvement:IMPROVE",
        ),
        "export": CommandEntry(
            "Export a fine-tuned student for transformers and vLLM, llama.cpp or Ollama.",
            "fireact.serving.export:EXPORT",
        ),
        "publish": CommandEntry(
            "Publish a student, a data set or a study on the Hugging Face hub; shows what it would push, unless told.",
            "fireact.pipeline.publication:PUBLISH",
            is_verb=False,
        ),
        "cancel": CommandEntry(
            "Stop the job of a run at a provider; its cost so far is still charged.",
            "fireact.pipeline.commands:CANCEL",
            is_verb=False,
        ),
    },
    "Measure": {
        "eval": CommandEntry(
            "Measure an agent on held-out questions: scores with intervals, by type of question, cost, reasons for "
            "failures.",
            "fireact.evaluation.evaluate:EVAL",
            function="evaluate",
        ),
        "compare": CommandEntry(
            "Compare two runs question by question: what changed, how certain that is, its cost, and flipped "
            "questions.",
            "fireact.pipeline.commands:COMPARE",
            is_verb=False,
        ),
        "study": CommandEntry(
            "Run the missing stages of a matrix of agents; compare the agents with each other and with the paper's "
            "figures.",
            "fireact.study.runner:STUDY",
        ),
        "report": CommandEntry(
            "Write the report of some runs: one self-contained HTML page with every trajectory, Markdown, plots and "
            "JSON.",
            "fireact.reporting.assembly:REPORT",
        ),
        "view": CommandEntry(
            "Read trajectories in a web browser, also while runs are in progress: filter, search, two runs side by "
            "side.",
            "fireact.pipeline.commands:VIEW",
            is_verb=False,
        ),
    },
    "Use": {
        "ask": CommandEntry(
            "Ask an agent a question, or one after the other; watch each thought, action and observation as it comes.",
            "fireact.pipeline.commands:ASK",
            is_verb=False,
        ),
        "serve": CommandEntry(
            "Serve a fine-tuned student, and the agent around it, to OpenAI clients (or the agent to MCP clients).",
            "fireact.pipeline.commands:SERVE",
            is_verb=False,
        ),
    },
}
"""Heading -> name -> command."""
COMMANDS: Mapping[str, CommandEntry] = {name: entry for group in HEADINGS.values() for name, entry in group.items()}
FUNCTIONS: Mapping[str, str] = {entry.function or name: name for name, entry in COMMANDS.items()}
"""The name of each command's function in ``fireact`` -> the name of the command."""
GATHERING = tuple(name for name, entry in COMMANDS.items() if entry.gathers)
"""The verbs of runs in which episodes are gathered to learn from."""
