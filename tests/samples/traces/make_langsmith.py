"""Makes langsmith.jsonl: the runs of a LangGraph agent as LangSmith's client sends (and exports) them.

pip install langsmith langchain-openai langgraph
python make_langsmith.py
"""

import json
from pathlib import Path

from fake_model import QUESTION, SYSTEM, TIDES, serve_model
from langchain_core.load import dumpd
from langchain_core.tracers.base import BaseTracer
from langchain_openai import ChatOpenAI
from langgraph.prebuilt import create_react_agent

FIELDS = ("id", "trace_id", "parent_run_id", "name", "run_type", "start_time", "end_time", "extra", "error", "inputs",
          "outputs", "tags")  # fmt: skip
ROWS: list[dict] = []


def to_plain(value):
    """An object as LangSmith stores it: LangChain's own are serialised, ids and times become text."""
    return dumpd(value) if hasattr(value, "lc_secrets") else str(value)


class Collector(BaseTracer):
    """Keeps the runs that say something, with the fields that ``Client.list_runs`` gives."""

    def _persist_run(self, run) -> None:
        pass

    def _end_trace(self, run) -> None:
        super()._end_trace(run)
        if run.run_type != "chain" or run.parent_run_id is None:
            row = {name: getattr(run, name) for name in FIELDS} | {
                "run_type": run.run_type.replace("chat_model", "llm")
            }
            ROWS.append(json.loads(json.dumps(row, default=to_plain)))


def tide_at(harbour: str, hour: int) -> str:
    """The tide."""
    return TIDES[hour]


collector = Collector(_schema_format="original+chat")
model = ChatOpenAI(model="fake-model", base_url=serve_model(), api_key="none")
agent = create_react_agent(model, [tide_at], prompt=SYSTEM)
agent.invoke({"messages": [{"role": "user", "content": QUESTION}]}, config={"callbacks": [collector]})
Path("langsmith.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
