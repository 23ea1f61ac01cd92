"""lightning export: a classifier's weights as one safetensors file, for metrics to take features from."""

import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_gen.commands.messages import CommandParser
from lightning_gen.core import InputError, Unavailable
from lightning_gen.models import load
from lightning_gen.models.classifier import export_network


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
    try:
        export_network(load(options.checkpoint), out)
    except Unavailable as error:
        raise InputError(f"{options.checkpoint} {error}") from error
    print(f"{out} written ({out.stat().st_size / 1e6:.2f} MB)", file=sys.stderr)
