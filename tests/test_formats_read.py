"""Small samples of every format that is read: made by running the packages, or after their published schemas."""

import json
from pathlib import Path
from typing import Any

import pytest

from fakes import trajectory as native_trajectory
from fireact.errors import DataError
from fireact.formats.read import READERS, find_reader, read_any
from fireact.formats.source import Damage, open_source_file
from fireact.types import Action, Trajectory

GOLDEN = Path(__file__).parent / "golden" / "formats"


def rows(path: Path, *values: Any) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def one(path: Path, format: str) -> Trajectory:
    assert find_reader(open_source_file(path)).name == format
    (found,) = read_any(path)
    return found


def told(found: Trajectory) -> list[tuple[str, str, Any]]:
    return [(step.thought, step.action.name if step.action else "", step.observation) for step in found.steps]


def test_smolagents_memory() -> None:
    found = one(GOLDEN / "smolagents.json", "smolagents")
    assert told(found) == [
        ("I look both up.", "search", "About France: Paris is the capital of France."),
        ("", "search", "About Paris: Paris is the capital of France."),
        ("", "finish", None),
    ]
    assert found.steps[1].joined and found.answer == "Paris" and found.usage.prompt_tokens == 20
    assert found.meta["system"].startswith("You are an expert assistant")


def test_inspect_log() -> None:
    found = one(GOLDEN / "inspect.json", "inspect")
    assert told(found)[0] == ("I look it up.", "search", "About France: Paris is the capital of France.")
    assert (found.answer, found.example.answer, found.scores) == ("Paris", "Paris", {"match": 1.0})
    assert (found.task, found.example.id, found.model) == ("capitals", "q1", "mockllm/model")
    assert found.example.meta == {"hops": 1} and found.meta["tools"][0]["function"]["name"] == "search"


def test_inspect_logs_of_react(tmp_path: Path) -> None:
    """After inspect_ai's react(): the submit call is gone from the messages, long texts stand apart from the events."""
    submitted = {"id": "m", "role": "assistant", "content": "Clear.", "tool_calls": [
        {"id": "1", "function": "submit", "arguments": {"answer": "Paris"}}]}  # fmt: skip
    tools = [{"name": "search", "description": "attachment://abc", "parameters": {}}, {"name": "submit"}]
    sample = {
        "id": 1, "epoch": 2, "target": "Paris", "attachments": {"abc": "Looks a thing up." * 9},
        "messages": [{"id": "q", "role": "user", "content": "Q?"},
                     {"id": "m", "role": "assistant", "content": "Clear.\n\nParis", "tool_calls": []}],
        "scores": {"match": {"value": "C"}, "both": {"value": {"em": 1, "f1": 0.5}}},
        "events": [{"event": "model", "tools": tools, "output": {"choices": [{"message": submitted}]}}],
    }  # fmt: skip
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"eval": {"task": "capitals"}, "status": "success", "samples": [sample]}))
    found = one(path, "inspect")
    assert told(found) == [("Clear.", "finish", None)] and found.answer == "Paris" and found.seed == 1
    assert found.scores == {"match": 1.0, "both/em": 1.0, "both/f1": 0.5}
    (tool,) = found.meta["tools"]
    assert tool["function"]["description"].startswith("Looks a thing up.")


def test_smolagents_calls_that_were_refused(tmp_path: Path) -> None:
    call = {"function": {"name": "search", "arguments": {"q": 1}}, "id": "c0", "type": "function"}
    steps = [
        {"task": "Q?", "task_images": None},
        {"step_number": 1, "tool_calls": [], "error": {"type": "AgentToolCallError", "message": "q is not known"},
         "model_output": "Thought: hm", "model_output_message": {"role": "assistant", "tool_calls": [call]}},
        {"step_number": 2, "tool_calls": [{"function": {"name": "python_interpreter", "arguments": "print(1)"}}],
         "model_output": "Thought: I count.\n<code>\nprint(1)\n</code>", "observations": "1"},
    ]  # fmt: skip
    path = tmp_path / "memory.json"
    path.write_text(json.dumps(steps))
    found = one(path, "smolagents")
    assert told(found) == [("hm", "search", "Error: q is not known"), ("I count.", "python_interpreter", "1")]
    assert found.steps[0].action == Action("search", {"q": 1})


