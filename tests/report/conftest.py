"""Folders of runs as `lightning fit` and `lightning sweep` leave them, made up."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

FIGURES = ("val/fid_digits", "val/fid_digits_heldout", "val/precision_digits", "val/copy_share_pixels")


@pytest.fixture(scope="session")
def make_grid():
    """Make a sample grid as the callback does: pixels enlarged by a whole factor, with borders a third of it wide."""

    def make(seed=0, rows=8, columns=8, size=8, factor=6, levels=17, channels=1) -> Image.Image:
        source = np.random.default_rng(seed)
        border = max(1, factor // 3)
        side = size * factor
        sheet = np.full((rows * (side + border) + border, columns * (side + border) + border, channels), 128, np.uint8)
        for row in range(rows):
            for column in range(columns):
                pixels = (source.integers(levels, size=(size, size, channels)) * 255 // (levels - 1)).astype(np.uint8)
                top, left = border + row * (side + border), border + column * (side + border)
                big = pixels.repeat(factor, axis=0).repeat(factor, axis=1)
                sheet[top : top + side, left : left + side] = big
        return Image.fromarray(sheet[..., 0] if channels == 1 else sheet)

    return make


@pytest.fixture(scope="session")
def make_run(make_grid):
    """Write the folder of one run and return it."""

    def make(
        folder, seed=0, level=1.0, evaluations=4, status="finished", config=None, summary=None, grids=True
    ) -> Path:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        source = np.random.default_rng(seed)
        seen = [10_000 * (i + 1) for i in range(evaluations)]
        names = ["images_seen", "train/loss_critic", *FIGURES]
        rows = []
        for i, images in enumerate(seen):
            early = {"images_seen": images - 5_000, "train/loss_critic": 1 + float(source.normal()) / 10}
            curve = level * (1 + 4 * math.exp(-i)) * (1 + 0.05 * float(source.normal()))
            figures = dict(zip(FIGURES, (curve, curve + 1, 1 / (1 + curve), 0.5), strict=True))
            rows += [early, {"images_seen": images, **figures}]
        with (folder / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
        last = {name: rows[-1][name] for name in FIGURES}
        best = {name: min(row[name] for row in rows if name in row) for name in FIGURES[:2]}
        facts = {
            "status": status,
            "last": last,
            "best": best,
            "images_seen": seen[-1],
            "seconds": 10.0 * evaluations * (1 + seed % 3),
            "parameters": {"generator": 1000 * (1 + seed % 4), "discriminator": 500},
            "controls": {
                "floor": {"val/fid_digits_heldout": 1.46},
                "memoriser": {"val/fid_digits_heldout": 1.34, "val/copy_share_pixels": 0.6},
            },
            "seed": seed,
            "host": "elsewhere",
            "command": ["/usr/bin/lightning", "fit", "--config", "configs/gan/some.yaml"],
        }
        (folder / "summary.json").write_text(json.dumps(facts | (summary or {})))
        described = {
            "seed_everything": seed,
            "model": {
                "class_path": "lightning_gen.models.GAN",
                "init_args": {"generator": {"class_path": "MLPGenerator", "init_args": {"widths": [64 + seed, 64]}}},
            },
            "data": {
                "class_path": "lightning_gen.data.ImageDataModule",
                "init_args": {"source": {"class_path": "lightning_gen.data.Digits"}},
            },
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(described | (config or {}), sort_keys=False))
        if grids:
            (folder / "samples").mkdir(exist_ok=True)
            for i, images in enumerate(seen):
                make_grid(100 * seed + i).save(folder / "samples" / f"{images:012d}.png")
        return folder

    return make


@pytest.fixture(scope="session")
def make_sweep(make_run):
    """Write the trials of a made-up sweep, of which the learning rate decides nearly everything; return its folder."""

    def make(folder, trials=24, seed=0, name="gan", grids=False) -> Path:
        source = np.random.default_rng(seed)
        for k in range(trials):
            rate = float(10 ** source.uniform(-5, -1))
            loss = str(source.choice(["Hinge", "Wasserstein", "LeastSquares"]))
            width = int(source.choice([32, 64, 128]))
            steps, ema = int(source.integers(1, 6)), bool(source.integers(2))
            penalties = [
                {"class_path": f"lightning_gen.objectives.{penalty}", "init_args": {"weight": (0.5, 2.0, 2.0)[k % 3]}}
                for penalty in (("R1", "R2"), ("R1", "R2"), ("R1",))[k % 3]
            ]
            value = 1 + 2 * abs(math.log10(rate) + 3) + 0.3 * (loss == "Wasserstein") + 0.05 * float(source.normal())
            state = (
                "failed" if k % 11 == 7 else "pruned" if k % 6 == 4 else "running" if k == trials - 1 else "finished"
            )
            run = make_run(
                Path(folder) / f"version_{k}",
                k,
                value,
                2 if state == "pruned" else 4,
                state,
                grids=grids and k % 4 == 0,
            )
            (run / "trial.json").write_text(
                json.dumps(
                    {
                        "sweep": name,
                        "trial": k,
                        "metric": "val/fid_digits",
                        "goal": "minimize",
                        "parameters": {
                            "model.generator_optimizer.lr": rate,
                            "model.loss": loss,
                            "model.generator.widths": [width, width],
                            "model.critic_steps": steps,
                            "model.penalties": penalties,
                            "ema": ema,
                            "data.batch_size": 64,
                        },
                        "command": ["lightning", "fit", "--config", "configs/gan/some.yaml", f"--model.loss={loss}"],
                        "state": state,
                        "value": None if state in ("failed", "running") else value,
                        "reason": "RuntimeError: the loss is not a number" if state == "failed" else None,
                    }
                )
            )
        return Path(folder)

    return make
