"""lightning export: a classifier's weights as one safetensors file, for metrics to take features from."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_gen.commands.messages import CommandParser
from lightning_gen.errors import InputError
from lightning_gen.models import Classifier, load
from lightning_gen.networks.classifier import SmallClassifier, save_classifier


def run(args: Sequence[str]) -> None:
    """Export a classifier; ``lightning export --help`` lists the options."""
    parser = CommandParser(
        prog="lightning export",
        description="Write the (averaged) weights of a trained Classifier as FILE.safetensors, to be used as "
        "--evaluation.extractor ClassifierExtractor --evaluation.extractor.weights FILE.safetensors.",
    )
    parser.add_argument("checkpoint", type=str, metavar="CKPT", help="Checkpoint file.")
    parser.add_argument("out", type=str, metavar="FILE", help="File to write; must end in .safetensors.")
    options = parser.parse_args(args)
    out = Path(options.out)
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: the name must end in .safetensors")
    model = load(options.checkpoint)
    if not isinstance(model, Classifier) or not isinstance(model.network, SmallClassifier):
        raise InputError(f"{options.checkpoint} holds no Classifier of a SmallClassifier")
    save_classifier(model.network, out)
    print(f"{out} written ({out.stat().st_size / 1e6:.2f} MB)", file=sys.stderr)
