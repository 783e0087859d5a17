"""Renderers and chat templates together: what is asked begins what is trained, and nothing but the student's is
trained."""

import json
import re
from copy import deepcopy
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fireact.errors import ConfigError, FormatError
from fireact.render.alpaca import AlpacaRenderer
from fireact.render.chat import TemplateFeatures, break_special_tokens, render_chat, special_tokens, template_features
from fireact.render.react import ReActRenderer
from fireact.render.tokens import IGNORED, Sample, encode_chat, prompt_ids, text_spans
from fireact.render.tool_calls import ToolCallsRenderer
from fireact.rollout.loading import load_renderer
from fireact.training.samples import Encoder, render_trajectory
from fireact.types import Action, Completion, Example, Message, Step, Trajectory, Usage
from fireact.wire.schemas import tool_schema

pytest.importorskip("transformers")

from fakes import Echo
from small_tokenizers import FAMILIES, LLAMA, ends, tokenizer

GOLDEN = Path(__file__).parent / "golden" / "renderers"
RENDERERS = {name: load_renderer(name) for name in ("react", "tool_calls", "alpaca")}
BOTH = list(product(FAMILIES, RENDERERS))
TOOLS = [tool_schema(Echo())]
LOOK = Step("I look up [Chad].", Action("search", {"query": "Chad"}), "Chad lies\nin Africa.", "")
SLIP = Step("I need no tool.", None, "No action found.", "I need no tool.", weight=0.0)
DONE = Step("It is known.", Action("finish", {"answer": "Africa"}), None, "")


def trajectory(*steps: Step, question: str = "Where is Chad?") -> Trajectory:
    example = Example("1", question, "Africa")
    return Trajectory("t", example, "react", "m", 0, steps, "finish", {"em": 1.0}, Usage(), 0.0)


@cache
def made(family: str, renderer: str) -> Encoder:
    """What encodes for a student and a renderer; the tokenizer is its own where the renderer changes its template."""
    words = tokenizer(family)
    return Encoder(deepcopy(words) if renderer == "alpaca" else words, ends(family), RENDERERS[renderer])


def samples(one: Trajectory, family: str, renderer: str) -> list[Sample]:
    """The samples as training makes them."""
    how, chat = made(family, renderer), render_trajectory(one, RENDERERS[renderer], tools=tools(renderer))
    return how.encode_chat(chat)


def tools(renderer: str) -> list[dict[str, Any]]:
    return TOOLS if RENDERERS[renderer].native else []


def trained(sample: Sample) -> list[list[int]]:
    runs: list[list[int]] = [[]]
    for label in sample.labels:
        if label != IGNORED:
            runs[-1].append(label)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


# --- properties over every template and renderer ---

marks = sorted({mark for name in FAMILIES for mark in (*special_tokens(tokenizer(name)), *FAMILIES[name].tags)})
pieces = st.sampled_from(
    [
        *marks,
        "<|im_",
        "end|>",
        "<",
        "\n",
        "\n\n",
        " ",
        "[",
        "]",
        "{",
        '"',
        "\\",
        "é",
        "日本",
        "😀",
        "Observation: ",
        "a",
    ]
)
odd = st.lists(pieces | st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=6).map("".join)
acted = st.builds(
    lambda thought, query, seen, weight: Step(thought, Action("search", {"query": query}), seen, "", weight=weight),
    odd, odd, odd, st.sampled_from([1.0, 1.0, 0.0]),
)  # fmt: skip
slipped = st.builds(lambda text, seen: Step(text, None, seen, text), odd, odd)
episodes = st.builds(
    lambda steps, answer, question: trajectory(
        *steps, Step("so", Action("finish", {"answer": answer}), None, ""), question=question
    ),
    st.lists(acted | slipped, max_size=3), odd, odd,
)  # fmt: skip


