"""What constrained decoding costs: processor time a token of the constraint, beside the student's own step.

Run: python bench/constrained.py [STUDENT]
"""

from __future__ import annotations

import json
import sys
import time

import torch

from fireact.models.hf import HFModel
from fireact.types import Call, Message, ReplyForm
from fireact.wire.schemas import ClientTool, make_schema

PARAMETERS = {
    "type": "object",
    "properties": {
        "country": {"type": "string"},
        "year": {"type": "integer"},
        "unit": {"enum": ["people", "millions"]},
    },
    "required": ["country", "unit"],
}
TOOLS = [
    ClientTool(make_schema(name, f"{name} of a country", PARAMETERS)) for name in ("population", "capital", "area")
]
CALLS = ReplyForm(tuple(tool.name for tool in TOOLS))
ARGUMENTS = '{"country": "Kenya", "unit": "people"}'
CASES = {
    "text": (CALLS, "I look it up, since I do not know how many people live there. " * 4),
    "call": (CALLS, f'<tool_call>\n{{"name": "population", "arguments": {ARGUMENTS}}}\n</tool_call>'),
    "json": (ReplyForm(json_schema=PARAMETERS), ARGUMENTS),
}


def constraint_ms(lm: HFModel, form: ReplyForm, text: str, *, repeats: int = 5) -> float:
    """Milliseconds of the processor a token that the constraint of a form takes, over the tokens of a text."""
    loaded = lm._load()
    ids, logits = lm.tokenizer(text)["input_ids"], torch.zeros(loaded.vocabulary_size)
    schemas = [tool.schema for tool in TOOLS]
    grammar = loaded.grammars.compile(form, schemas, loaded.call_form if form.callable else None)
    started = time.thread_time()
    for _ in range(repeats):
        constraint = grammar.start()
        for count in range(len(ids) + 1):
            constraint(ids[:count], logits)
    return 1000 * (time.thread_time() - started) / repeats / (len(ids) + 1)


def step_ms(lm: HFModel, *, tokens: int = 32) -> float:
    """Milliseconds a token of the student alone, after its prompt is read; wall time."""
    call = Call([Message("user", "Tell me of Africa, at length.")], max_tokens=tokens, temperature=1.0)
    lm.complete(call)
    completion = lm.complete(call)
    return 1000 * completion.seconds / completion.usage.completion_tokens


def main() -> None:
    lm = HFModel(sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m", slots=1)
    rows = {name: round(constraint_ms(lm, *case), 3) for name, case in CASES.items()}
    print(json.dumps({"unit": "ms a token", **rows, "step": round(step_ms(lm), 1)}))
    lm.close()


if __name__ == "__main__":
    main()
