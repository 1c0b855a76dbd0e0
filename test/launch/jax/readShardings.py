"""Reads what exported plan_sharding.py files say, one JSON request a line: where every rank's parts of arrays lie.

With JAX itself, or with the stand-in beside this file where it is first on PYTHONPATH.
"""

import functools
import json
import sys

import jax

compiled = functools.cache(lambda text: compile(text, "plan_sharding.py", "exec"))


def bounds(sharding, shape):
    """[rank][dimension] -> [start, end); ranks are devices by process, then by number."""
    places = sharding.devices_indices_map(tuple(shape))
    ranks = sorted(places, key=lambda device: (device.process_index, device.id))
    return [[[*part.indices(size)[:2]] for part, size in zip(places[rank], shape)] for rank in ranks]


def answer(request):
    module = {"__name__": "plan_sharding"}
    with open(request["file"], encoding="utf-8") as file:
        # The part behind the mark is the same in all files, and takes longest to compile.
        plan, mark, rest = file.read().partition("\n# ---- ")
    exec(compiled(plan), module)
    exec(compiled(mark + rest), module)
    if hasattr(jax, "pretend"):
        jax.pretend(request["devices"], module["DEVICES_PER_HOST"])
    kinds = {"parameters": module["param_sharding"], "states": module["state_sharding"]}
    result = {
        kind: [bounds(sharding(path, tuple(shape)), shape) for path, shape in request["leaves"]]
        for kind, sharding in kinds.items()
    }
    result["activations"] = [bounds(module["activation_sharding"](k), s) for k, s in request["activations"]]
    result["batch"] = bounds(module["batch_sharding"](), [module["GLOBAL_BATCH"]])
    result["constants"] = {name: value for name, value in module.items() if name.isupper() and name != "RULES"}
    refused = []
    for path, shape in request.get("unknown", []):
        try:
            module["param_sharding"](path, tuple(shape))
        except module["PlanError"] as error:
            refused.append(str(error))
    result["refused"] = refused
    return result


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