@pytest.mark.parametrize(("family", "renderer"), BOTH)
@given(one=episodes)
def test_what_inference_asks_begins_what_is_trained_and_nothing_else_is(
    one: Trajectory, family: str, renderer: str
) -> None:
    how, renders = made(family, renderer), RENDERERS[renderer]
    found = samples(one, family, renderer)
    learnt = [index for index, step in enumerate(one.steps) if step.weight and (step.action or step.text.strip())]
    runs = [run for sample in found for run in trained(sample)]
    assert len(runs) == len(learnt)
    assert len(found) in (1, len(learnt))
    for at, (index, run) in enumerate(zip(learnt, runs, strict=True)):
        asked = prompt_ids(
            renders.prompt(one.example.question, one.steps[:index]), how.tokenizer, tools=tools(renderer)
        )
        sample = found[0] if len(found) == 1 else found[at]
        assert list(sample.input_ids[: len(asked)]) == asked
        assert sample.labels[len(asked) - 1] == IGNORED
        assert list(sample.labels[len(asked) : len(asked) + len(run)]) == run
        assert_ends(run, family, renderer, how)
        assert_only_own_words(run, one.steps[index], how, renderer)
    assert all(label in (IGNORED, token) for s in found for token, label in zip(s.input_ids, s.labels, strict=True))
    assert all(len(trained(sample)) == 1 for sample in found) or len(found) == 1


def assert_ends(run: list[int], family: str, renderer: str, how: Encoder) -> None:
    if renderer == "alpaca":
        assert how.tokenizer.decode(run).endswith("\nObservation:")
    else:
        assert run[-1] in ends(family) and not set(run[:-1]) & ends(family)


def assert_only_own_words(run: list[int], step: Step, how: Encoder, renderer: str) -> None:
    """The text of a run is what the student wrote: its thought, its action, and the end."""
    text = how.tokenizer.decode(run, clean_up_tokenization_spaces=False).replace(
        "▁", " "
    )  # one letter to SentencePiece
    words = RENDERERS[renderer].sample(trajectory(step))[-1]
    said = break_special_tokens(words.content, how.tokenizer, is_own=True).replace("▁", " ").strip()
    assert said in text
    if not words.calls:
        end = "\nObservation:" if renderer == "alpaca" else how.tokenizer.decode(run[-1:])
        assert text.removesuffix(end).strip() == said


@pytest.mark.parametrize("family", FAMILIES)
@given(one=episodes)
def test_no_text_becomes_a_special_token(one: Trajectory, family: str) -> None:
    """As many special tokens as in a chat of the same shape with harmless words."""
    harmless = trajectory(*(_harmless(step) for step in one.steps))
    counts = []
    for episode in (one, harmless):
        ids = [token for sample in samples(episode, family, "react") for token in sample.input_ids]
        counts.append([ids.count(token) for token in tokenizer(family).all_special_ids])
    if len(samples(one, family, "react")) == len(samples(harmless, family, "react")):
        assert counts[0] == counts[1]


def _harmless(step: Step) -> Step:
    seen = None if step.observation is None else "seen"
    if step.action is None:
        text = "a" if step.text.strip() else ""
        return Step(text, None, seen, text)
    return Step("a", Action(step.action.name, dict.fromkeys(step.action.arguments, "b")), seen, "", weight=step.weight)


def test_a_thought_that_a_template_cuts_beside_a_call_is_trained_whole() -> None:
    """Qwen-3 takes the thinking out of what was said and puts it back in a form of its own, or not at all."""
    for thought in ("</think>", "<think>hm</think>so", "<think>\nhm\n</think>\n\nso"):
        found = samples(trajectory(Step(thought, LOOK.action, "seen", ""), DONE), "qwen3", "tool_calls")
        text = tokenizer("qwen3").decode(trained(found[0])[0])
        assert text.startswith(f"{thought}\n<tool_call>\n") and text.endswith("</tool_call><|im_end|>")
        assert len(found) == (1 if "\n" in thought else 2)


