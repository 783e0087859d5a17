"""The react renderer: total parsing, parse/render inversion, and training samples that start with inference prompts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireact.render.react import ReActRenderer, render_turn
from fireact.types import Action, Example, Step, Trajectory, Usage

RENDERER = ReActRenderer()

words = st.text(
    st.characters(blacklist_characters="[]{}:\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", blacklist_categories=["Cs"])
)
plain = words.map(lambda text: " ".join(text.split()))
actions = st.one_of(
    st.builds(lambda text: Action("search", {"query": text}), plain),
    st.builds(lambda text: Action("finish", {"answer": text}), plain),
    st.builds(lambda text: Action("lookup", {"input": text}), plain),
    st.builds(lambda city, days: Action("weather", {"city": city, "days": days}), plain, st.integers()),
)
steps = st.builds(
    lambda thought, action, observation: Step(
        thought, action, observation, render_turn(Step(thought, action, None, ""))
    ),
    plain,
    actions,
    st.one_of(st.none(), st.text()),
)


def trajectory(found: list[Step]) -> Trajectory:
    example = Example("1", "Who?", "me")
    return Trajectory("t", example, "react", "m", 0, tuple(found), "finish", {}, Usage(), 0.0)


@given(st.text())
def test_parser_is_total(text: str) -> None:
    step = RENDERER.parse(text)
    assert step.text == text and step.observation is None


@given(
    st.lists(st.sampled_from(["Thought:", "Action:", "Observation:", "search[", "]", "\n", "x", " ", "{", "finish[a]"]))
)
def test_parser_is_total_on_near_misses(parts: list[str]) -> None:
    RENDERER.parse("".join(parts))


@given(steps)
def test_parse_inverts_render(step: Step) -> None:
    parsed = RENDERER.parse(render_turn(step))
    assert (parsed.thought, parsed.action) == (step.thought, step.action)


@given(st.lists(steps, min_size=1, max_size=5), st.data())
def test_sample_starts_with_every_prompt(found: list[Step], data: st.DataObject) -> None:
    sample = RENDERER.sample(trajectory(found))
    i = data.draw(st.integers(0, len(found) - 1))
    prompt = RENDERER.prompt("Who?", found[:i])
    assert sample[: len(prompt)] == prompt
    assert sample[len(prompt)].train and sample[len(prompt)].content == render_turn(found[i])


@given(st.lists(steps, min_size=1, max_size=5))
def test_only_the_students_words_are_trained(found: list[Step]) -> None:
    sample = RENDERER.sample(trajectory(found))
    assert [message.content for message in sample if message.train] == [render_turn(step) for step in found]
    assert all(message.train == (message.role == "assistant") for message in sample)
    assert sample[-1].train


@pytest.mark.parametrize(
    ("text", "thought", "action"),
    [
        ("Thought: a\nAction: search[b]", "a", ("search", {"query": "b"})),
        ("a\nAction: Finish[b]", "a", ("finish", {"answer": "b"})),
        ("Thought 2: a\nAction 2: search[b [c] d]", "a", ("search", {"query": "b [c] d"})),
        ("Action: search[two\nlines]", "", ("search", {"query": "two\nlines"})),
        ("Action: search[b]\nAction: finish[c]", "", ("search", {"query": "b"})),
        ("Action: search[b] then finish[c]", "", ("search", {"query": "b"})),
        ("Action: search[b]\nObservation: x\nAction: finish[c]", "", ("search", {"query": "b"})),
        ("Thought: a\nObservation: x\nAction: finish[c]", "a", None),
        ("Action: finish[a] b]", "", ("finish", {"answer": "a] b"})),
        ("Action: search[cut off", "", ("search", {"query": "cut off"})),
        ('Action: weather[{"city": "Oslo", "days": 2}]', "", ("weather", {"city": "Oslo", "days": 2})),
        ("Action: weather[{bad json]", "", ("weather", {"input": "{bad json"})),
        ("**Thought:** a\n**Action:** search[b]", "a", ("search", {"query": "b"})),
        ("I do not know.", "I do not know.", None),
        ("Thought: a\nAction: none", "a", None),
        ("", "", None),
    ],
)
def test_each_odd_completion_has_a_defined_outcome(
    text: str, thought: str, action: tuple[str, dict[str, object]] | None
) -> None:
    step = RENDERER.parse(text)
    assert step.thought == thought
    assert step.action == (Action(*action) if action else None)


@pytest.mark.parametrize("observation", ["found ", "", " ", "a\n"])
def test_an_observation_is_shown_to_the_letter(observation: str) -> None:
    looked = Step("a", Action("search", {"query": "x"}), observation, "")
    assert ReActRenderer().prompt("Q?", [looked])[-1].content == f"Observation: {observation}"


def test_user_and_student_take_turns_where_a_call_was_not_answered() -> None:
    """Some chat templates refuse anything else; an imported turn of several calls may have one result."""
    first = Step("a", Action("search", {"query": "x"}), None, "")
    second = Step("", Action("search", {"query": "y"}), "found", "", joined=True)
    last = Step("so", Action("finish", {"answer": "z"}), None, "")
    renderer, steps = ReActRenderer(), (first, second, last)
    sample = renderer.sample(trajectory(list(steps)))
    assert [message.role for message in sample] == ["user", "assistant"] * 3
    assert sample[2].content == "Observation:"
    for done in range(3):
        asked = renderer.prompt(sample[0].content, steps[:done])
        assert sample[: len(asked)] == asked
