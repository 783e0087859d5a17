"""Search over any corpus: what is read, what is ranked, what is kept on disk and by whom."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import bm25s
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireact.base import names
from fireact.errors import ConfigError, DataError
from fireact.tools.corpus import PASSAGE_WORDS, read_passages, split_passages
from fireact.tools.index import Index, open_index
from fireact.tools.indexing import build_index
from fireact.tools.search import MAX_WORDS, build_corpus_search
from fireact.tools.words import split_words
from fireact.world.corpus import Article

ROWS = [
    {"title": "Oslo", "text": "Oslo is the capital of Norway. It lies at a fjord. Ships go to Kiel every day."},
    {"title": "Kiel", "text": "Kiel is a port in Germany. Ferries leave for Oslo."},
    {"title": "Łódź", "text": "Łódź is a city of weavers. Café culture thrives there."},
]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FIREACT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "search"


def as_lines(folder: Path) -> Path:
    path = folder / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def as_folder(folder: Path) -> Path:
    home = folder / "texts"
    (home / "deep").mkdir(parents=True)
    (home / "Kiel.txt").write_text(ROWS[1]["text"], encoding="utf-8")
    (home / "deep" / "n.md").write_text(f"# {ROWS[0]['title']}\n\n{ROWS[0]['text']}", encoding="utf-8")
    (home / "Łódź.md").write_text(ROWS[2]["text"], encoding="utf-8")
    (home / "picture.png").write_bytes(b"\x89PNG")
    return home


def as_list(folder: Path) -> Path:
    path = folder / "corpus.json"
    path.write_text(json.dumps(ROWS))
    return path


def as_articles(folder: Path) -> Path:
    path = folder / "wiki.json"
    found = {row["title"]: {"title": row["title"], "extract": row["text"], "topic": "Towns"} for row in ROWS}
    path.write_text(json.dumps(found))
    return path


def as_sentences(folder: Path) -> Path:
    path = folder / "sentences.json"
    path.write_text(
        json.dumps({row["title"]: [f" {part}." for part in row["text"].rstrip(".").split(". ")] for row in ROWS})
    )
    return path


@pytest.mark.parametrize("shape", [as_lines, as_folder, as_list, as_articles, as_sentences])
def test_every_shape_of_corpus_is_found_in(shape: Callable[[Path], Path], tmp_path: Path, cache: Path) -> None:
    search = names.build_plugin("tool", f"search:{shape(tmp_path)}")
    assert search(query="which town is the capital of norway") == "Oslo: Oslo is the capital of Norway."
    assert search(query="CAFE") == "Łódź: Café culture thrives there."
    assert search(query="zzz") == "No results found for 'zzz'."
    assert (
        len(list(read_passages(shape(tmp_path / "again" if (tmp_path / "again").mkdir() is None else tmp_path)))) == 3
    )


def test_results_and_whole_passages_by_option(tmp_path: Path, cache: Path) -> None:
    path = as_lines(tmp_path)
    assert names.build_plugin("tool", f"search:{path}?results=2")(query="Oslo ferries").split("\n") == [
        "Kiel: Ferries leave for Oslo.",
        "Oslo: Oslo is the capital of Norway.",
    ]
    whole = names.build_plugin("tool", f"search:{path}?passages=2")(query="Oslo ferries")
    assert whole == f"Kiel\n{ROWS[1]['text']}\n\nOslo\n{ROWS[0]['text']}"
    assert len([found for found in cache.iterdir() if found.is_dir()]) == 1, "options of the answer share one index"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("?passage=3", "Did you mean 'passages'"),
        ("?results=0", "1 to 100"),
        ("?results=x", "1 to 100"),
        ("?results=1&passages=1", "not both"),
    ],
)
def test_wrong_options_say_what_is_allowed(spec: str, message: str, tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        names.build_plugin("tool", f"search:{as_lines(tmp_path)}{spec}")


def test_what_cannot_be_read_says_so(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match="no corpus at"):
        names.build_plugin("tool", f"search:{tmp_path / 'absent.jsonl'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no"):
        names.build_plugin("tool", f"search:{tmp_path / 'empty'}")
    for name, content, message in [
        ("torn.jsonl", '{"title": "a", "te', "line 1: not JSON"),
        ("odd.jsonl", '{"name": "a"}\n', "entry 1 is no article"),
        ("torn.json", "[{", "not one JSON value"),
        ("number.json", "3", "holds a int"),
        ("none.jsonl", "", "nothing to search"),
        ("mute.jsonl", '{"title": "", "text": "the of"}', "nothing to search"),
    ]:
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=message):
            names.build_plugin("tool", f"search:{tmp_path / name}")
    assert not [found for found in cache.iterdir() if found.is_dir()], "nothing half built is left"


def test_fingerprints_tell_corpus_and_options_apart(tmp_path: Path) -> None:
    path = as_lines(tmp_path)
    plain = build_corpus_search(path, tmp_path / "c").fingerprint
    assert build_corpus_search(path, tmp_path / "d").fingerprint == plain, "the place of the index is no part of it"
    other = [
        build_corpus_search(path, tmp_path / "c", results=2),
        build_corpus_search(path, tmp_path / "c", whole_passages=True),
    ]
    path.write_text(path.read_text().replace("fjord", "sea"))
    other.append(build_corpus_search(path, tmp_path / "c"))
    assert len({plain, *(search.fingerprint for search in other)}) == 4
    assert "sea" in other[-1](query="sea")


TEXTS = st.lists(st.text("ab cé.+", max_size=30), min_size=1, max_size=12)


@given(TEXTS, st.integers(1, 40))
def test_scores_are_those_of_bm25s_bit_for_bit(texts: list[str], block: int) -> None:
    import tempfile

    corpus = [Article(text[:5], text) for text in texts]
    indexed = [split_words(article.title) + split_words(article.text) for article in corpus]
    known = sorted({word for found in indexed for word in found})
    if not known:
        return
    theirs = bm25s.BM25()
    theirs.index(indexed, show_progress=False)
    with tempfile.TemporaryDirectory() as folder:
        build_index(corpus, Path(folder), print, block=block)
        index = Index(Path(folder))
        for query in [[word] for word in known] + [known, known[::-1] * 2]:
            ours = dict(index.best_passages(index.word_numbers(query), len(corpus)))
            expected = theirs.get_scores(query)
            assert (
                np.array([ours.get(at, 0.0) for at in range(len(corpus))], np.float32).tobytes() == expected.tobytes()
            )
        assert [index.passage(at) for at in range(len(index))] == corpus
        for at, article in enumerate(corpus):
            everywhere, title = index.shared_words(index.word_numbers(known), [at])[0]
            assert (everywhere, title) == (len(set(indexed[at])), len(set(split_words(article.title))))


@given(st.text(max_size=200))
def test_words_drop_case_and_accents_as_unicode_says(text: str) -> None:
    import unicodedata

    from fireact.tools.words import STOP_WORDS, WORD

    letters = unicodedata.normalize("NFKD", text.lower())
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    assert split_words(text) == [word for word in WORD.findall(plain) if word not in STOP_WORDS]


@given(st.lists(st.integers(1, 400), max_size=8), st.sampled_from([" ", "\n\n", "\n"]))
def test_long_texts_are_cut_and_nothing_is_lost(lengths: list[int], between: str) -> None:
    text = between.join(" ".join([f"Word{number}"] * length) + "." for number, length in enumerate(lengths))
    found = list(split_passages(text))
    assert " ".join(found).split() == text.split()
    assert all(0 < len(piece.split()) <= PASSAGE_WORDS for piece in found) or not lengths


def _open(path: Path, cache: Path, answers: multiprocessing.Queue[str]) -> None:
    answers.put(build_corpus_search(path, cache)(query="capital of Norway"))


def test_processes_build_one_index_between_them(tmp_path: Path) -> None:
    path, cache = as_lines(tmp_path), tmp_path / "c"
    context = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[str] = context.Queue()
    processes = [context.Process(target=_open, args=(path, cache, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    assert {answers.get(timeout=600) for _ in processes} == {"Oslo: Oslo is the capital of Norway."}
    for process in processes:
        process.join()
    assert len([found for found in cache.iterdir() if found.is_dir()]) == 1


def test_a_killed_build_is_never_used(tmp_path: Path) -> None:
    path, cache = tmp_path / "corpus.jsonl", tmp_path / "c"
    with path.open("w") as file:
        for number in range(60_000):
            file.write(json.dumps({"title": f"Town {number}", "text": f"It has {number} houses and a market."}) + "\n")
    code = (
        "import sys; from pathlib import Path; from fireact.tools.search import build_corpus_search as c; "
        "c(*map(Path, sys.argv[1:]))"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(path), str(cache)])
    while not list(cache.glob("*.part")) and child.poll() is None:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert [found.suffix for found in cache.iterdir() if found.is_dir()] == [".part"]
    assert build_corpus_search(path, cache)(query="town 41234") == "Town 41234: It has 41234 houses and a market."
    assert not list(cache.glob("*.part"))


def test_a_damaged_index_says_what_to_do(tmp_path: Path) -> None:
    path, cache = as_lines(tmp_path), tmp_path / "c"
    build_corpus_search(path, cache)
    next(cache.glob("*/texts.bin")).write_bytes(b"")
    with pytest.raises(DataError, match="Delete it"):
        build_corpus_search(path, cache)


def test_the_vital_articles(shared_data: Path, tmp_path: Path) -> None:
    search = build_corpus_search(shared_data / "vital_wiki" / "summaries_en-us.json", tmp_path)
    assert "Kubrick" in search(query="who directed 2001: A Space Odyssey")
    for query in ("capital of Norway", "Georges Seurat painting", "speed of light", "who wrote Hamlet"):
        assert 3 < len(search(query=query).split()) <= MAX_WORDS
    hotpot = build_corpus_search(shared_data / "hippo_train" / "hotpotqa_train_corpus.json", tmp_path)
    assert hotpot(query="Demon Dice creator").startswith("Demon Dice: Demon Dice, originally published")
    musique = build_corpus_search(
        shared_data / "hippo_train" / "musique_train_corpus.json", tmp_path, results=2, whole_passages=True
    )
    assert "American Institute of Physics" in musique(query="Journal of Mathematical Physics publisher")


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FIREACT_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="Set FIREACT_CACHE"):
        names.build_plugin("tool", f"search:{as_lines(tmp_path)}")


def test_long_builds_say_how_they_stand(tmp_path: Path) -> None:
    import itertools

    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", itertools.count(0.0, 10.0).__next__)
        open_index(lambda: [Article("a", "b c"), Article("d", "e")], tmp_path / "index", say=said.append)
    assert said == ["1 passages read", "2 passages read", "scores of 0 of 1 blocks"]