@pytest.mark.parametrize("family", FAMILIES)
@given(thought=odd.map(lambda text: text.replace("<", "").replace("{", "").strip()), query=odd)
def test_what_is_trained_for_a_call_is_read_as_that_call(thought: str, query: str, family: str) -> None:
    """The other way round: the words a template makes of a step are parsed into the step."""
    thought = (
        break_special_tokens(" ".join(thought.split()), tokenizer(family))
        .removeprefix("Thought:")
        .replace("Observation", "")
    )
    thought = thought.replace("`", "").strip() or "so"
    query = (
        break_special_tokens(query, tokenizer(family), is_own=True).replace("Observation:", "").replace("<tool_", "")
    )
    (sample,) = samples(trajectory(Step(thought, Action("search", {"query": query}), None, "")), family, "tool_calls")[
        :1
    ]
    (run,) = trained(sample)
    text = tokenizer(family).decode(run[:-1], clean_up_tokenization_spaces=False)
    step = ToolCallsRenderer().parse(text)
    assert step.action == Action("search", {"query": query})
    assert step.thought == thought


# --- one fixed episode, template by template ---


@pytest.mark.parametrize(("family", "renderer"), BOTH)
def test_golden_text_with_its_mask(family: str, renderer: str) -> None:
    """To write them anew after a wanted change: delete the file, and run this twice."""
    shown = []
    for sample in samples(trajectory(LOOK, SLIP, LOOK, DONE), family, renderer):
        pieces = text_spans(sample, made(family, renderer).tokenizer)
        shown.append("".join(f"⟦{text}⟧" if own else text for text, own in pieces))
    text = "\n--- next sample ---\n".join(shown) + "\n"
    path = GOLDEN / f"{family}.{renderer}.txt"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        pytest.fail(f"{path.name} was written; look at it")
    assert text == path.read_text(encoding="utf-8")


def test_what_each_template_can_do_is_found_out() -> None:
    found = {family: template_features(tokenizer(family)) for family in FAMILIES}
    assert found["gemma"] == TemplateFeatures(system=False, alternating=True, schemas=False, calls="none")
    assert found["llama3"] == TemplateFeatures(system=True, alternating=False, schemas=True, calls="alone")
    for family in ("qwen2_5", "qwen3", "glm"):
        assert found[family] == TemplateFeatures(system=True, alternating=False, schemas=True, calls="beside")
    for family in ("smollm2", "marked", "thinker"):
        assert (found[family].schemas, found[family].calls) == (False, "none")


@pytest.mark.parametrize("family", FAMILIES)
def test_instructions_reach_every_student(family: str) -> None:
    prompt = ReActRenderer().prompt("Who?", instructions="Be brief.", examples=[("What?", (DONE,))])
    text = render_chat(prompt, tokenizer(family), ask=True)
    for part in ("Be brief.", "What?", "finish[ Africa]", "Who?"):
        assert part in text
    assert text.index("Be brief.") < text.index("What?") < text.index("Who?")


def test_a_template_without_a_system_role_begins_the_first_turn_with_the_instructions() -> None:
    text = render_chat([Message("system", "Be brief."), Message("user", "Who?")], tokenizer("gemma"), ask=True)
    assert "<start_of_turn>user\nBe brief.\n\nWho?<end_of_turn>" in text


def test_several_calls_in_one_turn_and_several_observations() -> None:
    both = (LOOK, Step("", Action("search", {"query": "Niger"}), "It lies beside.", "", joined=True), DONE)
    for family in FAMILIES:
        found = samples(trajectory(*both), family, "tool_calls")
        runs = [tokenizer(family).decode(run) for sample in found for run in trained(sample)]
        assert len(runs) == 2
        assert "Chad" in runs[0] and "Niger" in runs[0] and "lies beside" not in runs[0]
        (first, second) = ToolCallsRenderer().read(Completion(runs[0], Usage(), "stop", 0.0))
        assert (first.action, second.action, second.joined) == (LOOK.action, both[1].action, True)


