"""Pictures of held-out images at each evaluation: reconstructed, interpolated and completed by the model."""

from contextlib import suppress

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_gen.callbacks.grid import WritesPictures
from lightning_gen.core import Completes, Decodes, Encodes, Unavailable, check_at_least
from lightning_gen.data import ImageDataModule
from lightning_gen.evaluation import completions, interpolations, reconstructions


class HeldOutPictures(WritesPictures, Callback):
    """Write ``samples/<images seen>-<name>.png`` at each evaluation: of each kind, if the model can do it.

    Reconstructions are decoded from the latents of held-out images: a row of images, below it what came back.
    Interpolations are decoded from latents between those of two held-out images, which stand at the ends of the row: on
    great circles where the latent is standard normal, else on straight lines, and for a class-conditional model between
    images of one class. Latents that are no real numbers, such as codes, have nothing between them. Completions are of
    images whose lower half was hidden: in each row the image, what was shown of it, and what was drawn below. The
    images are always the same, so progress can be followed, and no randomness of training is used.

    Args:
        n: images to reconstruct, or as many as the held-out part has; 0 for none.
        pairs: pairs of images to interpolate, or as many as there are; 0 for none.
        completions: images to complete, or as many as there are; 0 for none.

    Raises:
        InputError: for numbers below 0.
    """

    def __init__(self, n: int = 32, pairs: int = 8, completions: int = 8):
        check_at_least("pictures", 0, n=n, pairs=pairs, completions=completions)
        self.n = n
        self.pairs = pairs
        self.completions = completions

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        wanted = trainer.state.fn == "fit" and not trainer.sanity_checking
        if not wanted or not isinstance(trainer.datamodule, ImageDataModule):
            return
        images = trainer.datamodule.images("val")
        back = isinstance(pl_module, Encodes) and isinstance(pl_module, Decodes)
        for draw, count, able in (
            (reconstructions, self.n, back),
            (interpolations, self.pairs, back),
            (completions, self.completions, isinstance(pl_module, Completes)),
        ):
            with suppress(Unavailable):
                sheet = draw(pl_module, images, count) if able and count else None
                if sheet is not None:
                    self.write(sheet, f"{pl_module.images_seen:012d}-{draw.__name__}.png")
