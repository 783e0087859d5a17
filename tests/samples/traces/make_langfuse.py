"""Makes langfuse.json: an agent under Langfuse's OpenAI client, as the API for observations returns it.

The client's spans are taken before they are sent, and put into the objects of its own API, as the server does.
pip install langfuse openai
python make_langfuse.py
"""

import datetime
import json
from pathlib import Path

from fake_model import run_agent, serve_model
from langfuse import Langfuse
from langfuse.api import ObservationV2
from langfuse.openai import OpenAI
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter = InMemorySpanExporter()
client = Langfuse(public_key="pk", secret_key="sk", base_url="http://127.0.0.1:9", span_exporter=exporter)
with client.start_as_current_observation(name="sailor", as_type="agent") as span:
    span.update(output=run_agent(OpenAI(base_url=serve_model(), api_key="none")))
client.flush()


def parse(value):
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return value


rows = []
for span in exporter.get_finished_spans():
    values = {name.removeprefix("langfuse.observation."): value for name, value in span.attributes.items()}
    usage = parse(values.get("usage_details")) or {}
    row = ObservationV2(
        id=f"{span.context.span_id:016x}",
        trace_id=f"{span.context.trace_id:032x}",
        project_id="p",
        name=span.name,
        parent_observation_id=f"{span.parent.span_id:016x}" if span.parent else None,
        type=str(values.get("type", "span")).upper(),
        input=parse(values.get("input")),
        output=parse(values.get("output")),
        start_time=datetime.datetime.fromtimestamp(span.start_time / 1e9, datetime.UTC),
        end_time=datetime.datetime.fromtimestamp(span.end_time / 1e9, datetime.UTC),
        model=values.get("model.name"),
        usage_details={name: count for name, count in usage.items() if isinstance(count, int)},
        level="DEFAULT",
    )
    rows.append(json.loads(row.json(by_alias=True, exclude_none=True)))
Path("langfuse.json").write_text(json.dumps({"data": rows}) + "\n")
