"""R1-style transcripts: one text in which thinking, searches, results and the answer stand in tags.

Tags of Search-R1 (``<search>``, ``<information>``), R1-Searcher (``<|begin_of_query|>``, ``<|begin_of_documents|>``) and
Search-o1 (``<|begin_search_query|>``, ``<|begin_search_result|>``) are known; ``<answer>`` ends an episode. Total: what
stands in no tag is thought. A text may begin with the prompt that names the tags; it is not read as an episode.
Invariant: what stands in a result is never a search.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.formats.source import Source, imported, needed
from fireact.tasks.scoring import free_form
from fireact.types import FINISH, Action, Step, Trajectory

_TEXTS = (
    "gen_text_store", "response", "output", "completion", "generation", "generated_text", "sequence", "trajectory", "text",
)  # fmt: skip
_RESULTS = ("information", "result", "results", "documents", "observation", "tool_response")
_PAIRS = {
    "<search>": ("</search>", "query"),
    "<|begin_of_query|>": ("<|end_of_query|>", "query"),
    "<|begin_search_query|>": ("<|end_search_query|>", "query"),
    "<|begin_of_documents|>": ("<|end_of_documents|>", "found"),
    "<|begin_search_result|>": ("<|end_search_result|>", "found"),
    "<answer>": ("</answer>", "answer"),
    **{f"<{name}>": (f"</{name}>", "found") for name in _RESULTS},
}
"""For each opening tag the closing one, and what stands between them."""
_OPENING = re.compile("|".join(map(re.escape, _PAIRS)))
_HEADER = re.compile(
    r"<\|im_start\|>assistant\n?|<\|start_header_id\|>assistant<\|end_header_id\|>\n*|<\|assistant\|>\n?"
)
_SEARCH_R1 = re.compile(r"\s*Answer the given question\..*?\bQuestion: [^\n]*\n?", re.DOTALL)
_ASKED = re.compile(r"\bQuestion: ?([^\n]*?)\s*(?=\n|<\||\Z)")
_END = re.compile(r"<\|(?:im_end|endoftext|eot_id)\|>")
_THINK = re.compile(r"</?think>")
_QUESTIONS = ("question", "query", "problem", "input", "prompt", "instruction")
_GOLDS = ("answer", "golden_answers", "gold", "ground_truth", "target", "answers")


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the first rows hold a tagged text, some with a search or an answer."""
    texts = [_text(row) for row in rows if isinstance(row, dict)]
    return bool(rows) and len(texts) == len(rows) and any(text and any(_blocks(text)) for text in texts)


def read(source: Source) -> Iterator[Trajectory]:
    """The transcripts of a file, scored where the gold answer is known; a judge's verdict is the score ``judge``."""
    return source.each(lambda number, row: [_read(source, row)])


def steps_of(text: str) -> tuple[Step, ...]:
    """The steps of a tagged text: thought and search, then what was found; words after the last tag are a last thought."""
    steps: list[Step] = []
    start = 0
    for opened, closed, kind, inside in _blocks(text):
        before, words = text[start:opened], text[start:closed].strip()
        if kind == "found" and steps and steps[-1].observation is None and not _thought(before):
            last = steps[-1]
            steps[-1] = Step(last.thought, last.action, inside.strip(), last.text)
        elif kind == "found":
            steps.append(Step(_thought(before), None, inside.strip(), before.strip()))
        else:
            name, argument = (FINISH, "answer") if kind == "answer" else ("search", "query")
            steps.append(Step(_thought(before), Action(name, {argument: inside.strip()}), None, words))
            if kind == "answer":
                return tuple(steps)
        start = closed
    rest = text[start:].strip()
    return (*steps, Step(_thought(rest), None, None, rest)) if rest else tuple(steps)


def _blocks(text: str) -> Iterator[tuple[int, int, str, str]]:
    """Start, end, kind and content of each tagged block; in time linear in the text, closed or not."""
    last = {opening: text.rfind(closing) for opening, (closing, _) in _PAIRS.items()}
    at = 0
    while match := _OPENING.search(text, at):
        closing, kind = _PAIRS[match[0]]
        at = match.end()
        if at <= last[match[0]]:
            end = text.index(closing, at)
            yield match.start(), end + len(closing), kind, text[at:end]
            at = end + len(closing)


def _read(source: Source, row: Mapping[str, Any]) -> Trajectory:
    prompt, text = _without_prompt(needed(_text(row), "text in tags"))
    question = str(next((row[key] for key in _QUESTIONS if row.get(key)), "")) or _asked(prompt)
    gold = next((row[key] for key in _GOLDS if row.get(key)), "")
    gold = str(gold[0]) if isinstance(gold, list) and gold else str(gold)
    steps = steps_of(text)
    trajectory = imported(question, steps, task=source.name, id=str(row.get("id") or ""), answer=gold)
    scores = free_form(gold, trajectory.answer) if gold else {}
    if str(row.get("gpt4o_output")) in ("True", "False"):
        scores["judge"] = float(row["gpt4o_output"] == "True")
    return trajectory.with_scores(scores)


def _without_prompt(text: str) -> tuple[str, str]:
    """The prompt that a text begins with, which names the tags, and what the LM wrote and was told after it.

    A chat ends its prompt with the first header of the assistant; Search-R1's plain prompt ends with its question.
    """
    end = _HEADER.search(text) or _SEARCH_R1.match(text)
    return (text[: end.end()], text[end.end() :]) if end else ("", text)


def _asked(prompt: str) -> str:
    return next((match[1].strip() for match in _ASKED.finditer(prompt)), "")


def _text(row: Mapping[str, Any]) -> str | None:
    texts = [row[key] for key in _TEXTS if isinstance(row.get(key), str)]
    return next((text for text in texts if "<answer>" in text or any(_blocks(text))), texts[0] if texts else None)


def _thought(text: str) -> str:
    return _END.sub("", _THINK.sub("", text)).strip()
