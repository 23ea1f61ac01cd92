"""Sources of images, and the one data module that makes batches of them."""

from lightning_gen.data.augment import Augmentation, HorizontalFlip, RandomShift
from lightning_gen.data.cifar10 import CIFAR10
from lightning_gen.data.digits import Digits
from lightning_gen.data.fashion_mnist import FashionMNIST
from lightning_gen.data.folder import ImageFolder
from lightning_gen.data.gaussian_grid import GaussianGrid
from lightning_gen.data.module import ImageDataModule
from lightning_gen.data.source import Batch, Images, Source
from lightning_gen.data.stream import EvalLoader, TrainStream
from lightning_gen.data.warped_digits import WarpedDigits

__all__ = [
    "CIFAR10",
    "Augmentation",
    "Batch",
    "Digits",
    "EvalLoader",
    "FashionMNIST",
    "GaussianGrid",
    "HorizontalFlip",
    "ImageDataModule",
    "ImageFolder",
    "Images",
    "RandomShift",
    "Source",
    "TrainStream",
    "WarpedDigits",
]
