"""The whole line in Python: a teacher's trajectories, a mixture, a fine-tuned student, its measure.

Run it with a directory to write into: python examples/whole_line.py runs/example
"""

import sys
from pathlib import Path

import fireact

out = Path(sys.argv[1])
student = sys.argv[2] if len(sys.argv) > 2 else "smollm2-135m"

plan = {"geo-hop/react": 12, "geo-yesno/react": 4, "geo-choice/cot": 4}
fireact.collect(fireact.CollectConfig(plan=plan), out / "collect")

data = fireact.Dataset.read(out / "collect").where("correct")
print(*data.history, sep="\n")

fireact.mix(fireact.MixConfig(sources=[str(out / "collect")]), out / "mix")
fireact.train(
    fireact.TrainConfig(data=str(out / "mix"), student=student, recipe=fireact.Recipe(epochs=1)), out / "train"
)
result = fireact.evaluate(fireact.EvalConfig(agent=str(out / "train"), tasks=["geo-hop"], n=4), out / "eval")
print(result["results"]["geo-hop"])
