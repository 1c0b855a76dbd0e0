import type { PlacementProblem } from "./dnnPartitioningProblem.js";

/**
 * Least load of an accelerator that holds block `inside`, and not block `outside` where one is given:
 * min over S of the time of S plus the nets that S cuts. Both parts are submodular, so it is a minimum cut
 * (Lawler's network: a net is an arc between two vertices tied to its blocks), found with Dinic's algorithm.
 * A lower bound for every placement, because memory and the other devices are left out.
 */
export function separationCost(problem: PlacementProblem, inside: number, outside?: number): number {
  const { blocks, nets, acceleratorMs } = problem;
  const count = blocks.length;
  const sink = count + 2 * nets.length;
  const network = new Network(sink + 1);
  for (const [block, time] of acceleratorMs.entries()) {
    if (block === inside && time === Number.POSITIVE_INFINITY) return time;
    if (block === outside) network.arc(block, sink, Number.POSITIVE_INFINITY);
    else if (time > 0 && block !== inside) network.arc(block, sink, time);
  }
  for (const [index, { cost, members }] of nets.entries()) {
    const [enter, leave] = [count + 2 * index, count + 2 * index + 1];
    network.arc(enter, leave, cost);
    for (const block of members) {
      network.arc(block, enter, Number.POSITIVE_INFINITY);
      network.arc(leave, block, Number.POSITIVE_INFINITY);
    }
  }
  return acceleratorMs[inside]! + network.flow(inside, sink);
}

class Network {
  readonly #head: Int32Array;
  readonly #next: number[] = [];
  readonly #to: number[] = [];
  readonly #left: number[] = [];

  constructor(readonly vertices: number) {
    this.#head = new Int32Array(vertices).fill(-1);
  }

  arc(from: number, to: number, capacity: number): void {
    for (const [a, b, left] of [
      [from, to, capacity],
      [to, from, 0],
    ] as const) {
      this.#next.push(this.#head[a]!);
      this.#head[a] = this.#to.length;
      this.#to.push(b);
      this.#left.push(left);
    }
  }

  flow(source: number, sink: number): number {
    const [next, to, left] = [this.#next, this.#to, this.#left];
    const level = new Int32Array(this.vertices);
    const at = new Int32Array(this.vertices);
    const path: number[] = [];
    let total = 0;
    for (;;) {
      level.fill(-1);
      level[source] = 0;
      const queue = [source];
      for (const vertex of queue) {
        for (let arc = this.#head[vertex]!; arc >= 0; arc = next[arc]!) {
          if (left[arc]! <= 0 || level[to[arc]!]! >= 0) continue;
          level[to[arc]!] = level[vertex]! + 1;
          queue.push(to[arc]!);
        }
      }
      if (level[sink]! < 0) return total;
      at.set(this.#head);
      // Augmenting paths of this level graph, one arc at a time.
      let vertex = source;
      for (;;) {
        if (vertex === sink) {
          let amount = Number.POSITIVE_INFINITY;
          for (const arc of path) amount = Math.min(amount, left[arc]!);
          if (amount === Number.POSITIVE_INFINITY) return amount;
          for (const arc of path) {
            left[arc]! -= amount;
            left[arc ^ 1]! += amount;
          }
          total += amount;
          path.length = 0;
          vertex = source;
        }
        let arc = at[vertex]!;
        while (arc >= 0 && (left[arc]! <= 0 || level[to[arc]!] !== level[vertex]! + 1)) arc = next[arc]!;
        at[vertex] = arc;
        if (arc >= 0) {
          path.push(arc);
          vertex = to[arc]!;
        } else {
          if (vertex === source) break;
          const back = path.pop()!;
          vertex = to[back ^ 1]!;
          at[vertex] = next[at[vertex]!]!;
        }
      }
    }
  }
}
