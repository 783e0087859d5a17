"""R1-style transcripts: one text in which thinking, searches, results and the answer stand in tags.

Tags of Search-R1 (``<search>``, ``<information>``), R1-Searcher (``<|begin_of_query|>``, ``<|begin_of_documents|>``) and
Search-o1 (``<|begin_search_query|>``, ``<|begin_search_result|>``) are known; ``<answer>`` ends an episode. Total: what
stands in no tag is thought. Invariant: what stands in a result is never a search.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.formats.source import Source, imported
from fireact.tasks.scoring import free_form
from fireact.types import FINISH, Action, Step, Trajectory

_TEXTS = (
    "gen_text_store", "response", "output", "completion", "generation", "generated_text", "sequence", "trajectory", "text",
)  # fmt: skip
_BLOCK = re.compile(
    r"<search>(?P<a>.*?)</search>|<\|begin_of_query\|>(?P<b>.*?)<\|end_of_query\|>"
    r"|<\|begin_search_query\|>(?P<c>.*?)<\|end_search_query\|>"
    r"|<(?P<in>information|result|results|documents|observation|tool_response)>(?P<d>.*?)</(?P=in)>"
    r"|<\|begin_of_documents\|>(?P<e>.*?)<\|end_of_documents\|>"
    r"|<\|begin_search_result\|>(?P<f>.*?)<\|end_search_result\|>|<answer>(?P<answer>.*?)</answer>",
    re.DOTALL,
)
_THINK = re.compile(r"</?think>")
_QUESTIONS = ("question", "query", "problem", "input", "prompt", "instruction")
_GOLDS = ("answer", "golden_answers", "gold", "ground_truth", "target", "answers")


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the first rows hold a tagged text, some with a search or an answer."""
    texts = [_text(row) for row in rows if isinstance(row, dict)]
    return bool(rows) and len(texts) == len(rows) and any(text and _BLOCK.search(text) for text in texts)


def read(source: Source) -> Iterator[Trajectory]:
    """The transcripts of a file, scored where the gold answer is known; a judge's verdict is the score ``judge``."""
    return source.each(lambda number, row: [_read(source, row)])


def steps_of(text: str) -> tuple[Step, ...]:
    """The steps of a tagged text: thought and search, then what was found; words after the last tag are a last thought."""
    steps: list[Step] = []
    start = 0
    for match in _BLOCK.finditer(text):
        before = text[start : match.start()]
        query = next((match[group] for group in "abc" if match[group] is not None), None)
        found = next((match[group] for group in "def" if match[group] is not None), None)
        if found is not None and steps and steps[-1].observation is None and not _thought(before):
            last = steps[-1]
            steps[-1] = Step(last.thought, last.action, found.strip(), last.text)
        elif found is not None:
            steps.append(Step(_thought(before), None, found.strip(), before.strip()))
        else:
            name, argument = (FINISH, "answer") if query is None else ("search", "query")
            inside = match["answer"] if query is None else query
            words = (before + match[0]).strip()
            steps.append(Step(_thought(before), Action(name, {argument: inside.strip()}), None, words))
            if query is None:
                return tuple(steps)
        start = match.end()
    rest = text[start:].strip()
    return (*steps, Step(_thought(rest), None, None, rest)) if rest else tuple(steps)


def _read(source: Source, row: Mapping[str, Any]) -> Trajectory:
    text, question = _text(row) or "", str(next((row[key] for key in _QUESTIONS if row.get(key)), ""))
    gold = next((row[key] for key in _GOLDS if row.get(key)), "")
    gold = str(gold[0]) if isinstance(gold, list) and gold else str(gold)
    steps = steps_of(text)
    trajectory = imported(question, steps, task=source.name, id=str(row.get("id") or ""), answer=gold)
    scores = free_form(gold, trajectory.answer) if gold else {}
    if str(row.get("gpt4o_output")) in ("True", "False"):
        scores["judge"] = float(row["gpt4o_output"] == "True")
    return trajectory.with_scores(scores)


def _text(row: Mapping[str, Any]) -> str | None:
    texts = [row[key] for key in _TEXTS if isinstance(row.get(key), str)]
    return next((text for text in texts if "<answer>" in text or _BLOCK.search(text)), texts[0] if texts else None)


def _thought(text: str) -> str:
    return _THINK.sub("", text).strip()
