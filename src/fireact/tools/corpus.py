"""Reads the corpus of ``search:PATH``: JSON Lines of {title, text}, a folder of text and Markdown, or a JSON file.

Invariant: ``hash_corpus`` covers every byte that ``read_passages`` reads and no path, and passages come in the same
order on every machine. A text of more than ``PASSAGE_WORDS`` words is cut at the ends of paragraphs and sentences, so
that passages stay short. JSON Lines and folders are streamed; a JSON file is read whole.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fireact.base import jsonl
from fireact.errors import ConfigError, DataError
from fireact.world.corpus import Article

PASSAGE_WORDS = 200
SUFFIXES = (".md", ".markdown", ".txt")
TEXT_KEYS = ("text", "extract", "contents", "content")
"""Keys that may hold an article's text, in the order in which they are tried."""
_HEADING = re.compile(r"\s*#\s+(.+)")
_BREAK = re.compile(r"\n\s*\n|(?<=[.!?])\s+(?=[^a-z])")


def hash_corpus(path: Path) -> str:
    """SHA-256 (hex) of the corpus: of the file, or of the names and bytes of the folder's files."""
    digest = hashlib.sha256()
    for file in list_files(path):
        if path.is_dir():
            digest.update(f"{file.relative_to(path).as_posix()}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as source:
            while chunk := source.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def list_files(path: Path) -> list[Path]:
    """The files of a corpus, sorted. Raises ConfigError where there is none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ConfigError(
            f"there is no corpus at {path}. Give a JSONL or JSON file, or a folder of {_suffixes()} files."
        )
    text_files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not text_files:
        raise ConfigError(f"the folder {path} holds no {_suffixes()} file. Give the folder that holds the texts.")
    return text_files


def read_passages(path: Path) -> Iterator[Article]:
    """The passages of a corpus in order. Raises ConfigError for a bad path, DataError for unreadable content."""
    if path.is_dir():
        corpus_articles: Iterator[Article] = (_read_text_file(file) for file in list_files(path))
    elif path.suffix.lower() == ".json":
        corpus_articles = _read_json(path)
    else:
        corpus_articles = _read_json_lines(list_files(path)[0])
    for article in corpus_articles:
        for passage_text in split_passages(article.text):
            yield Article(article.title, passage_text)


def split_passages(text: str) -> Iterator[str]:
    """The whole text, or, where it is too long, its parts of at most ``PASSAGE_WORDS`` words."""
    if text.count(" ") < PASSAGE_WORDS and len(text.split()) <= PASSAGE_WORDS:
        yield text.strip()
        return
    passage_start, passage_words = 0, 0
    # Sentences are added to the passage until the next one would not fit; then a new passage starts.
    ends = [*(match.end() for match in _BREAK.finditer(text)), len(text)]
    start = 0
    for end in ends:
        words = len(text[start:end].split())
        if passage_words and passage_words + words > PASSAGE_WORDS:
            yield text[passage_start:start].strip()
            passage_start, passage_words = start, 0
        passage_words, start = passage_words + words, end
        while passage_words > PASSAGE_WORDS:  # a single sentence that is too long
            cut = list(re.finditer(r"\S+", text[passage_start:end]))[PASSAGE_WORDS].start() + passage_start
            yield text[passage_start:cut].strip()
            passage_start, passage_words = cut, passage_words - PASSAGE_WORDS
    if last_passage := text[passage_start:].strip():
        yield last_passage


def _read_text_file(file: Path) -> Article:
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}. Check its permissions.") from error
    heading = _HEADING.match(text) if file.suffix.lower() != ".txt" else None
    if heading is None:
        return Article(file.stem, text)
    return Article(heading.group(1).strip(), text[heading.end() :])


def _read_json_lines(file: Path) -> Iterator[Article]:
    for number, row in enumerate(jsonl.read_objects(file), 1):
        yield _parse_article(row, f"{file}, entry {number}")


def _read_json(file: Path) -> Iterator[Article]:
    """A list of {title, text}, or an object of title to text, to sentences, or to {title, extract or text}."""
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} is not one JSON value ({error}). JSON Lines end in .jsonl.") from error
    if isinstance(value, Mapping):
        for title, entry in value.items():
            row = {"title": title, **entry} if isinstance(entry, Mapping) else {"title": title, "text": entry}
            yield _parse_article(row, f"{file}, entry {title!r}")
    elif isinstance(value, list):
        for number, entry in enumerate(value, 1):
            yield _parse_article(entry, f"{file}, entry {number}")
    else:
        raise DataError(f"{file} holds a {type(value).__name__}; a corpus is a list or an object of articles.")


def _parse_article(entry: Any, where: str) -> Article:
    text = next((entry[key] for key in TEXT_KEYS if key in entry), None) if isinstance(entry, Mapping) else None
    if isinstance(text, list) and all(isinstance(sentence, str) for sentence in text):
        text = " ".join(sentence.strip() for sentence in text)
    title = entry.get("title", "") if isinstance(entry, Mapping) else ""
    if not isinstance(text, str) or not isinstance(title, str):
        raise DataError(f"{where} is no article: it needs a title and one of {', '.join(TEXT_KEYS)}, as strings.")
    return Article(" ".join(title.split()), text)


def _suffixes() -> str:
    return ", ".join(SUFFIXES)
