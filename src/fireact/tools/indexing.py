"""Builds the files of an ``Index`` in two passes over blocks of words.

Invariant: the scores are bit for bit those of ``bm25s.BM25().index`` on the same words (a test compares them). That
builder holds every word of the corpus as a Python object. This one holds a block of words, the vocabulary, and four
bytes a passage; texts and counts go to disk. It neither locks nor renames anything: ``index`` does.
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

from fireact.base.machine import require_disk
from fireact.errors import DataError
from fireact.tools.words import hash_word, split_words
from fireact.world.corpus import Article

LAYOUT = 1
"""Version of the file format; raise it when the files of an index change their meaning."""
BLOCK = 500_000
"""Words in memory at a time; each takes about 100 bytes."""
SAY_EVERY = 5.0
"""Seconds between two progress lines of a long build."""

Array = NDArray[Any]


def build_index(corpus: Iterable[Article], directory: Path, say: Callable[[str], None], *, block: int = BLOCK) -> None:
    """Write the index of a corpus into the directory. Raises DataError for a corpus without words."""
    raw = directory / "raw"
    raw.mkdir()
    counts = _WordCounts(raw, block)
    _read_corpus(corpus, directory, counts, _ProgressLine(say))
    if not counts.vocabulary:
        raise DataError("there is nothing to search: the corpus has no articles with words. Give at least one.")
    numbers = _save_vocabulary(counts.vocabulary, directory / "words.npy")
    for name, kind in (("title_ends", "q"), ("ends", "q"), ("title_words", "i")):
        column = np.fromfile(raw / name, dtype=kind)
        column = numbers[column] if name == "title_words" else column
        # An empty file cannot be mapped.
        np.save(directory / f"{name}.npy", column if len(column) else np.zeros(1, dtype=kind))
    _write_scores(counts, numbers, directory, _ProgressLine(say))
    shutil.rmtree(raw)


class _ProgressLine:
    """Reports progress, at most one line every ``SAY_EVERY`` seconds."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._last = say, time.monotonic()

    def write_if_due(self, line: str) -> None:
        if time.monotonic() - self._last > SAY_EVERY:
            self._last = time.monotonic()
            self._say(line)


class _WordCounts:
    """How often each word occurs in each passage: one file a block, sorted by word, then passage."""

    def __init__(self, raw: Path, block: int) -> None:
        self.raw, self.blocks, self._block = raw, 0, block
        self.vocabulary: defaultdict[str, int] = defaultdict()
        self.vocabulary.default_factory = self.vocabulary.__len__  # a new word gets the next number
        self.lengths = array("i")
        self._pending, self._first = array("i"), 0

    def add(self, in_title: list[int], in_text: list[int]) -> bool:
        """Count the words of a passage; True when that filled a block and wrote it to disk."""
        self._pending.extend(in_title)
        self._pending.extend(in_text)
        self.lengths.append(len(in_title) + len(in_text))
        if full := len(self._pending) >= self._block:
            self.flush()
        return full

    def flush(self) -> None:
        first, lengths = self._first, np.array(self.lengths[self._first :], dtype=np.int64)
        self._first = len(self.lengths)
        if not self._pending:
            return
        # Word and passage are packed into one integer, so that one np.unique sorts and counts the pairs.
        owners = np.repeat(np.arange(len(lengths)), lengths)
        pairs = np.frombuffer(self._pending, dtype=np.int32).astype(np.int64) * len(lengths) + owners
        pairs, times = np.unique(pairs, return_counts=True)
        word, passage = np.divmod(pairs, len(lengths))
        np.save(self._path(self.blocks), np.stack([word, passage + first, times]).astype(np.int32))
        self.blocks += 1
        self._pending = array("i")

    def iter_blocks(self) -> Iterator[tuple[Array, Array, Array]]:
        """Each block as three arrays: words, passages, and how often the word occurs in the passage."""
        for number in range(self.blocks):
            word, passage, times = np.load(self._path(number))
            yield word, passage, times

    def _path(self, number: int) -> Path:
        return self.raw / f"block-{number}.npy"


