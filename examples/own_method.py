"""A prompting method of your own: it is given the question, the LM and the tools, and yields the steps of an episode.

fireact collect -t geo-hop -n 5 -m examples.own_method:SearchThenAnswer --teacher openai:gpt-4o
"""

from collections.abc import Iterator, Mapping
from typing import Any

import fireact


class SearchThenAnswer:
    """Searches for the question itself, then asks the LM once."""

    name = "search-then-answer"

    def __init__(self, **options: Any) -> None:
        self.options = options  # instructions, few-shot examples and the like, for a method that uses them

    def run(
        self, question: str, lm: fireact.LM, tools: Mapping[str, fireact.Tool], seed: int
    ) -> Iterator[fireact.Step]:
        action = fireact.Action("search", {"query": question})
        text = str(tools["search"](query=question))
        yield fireact.Step("", action, text, "")
        prompt = [fireact.Message("user", f"{text}\n\nQuestion: {question}\nAnswer in a few words.")]
        answer = lm.complete(fireact.Call(prompt, seed=seed)).text.strip()
        yield fireact.Step("", fireact.Action("finish", {"answer": answer}), None, answer)