def test_a_step_of_weight_0_is_read_and_not_learnt() -> None:
    for family, renderer in BOTH:
        found = samples(trajectory(LOOK, SLIP, DONE), family, renderer)
        text = "".join(
            text for sample in found for text, own in text_spans(sample, made(family, renderer).tokenizer) if own
        )
        read = made(family, renderer).tokenizer.decode(found[-1].input_ids)
        assert "need no tool" not in text and "It is known" in text
        assert "need no tool" in read or family == "thinker"


def test_an_end_of_turn_that_begins_the_next_message_is_trained() -> None:
    """GLM has no token of its own at the end of a turn: it stops at the mark of who speaks next."""
    last = {
        renderer: [run[-1] for run in trained(samples(trajectory(LOOK, DONE), "glm", renderer)[0])]
        for renderer in RENDERERS
    }
    name = tokenizer("glm").convert_tokens_to_ids
    assert last["react"] == [name("<|user|>")] * 2
    assert last["tool_calls"] == [name("<|observation|>")] * 2


def test_thinking_that_a_template_drops_later_makes_one_sample_a_step() -> None:
    """Qwen-3 shows what was thought in the last turn only: the next prompt no longer has it."""
    thinking = Step("", None, "No action found.", "<think>\nhm\n</think>\n\nI think.")
    found = samples(trajectory(thinking, DONE), "qwen3", "react")
    texts = [tokenizer("qwen3").decode(sample.input_ids) for sample in found]
    assert len(found) == 2 and "hm" in texts[0] and "hm" not in texts[1] and "I think." in texts[1]
    assert len(samples(trajectory(LOOK, DONE), "qwen3", "react")) == 1


def test_a_student_is_not_told_another_day_than_it_was_trained_on() -> None:
    assert "Today: 26 Jul 2024" in render_chat([Message("user", "q")], tokenizer("llama3"), ask=True)
    other = deepcopy(tokenizer("smollm2"))
    other.chat_template = "{{ strftime_now('%Y-%m-%d') }}{{ strftime_now('%A') }}" + str(other.chat_template)
    assert render_chat([Message("user", "q")], other, ask=True).startswith("2024-07-262024-07-26<|im_start|>")


def test_a_chat_that_a_template_refuses_is_said() -> None:
    messages = [Message("user", "q"), Message("assistant", "a", True), Message("assistant", "b", True)]
    with pytest.raises(FormatError, match="refuses a chat of user, assistant, assistant"):
        encode_chat(messages, tokenizer("gemma"), ends=ends("gemma"))


# --- reading ---


@given(odd | st.text())
def test_reading_is_total(text: str) -> None:
    for renderer in (ReActRenderer(), ToolCallsRenderer(), AlpacaRenderer()):
        steps = renderer.read(Completion(text, Usage(), "stop", 0.0))
        assert steps and steps[0].text == text and steps[0].observation is None


@given(
    st.lists(
        st.sampled_from(
            [
                "<tool_call>",
                "</tool_call>",
                "{",
                "}",
                '"name"',
                ":",
                '"search"',
                ",",
                '"arguments"',
                "[",
                "]",
                "\n",
                "1",
                '{"name": "a", "parameters": {"x": 1}}',
            ]
        )
    )
)
def test_reading_is_total_on_near_misses(parts: list[str]) -> None:
    for step in ToolCallsRenderer().read(Completion("".join(parts), Usage(), "stop", 0.0)):
        assert step.action is None or isinstance(step.action.arguments, dict)


SEARCH = Action("search", {"query": "b"})


