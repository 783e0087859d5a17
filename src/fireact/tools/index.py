"""A BM25 index of passages in a directory, mapped into memory: what bm25s ranks, and what re-ranking and answers need.

    data, indices, indptr, params     bm25s's own files: the score of each word in each passage, word by word
    words.npy                         64-bit hashes of the words, sorted; a word's number is its place in it
    title_words.npy title_ends.npy    numbers of the words in each title, and where each title's end
    texts.bin ends.npy                titles and texts, and where each ends, title and text by turns

Invariant: a directory is there whole or not at all, and one process builds it while others wait. An opened index holds
next to nothing: the system pages in what queries touch. Safe to read from many threads and processes. How the files
come about stands in ``indexing``; what is made of the best passages, in ``search``.
"""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

from fireact.errors import ConfigError, DataError
from fireact.tools.indexing import build
from fireact.tools.words import number_of
from fireact.world.corpus import Article


class Index:
    """An index that ``kept`` opened; passages are numbered from 0 in the order of the corpus."""

    def __init__(self, directory: Path) -> None:
        """Map the directory. Raises DataError where its files cannot be read."""
        import bm25s

        try:
            self._ranker = bm25s.BM25.load(directory, mmap=True, load_vocab=False, show_progress=False)
            self._words, self._title_words, self._title_ends, self._ends = (
                np.asarray(np.load(directory / f"{name}.npy", mmap_mode="r"))
                for name in ("words", "title_words", "title_ends", "ends")
            )
            with (directory / "texts.bin").open("rb") as file:
                self._texts = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"the index {directory} cannot be read ({error}). Delete it; it is built anew.") from error
        scores = self._ranker.scores
        for name in ("data", "indices", "indptr"):
            scores[name] = np.asarray(scores[name])  # still mapped, but slices cost less than those of np.memmap
        self._indices, self._indptr = scores["indices"], scores["indptr"]
        self.directory = directory

    def __len__(self) -> int:
        return len(self._title_ends)

    def numbers(self, wanted: Sequence[str]) -> list[int]:
        """The numbers of those words that the corpus has, in order, repeated ones too."""
        hashes = np.array([number_of(word) for word in wanted], dtype=np.uint64)
        places = self._words.searchsorted(hashes)
        known = self._words.take(places, mode="clip") == hashes
        found: list[int] = places[known].tolist()
        return found

    def best(self, numbers: list[int], count: int) -> list[tuple[int, float]]:
        """The ``count`` passages that BM25 ranks first, with their scores, in no order; of equals the earlier ones."""
        scores = self._ranker.get_scores_from_ids(numbers)
        found = np.flatnonzero(scores)
        values = scores[found]
        if len(found) > count:
            least = np.partition(values, -count)[-count]
            above = np.flatnonzero(values > least)
            keep = np.concatenate([above, np.flatnonzero(values == least)[: count - len(above)]])
            found, values = found[keep], values[keep]
        return list(zip(found.tolist(), values.tolist(), strict=True))

    def shared(self, numbers: Iterable[int], at: Sequence[int]) -> list[tuple[int, int]]:
        """For each of the passages ``at``: how many of the words it has at all, and how many in its title."""
        wanted = set(numbers)
        places = np.array(at, dtype=self._indices.dtype)  # of the same type, or searching would copy the whole list
        counts = np.zeros(len(at), dtype=np.int64)
        for number in wanted:
            having = self._indices[self._indptr[number] : self._indptr[number + 1]]
            counts += having.take(having.searchsorted(places), mode="clip") == places
        return [(count, len(wanted & self._title(place))) for count, place in zip(counts.tolist(), at, strict=True)]

    def passage(self, at: int) -> Article:
        """The passage with its title, read from disk."""
        start = int(self._ends[2 * at - 1]) if at else 0
        middle, end = (int(place) for place in self._ends[2 * at : 2 * at + 2])
        return Article(self._texts[start:middle].decode(), self._texts[middle:end].decode())

    def _title(self, at: int) -> set[int]:
        start = self._title_ends[at - 1] if at else 0
        return set(self._title_words[start : self._title_ends[at]].tolist())


def kept(corpus: Callable[[], Iterable[Article]], directory: Path, *, say: Callable[[str], None]) -> Index:
    """The index in ``directory``; built there first, whole or not at all, where it is absent.

    ``say`` is told how a long build stands. Raises ConfigError where the directory cannot be written, DataError for a
    corpus that has nothing to search.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        if not directory.is_dir():
            with FileLock(f"{directory}.lock"):
                if not directory.is_dir():
                    _build_whole(corpus(), directory, say)
    except OSError as error:
        raise ConfigError(
            f"cannot keep the index in {directory.parent}: {error.strerror or error}. "
            "Set FIREACT_CACHE to a directory that can be written and has room."
        ) from error
    return Index(directory)


def _build_whole(corpus: Iterable[Article], directory: Path, say: Callable[[str], None]) -> None:
    half = directory.with_name(f"{directory.name}.part")
    shutil.rmtree(half, ignore_errors=True)  # what a kill left
    half.mkdir()
    try:
        build(corpus, half, say)
        for file in half.iterdir():  # a machine that loses power must not keep the name without the content
            with file.open("rb+") as written:
                os.fsync(written.fileno())
        half.rename(directory)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise
