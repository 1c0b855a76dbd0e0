"""
Starts ranks as srun, mpirun (Open MPI's or Hydra's) or deepspeed do, by the name that it is called by: the same
options, the same variables, and all ranks end when one fails. Prints the words it was given, as JSON. FAKE_RANKS starts
another number of them, FAKE_SCATTER deals them over nodes in turn.
"""

import json
import os
import signal
import subprocess
import sys
import time


def main():
    name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
    flavour = os.environ.get("FAKE_MPI", "open")
    if words == ["--version"]:
        print("mpirun (Open MPI) 4.1.4" if flavour == "open" else "HYDRA build details: Version: 4.1")
        return 0
    options, at = {}, 0
    alone = {"--oversubscribe", "--no_local_rank", "--unbuffered"}
    while at < len(words) and words[at].startswith("-"):
        key, equals, value = words[at].partition("=")
        if not equals and key not in alone:
            at += 1
            value = words[at]
        options.setdefault(key, []).append(value)
        at += 1
    command = words[at:]
    if name == "deepspeed":
        command = [sys.executable, "-u", *command]
    ranks, each = {
        "srun": lambda: (options["--ntasks"][0], options["--ntasks-per-node"][0]),
        "mpirun": lambda: (
            options["-np"][0],
            options["-ppn"][0] if "-ppn" in options else options["--map-by"][0].split(":")[1],
        ),
        "deepspeed": lambda: (
            int(options["--num_nodes"][0]) * int(options["--num_gpus"][0])
            if "--num_nodes" in options
            else options["--include"][0].count(",") + options["--include"][0].count(":"),
            options.get("--num_gpus", [2])[0],
        ),
    }[name]()
    ranks, each = int(os.environ.get("FAKE_RANKS", ranks)), int(each)
    print("WORDS " + json.dumps(words[:at]), flush=True)
    children = []
    for rank in range(ranks):
        local = rank // -(-ranks // each) if "FAKE_SCATTER" in os.environ else rank % each
        master = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": options.get("--master_port", ["0"])[0]}
        mine = {
            "srun": {"SLURM_PROCID": rank, "SLURM_NTASKS": ranks, "SLURM_LOCALID": local},
            "mpirun": {
                "OMPI_COMM_WORLD_RANK": rank,
                "OMPI_COMM_WORLD_SIZE": ranks,
                "OMPI_COMM_WORLD_LOCAL_RANK": local,
                "OMPI_COMM_WORLD_LOCAL_SIZE": each,
            }
            if flavour == "open"
            else {"PMI_RANK": rank, "PMI_SIZE": ranks, "MPI_LOCALRANKID": local, "MPI_LOCALNRANKS": each},
            "deepspeed": {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": local, "LOCAL_SIZE": each, **master},
        }[name]
        environment = {**os.environ, **{key: str(value) for key, value in mine.items()}}
        children.append(subprocess.Popen(command, env=environment))
    signal.signal(signal.SIGTERM, lambda *_: [child.terminate() for child in children])
    while True:
        codes = [child.poll() for child in children]
        bad = next((code for code in codes if code), None)
        if bad is not None:
            for child in children:
                child.terminate()
            for child in children:
                child.wait()
            return bad if bad > 0 else 128 - bad
        if None not in codes:
            return 0
        time.sleep(0.05)


sys.exit(main())
