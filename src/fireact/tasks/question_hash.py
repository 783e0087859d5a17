"""The identity of a question, across files that give it other ids: its words, whatever their case and white space.

Invariant: the hash of a question is the same in all versions, since manifests and files of earlier runs hold it.
"""

from __future__ import annotations

import hashlib


def normalise_question(question: str) -> str:
    """A question without differences in case and white space."""
    return " ".join(question.casefold().split())


def hash_question(question: str) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a normalised question; empty for an empty question."""
    words = normalise_question(question)
    return hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()[:16] if words else ""
