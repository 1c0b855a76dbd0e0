import {
  axisSize,
  type Cluster,
  type Estimate,
  type Model,
  MpoptError,
  type Plan,
} from "../contracts/index.js";
import { placementName } from "../cost/placement.js";
import { distinctLayers } from "../models/workload.js";
import { scheduleOfPlan } from "../schedule/index.js";
import { type Configuration, chainOf } from "../search/configuration.js";
import { type LayerCost, priceChosen } from "../search/intra.js";
import { allowedStrategies } from "../search/intraProblem.js";
import { costModels } from "../search/joint.js";
import { layerInput } from "../search/layerChains.js";
import { PreparedSchedule } from "../search/preparedSchedule.js";
import { isClosedForm } from "../search/scheduleChoices.js";
import { StageCosts } from "../search/stageCosts.js";
import type { Strategy } from "../search/strategies.js";
import { assembleEstimate } from "./assemble.js";

/** The configuration that a plan's fields spell out. */
export function configurationOf(plan: Plan): Configuration {
  const { mesh, optimizer } = plan;
  const data = axisSize(plan, "data");
  const context = axisSize(plan, "context");
  return {
    tensor: axisSize(plan, "tensor"),
    context,
    contextExchange: mesh.contextExchange ?? "ring",
    pipeline: axisSize(plan, "pipeline"),
    data,
    expert: mesh.experts?.expert ?? 1,
    expertTensor: mesh.experts?.tensor ?? axisSize(plan, "tensor"),
    microBatch: plan.batch.micro,
    microBatches: plan.schedule.microBatches,
    sequenceParallel: mesh.sequenceParallel,
    recompute: plan.stages[0]!.recompute,
    recomputeLayers: Math.max(...plan.stages.map((stage) => stage.recomputeLayers ?? 0)),
    zero: optimizer.zero as Configuration["zero"],
    shards: optimizer.shards ?? (optimizer.zero > 0 ? data * context : 1),
    offload: optimizer.offload ?? "none",
  };
}

/** What times a plan's schedule; undefined where its step is priced in closed form. */
export function preparedScheduleOf(plan: Plan): PreparedSchedule | undefined {
  const closed = isClosedForm(plan.job, plan.schedule.name) && !plan.schedule.actions;
  return closed ? undefined : new PreparedSchedule(scheduleOfPlan(plan));
}

/**
 * Cost of a given placement on a cluster, without any search: the plan's estimate as it would be there.
 * @param schedule of the plan, for those who price it more than once.
 * @throws MpoptError E_PLAN_INVALID when the plan's shardings do not fit the model, or its stages the schedule.
 */
export function estimatePlan(
  plan: Plan,
  model: Model,
  cluster: Cluster,
  schedule: PreparedSchedule | undefined = preparedScheduleOf(plan),
): Estimate {
  const configuration = configurationOf(plan);
  const models = costModels(cluster, plan.job);
  const inputOf = layerInput(model, models, configuration, plan.job.runtime, configuration.microBatches);
  const costOf = new Map<string, LayerCost>();
  for (const { block, operators } of distinctLayers(model)) {
    const input = inputOf(operators);
    const placed = plan.operators.filter((each) => each.block === block);
    const splits = operators.map((operator, i) => {
      const wanted = placed[i];
      const found =
        wanted?.operator === operator.name
          ? allowedStrategies(operator, input).find((each) => matches(each, wanted.sharding.tensor))
          : undefined;
      if (!found) {
        throw new MpoptError(
          "E_PLAN_INVALID",
          `Expected a sharding of ${operator.name} in block ${block} that ${plan.job.runtime} can run but found ${JSON.stringify(wanted?.sharding.tensor ?? "none")}.`,
        );
      }
      return found.split;
    });
    costOf.set(block, priceChosen(input, splits));
  }
  const chain = chainOf(model, (layer) => costOf.get(layer.block)!);
  const boundaries = [...plan.stages.map((stage) => stage.layers.start), plan.model.blockLayers];
  const costs = new StageCosts(configuration, chain, models, schedule?.layout);
  return assembleEstimate(model, models, costs, boundaries, schedule);
}

function matches(strategy: Strategy, wanted: { inputs: string[]; outputs: string[] } | undefined): boolean {
  if (!wanted) return false;
  const inputs = strategy.inputs.map((use) => placementName(use.placement));
  const outputs = strategy.outputs.map(placementName);
  return inputs.join() === wanted.inputs.join() && outputs.join() === wanted.outputs.join();
}
