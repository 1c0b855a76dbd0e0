"""Measure the operators that a PyTorch training job on processors runs. Needs PyTorch >= 2.4 and nothing else.

    python measure_operators.py --processes 2 --deadline 40        # one JSON document on stdout

Every operator is timed in `--processes` processes at once, each with one thread, as the ranks of a job run.
A sample runs several instances of the operator forward, then backward in one call of autograd, so that
weights and saved activations are as cold as in a model of some layers, and so that the start of the backward
pass is shared as there. Gradients of leaves are dropped as soon as they are made, as a trainer does that
accumulates into buffers of its own. A figure is the median over samples of the mean over processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import queue
import statistics
import sys
import tempfile
import threading
import time

from operator_cases import FLOAT, Case, layers, leaf, operator_cases, optimizer

SCHEMA = "mpopt.torch-measurements/1"


# Workers


class DeadlineOver(RuntimeError):
    """No time is left for a probe."""


class Team:
    """The workers of one run: they agree on the time of a probe, and start every sample together."""

    def __init__(self, rank, size, barrier, numbers):
        self.rank, self.size, self.barrier, self.numbers = rank, size, barrier, numbers

    def start(self, seconds, probes):
        """Starts the clock, once all have loaded PyTorch."""
        self.wait()
        self.end, self.left = time.time() + seconds, probes

    def share(self):
        """Seconds for the next probe: its part of what is left."""
        seconds = -self.largest(-(self.end - time.time()) / max(1, self.left))
        self.left -= 1
        if seconds <= 0:
            raise DeadlineOver("the deadline was over")
        return seconds

    def wait(self):
        if self.size > 1:
            self.barrier.wait(LOADING_SECONDS)

    def largest(self, value):
        self.numbers[self.rank] = value
        self.wait()
        largest = max(self.numbers[: self.size])
        self.wait()
        return largest


# Every probe is visited in several rounds, so that a burst of other work does not fall on one of them alone.
ROUNDS = {"quick": 2, "full": 3}
LEAST_SAMPLES, MOST_SAMPLES = 2, 100  # in one round


def sample(team, once, seconds):
    """What `once` returns, call by call, after a warm-up; as often as fits into the time."""
    start = time.perf_counter()
    once()
    if time.perf_counter() - start < seconds / 4:
        start = time.perf_counter()
        once()
    pilot = team.largest(time.perf_counter() - start)
    samples = []
    for _ in range(min(MOST_SAMPLES, max(LEAST_SAMPLES, int(seconds / max(1e-6, pilot)) - 2))):
        team.wait()
        samples.append(once())
    return samples


def sample_case(torch, team, case, seconds):
    """(Seconds of one instance, share of the time that the process had a core), forward and backward."""

    def once():
        cpu, start = time.process_time(), time.perf_counter()
        result = case.forward()
        middle = time.perf_counter()
        if result is not None:
            torch.autograd.backward(*result)
        end = time.perf_counter()
        share = (time.process_time() - cpu) / (end - start)
        return ((middle - start) / case.count, share), ((end - middle) / case.count, share), result is not None

    samples = sample(team, once, seconds)
    return [forward for forward, _, _ in samples], [backward for _, backward, both in samples if both]


def collective_cases(torch, dist, quick):
    """(what, bytes, function of a group); functions do nothing for `None`, the group of other ranks."""
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

    def exchange(buffer, group):
        """There and back between the group's first two ranks."""
        ranks = dist.get_process_group_ranks(group)[:2]
        if dist.get_rank() == ranks[0]:
            dist.send(buffer, ranks[1], group=group)
            dist.recv(buffer, ranks[1], group=group)
        elif dist.get_rank() == ranks[1]:
            dist.recv(buffer, ranks[0], group=group)
            dist.send(buffer, ranks[0], group=group)

    for exponent in (12, 17, 20, 23) if quick else (12, 15, 18, 21, 24):
        size = 1 << exponent
        whole = torch.zeros(size // FLOAT)

        def part(group, whole=whole):
            return whole[: whole.numel() // dist.get_world_size(group)].clone()

        yield "transfer", size, lambda group, whole=whole: exchange(whole, group)
        yield "allReduce", size, lambda group, whole=whole: dist.all_reduce(whole, group=group)
        yield "allGather", size, lambda group, whole=whole: gather(whole, part(group), group=group)
        if not quick:
            yield "reduceScatter", size, lambda group, whole=whole: scatter(part(group), whole, group=group)


def measure_operators(torch, team, cases, send):
    for make, arguments in cases:
        try:
            seconds = team.share()
            case = make(torch, *arguments)
        except DeadlineOver:
            raise
        except Exception as error:  # alike in every process: an operator that this PyTorch lacks
            send("failed", f"{make.__name__} {arguments}", str(error).splitlines()[0])
            continue
        rows = zip(("forward", "backward"), sample_case(torch, team, case, seconds))
        for (direction, samples), work in zip(rows, (case.forward_work, case.backward_work)):
            if samples:
                key = (case.operator, case.name, direction, case.unit, work, tuple(case.shape.items()))
                send("operator", key, samples)


def measure_collectives(torch, dist, team, groups, quick, send):
    for size, group in groups.items():
        for what, bytes_, run in collective_cases(torch, dist, quick):
            if what == "transfer" and size > 2:
                continue
            taking_part = team.rank < (2 if what == "transfer" else size)

            def once():
                start = time.perf_counter()
                if taking_part:
                    run(group)
                # Ranks wait for each other here: what share of a core they had says nothing.
                return (time.perf_counter() - start) / (2 if what == "transfer" else 1), 1.0

            try:
                samples = sample(team, once, team.share())
            except DeadlineOver:
                raise
            except RuntimeError as error:  # an operation that this gloo lacks, alike on every rank
                send("failed", f"{what} of {bytes_} bytes over {size} processes", str(error).splitlines()[0])
                continue
            if taking_part:
                send("collective", (what, size, bytes_), samples)


def measure_sharded_calls(torch, team, mesh, send):
    """
    What DTensor adds to a split linear operator, from a column-split and a row-split one on tiny tensors. The
    mesh has one rank, so that its collectives wait for nobody.
    """
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    plain, split = (torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)) for _ in range(2))
    parallelize_module(split, mesh, {"0": ColwiseParallel(), "1": RowwiseParallel()})
    layers(plain, split)
    x, gradient = leaf(torch, 4, 4), torch.ones(4, 4)
    for name, module in (("plain", plain), ("sharded", split)):
        forward = lambda module=module: ([module(x)], [gradient])  # noqa: E731
        samples = sample_case(torch, team, Case("call", name, {}, 2, forward, 1, 1), team.share())
        for direction, seconds in zip(("forward", "backward"), samples):
            send("pair", (name, direction), seconds)