def test_atif(tmp_path: Path) -> None:
    document = {
        "schema_version": "ATIF-v1.6",
        "session_id": "s1",
        "agent": {"name": "a", "version": "1", "model_name": "m"},
        "steps": [
            {"step_id": 1, "source": "system", "message": "Be brief."},
            {"step_id": 2, "source": "user", "message": [{"type": "text", "text": "Q?"}]},
            {
                "step_id": 3,
                "source": "agent",
                "message": "",
                "reasoning_content": "hm",
                "tool_calls": [
                    {"tool_call_id": "c1", "function_name": "search", "arguments": {"query": "a"}},
                    {"tool_call_id": "c2", "function_name": "search", "arguments": {"query": "b"}},
                ],
                "observation": {
                    "results": [{"source_call_id": "c2", "content": "B"}, {"source_call_id": "c1", "content": "A"}]
                },
            },
            {"step_id": 4, "source": "agent", "message": "c"},
        ],
        "final_metrics": {"total_prompt_tokens": 9, "total_completion_tokens": 4, "total_cost_usd": 0.25},
    }
    path = tmp_path / "trajectory.json"
    path.write_text(json.dumps(document, indent=1))
    found = one(path, "atif")
    assert told(found) == [("hm", "search", "A"), ("", "search", "B"), ("", "finish", None)]
    assert found.usage.cost == 0.25 and found.model == "m" and found.meta["system"] == "Be brief."


def test_verifiers_traces_and_results(tmp_path: Path) -> None:
    call = {"id": "c", "name": "search", "arguments": '{"query": "a"}'}
    nodes = [
        {"message": {"role": "user", "content": "Q?"}},
        {"parent": 0, "message": {"role": "assistant", "content": "left branch"}, "sampled": True},
        {"parent": 0, "message": {"role": "assistant", "content": "hm", "tool_calls": [call]}, "sampled": True},
        {"parent": 2, "message": {"role": "tool", "tool_call_id": "c", "content": "A"}},
        {"parent": 3, "message": {"role": "assistant", "content": "c"}, "sampled": True},
    ]
    trace = {
        "id": "t", "task": {"type": "QA", "data": {"idx": 0, "name": "q0", "answer": "c"}}, "agent": {"name": "solver"},
        "nodes": nodes, "calls": [{"model": "m", "usage": {"prompt_tokens": 5, "completion_tokens": 2}}],
        "rewards": {"exact": {"score": 1.0, "weight": 0.5}}, "metrics": {"turns": 2.0}, "ok": True,
    }  # fmt: skip
    path = rows(tmp_path / "traces.jsonl", {"id": "e", "env": {"id": "qa"}, "task": trace["task"], "traces": [trace]})
    found = one(path, "verifiers")
    assert told(found) == [("hm", "search", "A"), ("", "finish", None)]
    assert found.scores == {"turns": 2.0, "exact": 1.0, "reward": 0.5} and found.example.answer == "c"
    result = {
        "example_id": 3, "prompt": [{"role": "user", "content": "Q?"}], "reward": 1.0, "answer": "c",
        "completion": [{"role": "assistant", "content": "c"}], "task": "qa",
    }  # fmt: skip
    assert one(rows(tmp_path / "results.jsonl", result), "verifiers").answer == "c"


