"""lightning animate: the sample grids of a run as one moving picture."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse.typing import PositiveInt
from PIL import Image, ImageDraw

from lightning_gen.commands.messages import CommandParser
from lightning_gen.core import InputError, check_file, write_atomically

CAPTION = 16  # pixels


def run(args: Sequence[str]) -> None:
    """Write a moving picture; ``lightning animate --help`` lists the options."""
    parser = CommandParser(
        prog="lightning animate",
        description="Join the sample grids of a run, RUN/samples/<images seen>.png, into one moving picture. They are "
        "always of the same latents, so it shows how each image came to be.",
    )
    parser.add_argument("run", type=str, metavar="RUN", help="Folder of a run, such as runs/quickstart/version_0.")
    parser.add_argument("--out", type=str, required=True, help="File of the picture: .gif, .webp or .png (APNG).")
    parser.add_argument(
        "--seconds", type=PositiveInt, default=8, help="How long it lasts, before it stays and repeats."
    )
    options = parser.parse_args(list(args))
    out = Path(options.out)
    if out.suffix.lower() not in (".gif", ".webp", ".png"):
        raise InputError(f"--out {out}: give a name that ends in .gif, .webp or .png")
    check_file("--out", out)
    grids = find_grids(Path(options.run))
    frames = [captioned(read_grid(file), f"{seen:,} images") for seen, file in grids]
    if len({frame.size for frame in frames}) > 1:
        raise InputError(f"{options.run}/samples: the grids differ in size, so they are of runs with other settings")
    pause = max(20, 1000 * options.seconds // len(frames))
    durations = [pause] * (len(frames) - 1) + [max(pause, 2000)]
    kind = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG"}[out.suffix.lower()]
    write_atomically(
        out,
        lambda file: frames[0].save(
            file,
            format=kind,
            save_all=True,
            append_images=frames[1:],
            duration=durations,
            loop=0,
            lossless=True,  # of WebP, which blurs small pixels otherwise
        ),
    )
    print(f"{len(frames)} pictures joined in {out}", file=sys.stderr)


def find_grids(run: Path) -> list[tuple[int, Path]]:
    """Return (images seen, file) of a run's sample grids, in that order.

    Raises:
        InputError: where there are none.
    """
    if not run.is_dir():
        raise InputError(f"{run}: no such folder: give that of a run, such as runs/quickstart/version_0")
    found = [(int(file.stem), file) for file in (run / "samples").glob("*.png") if re.fullmatch(r"\d+", file.stem)]
    if not found:
        raise InputError(
            f"{run}: no sample grids in samples/: give the folder of a run with grid.n above 0, such as "
            "runs/quickstart/version_0"
        )
    return sorted(found)


def read_grid(file: Path) -> Image.Image:
    """Return the picture in a file in colour.

    Raises:
        InputError: for a file that is no picture, or was cut short.
    """
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except OSError as error:
        raise InputError(f"{file}: is not a readable picture: remove it") from error


def captioned(image: Image.Image, text: str) -> Image.Image:
    """Return the picture with a line of text below it."""
    sheet = Image.new("RGB", (image.width, image.height + CAPTION), "white")
    sheet.paste(image)
    ImageDraw.Draw(sheet).text((4, image.height + 2), text, fill="black")
    return sheet
