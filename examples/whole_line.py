"""The whole pipeline in Python: a teacher's trajectories, a mixture, a fine-tuned student, its measure.

Run it with a directory to write into: python examples/whole_line.py runs/example
"""

import sys
from pathlib import Path

import fireact

out = Path(sys.argv[1])
student = sys.argv[2] if len(sys.argv) > 2 else "smollm2-135m"

plan = {"geo-hop/react": 12, "geo-yesno/react": 4, "geo-choice/cot": 4}
collected = fireact.collect(plan=plan, out=out / "collect")
data = fireact.mix(collected, where="correct", out=out / "mix")
print(*data.history, sep="\n")

agent = fireact.train(data, student=student, epochs=1, out=out / "train")
result = fireact.evaluate(agent, tasks=["geo-hop"], n=4, out=out / "eval")
print(result["geo-hop"])
