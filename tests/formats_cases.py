"""Random episodes and conversations for the tests of formats."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from fireact.types import Action, Example, Step, Trajectory, Usage

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=20)
NAMES = st.sampled_from(["search", "lookup", "book", "calculator"])
VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=4,
)
CALLS = st.builds(Action, NAMES, st.dictionaries(WORDS, VALUES, max_size=3))


def steps_lists() -> st.SearchStrategy[tuple[Step, ...]]:
    """Steps in the form in which native messages give them: each turn answered, the last one maybe the answer."""
    return st.builds(lambda turns, last: (*(step for turn in turns for step in turn), *last), _turns(), _last())


def ragged_steps() -> st.SearchStrategy[tuple[Step, ...]]:
    """Steps in any order and of any make: without words, without an action, answered or not, joined to nothing."""
    text = st.sampled_from(
        [
            "",
            "hm",
            "Thought: hm",
            "Thought: hm\nAction: search[ x]",
            "Action: finish[c]",
            "Observation: x",
            "<think>a</think> b",
            "\n",
            "Episode finished, reward = True",
        ]
    )
    plain = st.sampled_from([Action("search", {"query": "x"}), Action("finish", {"answer": "c"})])
    step = st.builds(
        Step, text, st.none() | CALLS | plain, st.none() | text, text, joined=st.booleans(),
        weight=st.sampled_from([1.0, 0.5, 0.0]),
    )  # fmt: skip
    return st.lists(step, min_size=1, max_size=4).map(tuple)


def _turns() -> st.SearchStrategy[list[list[Step]]]:
    thoughts = WORDS.filter(lambda text: "think>" not in text)
    called = st.tuples(thoughts, st.lists(st.tuples(CALLS, WORDS), min_size=1, max_size=3), st.sampled_from([1.0, 0.0]))
    said = st.tuples(thoughts.filter(bool), WORDS).map(lambda it: [Step(it[0], None, it[1], it[0])])
    return st.lists(called.map(_turn) | said, max_size=4)


def _turn(drawn: tuple[str, list[tuple[Action, str]], float]) -> list[Step]:
    thought, calls, weight = drawn
    return [
        Step("" if at else thought, action, heard, "" if at else thought, joined=at > 0, weight=weight)
        for at, (action, heard) in enumerate(calls)
    ]


def _last() -> st.SearchStrategy[list[Step]]:
    answers = WORDS.filter(lambda text: bool(text) and "think>" not in text)
    plain = answers.map(lambda text: [Step("", Action("finish", {"answer": text}), None, text)])
    thought = st.tuples(answers, answers).map(
        lambda it: [Step(it[0], Action("finish", {"answer": it[1]}), None, it[0])] if it[0] != it[1] else []
    )
    return st.just([]) | plain | thought


def trajectories() -> st.SearchStrategy[Trajectory]:
    """Whole episodes, with facts of every kind."""
    return st.builds(
        Trajectory,
        task=st.sampled_from(["hotpotqa", "small"]),
        example=st.builds(Example, WORDS.filter(bool), WORDS.filter(bool), WORDS, st.just({"hops": 2})),
        method=st.sampled_from(["react", "cot"]),
        model=WORDS,
        seed=st.integers(0, 3),
        steps=steps_lists(),
        stop=st.sampled_from(["finish", "max_steps", "format"]),
        scores=st.sampled_from([{}, {"em": 1.0, "f1": 1.0}, {"em": 0.0}]),
        usage=st.just(Usage(1, 2, 0, 3, None)),
        seconds=st.just(0.5),
        error=st.none(),
        meta=st.sampled_from([{}, {"system": "Be brief."}, {"tools": [TOOL]}, {"note": {"by": "hand"}}]),
    )


TOOL = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Looks a thing up.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
    },
}


def conversations() -> st.SearchStrategy[list[dict[str, Any]]]:
    """Lists of messages in any order, well-formed or not."""
    call = st.fixed_dictionaries(
        {}, optional={"id": VALUES, "function": VALUES | st.fixed_dictionaries({"name": WORDS, "arguments": VALUES}),
                      "name": VALUES, "arguments": VALUES},
    )  # fmt: skip
    message = st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "assistant", "tool", "system", "human", "gpt", "odd"])},
        optional={
            "content": VALUES, "reasoning_content": WORDS, "tool_calls": st.lists(call, max_size=2) | VALUES,
            "tool_call_id": WORDS, "weight": VALUES, "function_call": call,
        },
    )  # fmt: skip
    return st.lists(message, max_size=6)
