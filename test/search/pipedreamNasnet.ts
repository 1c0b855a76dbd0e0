import { randomOf } from "../../src/search/inter/random.js";

/**
 * A profile in PipeDream's format with the shape of NASNet-A: cells of five blocks, each of which adds two
 * branches of separable convolutions, pooling or identity of the two previous cells; the five sums are
 * concatenated. Branches are free against each other, so that the cuts of a cell already are too many to list.
 */
export function nasnetProfile(cells: number, seed = 1): string {
  const random = randomOf(seed);
  const nodes: string[] = [];
  const edges: string[] = [];
  const add = (name: string, milliseconds: number, bytes: number, parameters: number, before: string[]) => {
    const id = `node${nodes.length + 1}`;
    nodes.push(
      `${id} -- ${name} -- forward_compute_time=${milliseconds.toFixed(3)}, ` +
        `backward_compute_time=${(milliseconds * 0.8).toFixed(3)}, activation_size=${bytes}.000, ` +
        `parameter_size=${parameters}.000`,
    );
    for (const from of before) edges.push(`\t${from} -- ${id}`);
    return id;
  };
  const time = () => 0.05 + random(500) / 1000;
  const input = add("Input", 20, 77070336, 0, []);
  let last = add("Conv2d(3, 96)", 2, 40e6, 10368, [input]);
  let previous = last;
  for (let cell = 0; cell < cells; cell++) {
    // Features shrink and channels grow twice, as between NASNet's reduction cells.
    const third = Math.floor((3 * cell) / cells);
    const bytes = Math.round(24e6 / 2 ** third);
    const parameters = 20_000 * 4 ** third;
    const unit = (from: string, kernel: number) => {
      let node = from;
      for (let half = 0; half < 2; half++) {
        node = add("ReLU", time() / 4, bytes, 0, [node]);
        node = add(`SeparableConv2d(${kernel})`, time(), bytes, parameters * kernel, [node]);
        node = add("BatchNorm2d", time() / 2, bytes, 1000, [node]);
      }
      return node;
    };
    const left = add("Conv2d(1, 1)", time(), bytes, parameters, [previous]);
    const right = add("Conv2d(1, 1)", time(), bytes, parameters, [last]);
    const sums: string[] = [];
    for (let block = 0; block < 5; block++) {
      const [a, b] = [random(2) === 0 ? left : right, random(2) === 0 ? left : right];
      const first = unit(a, 3 + 2 * random(3));
      const second = random(2) === 0 ? add("AvgPool2d", time() / 2, bytes, 0, [b]) : unit(b, 3);
      sums.push(add("Add", 0, bytes, 0, [first, second]));
    }
    previous = last;
    last = add("Concat", 0.02, 5 * bytes, 0, [...sums, left]);
  }
  const pooled = add("AvgPool2d", 0.1, 1e6, 0, [last]);
  add("Linear", 0.3, 1e5, 16e6, [pooled]);
  return [...nodes, ...edges].join("\n");
}
