"""Builds the files of an ``Index`` in two passes over blocks of words.

Invariant: the scores are bit for bit those of ``bm25s.BM25().index`` on the same words (a test compares them), whose own
builder holds every word of the corpus as a Python object. This one holds a block of words, the vocabulary, and four
bytes a passage; texts and counts go to disk. It locks nothing and renames nothing: ``index`` does.
"""

from __future__ import annotations

import math
import shutil
import time
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fireact.errors import DataError
from fireact.machine import need_disk
from fireact.tools.words import number_of, words
from fireact.world.corpus import Article

LAYOUT = 1
"""Counts up when the files of an index change their meaning."""
BLOCK = 500_000
"""Words that are handled at a time; about 100 bytes of memory each."""
SAY_EVERY = 5.0
"""Seconds between two lines on how a long build stands."""

Array = NDArray[Any]


def build(corpus: Iterable[Article], home: Path, say: Callable[[str], None], *, block: int = BLOCK) -> None:
    """Write the index of a corpus into the directory. Raises DataError for a corpus without words."""
    raw = home / "raw"
    raw.mkdir()
    counts = _Counts(raw, block)
    _read(corpus, home, counts, _Clock(say))
    if not counts.vocabulary:
        raise DataError("there is nothing to search: the corpus has no articles with words. Give at least one.")
    numbers = _numbered(counts.vocabulary, home / "words.npy")
    for name, kind in (("title_ends", "q"), ("ends", "q"), ("title_words", "i")):
        column = np.fromfile(raw / name, dtype=kind)
        column = numbers[column] if name == "title_words" else column
        np.save(
            home / f"{name}.npy", column if len(column) else np.zeros(1, dtype=kind)
        )  # what is empty cannot be mapped
    _score(counts, numbers, home, _Clock(say))
    shutil.rmtree(raw)


