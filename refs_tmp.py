import json
import sys
import time

from textenvs.data.make_reference_scores import *

out = {}
for name in sys.argv[2:]:
    task = make_task(name)
    t = time.time()
    out[name] = {split: measure(task, split) for split in task.splits}
    print(name, round(time.time() - t), out[name]["test"], flush=True)
    json.dump(out, open(sys.argv[1], "w"))
