"""
One rank of `mpopt launch`: gives the training script the variables that PyTorch reads, whoever started the rank, and
runs it below itself. Needs nothing but Python. Its one argument is an order of mpopt, JSON in base64, so that no
starter's shell reads a word of it.

It says who it is, `MPOPT_RANK {...}`, puts `[rank N] ` before each line of the script, and says how the script
ended, `MPOPT_EXIT {...}`, whatever ended it. Ranks that are not the plan's are refused with `MPOPT_REFUSED {...}`
before the script starts.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

# Rank, world size, rank and ranks on the node: in each line the variables of one starter, those of Open MPI before
# those of MPICH and its kin.
NAMES = {
    "torchrun": [("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")],
    "deepspeed": [("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE")],
    "srun": [("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", None)],
    "mpirun": [
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    ],
}
# A script that ignores SIGTERM is killed after this many seconds.
GRACE_SECONDS = 4


class Refused(Exception):
    """The ranks are not the plan's."""


def rank_variables(order: dict, found: dict[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT from what the starter has set."""
    starter, per_node = order["starter"], order["ranksPerNode"]
    known = NAMES[starter]
    names = next((each for each in known if each[0] in found), None)
    if names is None:
        raise Refused(f"Expected {' or '.join(each[0] for each in known)} from {starter} but found neither.")
    missing = [name for name in names[:2] if not found.get(name, "").isdigit()]
    if missing:
        raise Refused(f"Expected a number in {missing[0]} from {starter} but found {found.get(missing[0])!r}.")
    rank, world = int(found[names[0]]), int(found[names[1]])
    if world != order["world"]:
        raise Refused(
            f"Expected {order['world']} ranks for the plan's mesh ({order['mesh']}) but {starter} started {world}."
        )
    local = found.get(names[2], "")
    if local.isdigit() and int(local) != rank % per_node:
        raise Refused(
            f"Expected {per_node} neighbouring ranks on each node, so that rank {rank} is number {rank % per_node} "
            f"of its node, but {starter} made it number {local}."
        )
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_RANK": str(rank % per_node),
        "LOCAL_WORLD_SIZE": str(per_node),
        "MASTER_ADDR": found.get("MASTER_ADDR") or order.get("masterAddress") or first_host(found),
        "MASTER_PORT": found.get("MASTER_PORT") or order["masterPort"],
    }


def first_host(found: dict[str, str]) -> str:
    """The first of Slurm's hosts, which are written as `node[01-04,07],other`."""
    hosts = found.get("SLURM_STEP_NODELIST") or found.get("SLURM_JOB_NODELIST") or ""
    match = re.match(r"([^\[,]+)(?:\[(\d+)[^\]]*\]([^,]*))?", hosts)
    if match is None:
        raise Refused("Expected MASTER_ADDR, the host of rank 0, but found nothing.")
    return "".join(part or "" for part in match.groups())


def write(descriptor: int, data: bytes) -> None:
    """All of it; what nobody reads any more is dropped."""
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        pass


def say(kind: str, **fields: object) -> None:
    # One write, so that lines of several ranks do not mix.
    write(1, f"{kind} {json.dumps(fields)}\n".encode())


def copy_lines(source: int, descriptor: int, prefix: bytes) -> None:
    rest = b""
    while chunk := os.read(source, 65536):
        *lines, rest = re.split(rb"\r\n|\n|\r", rest + chunk)
        for line in lines:
            write(descriptor, prefix + line + b"\n")
    if rest:
        write(descriptor, prefix + rest + b"\n")


def die_with_parent() -> None:
    """Linux ends the script when the process above it is killed."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    except (AttributeError, ImportError, OSError):
        pass


def run(command: list[str], environment: dict[str, str], rank: int) -> int:
    """The script's exit status, as a shell gives it."""
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, preexec_fn=die_with_parent
    )

    def kill() -> None:
        try:
            os.kill(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def forward(number: int, _frame: object) -> None:
        try:
            os.kill(child.pid, number)
        except ProcessLookupError:
            return
        timer = threading.Timer(GRACE_SECONDS, kill)
        timer.daemon = True
        timer.start()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, forward)
    say("MPOPT_RANK", rank=rank, host=socket.gethostname(), pid=child.pid)
    prefix = f"[rank {rank}] ".encode()
    pumps = [
        threading.Thread(target=copy_lines, args=(stream.fileno(), descriptor, prefix), daemon=True)
        for stream, descriptor in ((child.stdout, 1), (child.stderr, 2))
    ]
    for pump in pumps:
        pump.start()
    _, status, usage = os.wait4(child.pid, 0)
    for pump in pumps:
        pump.join(2)  # processes that the script left behind may hold its streams
    code = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    say("MPOPT_EXIT", rank=rank, exitCode=code, peakResidentBytes=peak)
    return code if code >= 0 else 128 - code


def main() -> int:
    order = json.loads(base64.b64decode(sys.argv[1]))
    try:
        variables = rank_variables(order, dict(os.environ))
    except Refused as refused:
        say("MPOPT_REFUSED", message=str(refused))
        return 1
    environment = {**os.environ, **order["environment"], **variables}
    return run(order["command"], environment, int(variables["RANK"]))


if __name__ == "__main__":
    # Threads may wait for streams that others hold.
    status = main()
    os._exit(status)
