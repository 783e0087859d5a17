"""Rollout: limits, faults, stops and cancellation live here once."""

import threading
from dataclasses import replace

from fakes import GOOD, LIMITS, Echo, agent, episodes
from fireact.methods.cot import CoT
from fireact.methods.reflexion import Reflexion
from fireact.models.replies import Replies
from fireact.rollout.episodes import Agent, run_episode, run_episodes
from fireact.types import Call, Completion


def test_a_good_episode_is_finished_scored_and_metered() -> None:
    done = run_episode(episodes(1)[0])
    assert (done.stop, done.answer, done.scores["em"], done.error) == ("finish", "a", 1.0, None)
    assert done.steps[0].observation == "You said x." and done.steps[1].observation is None
    assert done.usage.calls == 2 and done.usage.completion_tokens == 8


def test_the_limit_of_rounds_holds() -> None:
    done = run_episode(episodes(1, "Thought: again\nAction: search[x]")[0])
    assert (done.stop, len(done.steps), done.answer, done.scores["em"]) == ("max_steps", 4, None, 0.0)


def test_a_completion_without_action_is_told_what_is_allowed() -> None:
    done = run_episode(episodes(1, "hm", *GOOD[1:])[0])
    assert done.steps[0].observation is not None and "finish[...]" in done.steps[0].observation
    assert done.stop == "finish"


def test_an_unknown_tool_and_odd_arguments_are_observations() -> None:
    done = run_episode(episodes(1, "Action: find[x]", 'Action: search[{"q": 1}]', *GOOD[1:])[0])
    first, second, _ = done.steps
    assert first.observation == "Unknown action find. Use one of search[...], finish[...]."
    assert second.observation == "search takes query; it was given q."


def test_a_fault_is_kept_but_never_scored() -> None:
    done = run_episode(episodes(1, "Thought: look\nAction: search[broken]")[0])
    assert (done.stop, done.scores, done.error) == ("error", {}, "OSError: the tool is down")


def test_cot_is_one_step_and_without_an_answer_a_format_stop() -> None:
    cot = Agent(lm=Replies(GOOD[1:]), method=CoT(), tools={}, limits=LIMITS)
    done = run_episode(replace(episodes(1)[0], agent=cot))
    assert (len(done.steps), done.stop, done.scores["em"]) == (1, "finish", 1.0)
    mute = run_episode(replace(episodes(1)[0], agent=replace(cot, lm=Replies(["I do not know"]))))
    assert (mute.stop, mute.scores["em"]) == ("format", 0.0)


def test_a_reflection_becomes_part_of_the_next_thought() -> None:
    class Reflects(Replies):
        def complete(self, call: Call) -> Completion:
            if "Reflect:" in call.messages[-1].content:
                return replace(super().complete(call), text="Reflection: I asked too little.")
            return super().complete(call)

    method = Reflexion(reflect_at=(2,))
    who = Agent(lm=Reflects(GOOD), method=method, tools={"search": Echo()}, limits=LIMITS)
    done = run_episode(replace(episodes(1)[0], agent=who))
    assert [step.thought for step in done.steps] == ["look", "I asked too little. done"]
    assert done.usage.calls == 3


def test_all_episodes_run_and_at_most_so_many_at_a_time() -> None:
    running, most, lock = 0, 0, threading.Lock()

    class Counting(Replies):
        def complete(self, call: Call) -> Completion:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            try:
                return super().complete(call)
            finally:
                with lock:
                    running -= 1

    who = replace(agent(), lm=Counting(GOOD))
    done = list(run_episodes([replace(episode, agent=who) for episode in episodes(50)], workers=4))
    assert {trajectory.key for trajectory in done} == {episode.key for episode in episodes(50)}
    assert most <= 4


def test_closing_the_iterator_stops_the_rest() -> None:
    found = run_episodes(episodes(200), workers=2)
    next(found)
    found.close()
    before = threading.active_count()
    assert before < 50
