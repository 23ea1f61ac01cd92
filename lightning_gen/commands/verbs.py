"""The verbs of the command line, and how one ends in an error; imports nothing slow."""

import sys

TRAINING = {
    "fit": "train a model:  lightning fit --config configs/quickstart.yaml",
    "validate": "score a trained model on the validation part",
    "test": "score a trained model on the test part (for published figures only)",
    "predict": "draw one sample for every validation image",
}
COMMANDS = {
    "sample": "draw images from a checkpoint:  lightning sample CKPT --n 64 --out DIR",
    "evaluate": "score a checkpoint, or folders:  lightning evaluate CKPT --n 2000 --json out.json",
    "ais": "bound a GAN's likelihood, by importance sampling:  lightning ais CKPT --n 100",
    "interpolate": "a picture of images between random latents:  lightning interpolate CKPT --out between.png",
    "animate": "a run's sample grids as a moving picture:  lightning animate RUN --out run.gif",
    "sweep": "tune a config by many runs:  lightning sweep sweeps/gan.yaml --count 24 --jobs 2",
    "report": "one page of all runs:  lightning report runs --out report.html",
    "export": "write a classifier's weights for metrics:  lightning export CKPT FILE.safetensors",
}


def fail(message: str, code: int = 2) -> None:
    """Print one line on stderr and exit."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)
