"""Constrained decoding: what is trained may be written, and nothing that is no valid call, whatever the template."""

import json
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("llguidance")

from fireact.errors import ConfigError, FormatError  # noqa: E402
from fireact.models.grammar import GrammarCompiler  # noqa: E402
from fireact.render.call_form import CallForm, find_call_form  # noqa: E402
from fireact.types import ReplyForm  # noqa: E402
from fireact.wire.schemas import make_schema  # noqa: E402
from small_tokenizers import FAMILIES, ends, tokenizer  # noqa: E402

COUNTRY = {
    "type": "object",
    "properties": {"country": {"type": "string"}, "year": {"type": "integer"}},
    "required": ["country"],
}
SCHEMAS = [
    make_schema("population", "people", COUNTRY),
    make_schema("pop", "music", {"type": "object", "properties": {}}),
]
NAMES = ("population", "pop")


def write_calls(form: CallForm, *calls: tuple[str, dict[str, Any]]) -> str:
    texts = [f"{name}{form.middle}{json.dumps(arguments)}" for name, arguments in calls]
    return form.opening + (form.separator or "").join(texts) + form.closing


def can_write(family: str, text: str, form: ReplyForm) -> bool:
    """Whether a student of a family can write a text, token by token, and then end its turn."""
    made = tokenizer(family)
    compiler = GrammarCompiler(made, ends=sorted(ends(family)), vocabulary_size=len(made))
    constraint = compiler.compile(form, SCHEMAS, find_call_form(made, ends(family))).start()
    ids = made(text, add_special_tokens=False)["input_ids"]
    for position, token in enumerate([*ids, min(ends(family))]):
        if constraint(ids[:position], torch.zeros(len(made)))[token] == -torch.inf:
            return False
    return True


def form_of(family: str) -> CallForm:
    form = find_call_form(tokenizer(family), ends(family))
    assert form is not None
    return form


WITH_FORM = [family for family in FAMILIES if find_call_form(tokenizer(family), ends(family)) is not None]


def test_nearly_every_template_has_a_form() -> None:
    assert set(FAMILIES) - set(WITH_FORM) <= {"glm", "thinker"}


@pytest.mark.parametrize("family", WITH_FORM)
def test_a_trained_call_can_be_written_and_a_wrong_one_cannot(family: str) -> None:
    form, auto = form_of(family), ReplyForm(NAMES)
    chad = ("population", {"country": "Chad", "year": 2020})
    good = [write_calls(form, chad), "I look.\n" + write_calls(form, chad), write_calls(form, ("pop", {}))]
    assert [can_write(family, text, auto) for text in good] == [True] * 3
    assert can_write(family, "Chad lies in Africa.", auto)
    wrong = [
        ("populace", {"country": "Chad"}), ("population", {}), ("population", {"country": 3}),
        ("pop", {"country": "Chad"}),
        ("population", {"country": "Chad", "colour": "red"}),
    ]  # fmt: skip
    assert [can_write(family, write_calls(form, call), auto) for call in wrong] == [False] * len(wrong)


@pytest.mark.parametrize("family", WITH_FORM)
def test_a_call_that_must_come_does(family: str) -> None:
    form, must = form_of(family), ReplyForm(("pop",), text=False)
    assert can_write(family, write_calls(form, ("pop", {})), must)
    assert not can_write(family, "Chad lies in Africa.", must)
    assert not can_write(family, write_calls(form, ("population", {"country": "Chad"})), must)


@pytest.mark.parametrize("family", WITH_FORM)
def test_several_calls_are_written_only_where_they_are_allowed(family: str) -> None:
    form = form_of(family)
    if form.separator is None:
        return
    text = write_calls(form, ("pop", {}), ("population", {"country": "Chad"}))
    assert can_write(family, text, ReplyForm(NAMES)) and not can_write(family, text, ReplyForm(NAMES, parallel=False))


def test_json_is_written_as_json_dumps_writes_it() -> None:
    form = ReplyForm(json_schema=COUNTRY)
    assert can_write("smollm2", '{"country": "Chad", "year": 3}', form)
    assert not can_write("smollm2", '{"country":"Chad"}', form) and not can_write("smollm2", "Chad", form)


def test_what_cannot_be_constrained_is_refused_in_words() -> None:
    made = tokenizer("smollm2")
    compiler = GrammarCompiler(made, ends=sorted(ends("smollm2")), vocabulary_size=len(made))
    with pytest.raises(ConfigError, match="--no-constrain"):
        compiler.compile(ReplyForm(("pop",)), SCHEMAS, None)
    with pytest.raises(FormatError, match="cannot be constrained"):
        compiler.compile(ReplyForm(json_schema={"type": "nothing"}), (), None)
