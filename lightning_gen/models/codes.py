"""The codes of a trained VQ-VAE as a data set of images, to which a prior is fitted."""

import os
from collections.abc import Sequence

import numpy as np
import torch

from lightning_gen.core import InputError
from lightning_gen.data import ImageDataModule, Images, Source
from lightning_gen.models.checkpoint import load, load_data, read_checkpoint
from lightning_gen.models.vqvae import VQVAE

IMAGES_AT_ONCE = 500


class Codes(Source):
    """The code grids of a trained :class:`VQVAE` for its own training data, as images (1, h, w).

    Levels are code indices; labels and parts are those of the original source. No codes are stored: each part is
    encoded when it is read, with the averaged weights and without augmentation, so codes and weights always match.

    A model fitted to this source is a prior: ``lightning sample CKPT --sampler.prior CKPT_OF_THE_PRIOR``.

    Args:
        checkpoint: file of the trained VQVAE.
        fingerprint_of_codes: hash of the encoding weights; None takes that of the file. A prior's checkpoint stores it,
            so that the prior cannot be combined with other weights.
        trust: further packages from which classes may be built.
        root: folder in which the images are now, where they have moved since.

    Raises:
        InputError: for a checkpoint of another model or with another fingerprint; on reading, for data that are not
            found.
    """

    name = "codes"

    def __init__(
        self,
        checkpoint: str,
        fingerprint_of_codes: str | None = None,
        trust: Sequence[str] = (),
        root: str | None = None,
    ):
        self.checkpoint = os.path.abspath(checkpoint)
        self.root = root
        self.trust = tuple(trust)
        self.fingerprint_of_codes = fingerprint_of_codes
        model, stored = self._open()
        self.fingerprint_of_codes = model.fingerprint()
        self.spec = model.code_spec
        self.data = load_data(stored, self.trust, root)
        if not isinstance(self.data, ImageDataModule):
            raise InputError(
                f"Codes.checkpoint: {checkpoint} was trained on a {type(self.data).__name__}, which has no parts"
            )
        self.parts = self.data.source.parts
        self.classes = self.data.source.classes

    def _open(self) -> tuple[VQVAE, dict]:
        checkpoint = read_checkpoint(self.checkpoint)
        model = load(self.checkpoint, trust=self.trust, checkpoint=checkpoint)
        if not isinstance(model, VQVAE):
            raise InputError(f"Codes.checkpoint: {self.checkpoint} holds a {type(model).__name__}, which has no codes")
        if self.fingerprint_of_codes not in (None, model.fingerprint()):
            raise InputError(
                f"Codes.checkpoint: {self.checkpoint} has other weights than when these codes were made: give the "
                "checkpoint as it was then, or fit the prior anew"
            )
        return model, checkpoint

    def prepare(self) -> None:
        """Prepare the original source, for example by downloading it."""
        self.data.prepare_data()

    def read(self, part: str) -> Images:
        """Encode the images of ``part``."""
        levels, labels = self.data.images(part)  # not those that the model was trained on, where they are held out
        model = self._open()[0].to("cuda" if torch.cuda.is_available() else "cpu")
        grids = np.empty((len(levels), *self.spec.shape), self.spec.array_dtype)
        for first in range(0, len(levels), IMAGES_AT_ONCE):
            chunk = torch.from_numpy(np.array(levels[first : first + IMAGES_AT_ONCE])).to(model.device)
            grids[first : first + IMAGES_AT_ONCE, 0] = model.encode(chunk).to("cpu", self.spec.dtype).numpy()
        return Images(grids, labels)
