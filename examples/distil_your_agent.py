"""Distil an agent that you have: record its calls, score its answers, keep what was right, train a student on that.

The agent here is of smolagents; yours only needs its base URL changed. Run it with the endpoint, the model and a
directory:  python examples/distil_your_agent.py http://localhost:11434/v1 qwen3:8b runs/mine --train
"""

import json
import os
import sys
from pathlib import Path

from smolagents import OpenAIModel, ToolCallingAgent, tool

import fireact

POPULATION = {"Norway": "5.6 million", "Peru": "34 million", "Laos": "7.7 million"}
QUESTIONS = {f"How many people live in {country}?": people for country, people in POPULATION.items()}


@tool
def population(country: str) -> str:
    """Tells how many people live in a country.

    Args:
        country: the name of the country
    """
    return POPULATION.get(country, "not known")


def your_agent(question: str, base_url: str, model: str) -> object:
    """What you run today, with the base URL as its only change."""
    key = os.environ.get("OPENAI_API_KEY", "none")
    agent = ToolCallingAgent(
        tools=[population], model=OpenAIModel(model, api_base=base_url, api_key=key), max_steps=5, verbosity_level=0
    )
    return agent.run(question)


if __name__ == "__main__":
    upstream, model, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    out.mkdir(parents=True, exist_ok=True)

    with fireact.record(upstream=upstream, port=0, out=out / "record") as recording:
        for number, question in enumerate(QUESTIONS):
            print(question, "->", your_agent(question, recording.episode_url(str(number)), model))

    rows = [{"question": question, "answer": answer} for question, answer in QUESTIONS.items()]
    (out / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(fireact.score(recording, answers=out / "answers.jsonl"))

    mixed = fireact.mix(recording, where="correct", out=out / "mix")
    print(*mixed.history, sep="\n")
    if "--train" in sys.argv:
        fireact.train(mixed, out=out / "train")
