"""Files as people reported them, and others of their kinds: nothing is lost without a word, or learned by mistake."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from fireact.data.sources import open_trajectory_files
from fireact.errors import DataError
from fireact.formats.read import read_any
from fireact.formats.source import Damage
from fireact.recording.scores import grader_from_answers
from fireact.render.messages import steps_from_messages
from fireact.render.react import ReActRenderer
from fireact.render.tool_calls import ToolCallsRenderer
from fireact.types import Trajectory
from fireact.wire.dialect import WireMessage
from fireact.wire.fields import WireDamage
from fireact.wire.file_messages import read_file_messages
from fireact.wire.messages import MESSAGES
from fireact.wire.reasoning import split_reasoning
from fireact.wire.roles import find_role, is_call_role
from fireact.wire.schemas import find_bad_schemas, normalise_schemas
from fireact.wire.text_calls import find_calls, split_calls

NAN = float("nan")
USERS = Path(__file__).parent / "samples" / "users"
Acted = list[tuple[str, dict[str, Any], str | None]]


def read_file(path: Path, format: str | None = None, *, skip: bool = False) -> tuple[list[Trajectory], list[Damage]]:
    damages: list[Damage] = []
    return list(read_any(path, format, notice=damages.append, skip=skip)), damages


def acted(trajectory: Trajectory) -> Acted:
    return [
        (step.action.name if step.action else "", dict(step.action.arguments) if step.action else {}, step.observation)
        for step in trajectory.steps
    ]


def write_rows(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_swifts_calls_are_messages_of_a_role_of_their_own() -> None:
    (one, two), damages = read_file(USERS / "swift-tool-call.jsonl")
    assert not damages and one.example.question == "How high is the tide at Port Ness at 7?"
    assert acted(one) == [
        ("tide_at", {"harbour": "Port Ness", "hour": 7}, '{"metres": 3.4}'),
        ("finish", {"answer": "The tide is 3.4 metres high."}, None),
    ]
    assert one.steps[0].thought == "I look the tide up."
    assert [(name, observation) for name, _, observation in acted(two)] == [
        ("tide_at", '{"metres": 2.1}'), ("ferry_price", '{"pounds": 4.2}'), ("finish", None),
    ]  # fmt: skip
    assert [step.joined for step in two.steps] == [False, True, False]


def test_anthropics_results_go_to_their_calls() -> None:
    (one, two), damages = read_file(USERS / "anthropic-blocks.jsonl")
    assert not damages and one.meta["system"] == "You help sailors."
    assert acted(one)[0] == ("tide_at", {"harbour": "Port Ness", "hour": 7}, "3.4 metres") and len(one.steps) == 2
    assert [(arguments.get("hour"), observation) for _, arguments, observation in acted(two)] == [
        (9, "2.1 metres"), (15, "0.6 metres"), (None, None),
    ]  # fmt: skip


def test_every_name_of_a_role_is_read() -> None:
    trajectories, damages = read_file(USERS / "role-names.jsonl")
    assert [trajectory.answer for trajectory in trajectories] == ["Oban.", "Mallaig.", "Ullapool.", "Stornoway."]
    assert not damages


def test_turns_that_shall_not_be_learned_have_no_weight() -> None:
    (one, two), damages = read_file(USERS / "loss-flags-messages.jsonl")
    assert [step.weight for step in one.steps] == [0, 1, 1] and [step.weight for step in two.steps] == [0, 1]
    assert not damages


def test_no_turn_without_a_word_is_trained_or_made_up() -> None:
    (trajectory,), _ = read_file(USERS / "two-users.jsonl")
    for renderer in (ReActRenderer(), ToolCallsRenderer()):
        messages = renderer.sample(trajectory)
        assert [message.role for message in messages] == ["user", "assistant", "user", "user", "assistant"]
        assert all(message.content or message.calls for message in messages)


def test_half_a_surrogate_pair_is_replaced_and_reported(tmp_path: Path) -> None:
    trajectories, damages = read_file(USERS / "lone-surrogate.jsonl")
    assert [damage.kind for damage in damages] == ["lone-surrogate"] and damages[0].number == 1
    assert trajectories[0].example.question == "Is the harbour open ? today?" and trajectories[0].answer == "Yes 😀."
    for trajectory in trajectories:
        json.dumps(trajectory.to_dict(), ensure_ascii=False).encode()
    with open_trajectory_files([USERS / "lone-surrogate.jsonl"]) as (source,):
        assert [damage.kind for damage in source.damage] == ["lone-surrogate"]


@pytest.mark.parametrize("format", [None, "messages"])
def test_a_bad_row_among_good_ones_is_named(format: str | None) -> None:
    with pytest.raises(DataError, match=r"one-null-row\.jsonl, row 2: cannot be read"):
        read_file(USERS / "one-null-row.jsonl", format)
    trajectories, damages = read_file(USERS / "one-null-row.jsonl", format, skip=True)
    assert [trajectory.answer for trajectory in trajectories] == ["1 metres.", "2 metres."]
    assert [(damage.kind, damage.number) for damage in damages] == [("unreadable", 2)]


def test_a_first_line_that_is_torn_is_named(tmp_path: Path) -> None:
    row = json.dumps({"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A"}]})
    (tmp_path / "a.jsonl").write_text(f'{{"messages": [\n{row}\n{row}\n')
    with pytest.raises(DataError, match="row 1"):
        read_file(tmp_path / "a.jsonl")
    assert len(read_file(tmp_path / "a.jsonl", skip=True)[0]) == 2


def test_react_in_sharegpt_acts() -> None:
    (trajectory,), damages = read_file(USERS / "sharegpt-react.json")
    assert not damages and acted(trajectory) == [
        ("search", {"query": "Mallaig"}, "Mallaig is a port in Scotland."), ("finish", {"answer": "Scotland"}, None),
    ]  # fmt: skip


def test_calls_in_text_act() -> None:
    (glaive, mistral), damages = read_file(USERS / "text-calls.json")
    assert not damages and acted(glaive)[0] == ("tide_at", {"harbour": "Oban"}, "2.1")
    assert acted(mistral)[0] == ("tide_at", {"harbour": "Mallaig"}, "1.7")


def test_reasoning_with_a_closing_tag_alone_never_acts() -> None:
    (trajectory,), _ = read_file(USERS / "think-no-open-react.jsonl")
    assert [(name, arguments) for name, arguments, _ in acted(trajectory)] == [
        ("search", {"query": "tide Port Ness"}), ("finish", {"answer": "3.4 metres"}),
    ]  # fmt: skip
    assert split_reasoning("<think>finish[cut") == ("finish[cut", "") and split_reasoning("plain") is None
    assert split_reasoning("[THINK]a[/THINK]b") == ("a", "b")


def test_answers_that_are_a_list_as_text_score_right() -> None:
    trajectories, _ = read_file(USERS / "popqa-run.jsonl")
    grade = grader_from_answers(f"{USERS / 'popqa.csv'}:question,possible_answers", None)
    assert [grade(trajectory).scores["em"] for trajectory in trajectories] == [1.0, 1.0]  # type: ignore[union-attr]


@pytest.mark.parametrize("cell", ["['Mull' 'Isle of Mull']", "['Mull', \"Isle of Mull\"]", '["Mull","Isle of Mull"]'])
def test_lists_of_answers_are_read_however_they_are_spelled(cell: str, tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "a.jsonl", {"question": "Where?", "answer": cell}, {"question": "L?", "answer": "[1, 2]"}
    )
    grade = grader_from_answers(f"{path}:question,answer", None)
    row = {"messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "isle of Mull"}]}
    (trajectory,), _ = read_file(write_rows(tmp_path / "b.jsonl", row))
    assert grade(trajectory).scores["em"] == 1.0  # type: ignore[union-attr]


def test_results_in_any_order_and_a_result_of_no_call() -> None:
    (one, two, three), damages = read_file(USERS / "call-ids.jsonl")
    assert [step.observation for step in one.steps] == ["one", "two", "three", None]
    assert [step.observation for step in two.steps] == [None, "two", None]
    assert [step.observation for step in three.steps] == [None, "two", None]
    assert [(damage.kind, damage.number) for damage in damages] == [("stray-result", 3)]


def test_a_result_that_comes_turns_later_goes_to_its_call() -> None:
    call = {"id": "a", "function": {"name": "book", "arguments": "{}"}}
    row = [
        {"role": "user", "content": "Q?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "assistant", "content": "Wait."},
        {"role": "tool", "tool_call_id": "a", "content": "booked"},
        {"role": "assistant", "content": "Done."},
    ]
    from fireact.render.messages import steps_from_messages

    assert [step.observation for step in steps_from_messages(row)[2]] == ["booked", None, None]


CALLS_IN_TEXT = [
    '<tool_call>\n{"name": "f", "arguments": {"a": "x"}}\n</tool_call>',
    "<tool_call>{'name': 'f', 'arguments': {'a': 'x'}}</tool_call>",
    "<tool_call>\n<function=f>\n<parameter=a>\nx\n</parameter>\n</function>\n</tool_call>",
    "<tool_call>f\n<arg_key>a</arg_key>\n<arg_value>x</arg_value>\n</tool_call>",
    '<function=f>{"a": "x"}</function>',
    '<|python_tag|>{"name": "f", "parameters": {"a": "x"}}<|eom_id|>',
    '<|python_tag|>f.call(a="x")',
    '[TOOL_CALLS][{"name": "f", "arguments": {"a": "x"}, "id": "123456789"}]',
    '[TOOL_CALLS] f[CALL_ID]123456789[ARGS]{"a": "x"}',
    '<functioncall> {"name": "f", "arguments": \'{"a": "x"}\'} <|endoftext|>',
    '<tool_calls>[{"name": "f", "arguments": {"a": "x"}}]</tool_calls>',
    '<TOOLCALL>[{"name": "f", "arguments": {"a": "x"}}]</TOOLCALL>',
    '<|tool_call|>[{"name": "f", "arguments": {"a": "x"}}]<|/tool_call|>',
    '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "f", "parameters": {"a": "x"}}]<|END_ACTION|>',
    '<|tool_call_start|>[f(a="x")]<|tool_call_end|>',
    '<|action_start|><|plugin|>\n{"name": "f", "parameters": {"a": "x"}}<|action_end|>',
    '<function_calls>\n<invoke name="f">\n<parameter name="a">x</parameter>\n</invoke>\n</function_calls>',
    '<minimax:tool_call>\n<invoke name="f">\n<parameter name="a">x</parameter>\n</invoke>\n</minimax:tool_call>',
    '<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="a" string="true">x'
    "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
    '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"a": "x"}\n```<｜tool▁call▁end｜>'
    "<｜tool▁calls▁end｜>",
    '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": "x"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>"
    '{"a": "x"}<|tool_call_end|><|tool_calls_section_end|>',
    '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": "x"}<|call|>',
]


@pytest.mark.parametrize("text", CALLS_IN_TEXT)
def test_the_call_forms_of_model_families_are_read(text: str) -> None:
    turn = split_calls(f"I look.\n{text}")
    assert turn.text == "I look." and not turn.unread
    assert [(action.name, dict(action.arguments)) for action in turn.actions] == [("f", {"a": "x"})]
    assert [(action.name, dict(action.arguments)) for _, action in find_calls(text)] == [("f", {"a": "x"})]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('[Market Trends API(trend_type="UP", country="us"), f(a=true)]', ["Market Trends API", "f"]),
        ('{"name": "f", "parameters": {"a": "x"}}', ["f"]),
        ('[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {"b": [1]}}]', ["f", "g"]),
        ("[1, 2]", []), ('{"name": "Ada", "age": 3}', []),
    ],
)  # fmt: skip
def test_a_turn_that_is_nothing_but_calls_acts_where_its_tools_are_known(text: str, names: list[str]) -> None:
    assert [action.name for action in split_calls(text, is_tool=lambda name: True).actions] == names
    assert split_calls(text, is_tool=lambda name: False).text == text and split_calls(text).text == text


@pytest.mark.parametrize("text", ["[TOOL_CALLS][{oops", "<functioncall> {torn", "<tool_call>look it up</tool_call>",
                                  '<|tool_call_begin|>functions.f:0<|x|>{"a": <|tool_call_end|>'])  # fmt: skip
def test_calls_that_cannot_be_read_are_reported_and_not_learned(text: str, tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": text}, {"from": "tool", "value": "A"},
             {"from": "gpt", "value": "c"}]  # fmt: skip
    (trajectory,), damages = read_file(write_rows(tmp_path / "a.jsonl", {"conversations": turns}))
    assert [damage.kind for damage in damages] == ["unread-tool-call"]
    assert [step.weight for step in trajectory.steps] == [0.0, 1.0]


def test_toolaces_calls_act_where_the_system_prompt_names_the_tool(tmp_path: Path) -> None:
    system = 'You can call: [{"name": "Tide Now", "parameters": {}}]'
    turns = [{"from": "system", "value": system}, {"from": "user", "value": "Q?"},
             {"from": "assistant", "value": '[Tide Now(harbour="Oban")]'}]  # fmt: skip
    (trajectory,), _ = read_file(write_rows(tmp_path / "a.jsonl", {"conversations": turns}))
    assert acted(trajectory) == [("Tide Now", {"harbour": "Oban"}, None)]


@pytest.mark.parametrize(
    "turn",
    [
        "Thought： look\nAction： search[Oban]", "Thought: look\nAction: `search[Oban]`",
        "**Thought:** look\n**Action:** search[Oban]", "Thought: look\nAction: search\nAction Input: Oban",
        "Thought： look\nAction： search\nAction Input： Oban",
        'Thought: look\nAction:\n```json\n{"action": "search", "action_input": "Oban"}\n```',
    ],
)  # fmt: skip
def test_spellings_of_react_act(turn: str, tmp_path: Path) -> None:
    turns = [
        ("user", "Q?"),
        ("assistant", turn),
        ("user", "Observation: 2.1"),
        ("assistant", "Thought: so\nAction: finish[2.1]"),
    ]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    (trajectory,), damages = read_file(write_rows(tmp_path / "a.jsonl", row))
    assert not damages and [name for name, _, _ in acted(trajectory)] == ["search", "finish"]
    assert list(acted(trajectory)[0][1].values()) == ["Oban"] and trajectory.steps[0].thought.strip("* ") == "look"


def test_an_action_in_words_that_cannot_be_read_is_reported_and_not_learned(tmp_path: Path) -> None:
    turns = [("user", "Q?"), ("assistant", "Thought: so\nAction: go to drawer 1"), ("user", "Observation: closed"),
             ("assistant", "Thought: so\nAction: finish[c]")]  # fmt: skip
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    (trajectory,), damages = read_file(write_rows(tmp_path / "a.jsonl", row))
    assert [damage.kind for damage in damages] == ["unread-tool-call"]
    assert [step.weight for step in trajectory.steps] == [0.0, 1.0]


def test_an_unknown_role_is_reported_with_its_row_and_never_learned(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "Q?"}, {"role": "narrator", "content": "hm"},
                        {"role": "assistant", "content": "c"}]}  # fmt: skip
    (trajectory,), damages = read_file(write_rows(tmp_path / "a.jsonl", row))
    assert [(damage.kind, damage.number) for damage in damages] == [("unknown-role", 1)]
    assert "narrator" in damages[0].detail and len(trajectory.steps) == 1 and trajectory.answer == "c"
    assert all(find_role(name) for name in ("AIMessageChunk", "HumanMessage", "Tool-Response", "function result", "AI"))
    assert is_call_role("tool_caller") and find_role("robot") is None


def _read_one(content: Any, **fields: Any) -> tuple[Any, tuple[WireDamage, ...]]:
    messages, damage = read_file_messages([{"role": "assistant", "content": content, **fields}])
    return messages[0], damage


@pytest.mark.parametrize(
    "fields",
    [
        {"content": [{"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}}]},
        {"content": [{"toolUse": {"toolUseId": "1", "name": "f", "input": {"a": 1}}}]},
        {"parts": [{"functionCall": {"id": "1", "name": "f", "args": {"a": 1}}}]},
        {"parts": [{"type": "tool_call", "id": "1", "name": "f", "arguments": {"a": 1}}]},
        {"content": "", "tool_calls": [{"id": "1", "name": "f", "args": {"a": 1}, "type": "tool_call"}]},
        {"content": "", "additional_kwargs": {"tool_calls": [{"id": "1", "function": {
            "name": "f", "arguments": '{"a": 1}'}}]}},
    ],
)  # fmt: skip
def test_blocks_and_fields_of_calls_of_every_dialect(fields: dict[str, Any]) -> None:
    results: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": [{"text": "A"}]}]},
        {"role": "user", "content": [{"toolResult": {"toolUseId": "1", "content": [{"text": "A"}]}}]},
        {"role": "user", "parts": [{"functionResponse": {"id": "1", "name": "f", "response": "A"}}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "1", "response": "A"}]},
        {"type": "tool", "data": {"tool_call_id": "1", "content": "A"}},
        {"lc": 1, "id": ["langchain", "ToolMessage"], "kwargs": {"tool_call_id": "1", "content": "A"}},
    ]
    for result in results:
        (turn, answer), damage = read_file_messages([{"role": "model", **fields}, result])
        assert not damage and [(call.id, call.action.arguments) for call in turn.calls] == [("1", {"a": 1})]
        assert (answer.role, answer.call_id, answer.text) == ("tool", "1", "A")


def test_blocks_that_are_not_known_are_reported_and_not_learned() -> None:
    message, damage = _read_one([{"type": "text", "text": "See:"}, {"type": "image", "source": {"data": "x"}}])
    assert [item.kind for item in damage] == ["unknown-block"] and message.extra["weight"] == 0.0
    message, damage = _read_one([{"type": "thinking", "thinking": "hm"}, {"type": "redacted_thinking", "data": "x"},
                                 {"type": "text", "text": "c"}])  # fmt: skip
    assert not damage and (message.reasoning, message.text, message.extra["weight"]) == ("hm", "c", 1.0)


F_CALL = {"name": "f", "arguments": '{"a": 1}'}


@pytest.mark.parametrize(
    "fields",
    [
        {"content": [{"type": "text", "text": "So."}, {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}}],
         "tool_calls": [{"id": "1", "name": "f", "args": {"a": 1}, "type": "tool_call"}]},
        {"content": [{"type": "tool_use", "name": "f", "input": {"a": 1}}], "tool_calls": [{"function": F_CALL}]},
        {"content": "", "function_call": F_CALL, "tool_calls": [{"id": "1", "function": F_CALL}]},
        {"content": "", "tool_calls": {"0": {"id": "1", "function": F_CALL}}},
        {"content": "", "tool_calls": json.dumps([{"id": "1", "function": F_CALL}])},
    ],
)  # fmt: skip
def test_a_call_in_two_places_is_one_call(fields: dict[str, Any]) -> None:
    message, damage = _read_one(**fields)
    assert not damage and [(call.name, call.action.arguments) for call in message.calls] == [("f", {"a": 1})]
    assert message.extra["weight"] == 1.0


@pytest.mark.parametrize(
    "fields",
    [
        {"content": [{"type": "container", "text": "not the answer"}]},
        {"content": [{"type": "container", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]}]},
        {"content": "", "invalid_tool_calls": [{"name": "f", "args": '{"a', "id": "1"}]},
        {"content": "", "tool_calls": True},
        *({"content": "", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
          for arguments in (True, 5, "5", "true", '"{\\"a\\":', [1], "[1]", '{"a": 1')),
    ],
)  # fmt: skip
def test_what_is_no_whole_call_or_text_is_reported_and_not_learned(fields: dict[str, Any]) -> None:
    message, damage = _read_one(**fields)
    assert damage and message.extra["weight"] == 0.0


PROVIDER_BLOCKS = [
    {"type": "text", "text": "I search."}, {"type": "server_tool_use", "id": "1", "name": "find", "input": {"q": "x"}},
    {"type": "web_search_tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "T"}]},
    {"type": "text", "text": "Paris."},
]  # fmt: skip


def test_a_turn_in_which_the_provider_ran_a_tool_ends_at_its_result() -> None:
    file_message = {"role": "assistant", "content": PROVIDER_BLOCKS}
    reply = MESSAGES.read_reply({**file_message, "type": "message", "stop_reason": "end_turn"})
    for message in (file_message, WireMessage("assistant", reply.parts, reply.calls)):
        _, _, steps = steps_from_messages([{"role": "user", "content": "q"}, message])
        texts = [(step.thought, step.action and step.action.name, step.observation) for step in steps]
        assert texts == [("I search.", "find", "T"), ("", "finish", None)] and steps[1].text == "Paris."


def test_results_of_calls_with_one_id_keep_their_order() -> None:
    calls = [{"id": "1", "function": {"name": name, "arguments": "{}"}} for name in ("f", "g")]
    results = [{"role": "tool", "tool_call_id": "1", "content": text} for text in ("of f", "of g")]
    turn = {"role": "assistant", "content": "", "tool_calls": calls}
    _, _, steps = steps_from_messages([{"role": "user", "content": "q"}, turn, *results, turn, *results])
    assert [step.observation for step in steps] == ["of f", "of g"] * 2


@pytest.mark.parametrize(
    ("flags", "weight"),
    [({"loss": False}, 0), ({"train": "false"}, 0), ({"weight": 0.5, "train": True}, 0.5), ({"loss": None}, 1),
     ({"loss_mask": 0}, 0), ({"training": False}, 0), ({"loss_scale": 2.0}, 2)],
)  # fmt: skip
def test_flags_of_a_turn_are_its_weight(flags: dict[str, Any], weight: float) -> None:
    message, damage = _read_one("c", **flags)
    assert message.extra["weight"] == weight and not damage


@pytest.mark.parametrize("flag", ["maybe", -1, [1], float("nan")])
def test_a_flag_that_is_none_is_reported_and_its_turn_not_learned(flag: Any) -> None:
    message, damage = _read_one("c", weight=flag)
    assert message.extra["weight"] == 0 and [item.kind for item in damage] == ["wrong-type"]


def test_schemas_that_are_none_are_reported(tmp_path: Path) -> None:
    good = {"name": "f", "parameters": {}}
    row = {"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "c"}],
           "tools": ["search", good, {"description": "without a name"}]}  # fmt: skip
    (trajectory,), damages = read_file(write_rows(tmp_path / "a.jsonl", row))
    assert [damage.kind for damage in damages] == ["unread-schema"] * 2 and len(trajectory.meta["tools"]) == 1
    assert find_bad_schemas("not JSON") == ["not JSON"] and find_bad_schemas([good]) == find_bad_schemas(None) == []


def test_more_shapes_of_schemas_are_one() -> None:
    parameters = {"a": {"type": "string", "description": "d"}}
    for tools in (
        [{"functionDeclarations": [{"name": "f", "parameters": {"type": "object", "properties": parameters}}]}],
        [{"name": "f", "parameters": parameters}],
        {"f": {"parameters": {"type": "object", "properties": parameters}}},
        [json.dumps({"name": "f", "inputSchema": {"type": "object", "properties": parameters}})],
    ):
        (schema,) = normalise_schemas(tools)
        assert schema["function"]["name"] == "f"
        assert schema["function"]["parameters"] == {"type": "object", "properties": parameters}


def test_packed_files_and_other_encodings_are_read_or_named(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "Où?"}, {"role": "assistant", "content": "Là."}]}
    text = json.dumps(row, ensure_ascii=False) + "\n"
    pyarrow = pytest.importorskip("pyarrow")
    for name, data in {
        "a.jsonl.gz": gzip.compress(text.encode()),
        "a.jsonl.zst": pyarrow.compress(text.encode(), codec="zstd", asbytes=True),
        "utf16.jsonl": text.encode("utf-16"),
        "be.jsonl": b"\xfe\xff" + text.encode("utf-16-be"),
    }.items():
        (tmp_path / name).write_bytes(data)
        with open_trajectory_files([tmp_path / name]) as (source,):
            assert json.loads(source.file.read_text())["example"]["question"] == "Où?", name
    for name, data, message in (
        ("a.zip", b"PK\x03\x04rest", "is a ZIP archive"),
        ("bare.jsonl", text.encode("utf-16-le"), "UTF-16 without"),
        ("a.db", b"SQLite format 3\0", "SQLite database"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=message):
            read_file(tmp_path / name)


def test_utf16_that_ends_within_a_character_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe" + json.dumps([{"messages": []}]).encode("utf-16-le") + b"]")
    with pytest.raises(DataError, match=r"a\.json"):
        read_file(tmp_path / "a.json")


def test_numbers_that_are_none_never_come_in(tmp_path: Path) -> None:
    row = {
        "messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "c"}],
        "reward": float("nan"),
    }
    (trajectory,), damages = read_file(write_rows(tmp_path / "a.jsonl", row))
    assert [damage.kind for damage in damages] == ["not-a-number"] and trajectory.scores == {}


def test_bytes_that_are_no_utf8_are_replaced_and_reported(tmp_path: Path) -> None:
    line = json.dumps({"messages": [{"role": "user", "content": "caf_"}, {"role": "assistant", "content": "c"}]})
    (tmp_path / "a.jsonl").write_bytes(line.encode().replace(b"caf_", b"caf\xe9") + b"\n")
    (trajectory,), damages = read_file(tmp_path / "a.jsonl")
    assert trajectory.example.question == "caf?" and [damage.kind for damage in damages] == ["lone-surrogate"]


def test_a_packed_file_that_was_cut_is_named_and_read_to_its_last_whole_line(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "c"}]
    rows = "".join(json.dumps({"messages": turns, "id": random.Random(n).random()}) + "\n" for n in range(2000))
    packed = gzip.compress(rows.encode())
    middle = len(packed) // 2
    path = tmp_path / "a.jsonl.gz"
    for content in (packed[:middle], packed[:-8] + bytes(8)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"{path} is cut or damaged: it can be read to line [1-9]\d+ "):
            read_file(path)
        trajectories, damages = read_file(path, skip=True)
        assert damages[-1].kind == "unreadable" and damages[-1].number == len(trajectories) + 1 > 400
    path.write_bytes(packed[:middle] + b"\xff\xff\xff" + packed[middle + 3 :])
    assert "is cut or damaged" in read_file(path, skip=True)[1][-1].detail
    path.write_bytes(packed[:20])
    with pytest.raises(DataError, match="can be read to line 0"):
        read_file(path)


def test_a_cut_zstandard_file_is_named(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    packed = pyarrow.compress(b'{"messages": []}\n' * 99, codec="zstd", asbytes=True)
    (tmp_path / "a.jsonl.zst").write_bytes(packed[:-3])
    with pytest.raises(DataError, match=r"a\.jsonl\.zst is cut or damaged"):
        read_file(tmp_path / "a.jsonl.zst")
