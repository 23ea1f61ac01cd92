"""Disentanglement: whether latents have the known factors of generated digits each to itself, by MIG and SAP.

    python benchmarks/disentanglement.py --config configs/vae/*-warped-digits.yaml --runs runs/warped \\
        --part test > disentanglement.jsonl
    python benchmarks/table.py disentanglement.jsonl

Trains each config, whose images must be ``lightning_gen.data.WarpedDigits``, by ``lightning fit`` once per seed (a
finished run of it that lies in ``--runs`` is scored as it is). Codes are the centres of the posteriors of all held-out
images: the validation part unless ``--part test`` is given, which is for published tables only. The mutual information
gap (Chen et al. 2018) puts them into 20 bins, the separated attribute predictability (Kumar et al. 2018) fits lines,
since all four factors are ordered. Beside them stands what it costs, bits per dimension of the same images.

Prints one JSON line per config: mean, sample standard deviation and value of each seed; then one line per score and
config, its ratio to each config trained by BetaTCVAE, seed by seed. Seconds are those that a run had a processor.
"""

from __future__ import annotations

import os

# Before NumPy and torch are imported: times are comparable on one thread only.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from digits import (
    add_checkpoint_option,
    add_run_options,
    config_row,
    criterion,
    printer,
    run_script,
    source_of,
    surroundings,
    train_at_once,
    with_budget,
)
from likelihood import bits

from lightning_gen.core.descriptions import build
from lightning_gen.core.errors import InputError
from lightning_gen.core.protocols import Encodes
from lightning_gen.data import WarpedDigits
from lightning_gen.metrics import mutual_information_gap, separated_attribute_predictability
from lightning_gen.models import GenerativeModule

SCORES = {"mig": mutual_information_gap, "sap": separated_attribute_predictability}


def known_factors(config: str) -> WarpedDigits:
    """Return the source of a config's images.

    Raises:
        InputError: for a missing config, or images whose factors are not known.
    """
    return build(source_of(config), WarpedDigits, where=f"{config}: data.source")


class FactorScorer:
    """What every run's model goes through.

    Args:
        source: of images and their factors.
        part: the held-out part.
    """

    def __init__(self, source: WarpedDigits, part: str):
        self.images, self.factors = source.load(part), source.factors(part)
        self.facts: dict[str, Any] = {}

    def model(self, model: GenerativeModule, n: int, seed: int) -> dict[str, float]:
        """Return the scores of the codes of all images, and keep in ``facts`` what the model was trained by.

        Raises:
            InputError: for a model without codes (N, D) or an objective.
        """
        if not isinstance(model, Encodes) or not hasattr(model, "objective"):
            raise InputError(f"{type(model).__name__} has no codes that an objective could disentangle")
        codes = model.encode(torch.from_numpy(self.images.levels)).numpy()
        found, about = bits(model, self.images)
        self.facts = {"objective": type(model.objective).__name__, "likelihood": about, "figure": next(iter(found))}
        return {name: score(codes, self.factors) for name, score in SCORES.items()} | found


def config_line(config: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the row of a config, one run per seed."""
    source = known_factors(config)
    scorer = FactorScorer(source, options.part)
    options.n = len(scorer.factors)
    about = {"factors": list(source.factor_names), "source": source_of(config), "part": options.part}
    return config_row(config, scorer, options) | scorer.facts | about


def criteria(rows: Sequence[dict]) -> list[dict]:
    """Return the ratios of scores to those of models trained by BetaTCVAE on the same images, in pairs of seeds."""
    return [
        criterion(f"{name.upper()} below BetaTCVAE's", mine, best, 1.0, name)
        for best in rows
        if best["objective"] == "BetaTCVAE"
        for mine in rows
        if mine["objective"] != "BetaTCVAE" and mine["source"] == best["source"]
        for name in SCORES
    ]


def compare(options: argparse.Namespace, args: Sequence[str]) -> None:
    """Train whatever is not finished, and print the lines."""
    if options.jobs > 1:
        train_at_once(options.config, options.seeds, Path(options.runs), options.jobs, options.budget)
    show = printer(surroundings("disentanglement", args))
    rows = [show(config_line(config, options)) for config in options.config]
    for line in criteria(rows):
        show(line)


def parse(args: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", action="extend", nargs="+", required=True, help="configs of `lightning fit`")
    add_run_options(parser)
    add_checkpoint_option(parser)
    return with_budget(parser.parse_args(args))


def main(args: Sequence[str] | None = None) -> None:
    args = list(sys.argv[1:] if args is None else args)
    options = parse(args)
    run_script(options, lambda: compare(options, args), known_factors)


if __name__ == "__main__":
    main()
