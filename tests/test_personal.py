"""Personal data: what is found by presidio with a spaCy model, and what a repaired copy holds in its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("presidio_analyzer", reason="presidio-analyzer is not installed (the extra pii has it)")
import spacy

from fakes import trajectory
from fireact.base import jsonl
from fireact.base.personal import find_personal, redact_personal
from fireact.base.run_directory import read_trajectories
from fireact.data.doctor import DoctorConfig, diagnose_data
from fireact.data.repair import write_repaired_copy
from fireact.errors import ConfigError
from fireact.types import Step

NAMED = "I am Ada Lovelace, +49 30 901820, at 221 Baker Street, London; before at Lindenstraße 12, 10969 Berlin."
HARMLESS = "Paris has 2,100,000 people. Calls from abroad begin with +33; its area is 105 square kilometres."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A spaCy model that knows two persons and a city, in place of a trained one."""
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns(
        [{"label": "PERSON", "pattern": name} for name in ("Ada Lovelace", "Baker")]
        + [{"label": "GPE", "pattern": "London"}]
    )
    folder = tmp_path_factory.mktemp("spacy") / "model"
    nlp.to_disk(folder)
    return str(folder)


def test_names_phones_and_addresses_are_found_and_their_excerpts_hold_none(model: str) -> None:
    found = list(find_personal(NAMED, model))
    assert [kind for kind, _ in found] == ["personal name", "phone number", "address", "address"]
    assert not any(word in detail for _, detail in found for word in ("Ada", "901820", "Baker"))
    redacted = redact_personal({"Ada Lovelace": [NAMED, 3]}, model)
    assert redacted == {
        "Ada Lovelace": [
            "I am [name removed], [phone number removed], at [address removed]; before at [address removed].", 3,
        ]
    }  # fmt: skip
    assert not list(find_personal(HARMLESS, model)) and redact_personal(HARMLESS, model) == HARMLESS


def test_the_doctor_finds_them_and_its_copy_holds_none(model: str, tmp_path: Path) -> None:
    episodes = [trajectory(index) for index in range(3)]
    first = replace(episodes[0].steps[0], observation=NAMED)
    assert isinstance(first, Step)
    episodes[0] = replace(episodes[0], steps=(first, *episodes[0].steps[1:]))
    jsonl.write_objects(tmp_path / "data.jsonl", [episode.to_dict() for episode in episodes])
    plain = {finding.kind for finding in diagnose_data(DoctorConfig(data=str(tmp_path / "data.jsonl"))).findings}
    config = DoctorConfig(data=str(tmp_path / "data.jsonl"), personal=model)
    counts = {finding.kind: finding.count for finding in diagnose_data(config).findings}
    assert counts["address"] == 2 and counts["personal name"] == counts["phone number"] == 1
    assert not {"address", "personal name", "phone number"} & plain
    write_repaired_copy(config, tmp_path / "copy")
    text = (tmp_path / "copy" / "trajectories.jsonl").read_text(encoding="utf-8")
    assert "Ada Lovelace" not in text and "901820" not in text and "Baker" not in text
    changes = (tmp_path / "copy" / "changes.jsonl").read_text(encoding="utf-8")
    assert "personal name redacted" in changes and "Lovelace" not in changes
    copied = [entry.example.id for entry in read_trajectories(tmp_path / "copy")]
    assert copied == [episodes[0].example.id]  # the other two say the same


def test_a_model_that_is_not_installed_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="python -m spacy download no_such_model"):
        diagnose_data(DoctorConfig(data=str(tmp_path / "nothing.jsonl"), personal="no_such_model"))
