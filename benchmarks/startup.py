"""Start-up: how fast help and mistakes answer, and how long `lightning fit` takes to its first step.

    python benchmarks/startup.py

Every measurement is a fresh process; the commands take turns, and medians are printed, one JSON line per comparison.
Time to the first step is compared with importing ``lightning.pytorch.cli, torchmetrics, torchvision`` alone plus the
data (loading the training images in a process that has imported those).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMPORTS = "import lightning.pytorch.cli, torchmetrics, torchvision"
FIRST_STEP = """
import os, sys
from lightning_gen.cli import main
import lightning_gen.commands.training
from lightning_gen.models import GAN
GAN.training_step = lambda *args: os._exit(0)
main(["fit", "--config", "configs/quickstart.yaml", "--run.root", sys.argv[1]])
"""
DATA = f"""
{IMPORTS}
import time
from lightning_gen.data import Digits
started = time.perf_counter()
Digits().load("train")
print(time.perf_counter() - started)
"""


def seconds(command: list[str], code: int = 0) -> float:
    """Return the wall time of a fresh process."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    elapsed = time.perf_counter() - started
    if done.returncode != code:
        raise SystemExit(f"{command} ended with {done.returncode}, not {code}: {done.stderr[-500:]}")
    return elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    script = str(Path(sys.executable).parent / "lightning")
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "help": ([script, "--help"], 0),
            "unknown verb": ([script, "fitt"], 2),
            "missing config": ([script, "fit", "--config", "nope.yaml"], 2),
            "imports": ([sys.executable, "-c", IMPORTS], 0),
            "first step": ([sys.executable, "-c", FIRST_STEP, folder], 0),
        }
        for command, code in commands.values():
            seconds(command, code)
        times: dict[str, list[float]] = {name: [] for name in [*commands, "data"]}
        for _ in range(options.repeats):
            for name, (command, code) in commands.items():
                times[name].append(seconds(command, code))
            out = subprocess.run([sys.executable, "-c", DATA], capture_output=True, text=True, check=True).stdout
            times["data"].append(float(out))
    medians = {name: statistics.median(values) for name, values in times.items()}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    where = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "commit": commit.strip() or None}
    where |= {"repeats": options.repeats, "command": " ".join(sys.argv)}
    for name in ("help", "unknown verb", "missing config"):
        line = {"benchmark": "startup", "what": name, "seconds": round(medians[name], 3), "limit": 1.5, **where}
        print(json.dumps(line))
    ratios = [
        first / (imports + data)
        for first, imports, data in zip(times["first step"], times["imports"], times["data"], strict=True)
    ]
    strict = [
        (first - data) / imports
        for first, imports, data in zip(times["first step"], times["imports"], times["data"], strict=True)
    ]
    line = {
        "benchmark": "startup",
        "what": "time to the first step, less the data, against the imports alone",
        "ratio": round(statistics.median(strict), 3),
        "limit": 1.3,
        "ratio_of_sums": round(statistics.median(ratios), 3),
        "first_step_seconds": round(medians["first step"], 3),
        "imports_seconds": round(medians["imports"], 3),
        "data_seconds": round(medians["data"], 3),
        **where,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
