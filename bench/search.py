"""Search over a corpus: time and memory of building, size of the index, and latency against the ranker's own call.

The corpora: Wikipedia's vital articles, by path, and N synthetic passages of words drawn by Zipf's law. Building and
asking each have a process of their own, so that peak memory is theirs. Latency is one query at a time, ours and bm25s's
on the same mapped files by turns: ours from the text of the query to the snippet, bm25s's from the numbers of its words
to the ten best passages. Run: python bench/search.py [--vital FILE] [--passages 1000000] [--json]. It exits with 1
where ours takes over 1.2 times the faster of bm25s's two ways, at the median.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np

from fireact.tools.search import CANDIDATES, Search, build_corpus_search
from fireact.tools.words import split_words

WANTED = 1.2
WORDS_A_PASSAGE = 60
VOCABULARY = 500_000
LETTERS = "etaoinshrdlcumwfgypbvkjxqz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("FIREACT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--vital", type=Path, default=data / "vital_wiki" / "summaries_en-us.json")
    parser.add_argument("--passages", type=int, default=1_000_000, help="synthetic passages; 0 leaves them out")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=("build", "ask"), help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(build(options) if options.child == "build" else ask(options)))
        return
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        if options.vital.is_file():
            found["vital_wiki"] = measured(options.vital, Path(folder), options)
        else:
            print(f"{options.vital} is not here and is left out (give --vital)", file=sys.stderr)
        if options.passages:
            corpus = Path(folder) / "synthetic.jsonl"
            synthesise(corpus, options.passages, options.seed)
            found[f"synthetic, {options.passages:,}"] = measured(corpus, Path(folder), options)
    print(json.dumps(found, indent=2) if options.json else "\n".join(lines(found)))
    sys.exit(any(result["ratio_p50"] > WANTED for result in found.values()))


def measured(corpus: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Build, then ask, each in a fresh process."""
    result: dict[str, Any] = {"corpus_mb": round(corpus.stat().st_size / 1e6, 1)}
    for child in ("build", "ask"):
        command = [
            sys.executable,
            __file__,
            "--child",
            child,
            "--corpus",
            str(corpus),
            "--cache",
            str(folder / "cache"),
        ]
        command += ["--queries", str(options.queries), "--seed", str(options.seed)]
        result |= json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return result


def build(options: argparse.Namespace) -> dict[str, Any]:
    memory = Memory()
    started, busy = time.perf_counter(), time.process_time()
    search = build_corpus_search(options.corpus, options.cache)
    seconds, busy = time.perf_counter() - started, time.process_time() - busy
    size = sum(file.stat().st_size for file in search.index.directory.iterdir())
    return {
        "passages": len(search.index), "build_s": round(seconds, 1), "build_cpu_s": round(busy, 1),
        "index_mb": round(size / 1e6, 1), **memory.figures("build"),
    }  # fmt: skip