class _Clock:
    """Says how things stand, now and then."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._last = say, time.monotonic()

    def maybe(self, line: str) -> None:
        if time.monotonic() - self._last > SAY_EVERY:
            self._last = time.monotonic()
            self._say(line)


class _Counts:
    """Which word stands in which passage how often: one file a block, sorted by word, then passage."""

    def __init__(self, raw: Path, block: int) -> None:
        self.raw, self.blocks, self._block = raw, 0, block
        self.vocabulary: defaultdict[str, int] = defaultdict()
        self.vocabulary.default_factory = self.vocabulary.__len__  # a new word gets the next number
        self.lengths = array("i")
        self._held, self._first = array("i"), 0

    def add(self, in_title: list[int], in_text: list[int]) -> bool:
        """Count a passage; true where that filled a block, which then went to disk."""
        self._held.extend(in_title)
        self._held.extend(in_text)
        self.lengths.append(len(in_title) + len(in_text))
        if full := len(self._held) >= self._block:
            self.flush()
        return full

    def flush(self) -> None:
        first, lengths = self._first, np.array(self.lengths[self._first :], dtype=np.int64)
        self._first = len(self.lengths)
        if not self._held:
            return
        owners = np.repeat(np.arange(len(lengths)), lengths)
        pairs = np.frombuffer(self._held, dtype=np.int32).astype(np.int64) * len(lengths) + owners
        pairs, times = np.unique(pairs, return_counts=True)
        word, passage = np.divmod(pairs, len(lengths))
        np.save(self._path(self.blocks), np.stack([word, passage + first, times]).astype(np.int32))
        self.blocks += 1
        self._held = array("i")

    def each(self) -> Iterator[tuple[Array, Array, Array]]:
        """The blocks: words, passages and how often the one stands in the other."""
        for number in range(self.blocks):
            word, passage, times = np.load(self._path(number))
            yield word, passage, times

    def _path(self, number: int) -> Path:
        return self.raw / f"block-{number}.npy"


def _read(corpus: Iterable[Article], home: Path, counts: _Counts, clock: _Clock) -> None:
    """The first pass: texts go to disk, words are numbered in order of appearance and counted."""
    number = counts.vocabulary.__getitem__
    columns = {"title_words": array("i"), "title_ends": array("q"), "ends": array("q")}
    end = titled = 0
    with (home / "texts.bin").open("wb") as texts:
        for article in corpus:
            title, text = article.title.encode("utf-8", "replace"), article.text.encode("utf-8", "replace")
            texts.write(title + text)
            columns["ends"].extend((end + len(title), end + len(title) + len(text)))
            end += len(title) + len(text)
            in_title, in_text = [list(map(number, words(part))) for part in (article.title, article.text)]
            columns["title_words"].extend(in_title)
            titled += len(in_title)
            columns["title_ends"].append(titled)
            if counts.add(in_title, in_text):
                _spill(counts.raw, columns)
            clock.maybe(f"{len(counts.lengths):,} passages read")
    counts.flush()
    _spill(counts.raw, columns)


def _spill(raw: Path, columns: dict[str, array[int]]) -> None:
    for name, column in columns.items():
        with (raw / name).open("ab") as file:
            column.tofile(file)
        del column[:]


def _numbered(vocabulary: Iterable[str], path: Path) -> Array:
    """Save the sorted hashes of the words, and return the place of each word among them."""
    hashes = np.fromiter((number_of(word) for word in vocabulary), dtype=np.uint64)
    order = np.argsort(hashes)
    np.save(path, hashes[order])
    numbers = np.empty(len(order), dtype=np.int32)
    numbers[order] = np.arange(len(order), dtype=np.int32)
    return numbers


def _score(counts: _Counts, numbers: Array, home: Path, clock: _Clock) -> None:
    """The second pass: the scores of each block go to their places, word by word and passage by passage."""
    having = np.zeros(len(numbers), dtype=np.int64)  # passages that have the word, by its place among the hashes
    for word, _, _ in counts.each():
        having += np.bincount(numbers[word], minlength=len(numbers))
    ends = np.concatenate([[0], np.cumsum(having)])
    ranker, files = _laid_out(home, ends, len(counts.lengths))
    lengths = np.array(counts.lengths, dtype=np.float64)
    weights, average = _rarity(having, len(lengths)), lengths.mean()
    places = ends[:-1].copy()
    for done, (word, passage, times) in enumerate(counts.each()):
        clock.maybe(f"scores of {done} of {counts.blocks} blocks")
        number, often = numbers[word], times.astype(np.float32)
        length = (1 - ranker.b) + ranker.b * lengths[passage] / average
        score = weights[number] * (often / (ranker.k1 * length + often))
        starts = np.flatnonzero(np.concatenate([[True], word[1:] != word[:-1]]))
        sizes = np.diff(np.append(starts, len(word)))
        at = places[number] + np.arange(len(word)) - np.repeat(starts, sizes)
        places[number[starts]] += sizes
        for file, values in zip(files, (score, passage), strict=True):
            np.lib.format.open_memmap(file, mode="r+")[at] = values  # mapped for one block, so that memory stays free


def _laid_out(home: Path, ends: Array, passages: int) -> tuple[Any, list[Path]]:
    """bm25s's parameters and files, under its own names; the two large ones, of scores and passages, are still zero."""
    import bm25s

    total = int(ends[-1])
    need_disk(home, gigabytes=8 * total / 1e9)  # writing to a mapped file on a full disk would end the process
    ranker = bm25s.BM25()
    ranker.scores = {"data": np.zeros(0), "indices": np.zeros(0), "indptr": ends, "num_docs": passages}
    ranker.vocab_dict, ranker.nonoccurrence_array = {}, None
    ranker.save(home, show_progress=False)
    files = [home / "data.csc.index.npy", home / "indices.csc.index.npy"]
    for file, kind in zip(files, (np.float32, np.int32), strict=True):
        np.lib.format.open_memmap(file, mode="w+", dtype=kind, shape=(total,))
    return ranker, files


def _rarity(having: Array, passages: int) -> Array:
    """The inverse document frequency of each word, as bm25s computes it (Lucene's variant)."""
    different, which = np.unique(having, return_inverse=True)
    values = [math.log(1 + (passages - count + 0.5) / (count + 0.5)) for count in different.tolist()]
    return np.array(values, dtype=np.float32)[which]