def _read_corpus(corpus: Iterable[Article], directory: Path, counts: _WordCounts, progress: _ProgressLine) -> None:
    """The first pass writes the texts to disk, and numbers the words by first appearance and counts them."""
    word_number = counts.vocabulary.__getitem__
    columns = {"title_words": array("i"), "title_ends": array("q"), "ends": array("q")}
    end = title_end = 0
    with (directory / "texts.bin").open("wb") as texts:
        for article in corpus:
            title, text = article.title.encode("utf-8", "replace"), article.text.encode("utf-8", "replace")
            texts.write(title + text)
            columns["ends"].extend((end + len(title), end + len(title) + len(text)))
            end += len(title) + len(text)
            in_title, in_text = [
                list(map(word_number, split_words(field_text))) for field_text in (article.title, article.text)
            ]
            columns["title_words"].extend(in_title)
            title_end += len(in_title)
            columns["title_ends"].append(title_end)
            if counts.add(in_title, in_text):
                _append_columns(counts.raw, columns)
            progress.write_if_due(f"{len(counts.lengths):,} passages read")
    counts.flush()
    _append_columns(counts.raw, columns)


def _append_columns(raw: Path, columns: dict[str, array[int]]) -> None:
    for name, column in columns.items():
        with (raw / name).open("ab") as file:
            column.tofile(file)
        del column[:]


def _save_vocabulary(vocabulary: Iterable[str], path: Path) -> Array:
    """Save the sorted hashes of the words, and return the position of each word among them."""
    hashes = np.fromiter((hash_word(word) for word in vocabulary), dtype=np.uint64)
    order = np.argsort(hashes)
    np.save(path, hashes[order])
    numbers = np.empty(len(order), dtype=np.int32)
    numbers[order] = np.arange(len(order), dtype=np.int32)
    return numbers


def _write_scores(counts: _WordCounts, numbers: Array, directory: Path, progress: _ProgressLine) -> None:
    """The second pass writes the scores of each block to their positions, ordered by word and then passage."""
    # The number of passages with each word, by the position of its hash.
    passage_counts = np.zeros(len(numbers), dtype=np.int64)
    for word, _, _ in counts.iter_blocks():
        passage_counts += np.bincount(numbers[word], minlength=len(numbers))
    ends = np.concatenate([[0], np.cumsum(passage_counts)])
    ranker, files = _create_files(directory, ends, len(counts.lengths))
    lengths = np.array(counts.lengths, dtype=np.float64)
    weights, average = _inverse_document_frequency(passage_counts, len(lengths)), lengths.mean()
    next_positions = ends[:-1].copy()
    # float32 where bm25s has float32, and in its order of operations: else the last bits of scores would differ.
    for done, (word, passage, times) in enumerate(counts.iter_blocks()):
        progress.write_if_due(f"scores of {done} of {counts.blocks} blocks")
        number, frequencies = numbers[word], times.astype(np.float32)
        length = (1 - ranker.b) + ranker.b * lengths[passage] / average
        score = weights[number] * (frequencies / (ranker.k1 * length + frequencies))
        # A block is sorted by word, so a word's passages are adjacent: these are where each word begins.
        starts = np.flatnonzero(np.concatenate([[True], word[1:] != word[:-1]]))
        sizes = np.diff(np.append(starts, len(word)))
        # A word's scores follow those of earlier blocks: its next free position plus the rank within this block.
        positions = next_positions[number] + np.arange(len(word)) - np.repeat(starts, sizes)
        next_positions[number[starts]] += sizes
        for file, values in zip(files, (score, passage), strict=True):
            # The file is mapped for one block at a time, so that its pages do not fill the memory.
            np.lib.format.open_memmap(file, mode="r+")[positions] = values


def _create_files(directory: Path, ends: Array, passages: int) -> tuple[Any, list[Path]]:
    """bm25s's ranker and its two large files, scores and passages, which are still filled with zeros."""
    import bm25s

    total = int(ends[-1])
    require_disk(directory, gigabytes=8 * total / 1e9)  # writing to a mapped file on a full disk would end the process
    ranker = bm25s.BM25()
    ranker.scores = {"data": np.zeros(0), "indices": np.zeros(0), "indptr": ends, "num_docs": passages}
    ranker.vocab_dict, ranker.nonoccurrence_array = {}, None
    ranker.save(directory, show_progress=False)
    files = [directory / "data.csc.index.npy", directory / "indices.csc.index.npy"]
    for file, kind in zip(files, (np.float32, np.int32), strict=True):
        np.lib.format.open_memmap(file, mode="w+", dtype=kind, shape=(total,))
    return ranker, files


def _inverse_document_frequency(passage_counts: Array, passages: int) -> Array:
    """The inverse document frequency of each word, as bm25s computes it (Lucene's variant)."""
    distinct_counts, indices = np.unique(passage_counts, return_inverse=True)
    values = [math.log(1 + (passages - count + 0.5) / (count + 0.5)) for count in distinct_counts.tolist()]
    return np.array(values, dtype=np.float32)[indices]