def traced(number: int, **more: Any) -> dict[str, Any]:
    nodes = [
        {"message": {"role": "user", "content": f"Q{number}?"}, "tools": [{"name": "search"}]},
        {"parent": 0, "message": {"role": "assistant", "content": "c"}},
    ]
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "cached_input_tokens": 7, "cost": 0.25}
    task = {"type": "QA", "data": {"idx": number, "name": "hotpot", **more}}
    trace = {"task": task, "nodes": nodes, "calls": [{"usage": usage}] * 2, "stop_condition": "max_turns_reached"}
    return {"env": {"id": "qa"}, "task": task, "traces": [trace]}


def test_verifiers_examples_of_one_name_stay_apart(tmp_path: Path) -> None:
    path = rows(tmp_path / "traces.jsonl", traced(0, id="hq-0"), traced(1, id="hq-1"), traced(2), traced(3))
    found = list(read_any(path))
    assert [it.example.id for it in found] == ["hq-0", "hq-1", "hotpot-2", "hotpot-3"]
    assert {it.seed for it in found} == {0} and {it.stop for it in found} == {"max_steps"}
    assert [it.example.id for it in read_any(tmp_path)] == [it.example.id for it in found]
    usage = found[0].usage
    assert [tool["function"]["name"] for tool in found[0].meta["tools"]] == ["search"]
    assert (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, usage.cost) == (24, 14, 4, 0.5)


def test_hermes_tags(tmp_path: Path) -> None:
    system = 'Use tools. <tools>{"name": "search", "parameters": {}}</tools>'
    turns = [
        {"from": "system", "value": system},
        {"from": "human", "value": "Q?"},
        {"from": "gpt", "value": 'I look.\n<tool_call>\n{"name": "search", "arguments": {"query": "a"}}\n</tool_call>\n'
                                 '<tool_call>\n{"name": "search", "arguments": {"query": "b"}}\n</tool_call>'},
        {"from": "tool", "value": "<tool_response>\nA\n</tool_response>\n<tool_response>\nB\n</tool_response>"},
        {"from": "gpt", "value": "c"},
    ]  # fmt: skip
    found = one(rows(tmp_path / "h.jsonl", {"conversations": turns}), "hermes")
    assert told(found) == [("I look.", "search", "A"), ("", "search", "B"), ("", "finish", None)]
    assert found.meta["tools"][0]["function"]["name"] == "search"


def test_hermes_calls_in_pythons_literals(tmp_path: Path) -> None:
    turns = [
        {
            "from": "system",
            "value": "Within <tools></tools>. <tools> [{'name': 'feed', 'parameters': {}}] </tools> Go.",
        },
        {"from": "human", "value": "Q?"},
        {
            "from": "gpt",
            "value": "<tool_call>\n{'arguments': {'id': 'front', 'all': True}, 'name': 'feed'}\n</tool_call>",
        },
        {"from": "tool", "value": "<tool_response>\nA\n</tool_response>"},
        {"from": "gpt", "value": "c"},
    ]
    found = one(rows(tmp_path / "h.jsonl", {"conversations": turns}), "hermes")
    assert told(found) == [("", "feed", "A"), ("", "finish", None)]
    assert found.steps[0].action == Action("feed", {"id": "front", "all": True})
    assert (
        found.meta["tools"][0]["function"]["name"] == "feed" and found.meta["system"] == "Within <tools></tools>.  Go."
    )


def test_qwen3_coders_tags(tmp_path: Path) -> None:
    said = (
        "I look.\n<tool_call>\n<function=search>\n<parameter=query>\n12\n</parameter>\n"
        "<parameter=k>\n3\n</parameter>\n</function>\n</tool_call>"
    )
    tool = {"name": "search", "parameters": {"properties": {"query": {"type": "string"}, "k": {"type": "integer"}}}}
    turns = [("user", "Q?"), ("assistant", said), ("user", "<tool_response>\nA\n</tool_response>"), ("assistant", "c")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns], "tools": [tool]}
    found = one(rows(tmp_path / "q.jsonl", row), "hermes")
    assert told(found) == [("I look.", "search", "A"), ("", "finish", None)]
    assert found.steps[0].action == Action("search", {"query": "12", "k": 3})


