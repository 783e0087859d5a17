"""A BM25 index of passages in a directory that is mapped into memory, with the data for ranking and answers.

    data, indices, indptr, params     bm25s's own files: the score of each word in each passage, word by word
    words.npy                         sorted 64-bit hashes of the words; a word's number is its position there
    title_words.npy title_ends.npy    the numbers of the words in all titles, and the end of each title's words
    texts.bin ends.npy                title and text of each passage, and the end of each, title and text by turns

Invariant: a directory is complete or absent, and one process builds it while others wait. An open index uses almost no
memory, because the system pages in only what queries touch. Many threads and processes may read it. ``indexing`` builds
the files; ``search`` re-ranks the best passages.
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
from fireact.tools.indexing import build_index
from fireact.tools.words import hash_word
from fireact.world.corpus import Article


class Index:
    """An index that ``open_index`` returns; passages are numbered from 0 in the order of the corpus."""

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
            raise DataError(f"the index {directory} cannot be read ({error}). Delete it; it is built again.") from error
        scores = self._ranker.scores
        for name in ("data", "indices", "indptr"):
            scores[name] = np.asarray(scores[name])  # still mapped, but slices cost less than those of np.memmap
        self._indices, self._indptr = scores["indices"], scores["indptr"]
        self.directory = directory

    def __len__(self) -> int:
        return len(self._title_ends)

    def word_numbers(self, query_words: Sequence[str]) -> list[int]:
        """The numbers of the words that the corpus contains, in order and with repeats."""
        hashes = np.array([hash_word(word) for word in query_words], dtype=np.uint64)
        places = self._words.searchsorted(hashes)
        is_indexed = self._words.take(places, mode="clip") == hashes
        word_numbers: list[int] = places[is_indexed].tolist()
        return word_numbers

    def best_passages(self, numbers: list[int], count: int) -> list[tuple[int, float]]:
        """The ``count`` best passages by BM25 with their scores, unsorted; of equal scores the earlier passages."""
        # Only ties at the lowest score that still fits are cut by position, so equal passages keep corpus order.
        scores = self._ranker.get_scores_from_ids(numbers)
        matching_passages = np.flatnonzero(scores)
        values = scores[matching_passages]
        if len(matching_passages) > count:
            least = np.partition(values, -count)[-count]
            above = np.flatnonzero(values > least)
            kept_positions = np.concatenate([above, np.flatnonzero(values == least)[: count - len(above)]])
            matching_passages, values = matching_passages[kept_positions], values[kept_positions]
        return list(zip(matching_passages.tolist(), values.tolist(), strict=True))

    def shared_words(self, numbers: Iterable[int], passages: Sequence[int]) -> list[tuple[int, int]]:
        """For each passage, how many of the words it contains, and how many its title contains."""
        word_numbers = set(numbers)
        # The same dtype, because searchsorted would otherwise copy the whole mapped array.
        passage_array = np.array(passages, dtype=self._indices.dtype)
        counts = np.zeros(len(passages), dtype=np.int64)
        for number in word_numbers:
            passages_with_word = self._indices[self._indptr[number] : self._indptr[number + 1]]
            counts += (
                passages_with_word.take(passages_with_word.searchsorted(passage_array), mode="clip") == passage_array
            )
        return [
            (count, len(word_numbers & self._words_in_title(passage)))
            for count, passage in zip(counts.tolist(), passages, strict=True)
        ]

    def passage(self, number: int) -> Article:
        """The passage and its title, read from disk."""
        start = int(self._ends[2 * number - 1]) if number else 0
        middle, end = (int(offset) for offset in self._ends[2 * number : 2 * number + 2])
        return Article(self._texts[start:middle].decode(), self._texts[middle:end].decode())

    def _words_in_title(self, number: int) -> set[int]:
        start = self._title_ends[number - 1] if number else 0
        return set(self._title_words[start : self._title_ends[number]].tolist())


def open_index(corpus: Callable[[], Iterable[Article]], directory: Path, *, say: Callable[[str], None]) -> Index:
    """The index in ``directory``, which is built first where it is absent.

    ``say`` gets the progress of a long build. Raises ConfigError where the directory cannot be written, DataError for a
    corpus without words.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        if not directory.is_dir():
            with FileLock(f"{directory}.lock"):
                if not directory.is_dir():
                    _build_atomically(corpus(), directory, say)
    except OSError as error:
        raise ConfigError(
            f"cannot keep the index in {directory.parent}: {error.strerror or error}. "
            "Set FIREACT_CACHE to a directory that can be written and has room."
        ) from error
    return Index(directory)


def _build_atomically(corpus: Iterable[Article], directory: Path, say: Callable[[str], None]) -> None:
    scratch = directory.with_name(f"{directory.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)  # left by a killed build
    scratch.mkdir()
    try:
        build_index(corpus, scratch, say)
        for file in scratch.iterdir():  # so that a power loss cannot keep the final name without the content
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
        scratch.rename(directory)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
