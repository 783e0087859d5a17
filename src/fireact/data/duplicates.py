"""Near duplicates among many texts, by MinHash (Broder 1997) and banding, confirmed by their Jaccard similarity.

A text is the set of its word 3-grams. Each text has 32 hashes in 8 bands of 4; two texts that agree in a whole band
are compared. At a similarity of 0.85 one pair in about 400 is missed; less similar pairs are missed more often.
Nothing here decides what is done about duplicates.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

HASHES, BANDS = 32, 8
NEAR_DUPLICATE = 0.85
"""The Jaccard similarity from which two texts are near duplicates."""
NGRAM = 3

Hashes = npt.NDArray[np.uint64]
_WORD = re.compile(r"\w+")
_FACTORS = np.random.default_rng(0).integers(0, 2**64, (2, HASHES), dtype=np.uint64) | np.uint64(1)


def hash_ngrams(text: str) -> Hashes:
    """A hash for each word 3-gram; a shorter text is padded to one."""
    words = np.array([crc32(word.encode("utf-8", "surrogatepass")) for word in _WORD.findall(text.lower())], np.uint64)
    words = words if len(words) >= NGRAM else np.r_[words, np.zeros(NGRAM - len(words), np.uint64)]
    count = len(words) - NGRAM + 1
    hashes = np.zeros(count, np.uint64)
    for offset in range(NGRAM):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + words[offset : offset + count] + np.uint64(1)
    hashes = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return hashes ^ (hashes >> np.uint64(32))


def compute_minhash(text: str) -> npt.NDArray[np.uint32]:
    """The MinHash of a text: for each of 32 hash functions the least value over its n-grams."""
    mixed = hash_ngrams(text)[:, None] * _FACTORS[0] + _FACTORS[1]
    least: npt.NDArray[np.uint32] = (mixed >> np.uint64(32)).astype(np.uint32).min(axis=0)
    return least


def jaccard_similarity(first_text: str, second_text: str) -> float:
    """The n-grams that both texts have, as a share of those that either has."""
    first, second = np.unique(hash_ngrams(first_text)), np.unique(hash_ngrams(second_text))
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)


def find_candidate_pairs(signatures: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """Distinct pairs (earlier, later) that agree in a band, always with the first text that has its values."""
    pairs = [np.empty((0, 2), np.int64)]
    for band in np.split(signatures, BANDS, axis=1) if len(signatures) else ():
        packed = np.ascontiguousarray(band).view(np.dtype((np.void, band.shape[1] * 4))).ravel()
        _, first, band_codes = np.unique(packed, return_index=True, return_inverse=True)
        indices = np.arange(len(packed))
        repeats = indices[first[band_codes] != indices]
        pairs.append(np.stack([first[band_codes][repeats], repeats], axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def find_near_duplicates(
    signatures: npt.NDArray[np.uint32], text: Callable[[int], str], differ: Callable[[Any, Any], Any]
) -> list[tuple[int, int, float]]:
    """(earlier, later, similarity) for near duplicates: at most one pair for each later text.

    ``text`` reads a text by its index; ``differ`` takes two arrays of indices and selects the pairs to compare.
    """
    pairs = find_candidate_pairs(signatures)
    pairs = pairs[differ(pairs[:, 0], pairs[:, 1])] if len(pairs) else pairs
    pair_by_later: dict[int, tuple[int, int, float]] = {}
    for earlier, later in pairs[_agree_in_hashes(signatures, pairs)].tolist():
        if later in pair_by_later:
            continue
        similarity = jaccard_similarity(text(earlier), text(later))
        if similarity >= NEAR_DUPLICATE:
            pair_by_later[later] = (earlier, later, similarity)
    return [pair_by_later[later] for later in sorted(pair_by_later)]


def _agree_in_hashes(signatures: npt.NDArray[np.uint32], pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether enough hashes of a pair agree that its similarity may reach ``NEAR_DUPLICATE``."""
    # Agreements are binomial with the similarity as probability: three standard deviations below the mean still pass.
    least = HASHES * (NEAR_DUPLICATE - 3 * (NEAR_DUPLICATE * (1 - NEAR_DUPLICATE) / HASHES) ** 0.5)
    agreed = np.zeros(len(pairs), bool)
    for start in range(0, len(pairs), 100_000):
        earlier, later = pairs[start : start + 100_000].T
        agreed[start : start + 100_000] = (signatures[earlier] == signatures[later]).sum(axis=1) >= least
    return agreed
