"""The report: how long a page of many runs takes to build, how large it is, and what watching costs.

    python benchmarks/report.py

Makes a folder of runs with curves of noise and grids of digits (seeded), then prints one JSON line with the time of
``lightning report`` inside its process (reading, thinning, encoding, writing), of the whole command with its imports,
of a look at folders in which nothing has changed, and of a rebuild after one run has changed. The limit is for a core
of its own: where other work shares it, as much time as the process had the processor.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything reads it: one core is what the limit is about

import argparse
import importlib.metadata
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from digits import cpu_model
from PIL import Image
from sklearn.datasets import load_digits

from lightning_gen.callbacks.recorder import git_commit
from lightning_gen.report import Report

SECONDS, BYTES = 10.0, 15_000_000
FIGURES = ("fid_digits", "fid_digits_heldout", "is_digits", "precision_digits", "recall_digits", "copy_share_pixels")
SIDE, FACTOR, BORDER = 8, 6, 2  # of the images in a grid, as evaluation/pictures.py enlarges them


def make_runs(root: Path, runs: int, rows: int, columns: int, grids: int, seed: int) -> None:
    """Write folders of runs as ``lightning fit`` leaves them.

    Args:
        root: where.
        runs: how many.
        rows: of each metrics.csv.
        columns: of each metrics.csv, besides images seen; every cell has a number.
        grids: sample grids of each, of 8x8 images.
        seed: of all of it.
    """
    source = np.random.default_rng(seed)
    digits = (load_digits().images * (255 / 16)).round().astype(np.uint8)
    names = [f"val/{name}" for name in FIGURES][:columns]
    names += [f"train/figure_{i}" for i in range(columns - len(names))]
    for k in range(runs):
        folder = root / f"experiment_{k // 10}" / f"version_{k % 10}"
        (folder / "samples").mkdir(parents=True)
        seen = 1000 * np.arange(1, rows + 1)
        trend = source.uniform(0.5, 3, columns) * np.exp(-np.linspace(0, source.uniform(1, 5), rows))[:, None]
        values = (trend + 1) * np.exp(0.1 * source.standard_normal((rows, columns)))
        lines = [",".join([str(n), *map(repr, row)]) for n, row in zip(seen.tolist(), values.tolist(), strict=True)]
        (folder / "metrics.csv").write_text("\r\n".join([",".join(["images_seen", *names]), *lines, ""]), newline="")
        last = dict(zip(names, values[-1].tolist(), strict=True))
        summary = {
            "status": "finished",
            "last": last,
            "best": {name: value for name, value in last.items() if "fid" in name},
            "images_seen": int(seen[-1]),
            "seconds": float(source.uniform(60, 600)),
            "parameters": {"generator": int(source.integers(10_000, 1_000_000)), "discriminator": 50_000},
            "seed": k % 3,
        }
        (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "config.yaml").write_text(yaml.safe_dump(config(k, float(10 ** source.uniform(-4, -2)))))
        for i in range(grids):
            chosen = digits[source.integers(len(digits), size=64)]
            grid(chosen).save(folder / "samples" / f"{int(seen[(i + 1) * rows // grids - 1]):012d}.png")


def config(number: int, rate: float) -> dict:
    """Return a config with as many keys as a real one, some of which differ."""
    optimizer = {"class_path": "torch.optim.Adam", "init_args": {"lr": rate, "betas": [0.0, 0.99], "eps": 1e-8}}
    model = {
        "generator": {
            "class_path": "lightning_gen.networks.MLPGenerator",
            "init_args": {"widths": [64 * (number % 4 + 1)]},
        },
        "generator_optimizer": optimizer,
        "critic_steps": 1 + number % 3,
    }
    source = {"class_path": "lightning_gen.data.Digits"}
    return {
        "seed_everything": number % 3,
        "model": {"class_path": "lightning_gen.models.GAN", "init_args": model},
        "data": {"class_path": "lightning_gen.data.ImageDataModule", "init_args": {"source": source, "batch_size": 64}},
        "trainer": {f"option_{i}": None for i in range(100)},
    }


def grid(images: np.ndarray) -> Image.Image:
    """Return images (N, 8, 8) in a square grid, enlarged, with borders."""
    columns = math.isqrt(len(images))
    side = SIDE * FACTOR
    sheet = np.full((columns * (side + BORDER) + BORDER,) * 2, 128, np.uint8)
    for i, image in enumerate(images[: columns**2]):
        top, left = (BORDER + place * (side + BORDER) for place in divmod(i, columns))
        sheet[top : top + side, left : left + side] = image.repeat(FACTOR, axis=0).repeat(FACTOR, axis=1)
    return Image.fromarray(sheet)


def measure(root: Path, out: Path) -> dict[str, float]:
    """Return seconds of a build, of a look when nothing has changed, and of a rebuild after one run has."""
    started, processor = time.perf_counter(), time.process_time()
    report = Report([root])
    report.scan()
    out.write_text(report.page(), encoding="utf-8")
    times = {"seconds": time.perf_counter() - started, "processor_seconds": time.process_time() - processor}
    started = time.perf_counter()
    if report.scan():
        raise SystemExit("nothing was changed, but the report says so")
    times["idle_look_seconds"] = time.perf_counter() - started
    one = next(root.rglob("metrics.csv"))
    one.write_text(one.read_text().rpartition("\n1000000,")[0] + "\n")
    started = time.perf_counter()
    if not report.scan():
        raise SystemExit("a run was changed, but the report does not see it")
    out.write_text(report.page(live=10.0), encoding="utf-8")
    times["rebuild_seconds"] = time.perf_counter() - started
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--columns", type=int, default=20)
    parser.add_argument("--grids", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="also leave the page in this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder) / "runs", Path(folder) / "report.html"
        make_runs(root, options.runs, options.rows, options.columns, options.grids, options.seed)
        started = time.perf_counter()
        command = [sys.executable, "-m", "lightning_gen", "report", str(root), "--out", str(out)]
        subprocess.run(command, check=True, capture_output=True)
        whole, size = time.perf_counter() - started, out.stat().st_size
        if options.keep:
            options.keep.write_bytes(out.read_bytes())
        times = measure(root, out)
    packages = ("numpy", "pillow", "scikit-learn", "plotly", "pyyaml")
    line = {
        "benchmark": "report",
        "runs": options.runs,
        "rows": options.rows,
        "columns": options.columns,
        "grids": options.grids,
        **{name: round(value, 3) for name, value in times.items()},
        "limit_seconds": SECONDS,
        "command_seconds": round(whole, 3),
        "bytes": size,
        "limit_bytes": BYTES,
        "met": times["processor_seconds"] < SECONDS and size < BYTES,
        "command": " ".join(["python", "benchmarks/report.py", *sys.argv[1:]]),
        "machine": f"{cpu_model()}, {os.cpu_count()} cores",
        "threads": 1,
        "versions": {"python": sys.version.split()[0], **{name: importlib.metadata.version(name) for name in packages}},
        "git_commit": git_commit(),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