@pytest.mark.parametrize(
    ("text", "thought", "actions"),
    [
        ('a\n<tool_call>\n{"name": "search", "arguments": {"query": "b"}}\n</tool_call>', "a", [SEARCH]),
        ('<tool_call>{"name": "search", "arguments": {"query": "b"}}', "", [SEARCH]),
        ('a <tool_call>{"name": "search", "arguments": "{\\"query\\": \\"b\\"}"}</tool_call>', "a", [SEARCH]),
        (
            '<think>\nhm\n</think>\n\na\n<tool_call>{"name":"search","arguments":{"query":"b"}}</tool_call>',
            "a",
            [SEARCH],
        ),
        ('{"name": "search", "parameters": {"query": "b"}}', "", [SEARCH]),
        ('a\n{"name": "search", "parameters": {"query": "b"}}', "a", [SEARCH]),
        ('<|python_tag|>{"name": "search", "parameters": {"query": "b"}}', "", [SEARCH]),
        ('{"type": "function", "name": "search", "parameters": {"query": "b"}}', "", [SEARCH]),
        ('{"type": "function", "function": {"name": "search", "arguments": {"query": "b"}}}', "", [SEARCH]),
        ('a\n```json\n{"name": "search", "arguments": {"query": "b"}}\n```', "a", [SEARCH]),
        ('{"name": "Finish", "parameters": {"answer": "c"}}', "", [Action("finish", {"answer": "c"})]),
        ('{"name": "now", "arguments": null}', "", [Action("now", {})]),
        ('{"name": "sum", "arguments": [1, 2]}', "", [Action("sum", {"input": [1, 2]})]),
        (
            '{"name": "f", "arguments": {"x": {"name": "g", "arguments": {}}}}',
            "",
            [Action("f", {"x": {"name": "g", "arguments": {}}})],
        ),
        (
            '<tool_call>{"name": "search", "arguments": {"query": "b"}}</tool_call>\n'
            '<tool_call>{"name": "now", "arguments": {}}</tool_call>',
            "",
            [SEARCH, Action("now", {})],
        ),
        ('a <tool_response>{"name": "search", "arguments": {"query": "b"}}</tool_response>', "a", [None]),
        ('a\nObservation: {"name": "search", "arguments": {"query": "b"}}', "a", [None]),
        (
            'a\n<tool_call>{"name": "search", "arguments": {"query": </tool_call>',
            'a\n{"name": "search", "arguments": {"query":',
            [None],
        ),
        ("Thought: a\nAction: search[b]", "a", [SEARCH]),
        ("no call", "no call", [None]),
    ],
)
def test_each_form_of_a_call_is_read_alike(text: str, thought: str, actions: list[Action | None]) -> None:
    steps = ToolCallsRenderer().read(Completion(text, Usage(), "stop", 0.0))
    assert [step.action for step in steps] == actions
    assert steps[0].thought == thought
    assert [step.joined for step in steps] == [False] + [True] * (len(actions) - 1)


def test_structured_calls_tags_json_and_text_are_one_step() -> None:
    native = ToolCallsRenderer().read(Completion("a", Usage(), "stop", 0.0, (SEARCH,)))
    tags = 'a\n<tool_call>{"name": "search", "arguments": {"query": "b"}}</tool_call>'
    bare = 'a\n{"name": "search", "parameters": {"query": "b"}}'
    text = ReActRenderer().read(Completion("Thought: a\nAction: search[b]", Usage(), "stop", 0.0))
    read = [ToolCallsRenderer().read(Completion(words, Usage(), "stop", 0.0)) for words in (tags, bare)]
    assert {(step.thought, str(step.action)) for (step,) in (native, text, *read)} == {("a", str(SEARCH))}


def test_hidden_reasoning_before_text_react_is_no_thought() -> None:
    step = ReActRenderer().parse("<think>\nhm, Action: finish[x]\n</think>\n\nThought: a\nAction: search[b]")
    assert (step.thought, step.action) == ("a", SEARCH) and "hm" in step.text


# --- export ---


def test_exported_calls_are_answered_by_their_number() -> None:
    other = Step("", Action("search", {"query": "Niger"}), "beside", "", joined=True)
    rows = ToolCallsRenderer().export(trajectory(LOOK, other, LOOK, DONE))["messages"]
    calls = [call["id"] for row in rows for call in row.get("tool_calls", ())]
    answers = [row["tool_call_id"] for row in rows if row["role"] == "tool"]
    assert len(set(calls)) == 4 and answers == calls[:3]
    assert json.loads(rows[1]["tool_calls"][0]["function"]["arguments"]) == {"query": "Chad"}