def test_a_tagged_call_that_cannot_be_read_is_reported_without_the_keys_in_it(tmp_path: Path) -> None:
    key = "sk-" + "a1B2" * 8
    row = {"messages": [{"role": "user", "content": "Q?"},
                        {"role": "assistant", "content": f"<tool_call>search {key}</tool_call>"}]}  # fmt: skip
    heard: list[Damage] = []
    list(read_any(rows(tmp_path / "h.jsonl", row), notice=heard.append))
    assert [one.kind for one in heard] == ["unread-tool-call"] and heard[0].detail.startswith("search ")
    assert key[:12] not in heard[0].detail


def _asked(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Q?"}, *messages, {"role": "assistant", "content": "c"}]}


def _call(arguments: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "hm", "tool_calls": [{"function": {"name": "s", "arguments": arguments}}]}


@pytest.mark.parametrize(
    ("format", "row"),
    [
        ("messages", _asked(_call('{"query": "tw'))),
        ("messages", _asked(_call(["a"]))),
        (
            "sharegpt",
            {
                "conversations": [
                    {"from": "human", "value": "Q?"},
                    {"from": "function_call", "value": "garbage{"},
                    {"from": "observation", "value": "A"},
                    {"from": "gpt", "value": "c"},
                ]
            },
        ),
        ("hermes", _asked({"role": "assistant", "content": '<tool_call>{"name": "search"'})),
        ("messages", _asked({"role": "assistant", "content": "<tool_call>s, please</tool_call>"})),
    ],
)
def test_a_turn_whose_call_cannot_be_read_is_reported_and_not_learned(
    format: str, row: dict[str, Any], tmp_path: Path
) -> None:
    """The last one stands among plain rows, so that its file is not known for one with tags."""
    heard: list[Damage] = []
    found = list(read_any(rows(tmp_path / "a.jsonl", row), format, notice=heard.append))
    assert [one.kind for one in heard] == ["unread-tool-call"]
    assert [step.weight for step in found[0].steps] == [0.0, 1.0]


def test_plain_arguments_are_one_input_and_no_damage(tmp_path: Path) -> None:
    heard: list[Damage] = []
    (found,) = read_any(rows(tmp_path / "a.jsonl", _asked(_call("Paris"))), "messages", notice=heard.append)
    assert not heard and found.steps[0].action == Action("s", {"input": "Paris"}) and found.steps[0].weight == 1.0


@pytest.mark.parametrize("keys", [("from", "value"), ("role", "content")])
def test_sharegpt_of_both_kinds(keys: tuple[str, str], tmp_path: Path) -> None:
    said = [
        ("human", "Q?"), ("function_call", '<think>\nhm\n</think>\n\n{"name": "search", "arguments": {"query": "a"}}'),
        ("observation", "A"), ("gpt", "c"),
    ]  # fmt: skip
    row = {"conversations": [dict(zip(keys, turn, strict=True)) for turn in said], "tools": '[{"name": "search"}]'}
    found = one(rows(tmp_path / "s.jsonl", row), "sharegpt")
    assert told(found) == [("hm", "search", "A"), ("", "finish", None)]


def test_tagged_transcripts(tmp_path: Path) -> None:
    texts = [
        "<think>hm</think><search>a</search><information>A <search>no</search></information><answer>c</answer>",
        "<think>hm <|begin_search_query|>a<|end_search_query|><|begin_search_result|>A <search>no</search>"
        "<|end_search_result|></think><answer>c</answer>",
        "hm <|begin_of_query|> a<|end_of_query|>\n<|begin_of_documents|>A <search>no</search><|end_of_documents|>"
        "</think><answer> c </answer>",
    ]
    for text in texts:
        row = {"question": "Q?", "golden_answers": ["c"], "response": text}
        found = one(rows(tmp_path / "r.jsonl", row), "tagged")
        assert told(found) == [("hm", "search", "A <search>no</search>"), ("", "finish", None)]
        assert found.scores["em"] == 1.0 and found.steps[0].action.arguments == {"query": "a"}  # type: ignore[union-attr]


@pytest.mark.parametrize(("start", "end"), [("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"), ("", "")])
def test_a_prompt_that_names_the_tags_is_no_episode(start: str, end: str, tmp_path: Path) -> None:
    prompt = (
        "Answer the given question. Reason inside <think> and </think>. Search by <search> query </search>; it returns "
        "results between <information> and </information>. Answer like <answer> Beijing </answer>. Question: Who?\n"
    )
    said = "<think>hm</think><search>who</search><information>Question: why? Bob.</information><answer>Bob</answer>"
    row = {"text": start + prompt + end + said, "golden_answers": ["Bob"]}
    found = one(rows(tmp_path / "r.jsonl", row), "tagged")
    assert told(found) == [("hm", "search", "Question: why? Bob."), ("", "finish", None)]
    assert (found.example.question, found.answer, found.scores["em"]) == ("Who?", "Bob", 1.0)


def test_text_logs(tmp_path: Path) -> None:
    log = (
        "####\nBEGIN TRIAL 2\n\nQuestion: Q?\nThought 1: hm\nAction 1: Search[a]\nObservation 1: A\nsecond line\n"
        "Thought 2: so\nAction 2: Finish[c]\nObservation 2: Answer is INCORRECT\nCorrect answer: d\n\n"
    )
    path = tmp_path / "log.txt"
    path.write_text(log)
    found = one(path, "react-log")
    assert told(found) == [("hm", "search", "A\nsecond line"), ("so", "finish", None)]
    assert (found.seed, found.scores, found.example.answer) == (1, {"em": 0.0}, "d")


def test_reflections_are_not_part_of_the_question(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text(
        "Question: Q? You have attempted to answer following question before and failed.\nReflections:\n- look twice\n"
        "Thought 1: hm\nAction 1: Finish[c]\nObservation 1: Answer is CORRECT\nCorrect answer: c\n"
    )
    found = one(path, "react-log")
    assert (found.example.question, found.method) == ("Q?", "reflexion") and "look twice" in found.meta["system"]
    assert found.scores == {"em": 1.0}


def test_toolbench(tmp_path: Path) -> None:
    said = [
        {"role": "user", "content": "Q?"},
        {"role": "assistant", "content": "hm", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "A"},
        {"role": "assistant", "content": None, "function_call": {
            "name": "Finish", "arguments": '{"return_type": "give_answer", "final_answer": "c"}'}},
    ]  # fmt: skip
    path = tmp_path / "1.json"
    path.write_text(json.dumps({"win": True, "answer_generation": {"train_messages": [said], "query": "Q?"}}, indent=1))
    found = one(path, "toolbench")
    assert told(found) == [("hm", "f", "A"), ("", "finish", None)] and found.scores == {"win": 1.0}


def test_our_own_runs(tmp_path: Path) -> None:
    rows(tmp_path / "trajectories.jsonl", native_trajectory().to_dict())
    assert list(read_any(tmp_path)) == [native_trajectory()]


def test_the_same_question_twice_is_two_episodes(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "c"}]}
    found = list(read_any(rows(tmp_path / "m.jsonl", row, row)))
    assert len({episode.key for episode in found}) == 2


