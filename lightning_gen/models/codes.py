"""The codes of a trained model as images, to which any family is fitted as their prior."""

from collections.abc import Sequence

import numpy as np
import torch

from lightning_gen.core import InputError
from lightning_gen.data import ImageDataModule, Images, Source
from lightning_gen.models.checkpoint import load, load_data, read_checkpoint
from lightning_gen.models.state import CHECKPOINT_KEY
from lightning_gen.models.vqvae import VQVAE

IMAGES_AT_ONCE = 500


class Codes(Source):
    """Grids of codes that a trained :class:`VQVAE` makes of the images it was trained on, as images (1, h, w).

    The levels are the codes, labels are kept, and parts are those of the images' own source. Nothing is written beside
    the checkpoint: a part is encoded when it is asked for, with the averaged weights, so codes and weights cannot come
    apart, and the test part is not touched before a test is. Images are encoded as they are, without augmentation.

    A model fitted to them is a prior: ``lightning sample CKPT --sampler.prior CKPT_OF_THE_PRIOR``.

    Args:
        checkpoint: of the trained model.
        fingerprint_of_codes: of the weights that encode; None takes what the file has. Checkpoints of priors say which
            it was, so that they are never combined with other weights.
        trust: further packages from which classes may be built.

    Raises:
        InputError: for a checkpoint of another model, or of other weights than the fingerprint's; on
            reading where the data are not found.
    """

    name = "codes"

    def __init__(self, checkpoint: str, fingerprint_of_codes: str | None = None, trust: Sequence[str] = ()):
        self.checkpoint = str(checkpoint)
        self.trust = tuple(trust)
        self.fingerprint_of_codes = fingerprint_of_codes
        model, state = self._open()
        self.fingerprint_of_codes = model.fingerprint()
        self.spec = model.code_spec
        data = load_data(state, self.trust)
        if not isinstance(data, ImageDataModule):
            raise InputError(
                f"Codes.checkpoint: {checkpoint} was trained on a {type(data).__name__}, which has no parts"
            )
        self.images = data.source
        self.parts = self.images.parts

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
        return model, checkpoint[CHECKPOINT_KEY]

    def prepare(self) -> None:
        """Let the images' own source download what it needs."""
        self.images.prepare()

    def read(self, part: str) -> Images:
        """Encode the images of ``part``."""
        levels, labels = self.images.load(part)
        model = self._open()[0].to("cuda" if torch.cuda.is_available() else "cpu")
        grids = np.empty((len(levels), *self.spec.shape), self.spec.array_dtype)
        for first in range(0, len(levels), IMAGES_AT_ONCE):
            chunk = torch.from_numpy(np.array(levels[first : first + IMAGES_AT_ONCE])).to(model.device)
            grids[first : first + IMAGES_AT_ONCE, 0] = model.encode(chunk).to("cpu", self.spec.dtype).numpy()
        return Images(grids, labels)
