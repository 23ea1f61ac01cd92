"""The handwritten digits that ship inside scikit-learn."""

import numpy as np

from lightning_gen.core import ImageSpec
from lightning_gen.data.source import METRICS_OF_CLASSES, Images, Source


class Digits(Source):
    """1,797 real handwritten digits of 8 x 8 pixels with 17 levels and 10 classes; needs no download.

    The test part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998) as scikit-learn
    ships it, shuffled by the one permutation ``numpy.random.default_rng(0).permutation(1797)`` and cut into 1,097
    training, 200 validation and 500 test images.
    """

    name = "digits"
    spec = ImageSpec(channels=1, height=8, width=8, levels=17, num_classes=10)
    classes = tuple("0123456789")
    extractor = "lightning_gen.metrics.DigitsExtractor"
    metrics = METRICS_OF_CLASSES

    def read(self, part: str) -> Images:
        """Return one part of the fixed permutation."""
        # scikit-learn takes a second to import: only those who use the digits wait for it.
        from sklearn.datasets import load_digits

        digits = load_digits()
        rows = {"train": slice(1097), "val": slice(1097, 1297), "test": slice(1297, 1797)}[part]
        chosen = np.random.default_rng(0).permutation(1797)[rows]
        return Images(digits.images[chosen].astype(np.uint8)[:, None], digits.target[chosen].astype(np.int64))
