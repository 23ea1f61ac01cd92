"""What a sweep costs beside training: time per trial, and once per sweep, against importing Lightning.

    python benchmarks/sweep.py

Sweeps of 1 and of 1 + N trials, one after the other at a time, of the smallest run there is (a few steps and one
evaluation, on digits), take turns with a process that only imports ``lightning.pytorch.cli``. What the longer sweep
takes more than the shorter one, less what its runs spent in training by their own clock, is the overhead of N trials:
starting Python, imports, reading the config, data, taking and telling the trial. The rest is spent once per sweep:
starting up, and parsing its command lines in a process of its own. One JSON line with medians.
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

IMPORT = [sys.executable, "-c", "import lightning.pytorch.cli"]
SWEEP = """
program: lightning
command: ['${env}', '${program}', fit, --config, configs/quickstart.yaml, '${args}']
method: random
metric: {name: val/fid_digits_heldout, goal: minimize}
parameters:
  model.generator_optimizer.lr: {distribution: log_uniform_values, min: 1.0e-4, max: 1.0e-3}
  budget.images: {value: 256}
  evaluation.n: {value: 500}
"""


def seconds(command: list[str]) -> float:
    """Return the wall time of a fresh process."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    elapsed = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{command} ended with {done.returncode}: {done.stderr[-500:]}")
    return elapsed


def sweep(root: Path, trials: int) -> float:
    """Return the time of a sweep that was not spent in training."""
    file = root / "overhead.yaml"
    file.write_text(SWEEP)
    name = f"{trials}-{time.monotonic_ns()}"
    script = str(Path(sys.executable).parent / "lightning")
    whole = seconds([script, "sweep", str(file), "--count", str(trials), "--root", str(root), "--name", name])
    summaries = [json.loads(path.read_text()) for path in (root / name).glob("version_*/summary.json")]
    if len(summaries) != trials:
        raise SystemExit(f"{len(summaries)} of {trials} trials ran: see {root / name}")
    return whole - sum(summary["seconds"] for summary in summaries)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--trials", type=int, default=3, help="N")
    options = parser.parse_args()
    times: dict[str, list[float]] = {"import": [], "per trial": [], "per sweep": []}
    with tempfile.TemporaryDirectory() as folder:
        seconds(IMPORT)
        sweep(Path(folder), 1)
        for _ in range(options.repeats):
            one = sweep(Path(folder), 1)
            times["import"].append(seconds(IMPORT))
            more = sweep(Path(folder), 1 + options.trials)
            times["per trial"].append((more - one) / options.trials)
            times["per sweep"].append(one - times["per trial"][-1])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    ratios = [trial / alone for trial, alone in zip(times["per trial"], times["import"], strict=True)]
    line = {
        "benchmark": "sweep",
        "what": "time of a trial beside training, against importing lightning.pytorch.cli",
        "ratio": round(statistics.median(ratios), 3),
        "limit": 1.3,
        **{f"{name.replace(' ', '_')}_seconds": round(statistics.median(found), 3) for name, found in times.items()},
        "trials": options.trials,
        "repeats": options.repeats,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "commit": commit.strip() or None,
        "command": " ".join(sys.argv),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
