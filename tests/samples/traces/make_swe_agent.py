"""Makes mini-swe-agent.traj.json: mini-swe-agent in a shell, with a model that says what it is told.

pip install mini-swe-agent
python make_swe_agent.py
"""

import os
from pathlib import Path

os.environ["MSWEA_SILENT_STARTUP"] = "1"

from minisweagent.agents.default import DefaultAgent
from minisweagent.environments.local import LocalEnvironment
from minisweagent.models.test_models import DeterministicToolcallModel, make_toolcall_output

SUBMIT = "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && echo done"


def call(id: str, command: str, words: str) -> dict:
    calls = [{"id": id, "type": "function", "function": {"name": "bash", "arguments": f'{{"command": "{command}"}}'}}]
    return make_toolcall_output(words, calls, [{"command": command, "tool_call_id": id}])


model = DeterministicToolcallModel(
    outputs=[call("call00000", "echo 2.1 metres", "I look."), call("call00001", SUBMIT, "I submit.")]
)
agent = DefaultAgent(
    model, LocalEnvironment(), system_template="You write code.", instance_template="{{task}}", step_limit=5,
    cost_limit=0, output_path=Path("mini-swe-agent.traj.json"),
)  # fmt: skip
agent.run("How high is the tide?")