def ask(options: argparse.Namespace) -> dict[str, Any]:
    memory = Memory()
    started = time.perf_counter()
    search = build_corpus_search(options.corpus, options.cache)
    opened = time.perf_counter() - started
    texts = queries(search, options.queries, options.seed)
    numbers = [search.index.word_numbers(split_words(text)) for text in texts]
    for text in texts:
        search(query=text)  # pages in what the queries need, for both sides
    own = memory.figures("ask")  # before the other side is loaded
    ranker = bm25s.BM25.load(search.index.directory, mmap=True, load_vocab=False, show_progress=False)
    ranker.unique_token_ids_set = set(range(len(ranker.scores["indptr"]) - 1))

    plain = bm25s.BM25.load(search.index.directory, mmap=True, load_vocab=False, show_progress=False)
    plain.scores |= {name: np.asarray(plain.scores[name]) for name in ("data", "indices", "indptr")}  # faster slices

    def scores_and_topk(at: int) -> Any:
        return bm25s.selection.topk(plain.get_scores_from_ids(numbers[at]), k=CANDIDATES, sorted=True, backend="numpy")

    ways: dict[str, Callable[[int], Any]] = {
        "ours": lambda at: search(query=texts[at]),
        "retrieve": lambda at: ranker.retrieve([numbers[at]], k=CANDIDATES, show_progress=False),
        "scores_topk": scores_and_topk,
    }
    for at in range(0, len(texts), 50):  # both sides rank the same passages
        theirs = sorted(scores_and_topk(at)[0].tolist())
        ours = sorted(score for _, score in search.index.best_passages(numbers[at], CANDIDATES))
        assert np.allclose(ours, [score for score in theirs if score > 0]), texts[at]
    spent = interleaved(ways, len(texts))
    result: dict[str, Any] = {"open_s": round(opened, 2), **own}
    for name, seconds in spent.items():
        p50, p99 = np.percentile(np.array(seconds) * 1e3, [50, 99])
        result |= {f"{name}_p50_ms": round(float(p50), 3), f"{name}_p99_ms": round(float(p99), 3)}
    for name in ("p50", "p99"):
        theirs_ms = min(result[f"retrieve_{name}_ms"], result[f"scores_topk_{name}_ms"])
        result[f"ratio_{name}"] = round(result[f"ours_{name}_ms"] / theirs_ms, 3)
    return result


def interleaved(ways: dict[str, Callable[[int], Any]], count: int, rounds: int = 3) -> dict[str, list[float]]:
    """Seconds of each call; which way goes first changes from query to query."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(rounds * count):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started = time.perf_counter()
            ways[name](turn % count)
            spent[name].append(time.perf_counter() - started)
    return spent


def queries(search: Search, count: int, seed: int) -> Sequence[str]:
    """Questions as an agent asks them: the title of a passage and two words of its text."""
    draw = random.Random(seed)
    passages = [search.index.passage(draw.randrange(len(search.index))) for _ in range(count)]
    return [" ".join([passage.title, *draw.choices(passage.text.split(), k=2)]) for passage in passages]


def synthesise(path: Path, count: int, seed: int) -> None:
    """Write passages of Zipf's words, in sentences of twelve, under titles of two."""
    rng = np.random.default_rng(seed)
    vocabulary = np.array([spelled(rank) for rank in range(VOCABULARY)], dtype=object)
    chance = np.cumsum(1 / (np.arange(VOCABULARY) + 3.7))
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, count, 10_000):
            n = min(10_000, count - start)
            ranks = np.searchsorted(chance, rng.random((n, WORDS_A_PASSAGE + 2)) * chance[-1])
            for row in vocabulary[np.minimum(ranks, VOCABULARY - 1)].tolist():
                text = ". ".join(" ".join(row[at : at + 12]).capitalize() for at in range(2, len(row), 12))
                file.write(json.dumps({"title": " ".join(row[:2]).title(), "text": f"{text}."}) + "\n")


def spelled(rank: int) -> str:
    """A word of its own for each rank, short for frequent ones."""
    word, rank = LETTERS[rank % 26], rank // 26
    while rank:
        word, rank = word + LETTERS[rank % 26], rank // 26
    return f"{word}ah" if len(word) < 3 else word  # so that none is a stop word


class Memory:
    """The most memory that this process has had: all of it, and what is its own rather than mapped from files."""

    def __init__(self) -> None:
        self._own = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def figures(self, name: str) -> dict[str, Any]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {f"{name}_peak_mb": round(peak), f"{name}_own_mb": round(self._own / 1024)}

    def _watch(self) -> None:
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    self._own = max(self._own, int(line.split()[1]))
            time.sleep(0.05)


def lines(found: dict[str, dict[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(key for result in found.values() for key in result))
    rows = [("figure", *found), *((name, *(result[name] for result in found.values())) for name in names)]
    return [" ".join([str(row[0]).ljust(20), *(str(cell).rjust(22) for cell in row[1:])]) for row in rows]


if __name__ == "__main__":
    main()
