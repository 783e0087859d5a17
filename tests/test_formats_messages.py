"""Steps to chat messages with native calls and back: every shape of turn, and anything at all."""

import json

from hypothesis import given
from hypothesis import strategies as st

from fireact.render.messages import messages_from_steps, steps_from_messages
from fireact.types import Action, Step
from fireact.wire.schemas import infer_schemas, normalise_schemas
from formats_cases import conversations, steps_lists


@given(st.text(min_size=1), steps_lists(), st.text())
def test_steps_survive_as_messages(question: str, steps: tuple[Step, ...], system: str) -> None:
    wire = json.loads(json.dumps(messages_from_steps(question, steps, system=system)))
    assert steps_from_messages(wire) == (question, system, steps)


@given(st.text(min_size=1), steps_lists())
def test_each_call_is_answered_before_the_next_turn(question: str, steps: tuple[Step, ...]) -> None:
    wire = messages_from_steps(question, steps)
    ids = [call["id"] for message in wire for call in message.get("tool_calls", ())]
    assert len(ids) == len(set(ids))
    for at, message in enumerate(wire[:-1]):
        expected = [call["id"] for call in message.get("tool_calls", ())]
        following = wire[at + 1 : at + 1 + len(expected)]
        if following and following[0]["role"] == "tool":
            assert [answer["tool_call_id"] for answer in following] == expected[: len(following)]


@given(conversations())
def test_no_conversation_is_refused(messages: list[dict]) -> None:
    steps_from_messages(messages)


@given(conversations())
def test_reading_what_was_read_changes_nothing_more(messages: list[dict]) -> None:
    once = steps_from_messages(messages)
    wire = messages_from_steps(once[0], once[2], system=once[1])
    twice = steps_from_messages(wire)
    assert steps_from_messages(messages_from_steps(twice[0], twice[2], system=twice[1])) == twice


def test_words_and_several_calls_are_one_turn() -> None:
    steps = (
        Step("I look both up.", Action("search", {"query": "a"}), "A", "I look both up."),
        Step("", Action("search", {"query": "b", "k": 2}), "B", "", joined=True),
        Step("", Action("finish", {"answer": "c"}), None, "c"),
    )
    user, turn, first, second, last = messages_from_steps("Q?", steps)
    assert user["role"] == "user" and turn["content"] == "I look both up." and len(turn["tool_calls"]) == 2
    assert json.loads(turn["tool_calls"][1]["function"]["arguments"]) == {"query": "b", "k": 2}
    assert [first["content"], second["content"]] == ["A", "B"] and last == {"role": "assistant", "content": "c"}


def test_a_thought_before_the_answer_makes_finish_a_call() -> None:
    steps = (Step("It is c.", Action("finish", {"answer": "c"}), None, "Thought: It is c.\nAction: finish[ c]"),)
    message = messages_from_steps("Q?", steps)[-1]
    assert message["content"] == "It is c." and message["tool_calls"][0]["function"]["name"] == "finish"


def test_results_find_their_calls_by_id() -> None:
    calls = [{"id": name, "function": {"name": "f", "arguments": "{}"}} for name in ("x", "y")]
    messages = [
        {"role": "user", "content": "Q?"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "y", "content": "of y"},
        {"role": "tool", "tool_call_id": "x", "content": "of x"},
    ]
    assert [step.observation for step in steps_from_messages(messages)[2]] == ["of x", "of y"]


def test_dialects_of_calls_and_blocks() -> None:
    spoken = [
        {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": '{"a": 1}'}},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}}]},
        {"role": "assistant", "content": [{"type": "tool_call", "value": '{"name": "f", "arguments": {"a": 1}}'}]},
        {"role": "assistant", "tool_calls": [{"function": "f", "arguments": {"a": 1}}]},
        {"role": "assistant", "tool_calls": [{"name": "f", "arguments": '{"a": 1}'}]},
    ]
    for message in spoken:
        assert steps_from_messages([message])[2][0].action == Action("f", {"a": 1})
    broken = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{oops"}}]}
    assert steps_from_messages([broken])[2][0].action == Action("f", {"input": "{oops"})
    thinking = {"role": "assistant", "content": [{"type": "reasoning", "value": "hm"}, {"type": "text", "value": "c"}]}
    assert steps_from_messages([thinking])[2][0] == Step(
        "hm", Action("finish", {"answer": "c"}), None, "<think>\nhm\n</think>\n\nc"
    )


def test_schemas_of_any_form_are_one_form() -> None:
    bare = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
    forms = [
        [bare], json.dumps([bare]), {"type": "function", "function": bare},
        [{"name": "f", "description": "d", "input_schema": bare["parameters"]}],
    ]  # fmt: skip
    assert all(normalise_schemas(form) == [{"type": "function", "function": bare}] for form in forms)
    assert normalise_schemas("nonsense") == normalise_schemas(None) == normalise_schemas(3) == []
    made_up = infer_schemas([Step("", Action("f", {"a": 1, "b": [True]}), None, "")])
    assert made_up[0]["function"]["parameters"]["properties"] == {"a": {"type": "integer"}, "b": {"type": "array"}}
