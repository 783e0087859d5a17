"""A file format of your own: lines of "question => answer", read as episodes of one step.

fireact convert notes.txt --from examples.own_format:Notes --to messages -o notes.jsonl
"""

from collections.abc import Iterator, Sequence
from typing import Any

import fireact


class Notes:
    @staticmethod
    def sniff(rows: Sequence[Any]) -> bool:
        return bool(rows) and all(isinstance(row, str) and " => " in row for row in rows)

    @staticmethod
    def read(source: fireact.SourceFile) -> Iterator[fireact.Trajectory]:
        for number, line in enumerate(source.lines(), 1):
            question, _, answer = line.partition(" => ")
            example = fireact.Example(str(number), question, answer)
            step = fireact.Step("", fireact.Action("finish", {"answer": answer}), None, answer)
            yield fireact.Trajectory(
                "notes", example, "io", "notes", 0, (step,), "finish", {"em": 1.0}, fireact.Usage(), 0.0
            )
