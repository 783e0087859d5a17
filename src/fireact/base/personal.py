"""Names, phone numbers, street addresses and account numbers in texts, found by the package ``presidio-analyzer``.

Keys and e-mail addresses are found without it (``redact``). Names need a spaCy model, which is named by whoever looks:
a package such as ``en_core_web_sm``, or a folder. Invariant: nothing is downloaded, and an excerpt does not hold what
was found. Every name counts, also that of a president: say so before you redact a data set about the world.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fireact.base.redact import SensitiveMatch
from fireact.errors import ConfigError, missing_extra_error

PERSONAL: Mapping[str, tuple[str, str]] = {
    "PERSON": ("personal name", "[name removed]"),
    "PHONE_NUMBER": ("phone number", "[phone number removed]"),
    "STREET_ADDRESS": ("address", "[address removed]"),
    "CREDIT_CARD": ("account number", "[account number removed]"),
    "IBAN_CODE": ("account number", "[account number removed]"),
    "US_SSN": ("account number", "[account number removed]"),
}
"""Entity of presidio -> the kind of a finding, and what takes its place."""
MIN_SCORE = 0.4
"""The confidence from which a finding counts; presidio gives a phone number without its context 0.4."""
_NUMBER_FIRST = (
    r"\b\d{1,5}[A-Za-z]?\s(?:[A-Z][\w.'-]*\s){1,4}"
    r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Square|Sq|Terrace|Way|Place|Pl)\b\.?"
    r"(?:,\s(?:[A-Z][\w'-]*\s?){1,3}(?:,?\s[A-Z]{2})?(?:\s\d{4,6})?)?"
)
_NUMBER_LAST = (
    r"\b[A-ZÄÖÜ][\wäöüß.-]*(?:straße|strasse|str\.|weg|platz|allee|gasse)\s\d{1,4}[a-z]?\b"
    r"(?:,\s\d{5}\s[A-ZÄÖÜ][\wäöüß-]+)?"
)


def find_personal(text: str, model: str) -> Iterator[SensitiveMatch]:
    """The personal data in a text: kind and length, by a spaCy model."""
    for entity, start, end in _find_spans(text, model):
        yield PERSONAL[entity][0], f"{end - start} characters"


def redact_personal(value: Any, model: str) -> Any:
    """Parsed JSON with the personal data in its values replaced; keys stay."""
    if isinstance(value, str):
        for entity, start, end in sorted(_find_spans(value, model), key=lambda span: -span[1]):
            value = value[:start] + PERSONAL[entity][1] + value[end:]
        return value
    if isinstance(value, Mapping):
        return {key: redact_personal(item, model) for key, item in value.items()}
    return [redact_personal(item, model) for item in value] if isinstance(value, list | tuple) else value


@functools.lru_cache(maxsize=4096)
def _find_spans(text: str, model: str) -> tuple[tuple[str, int, int], ...]:
    """The entities of a text, the surest of those that overlap."""
    if not any(char.isalpha() or char.isdigit() for char in text):
        return ()
    results = load_analyzer(model).analyze(text, language="en", entities=list(PERSONAL), score_threshold=MIN_SCORE)
    spans: list[tuple[str, int, int]] = []
    for result in sorted(results, key=lambda found: (-found.score, found.start - found.end)):
        if all(result.end <= start or result.start >= end for _, start, end in spans):
            spans.append((result.entity_type, result.start, result.end))
    return tuple(sorted(spans, key=lambda span: span[1]))


@functools.lru_cache(maxsize=2)
def load_analyzer(model: str) -> Any:
    """The analyzer with a spaCy model. Raises ConfigError where presidio or the model is not installed."""
    try:
        from presidio_analyzer import AnalyzerEngine, Pattern, PatternRecognizer
        from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine
    except ImportError as error:
        raise missing_extra_error("presidio-analyzer", "pii") from error
    if not Path(model).is_dir() and importlib.util.find_spec(model) is None:
        raise ConfigError(
            f"the spaCy model {model} is not installed. Install it with 'python -m spacy download {model}', or name a "
            "folder that holds one."
        )
    names = NerModelConfiguration(
        model_to_presidio_entity_mapping={"PERSON": "PERSON", "PER": "PERSON"},
        labels_to_ignore=[
            "CARDINAL", "DATE", "EVENT", "FAC", "GPE", "LANGUAGE", "LAW", "LOC", "MISC", "MONEY", "NORP", "ORDINAL",
            "ORG", "PERCENT", "PRODUCT", "QUANTITY", "TIME", "WORK_OF_ART",
        ],
    )  # fmt: skip
    engine = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": model}], ner_model_configuration=names)
    analyzer = AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])
    patterns = [Pattern("number first", _NUMBER_FIRST, 0.9), Pattern("number last", _NUMBER_LAST, 0.9)]
    analyzer.registry.add_recognizer(
        PatternRecognizer(supported_entity="STREET_ADDRESS", patterns=patterns, global_regex_flags=0)
    )
    return analyzer