def test_what_is_not_known_is_refused_with_the_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not recognised .*--from: fireact, released-run"):
        list(read_any(rows(tmp_path / "x.jsonl", {"a": 1})))
    (tmp_path / "empty").write_text("")
    with pytest.raises(DataError, match="is empty"):
        list(read_any(tmp_path / "empty"))
    with pytest.raises(DataError, match="there is no"):
        list(read_any(tmp_path / "nowhere"))
    assert len({reader.name for reader in READERS}) == len(READERS)


@pytest.mark.parametrize("format", ["alpaca", "messages", "sharegpt", "hermes", "tagged", "gpt"])
def test_a_row_of_another_shape_is_unreadable_and_no_empty_episode(format: str, tmp_path: Path) -> None:
    path = rows(tmp_path / "x.jsonl", {"id": 1, "prompt": "Q?"})
    with pytest.raises(DataError, match="row 1: cannot be read as this format"):
        list(read_any(path, format))


def test_other_peoples_react_is_not_damaged_for_want_of_a_closing_line(tmp_path: Path) -> None:
    said = [("user", "Q?"), ("assistant", "Thought: so\nAction: finish[c]")]
    row = {"messages": [{"role": role, "content": text} for role, text in said]}
    heard: list[Damage] = []
    (found,) = read_any(rows(tmp_path / "mine.jsonl", row), notice=heard.append)
    assert not heard and (found.task, found.answer, found.scores) == ("mine", "c", {})