def test_gpt_and_alpaca_rows_have_the_released_form() -> None:
    assert [row["role"] for row in ReActRenderer().export(trajectory(LOOK, DONE))["messages"]] == [
        "user",
        "assistant",
    ] * 2
    row = AlpacaRenderer().export(trajectory(LOOK, DONE))
    assert list(row) == ["instruction", "input", "output"] and row["input"] == ""
    assert row["output"].endswith("Action: finish[Africa]\nObservation: Episode finished, reward = True\n")


def test_the_released_rows_are_rendered_byte_for_byte(shared_data: Path) -> None:
    folder = shared_data / "fireact" / "finetune" / "alpaca_format"
    for name, count, damaged in (
        ("hotpotqa", 500, 0),
        ("hotpotqa_multimethod", 734, 1),  # an answer without a thought
        ("multitask", 1344, 456),  # the options of all of MMLU's questions come first
        ("multitask_multimethod", 2063, 715),  # of MMLU's 712; and 3 others
    ):
        rows = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        begun = [row for row in rows if row["output"].startswith("Thought: ")]
        assert (len(rows), len(rows) - len(begun)) == (count, damaged)
        odd_ones = 0
        for row in begun:
            if (read := released(row["output"])) is None:
                odd_ones += 1
                continue
            steps, closing = read
            text = AlpacaRenderer().export(trajectory(*steps, question=row["instruction"]))
            assert text["instruction"] == row["instruction"]
            assert text["output"][: len(row["output"]) - len(closing)] + closing == row["output"]
        assert odd_ones == 1  # one action that is five calls in a row


def released(output: str) -> tuple[list[Step], str] | None:
    """The steps of a released output and its closing line; None where a step is not one thought and one call."""
    found = list(
        re.finditer(
            r"Thought: (.*?)\nAction: (\w+)\[(.*?)\]\n?(?:Observation: (.*?)(?:\n(?=Thought: )|\Z))?", output, re.DOTALL
        )
    )
    if "".join(match.group() for match in found) != output:
        return None
    steps = [
        Step(m[1], Action(m[2], {"answer" if m[2] == "finish" else "query": m[3]}), m[4], m.group()) for m in found[:-1]
    ]
    last = found[-1]
    steps.append(Step(last[1], Action(last[2], {"answer": last[3]}), None, ""))
    return steps, f"Observation: {last[4]}" if last[4] is not None else ""


def test_the_prompt_is_that_of_the_released_evaluation_runs(shared_data: Path) -> None:
    (file,) = (shared_data / "fireact" / "trajs").glob("hotpotqa_dev_0_500_llama*7b*")
    first = next(iter(json.loads(file.read_text(encoding="utf-8")).values()))
    question = first["traj_by_line"][3]
    how = made("llama3", "alpaca")
    asked = render_chat(AlpacaRenderer().prompt(question), how.tokenizer, ask=True)
    assert first["traj"].startswith(asked.removeprefix("<|begin_of_text|>"))
    step = AlpacaRenderer().parse("\n".join(first["traj_by_line"][6:8]))
    seen = first["traj_by_line"][8].removeprefix("Observation: ")
    more = render_chat(
        AlpacaRenderer().prompt(question, [Step(step.thought, step.action, seen, "")]), how.tokenizer, ask=True
    )
    assert first["traj"].startswith(more.removeprefix("<|begin_of_text|>"))


def test_an_unknown_renderer_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'alpaca'"):
        load_renderer("alpca")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_alpaca_episode_is_one_sample_whatever_merges_across_the_end_of_a_turn(family: str) -> None:
    """Llama-3 and Qwen have a token for a bracket with the newline after it, which begins the mark that ends a turn."""
    merged = tokenizer(family).tokenize("search[Chad]\nObservation:")
    assert ("]\u010a" in merged) == (FAMILIES[family].pattern == LLAMA)
    steps = [replace(LOOK, action=Action("search", {"query": name}), observation=name) for name in ("Chad", "Chile")]
    (sample,) = samples(trajectory(*steps, DONE), family, "alpaca")
    assert len(trained(sample)) == 3
