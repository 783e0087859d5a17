"""Makes genai.otlp.json and openinference.otlp.json: an agent's spans under the conventions of GenAI and of Phoenix.

pip install "pydantic-ai-slim[openai]" opentelemetry-sdk opentelemetry-exporter-otlp-proto-common
python make_otlp.py genai
pip install openai openinference-instrumentation-openai opentelemetry-sdk opentelemetry-exporter-otlp-proto-common
python make_otlp.py openinference
"""

import base64
import json
import sys
from pathlib import Path

from fake_model import QUESTION, SYSTEM, TIDES, run_agent, serve_model
from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))


def run_with_openinference() -> None:
    from openai import OpenAI
    from openinference.instrumentation.openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument(tracer_provider=provider)
    with provider.get_tracer("agent").start_as_current_span("invoke_agent sailor"):
        run_agent(OpenAI(base_url=serve_model(), api_key="none"))


def run_with_genai() -> None:
    from pydantic_ai import Agent
    from pydantic_ai.capabilities import Instrumentation
    from pydantic_ai.models.instrumented import InstrumentationSettings
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    def tide_at(harbour: str, hour: int) -> str:
        """The tide."""
        return TIDES[hour]

    model = OpenAIChatModel("fake-model", provider=OpenAIProvider(base_url=serve_model(), api_key="none"))
    tracing = Instrumentation(settings=InstrumentationSettings(tracer_provider=provider))
    agent = Agent(model, instructions=SYSTEM, tools=[tide_at], capabilities=[tracing], name="sailor")
    agent.run_sync(QUESTION)


def with_hex_ids(value):
    """OTLP's JSON has ids as hexadecimal digits, protobuf's JSON as base64."""
    if isinstance(value, dict):
        ids = {key: base64.b64decode(value[key]).hex() for key in ("traceId", "spanId", "parentSpanId") if key in value}
        return {key: with_hex_ids(item) for key, item in value.items()} | ids
    return list(map(with_hex_ids, value)) if isinstance(value, list) else value


kind = sys.argv[1]
run_with_genai() if kind == "genai" else run_with_openinference()
document = with_hex_ids(MessageToDict(encode_spans(exporter.get_finished_spans())))
Path(f"{kind}.otlp.json").write_text(json.dumps(document) + "\n")
