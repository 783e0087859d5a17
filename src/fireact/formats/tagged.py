"""R1-style transcripts: one text that holds thinking, searches, results and the answer in tags.

The tags are those of Search-R1 (``<search>``, ``<information>``), R1-Searcher (``<|begin_of_query|>``,
``<|begin_of_documents|>``) and Search-o1 (``<|begin_search_query|>``, ``<|begin_search_result|>``); ``<answer>`` ends
an episode. Total: text outside tags is thought. A text may begin with the prompt, which names the tags; the prompt is
not read as an episode. Invariant: text inside a result is never a search.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fireact.formats.source import SourceFile, import_trajectory, require_field
from fireact.tasks.scoring import score_free_form
from fireact.types import FINISH, Action, Step, Trajectory
from fireact.wire.reasoning import strip_think_tags

_TEXTS = (
    "gen_text_store", "response", "output", "completion", "generation", "generated_text", "sequence",
    "trajectory", "text",
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
"""For each opening tag the closing tag, and the kind of text between them."""
_OPENING = re.compile("|".join(map(re.escape, _PAIRS)))
_HEADER = re.compile(
    r"<\|im_start\|>assistant\n?|<\|start_header_id\|>assistant<\|end_header_id\|>\n*|<\|assistant\|>\n?"
)
_SEARCH_R1 = re.compile(r"\s*Answer the given question\..*?\bQuestion: [^\n]*\n?", re.DOTALL)
_ASKED = re.compile(r"\bQuestion: ?([^\n]*?)(?=\n|<\||\Z)")
_END = re.compile(r"<\|(?:im_end|endoftext|eot_id)\|>")
_QUESTIONS = ("question", "query", "problem", "input", "prompt", "instruction")
_GOLDS = ("answer", "golden_answers", "gold", "ground_truth", "target", "answers")


def sniff(rows: Sequence[Any]) -> bool:
    """Whether the first rows hold a tagged text, some with a search or an answer."""
    texts = [_find_text(row) for row in rows if isinstance(row, dict)]
    return bool(rows) and len(texts) == len(rows) and any(text and any(_find_blocks(text)) for text in texts)


def read(source: SourceFile) -> Iterator[Trajectory]:
    """The transcripts of a file, scored where the gold answer is known; a judge's verdict is the score ``judge``."""
    return source.build_each(lambda number, row: [_read_row(source, row)])


def parse_tagged_text(text: str) -> tuple[Step, ...]:
    """The steps of a tagged text: thought and search, then results; text after the last tag is a last thought."""
    steps: list[Step] = []
    start = 0
    for opened, closed, kind, inside in _find_blocks(text):
        before, words = text[start:opened], text[start:closed].strip()
        if kind == "found" and steps and steps[-1].observation is None and not _strip_tags(before):
            last = steps[-1]
            steps[-1] = Step(last.thought, last.action, inside.strip(), last.text)
        elif kind == "found":
            steps.append(Step(_strip_tags(before), None, inside.strip(), before.strip()))
        else:
            name, argument = (FINISH, "answer") if kind == "answer" else ("search", "query")
            steps.append(Step(_strip_tags(before), Action(name, {argument: inside.strip()}), None, words))
            if kind == "answer":
                return tuple(steps)
        start = closed
    remaining_text = text[start:].strip()
    return (*steps, Step(_strip_tags(remaining_text), None, None, remaining_text)) if remaining_text else tuple(steps)


def _find_blocks(text: str) -> Iterator[tuple[int, int, str, str]]:
    """Start, end, kind and content of each tagged block, in linear time."""
    # The last closing tag of each kind is found once: many unclosed tags would else be searched to the end each time.
    last = {opening: text.rfind(closing) for opening, (closing, _) in _PAIRS.items()}
    position = 0
    while match := _OPENING.search(text, position):
        closing, kind = _PAIRS[match[0]]
        position = match.end()
        if position <= last[match[0]]:
            end = text.index(closing, position)
            yield match.start(), end + len(closing), kind, text[position:end]
            position = end + len(closing)


def _read_row(source: SourceFile, row: Mapping[str, Any]) -> Trajectory:
    prompt, text = _split_prompt(require_field(_find_text(row), "text in tags"))
    question = str(next((row[key] for key in _QUESTIONS if row.get(key)), "")) or _find_question(prompt)
    gold = next((row[key] for key in _GOLDS if row.get(key)), "")
    gold = str(gold[0]) if isinstance(gold, list) and gold else str(gold)
    steps = parse_tagged_text(text)
    trajectory = import_trajectory(question, steps, task=source.name, id=str(row.get("id") or ""), answer=gold)
    scores = score_free_form(gold, trajectory.answer) if gold else {}
    if str(row.get("gpt4o_output")) in ("True", "False"):
        scores["judge"] = float(row["gpt4o_output"] == "True")
    return trajectory.with_scores(scores)


def _split_prompt(text: str) -> tuple[str, str]:
    """The prompt at the start of a text, which names the tags, and the transcript after it.

    A chat ends its prompt with the first header of the assistant; Search-R1's plain prompt ends with its question.
    """
    end = _HEADER.search(text) or _SEARCH_R1.match(text)
    return (text[: end.end()], text[end.end() :]) if end else ("", text)


def _find_question(prompt: str) -> str:
    return next((match[1].strip() for match in _ASKED.finditer(prompt)), "")


def _find_text(row: Mapping[str, Any]) -> str | None:
    texts = [row[key] for key in _TEXTS if isinstance(row.get(key), str)]
    return next((text for text in texts if "<answer>" in text or any(_find_blocks(text))), texts[0] if texts else None)


def _strip_tags(text: str) -> str:
    return _END.sub("", strip_think_tags(text)).strip()