def test_damage_is_told_and_never_learned(tmp_path: Path) -> None:
    row = {
        "instruction": "Question: Which?", "input": "",
        "output": "A. one\nB. two\nThought: It is B.\nAction: finish[B]\nObservation: Episode finished, reward = 1",
    }  # fmt: skip
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps([row], indent=4))
    heard: list[Damage] = []
    (found,) = read_any(path, notice=heard.append)
    assert {damage.kind for damage in heard} == {"options-in-output", "no-final-newline", "reward-as-number"}
    assert found.example.question == "Question: Which?\nA. one\nB. two" and told(found) == [
        ("It is B.", "finish", None)
    ]


def test_plain_turns_among_react_turns_lose_no_action(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "I do not know."}]},
        {
            "messages": [
                {"role": "user", "content": "r"},
                {"role": "assistant", "content": "Thought: x\nAction: search[a]"},
                {"role": "user", "content": "Observation: b"},
                {"role": "assistant", "content": "Action: finish[c]"},
            ]
        },
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8-sig")
    plain, react = read_any(path)
    assert [step.weight for step in plain.steps] == [1.0]
    assert [step.action.name for step in react.steps if step.action] == ["search", "finish"]


def test_rows_without_an_id_are_different_examples(tmp_path: Path) -> None:
    rows = [
        {"id": None, "messages": [{"role": "user", "content": at}, {"role": "assistant", "content": "x"}], "tools": []}
        for at in "abc"
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len({one.example.id for one in read_any(tmp_path / "a.jsonl")}) == 3


@pytest.mark.parametrize("end", ["", "</tool_call>", "</function>"])
@pytest.mark.parametrize(
    "tag", ["<search>", "<tool_call>", "<|begin_of_query|>", "<answer>", "<tool_call><functioncall>", "<function="]
)
def test_unclosed_tags_take_linear_time(tag: str, end: str) -> None:
    from fireact.formats.tagged import parse_tagged_text
    from fireact.wire.text_calls import split_calls

    assert len(parse_tagged_text(tag * 100_000)) == 1
    assert len(parse_tagged_text(tag * 100_000 + end)) <= 2
    assert not split_calls(tag * 100_000 + end).actions


def test_langchains_actions_are_read(tmp_path: Path) -> None:
    text = "Thought: look\nAction: lookup\nAction Input: France"
    rows = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": text},
                          {"role": "user", "content": "Observation: Paris"},
                          {"role": "assistant", "content": "Thought: so\nFinal Answer: Paris"}]}]  # fmt: skip
    (tmp_path / "a.jsonl").write_text(json.dumps(rows[0]))
    (one,) = read_any(tmp_path / "a.jsonl")
    assert [step.action.name for step in one.steps if step.action] == ["lookup", "finish"] and one.answer == "Paris"