def worker(rank, size, barrier, numbers, results, options):
    """Runs every probe and reports samples; what fails is reported by name and does not stop the others."""
    complete = False

    def send(*message):
        results.put((rank, *message))

    try:
        import torch
        import torch.distributed as dist

        if size > 1:
            # Loading takes seconds, so it comes before the clock runs.
            import torch.distributed.tensor.parallel  # noqa: F401
            from torch.distributed.device_mesh import init_device_mesh
        torch.set_num_threads(1)
        torch.manual_seed(rank)
        send("version", str(torch.__version__))  # a plain string, or the parent would load PyTorch
        quick = options["quick"]
        cases = list(operator_cases(quick))
        # Two probes of sharded calls; the messages count double, for large ones take longer than their share.
        probes = len(cases) + (2 + 2 * len(list(collective_cases(torch, dist, quick))) if size > 1 else 0)
        rounds = ROUNDS["quick" if quick else "full"]
        team = Team(rank, size, barrier, numbers)
        gloo = False
        if size > 1:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", options["interface"])
            try:
                dist.init_process_group("gloo", init_method=options["store"], rank=rank, world_size=size)
                sizes = sorted({2, size})
                groups = {count: dist.new_group(list(range(count))) for count in sizes}
                mesh = init_device_mesh("cpu", (size, 1), mesh_dim_names=("all", "one"))["one"]
                gloo = True
            except Exception as error:  # no network interface: operators are measured all the same
                send("failed", "gloo", str(error).splitlines()[0])
            gloo = -team.largest(-float(gloo)) > 0
        optimizer(torch, 4, 1).forward()  # loads the compiler's modules
        team.start(options["seconds"], probes * rounds)
        send("started")
        for _ in range(rounds):
            measure_operators(torch, team, cases, send)
            if gloo:
                measure_sharded_calls(torch, team, mesh, send)
                measure_collectives(torch, dist, team, groups, quick, send)
            complete = True
    except DeadlineOver as error:
        if not complete:
            send("failed", "the last probes", str(error))
    except threading.BrokenBarrierError:
        send("failed", "the last probes", "another process stopped")
    except Exception as error:
        send("failed", "the last probes", f"{type(error).__name__}: {error}".splitlines()[0])
        barrier.abort()
    send("done")


# The whole run


LOADING_SECONDS = 60


