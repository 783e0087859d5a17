"""What ``search:PATH`` reads: JSON Lines of {title, text}, a folder of text and Markdown, or one Wikipedia-style JSON.

Invariant: ``content_hash`` covers every byte that ``passages`` reads and no path, and passages come in the same order on
every machine. A text of more than ``PASSAGE_WORDS`` words is cut at the ends of paragraphs and sentences, so that what
is ranked, and shown whole, stays short. JSON Lines and folders are streamed; one JSON file is read whole.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fireact import jsonl
from fireact.errors import ConfigError, DataError
from fireact.world.corpus import Article

PASSAGE_WORDS = 200
SUFFIXES = (".md", ".markdown", ".txt")
TEXT_KEYS = ("text", "extract", "contents", "content")
"""Where an article's text stands, in the order in which they are tried."""
_HEADING = re.compile(r"\s*#\s+(.+)")
_PIECE = re.compile(r"\n\s*\n|(?<=[.!?])\s+(?=[^a-z])")


def content_hash(path: Path) -> str:
    """SHA-256 (hex) of what the corpus holds: the file, or the names and bytes of the folder's files."""
    digest = hashlib.sha256()
    for file in files(path):
        if path.is_dir():
            digest.update(f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as source:
            while block := source.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def files(path: Path) -> list[Path]:
    """The files that a corpus consists of, sorted. Raises ConfigError where there is none that can be read."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ConfigError(
            f"there is no corpus at {path}. Give a JSONL or JSON file, or a folder of {_suffixes()} files."
        )
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not found:
        raise ConfigError(f"the folder {path} holds no {_suffixes()} file. Give the folder that holds the texts.")
    return found


def passages(path: Path) -> Iterator[Article]:
    """The passages of a corpus in order. Raises ConfigError for a path, DataError for content that cannot be read."""
    if path.is_dir():
        found: Iterator[Article] = (_from_text(file) for file in files(path))
    elif path.suffix.lower() == ".json":
        found = _from_json(path)
    else:
        found = _from_lines(files(path)[0])
    for article in found:
        for piece in pieces(article.text):
            yield Article(article.title, piece)


def pieces(text: str) -> Iterator[str]:
    """The text whole, or, where it is longer than ``PASSAGE_WORDS``, in pieces of at most that many words."""
    if text.count(" ") < PASSAGE_WORDS and len(text.split()) <= PASSAGE_WORDS:
        yield text.strip()
        return
    held, count = 0, 0
    ends = [*(match.end() for match in _PIECE.finditer(text)), len(text)]
    start = 0
    for end in ends:
        words = len(text[start:end].split())
        if count and count + words > PASSAGE_WORDS:
            yield text[held:start].strip()
            held, count = start, 0
        count, start = count + words, end
        while count > PASSAGE_WORDS:  # one sentence that is too long by itself
            cut = list(re.finditer(r"\S+", text[held:end]))[PASSAGE_WORDS].start() + held
            yield text[held:cut].strip()
            held, count = cut, count - PASSAGE_WORDS
    if rest := text[held:].strip():
        yield rest


def _from_text(file: Path) -> Article:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}. Check its permissions.") from error
    heading = _HEADING.match(text) if file.suffix.lower() != ".txt" else None
    if heading is None:
        return Article(file.stem, text)
    return Article(heading.group(1).strip(), text[heading.end() :])


def _from_lines(file: Path) -> Iterator[Article]:
    for number, row in enumerate(jsonl.read(file), 1):
        yield _article(row, f"{file}, entry {number}")


def _from_json(file: Path) -> Iterator[Article]:
    """A list of {title, text}, or an object of title to text, to sentences, or to {title, extract or text}."""
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is not one JSON value ({error}). JSON Lines end in .jsonl.") from error
    if isinstance(value, Mapping):
        for title, entry in value.items():
            named = {"title": title, **entry} if isinstance(entry, Mapping) else {"title": title, "text": entry}
            yield _article(named, f"{file}, entry {title!r}")
    elif isinstance(value, list):
        for number, entry in enumerate(value, 1):
            yield _article(entry, f"{file}, entry {number}")
    else:
        raise DataError(f"{file} holds a {type(value).__name__}; a corpus is a list or an object of articles.")


def _article(entry: Any, where: str) -> Article:
    text = next((entry[key] for key in TEXT_KEYS if key in entry), None) if isinstance(entry, Mapping) else None
    if isinstance(text, list) and all(isinstance(sentence, str) for sentence in text):
        text = " ".join(sentence.strip() for sentence in text)
    title = entry.get("title", "") if isinstance(entry, Mapping) else ""
    if not isinstance(text, str) or not isinstance(title, str):
        raise DataError(f"{where} is no article: it needs a title and one of {', '.join(TEXT_KEYS)}, as strings.")
    return Article(" ".join(title.split()), text)


def _suffixes() -> str:
    return ", ".join(SUFFIXES)
