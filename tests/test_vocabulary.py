"""The words of the code: names that say what they hold, each used for one thing (docs/glossary.md)."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1] / "src" / "fireact"
FILES = sorted(ROOT.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}
CONTENT_FREE = frozenset(
    [
        "one",
        "found",
        "said",
        "told",
        "own",
        "other",
        "others",
        "made",
        "what",
        "whole",
        "rest",
        "part",
        "place",
        "there",
        "wanted",
        "known",
        "shown",
        "given",
        "kept",
        "named",
        "asked",
        "written",
        "heard",
        "seen",
        "left",
        "thing",
        "things",
        "something",
        "stuff",
        "it",
        "its",
        "them",
        "those",
        "these",
    ]
)
DOORS = frozenset(("sniff", "read", "write", "from_name", "build"))
"""Functions that each plug-in module of a kind has under the same name."""


def bindings() -> Iterator[str]:
    """Every name that is assigned, and every parameter."""
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            elif isinstance(node, ast.arg) and node.arg not in ("self", "cls"):
                yield node.arg


def repeated(names: Iterator[str], *, most: int = 1) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > most)


def test_names_say_what_they_hold() -> None:
    names = list(bindings())
    content_free = Counter(name for name in names if name in CONTENT_FREE)
    assert len(names) > 10_000 and content_free.total() < 0.01 * len(names), content_free.most_common(8)


def test_no_class_has_the_name_of_another() -> None:
    classes = (node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert not repeated(classes)


def test_no_public_function_has_the_name_of_another_but_behind_a_door() -> None:
    functions = (
        node.name
        for tree in TREES.values()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_")
    )
    assert len([name for name in repeated(functions) if name not in DOORS]) <= 5


def test_no_three_files_have_one_name() -> None:
    assert not repeated((path.stem for path in FILES if not path.stem.startswith("__")), most=2)


def test_no_line_is_longer_than_120_columns() -> None:
    long = [
        f"{path}:{number}"
        for path in FILES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 120
    ]
    assert not long