def collect(results, processes, seconds):
    """Samples by probe and process; ends when every worker has, or at the deadline."""
    samples, failures, version, running = {}, {}, None, set(range(len(processes)))
    end = time.time() + LOADING_SECONDS
    while running:
        try:
            rank, kind, *rest = results.get(timeout=0.25)
        except queue.Empty:
            gone = [rank for rank in running if not processes[rank].is_alive()]
            if gone or time.time() > end:
                reason = f"process {gone[0]} ended" if gone else "the deadline was over"
                failures["the last probes"] = reason
                break
            continue
        if kind == "done":
            running.discard(rank)
        elif kind == "started":
            end = time.time() + seconds
        elif kind == "version":
            version = rest[0]
        elif kind == "failed":
            failures.setdefault(*rest)
        else:
            samples.setdefault((kind, rest[0]), {}).setdefault(rank, []).extend(rest[1])
    return samples, failures, version


UNDISTURBED = 0.95


def summary(lists):
    """
    Median, p05, p95 and the 95 % interval of the median, over samples that are means over processes. Samples in
    which other work took a core away from a process are left out where at least two others are there, or else
    all but the two least disturbed.
    """
    rows = [(min(c for _, c in row), statistics.fmean(t for t, _ in row)) for row in zip(*lists.values())]
    rows.sort(reverse=True)
    means = sorted(seconds for i, (share, seconds) in enumerate(rows) if i < 2 or share >= UNDISTURBED)
    count = len(means)
    median = statistics.median(means)
    # Order statistics at n/2 +- 0.98 sqrt(n) enclose the median with 95 % (binomial, normal approximation).
    low, high = int(count / 2 - 0.98 * count**0.5), int(count / 2 + 0.98 * count**0.5) + 1
    interval = (means[min(count - 1, high)] - means[max(0, low)]) / 2 / median
    at = lambda share: means[min(count - 1, int(share * count))]  # noqa: E731
    return {
        "secondsMedian": median,
        "p05": at(0.05),
        "p95": at(0.95),
        "samples": count,
        "disturbed": sum(share < UNDISTURBED for share, _ in rows),
        "confidence95": interval,
    }


def assemble(samples, failures, version, processes):
    operators, collectives, pairs = [], [], {}
    for (kind, key), lists in samples.items():
        if kind == "operator":
            operator, name, direction, unit, work, shape = key
            row = {"operator": operator, "pass": direction, "unit": unit, "work": work, "shape": dict(shape)}
            operators.append({**row, **({"name": name} if name else {}), **summary(lists)})
        elif kind == "collective":
            what, ranks, bytes_ = key
            collectives.append({"collective": what, "ranks": ranks, "bytes": bytes_, **summary(lists)})
        else:
            pairs[key] = summary(lists)
    document = {
        "schema": SCHEMA,
        "torch": version,
        "processes": processes,
        "operators": operators,
        "collectives": collectives,
        "failedProbes": [{"probe": probe, "reason": reason} for probe, reason in failures.items()],
    }
    if {("sharded", "forward"), ("plain", "forward")} <= pairs.keys():
        document["shardedCall"] = {}
        for direction in ("forward", "backward"):
            row = dict(pairs["sharded", direction])
            for figure in ("secondsMedian", "p05", "p95"):
                row[figure] = max(1e-9, row[figure] - pairs["plain", direction]["secondsMedian"])
            document["shardedCall"][direction] = row
    return document


def main():
    parser = argparse.ArgumentParser(description="Measure the operators of a PyTorch training job on processors.")
    parser.add_argument("--processes", type=int, default=1, help="processes that run at once: the planned devices")
    parser.add_argument("--deadline", type=float, default=40, help="seconds, from when PyTorch has loaded")
    parser.add_argument("--quick", action="store_true", help="fewer sizes")
    parser.add_argument("--interface", default="lo", help="network interface that gloo uses")
    arguments = parser.parse_args()
    size = arguments.processes
    context = multiprocessing.get_context("spawn")
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{os.path.join(folder, 'store')}"
        options = {"quick": arguments.quick, "store": store, "interface": arguments.interface}
        # A last probe may take longer than planned.
        options["seconds"] = 0.9 * arguments.deadline
        barrier, numbers, results = context.Barrier(size), context.Array("d", size, lock=False), context.Queue()
        common = (size, barrier, numbers, results, options)
        processes = [context.Process(target=worker, args=(rank, *common), daemon=True) for rank in range(size)]
        for process in processes:
            process.start()
        samples, failures, version = collect(results, processes, arguments.deadline)
        for process in processes:
            process.join(0.2)
            if process.is_alive():
                process.kill()
    json.dump(assemble(samples, failures, version, size), sys.stdout)
    print()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
