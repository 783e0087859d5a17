"""Makes mlflow.json: the trace of an agent with OpenAI's client under MLflow's autologging.

pip install mlflow-skinny mlflow-tracing numpy pandas sqlalchemy alembic "openai<3"
python make_mlflow.py
"""

import json
import os
import tempfile
from pathlib import Path

os.environ |= {"MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false", "MLFLOW_ALLOW_FILE_STORE": "true"}

import mlflow
from fake_model import run_agent, serve_model
from openai import OpenAI

with tempfile.TemporaryDirectory() as folder:
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.openai.autolog()
    with mlflow.start_span("sailor", span_type="AGENT") as span:
        span.set_outputs(run_agent(OpenAI(base_url=serve_model(), api_key="none")))
    trace_id = mlflow.get_last_active_trace_id()
    mlflow.log_feedback(trace_id=trace_id, name="correctness", value=True)
    document = mlflow.get_trace(trace_id).to_dict()
    document["info"] |= {"tags": {}, "trace_metadata": {}}  # they name this machine
    Path("mlflow.json").write_text(json.dumps(document) + "\n")
