"""Asking: the words of an agent are told while it writes them, what it observes once that is there."""

import io
import threading
from dataclasses import dataclass, replace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fakes import GOOD, Echo, agent
from fireact.cli import app
from fireact.errors import ConfigError, ProviderError
from fireact.methods.react import ReAct
from fireact.models.replies import Replies
from fireact.render.tool_calls import ToolCallsRenderer
from fireact.rollout.episodes import Cancelled, MeteredLM
from fireact.serving.stream import EpisodeStream, ask_agent, iterate_steps, render_step
from fireact.terminal.steps import StreamPrinter
from fireact.types import Action, Call, Completion


@dataclass(frozen=True)
class Spelling:
    """An LM that writes its set replies letter by letter."""

    replies: Replies
    name: str = "spelling"

    def complete(self, call: Call) -> Completion:
        done = self.replies.complete(call)
        for letter in done.text:
            if call.on_delta is not None:
                call.on_delta(letter)
        return done


def said() -> Replies:
    """What ``test_voice:said`` names on a command line."""
    return Replies(GOOD)


def test_a_turn_is_told_letter_by_letter_before_its_tool_runs() -> None:
    pieces: list[str] = []
    before: list[str] = []

    class Listening(Echo):
        def __call__(self, **arguments: Any) -> str:
            before.append("".join(pieces))
            return super().__call__(**arguments)

    steps = ask_agent(
        replace(agent(), lm=Spelling(Replies(GOOD)), tools={"search": Listening()}), "What?", pieces.append
    )
    assert before == ["Thought: look\nAction: search[x]"] and pieces[:3] == ["T", "h", "o"]
    assert "".join(pieces) == f"{GOOD[0]}\nObservation: You said x.\n{GOOD[1]}\n"
    assert [step.text for step in steps] == list(GOOD)


def test_an_lm_that_knows_no_listening_is_told_turn_by_turn() -> None:
    pieces: list[str] = []
    ask_agent(agent(), "What?", pieces.append)
    assert pieces == [GOOD[0], "\nObservation: You said x.\n", GOOD[1], "\n"]


def test_native_calls_are_told_in_their_text_form() -> None:
    replies = Replies([("look", (Action("search", {"query": "x"}),)), ("so", (Action("finish", {"answer": "a"}),))])
    pieces: list[str] = []
    native = replace(agent(), lm=Spelling(replies), method=ReAct(renderer=ToolCallsRenderer()))
    steps = ask_agent(native, "What?", pieces.append)
    assert pieces == [render_step(step) for step in steps] and "Action: search[ x]" in pieces[0]


def test_a_listener_that_leaves_ends_a_turn_in_its_middle() -> None:
    gone, pieces = threading.Event(), list[str]()

    def tell(piece: str) -> None:
        pieces.append(piece)
        gone.set()

    who = replace(agent(), lm=Spelling(Replies(GOOD)))
    with pytest.raises(Cancelled):
        list(iterate_steps(who, "What?", MeteredLM(who, gone, on_delta=EpisodeStream(tell).on_delta)))
    assert pieces == ["T"]


def test_a_tool_that_fails_ends_a_question_in_words() -> None:
    with pytest.raises(ProviderError, match="OSError: the tool is down"):
        ask_agent(agent("Thought: look\nAction: search[broken]"), "What?", print)


def test_a_question_without_words_is_refused() -> None:
    with pytest.raises(ConfigError, match="question is empty"):
        ask_agent(agent(), " ", print)


def shown(text: str, **options: Any) -> str:
    file = io.StringIO()
    speech = StreamPrinter(Console(file=file, highlight=False, width=20, **options))
    for letter in text:
        speech(letter)
    return file.getvalue()


def test_speech_is_printed_as_it_comes_with_its_labels_in_colour() -> None:
    text = (
        "Thought: [1] is a long thought, longer than a line\nThoughtless Action: no\n"
        "Action: search[x]\nObservation: a\nb\n"
    )
    assert shown(text) == text  # neither markup nor wrapping
    coloured = shown(text, force_terminal=True, color_system="standard", legacy_windows=False)
    assert "\x1b[36mThought:\x1b[0m" in coloured and "\x1b[1;32mAction:\x1b[0m" in coloured
    assert (
        "\x1b[2mObservation:\x1b[0m" in coloured and "\x1b[2mb\x1b[0m" in coloured and coloured.count("\x1b[36m") == 1
    )


def test_a_word_is_not_held_back_once_it_can_be_no_label() -> None:
    assert shown("Thou") == "" and shown("Thousands of") == "Thousands of" and shown("Action: sea") == "Action: sea"


def test_chat_answers_one_question_after_the_other() -> None:
    done = CliRunner().invoke(app, ["ask", "-a", "test_voice:said"], input="What?\nAnd what else?\n\n")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("Thought: look\nAction: search[x]\nObservation: ") == 2
    assert done.stdout.count("Action: finish[a]\n") == 2


def test_ask_prints_the_episode_and_refuses_an_empty_question() -> None:
    done = CliRunner().invoke(app, ["ask", "What?", "-a", "test_voice:said"])
    assert done.exit_code == 0 and done.stdout.startswith("Thought: look\nAction: search[x]\nObservation: ")
    assert isinstance(CliRunner().invoke(app, ["ask", "", "-a", "test_voice:said"]).exception, ConfigError)
