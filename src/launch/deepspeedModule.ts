import { axisSize, type Plan } from "../contracts/index.js";
import { nodeLayout } from "./layout.js";
import { pythonList, pythonString } from "./pythonText.js";

/** Names of a plan's block modules, in the order of the forward pass. */
export function blockModules({ stages }: Plan): string[] {
  return stages.flatMap(({ modules, layers }) => {
    const blocks = modules.filter((name) => /\.\d+$/.test(name));
    return blocks.length === layers.end - layers.start ? blocks : [];
  });
}

/**
 * The Python module beside the JSON, which says what that cannot: the layers of each stage, or which blocks are
 * recomputed; and it checks the number of ranks.
 */
export function deepspeedModule(plan: Plan): string {
  return axisSize(plan, "pipeline") > 1 ? pipelineModule(plan) : wholeModule(plan);
}

/**
 * Boundaries of the stages in the list of layer specs: the embedding first, one a block, then norm and head as one.
 */
export function partsOf({ stages }: Plan): number[] {
  const parts = [0];
  for (const { layers, embedding, head } of stages) {
    parts.push(parts.at(-1)! + (embedding ? 1 : 0) + (layers.end - layers.start) + (head ? 1 : 0));
  }
  return parts;
}

const checkWorld = `def check_world():
    """Refuses another number of ranks than the plan's before anything is built."""
    found = int(os.environ.get("WORLD_SIZE", "0"))
    if found != WORLD_SIZE:
        raise SystemExit(f"Expected {WORLD_SIZE} ranks for the plan {PLAN} but found WORLD_SIZE={found}.")
`;

function pipelineModule(plan: Plan): string {
  const interval = plan.stages.some(({ recompute }) => recompute === "full") ? 1 : 0;
  return `"""Stages of a plan that mpopt made, for DeepSpeed's pipeline engine. See docs/launchers/deepspeed.md."""

import os

from deepspeed.pipe import PipelineModule

PLAN = ${pythonString(plan.name)}
WORLD_SIZE = ${nodeLayout(plan).world}
# Layer specs: the embedding, one for each of the ${plan.model.blockLayers} blocks, then norm and head as one.
LAYERS = ${plan.model.blockLayers + 2}
# Stage i holds the specs from PARTS[i] to PARTS[i + 1].
PARTS = ${pythonList(partsOf(plan))}
CHECKPOINT_INTERVAL = ${interval}


${checkWorld}

class PlannedPipeline(PipelineModule):
    """A PipelineModule whose stages hold the layers that the plan gives them."""

    def __init__(self, layers, **options):
        check_world()
        layers = list(layers)
        if len(layers) != LAYERS or PARTS[0] != 0 or PARTS[-1] != LAYERS:
            raise ValueError(f"Expected {LAYERS} layer specs (embedding, blocks, head) but found {len(layers)}.")
        options.setdefault("activation_checkpoint_interval", CHECKPOINT_INTERVAL)
        if options.get("topology") is None:
            options.setdefault("num_stages", len(PARTS) - 1)
        super().__init__(layers, **options)

    def _partition_layers(self, method="uniform"):
        stage = self._topo.get_coord(self.global_rank).pipe
        self.parts = list(PARTS)
        self._set_bounds(start=PARTS[stage], stop=PARTS[stage + 1])
`;
}

function wholeModule(plan: Plan): string {
  const recomputed = plan.stages[0]!.recompute === "full" ? blockModules(plan) : [];
  return `"""What a plan that mpopt made asks of a model beside ds_config.json. See docs/launchers/deepspeed.md."""

import os

from torch.utils.checkpoint import checkpoint

PLAN = ${pythonString(plan.name)}
WORLD_SIZE = ${nodeLayout(plan).world}
# Blocks whose activations are computed again in the backward pass.
RECOMPUTED = ${pythonList(recomputed)}


${checkWorld}

def prepare(model):
    """Recomputes the plan's blocks of a model; call it before deepspeed.initialize."""
    check_world()
    modules = dict(model.named_modules())
    missing = [name for name in RECOMPUTED if name not in modules]
    if missing:
        raise ValueError(f"Expected a model with the module {missing[0]} of the plan but found none of that name.")
    for name in RECOMPUTED:
        _recompute(modules[name])
    return model


def _recompute(module):
    forward = module.forward

    def twice(*args, **options):
        return checkpoint(forward, *args, use_reentrant=False, **options)

    module.forward = twice
`;
}
