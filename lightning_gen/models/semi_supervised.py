"""A variational autoencoder that learns classes from few labels."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_gen.data import Batch
from lightning_gen.errors import InputError
from lightning_gen.models.base import Likelihood, evaluating, keyed_seed, probe
from lightning_gen.models.vae import VAE
from lightning_gen.networks.mlp import check_positive
from lightning_gen.objectives.precision import at_least_float32
from lightning_gen.spec import ImageSpec


class SemiSupervisedVAE(VAE):
    r"""Class-conditional VAE of images of which few are labelled (M2: Kingma et al. 2014).

    With :math:`L(x, y)` the objective of an image given its class, less :math:`\log p(y)` of even classes, a labelled
    image costs :math:`L(x, y)`, and of another one each class counts as the classifier :math:`q(y \mid x)` says:

    .. math:: U(x) = \sum_y q(y \mid x)\, \big(L(x, y) + \log q(y \mid x)\big), \qquad
        \text{loss} = \mathbb E[L \text{ or } U] - \alpha\, \mathbb E_{\text{labelled}} \log q(y \mid x)

    The sum over classes is exact, so a step costs as many passes as there are classes. Which training images are
    labelled is drawn by ``label_seed`` from their places alone; labels of the others are never looked at.

    Without labels the likelihood is the bound on :math:`\log \sum_y p(y)\, p(x \mid y)`, and :meth:`encode` takes the
    classifier's class. Evaluation reports the classifier's ``accuracy``.

    Args:
        spec: images, the data module's; must have classes.
        encoder: as in :class:`VAE`, class-conditional or not.
        decoder: as in :class:`VAE`, class-conditional.
        optimizer: factory of the optimizer of everything.
        classifier: factory of a network from the spec and the number of classes, (unit images (B, C, H, W), None) ->
            logits (B, num_classes): an encoder, too. Batch norm does harm where few images of a batch have labels.
        labelled: how many training images are labelled. Of data without an ImageDataModule, whose number is not known,
            it is the first ones by their index.
        label_seed: draws which ones.
        alpha: :math:`\alpha`, in nats of an image for a nat of the classifier.
        options: as in :class:`VAE`; the objective must cost each image by itself.

    Raises:
        InputError: for numbers out of range, images without classes, or parts that do not fit; at the start of training
            for more labels than images, or a class without any.
    """

    def __init__(
        self,
        spec: ImageSpec,
        encoder: Callable[[ImageSpec, int], nn.Module],
        decoder: Callable[[ImageSpec, int, int], nn.Module],
        optimizer: OptimizerCallable,
        classifier: Callable[[ImageSpec, int], nn.Module],
        labelled: int = 100,
        label_seed: int = 0,
        alpha: float = 1.0,
        **options,
    ):
        super().__init__(spec, encoder, decoder, optimizer, **options)
        check_positive(self, labelled=labelled)
        if not alpha >= 0:
            raise InputError(f"SemiSupervisedVAE: alpha must be at least 0, got {alpha}")
        if not self.conditional:
            raise InputError("SemiSupervisedVAE: the decoder must be class-conditional: give it conditional: true")
        if self.objective.needs_moments or self.objective.draws_prior:
            raise InputError(
                f"SemiSupervisedVAE: {type(self.objective).__name__} looks at a batch as a whole, in which each image "
                "is there once for each class: take ELBO or IWAE"
            )
        self.classifier = classifier(self.spec, self.spec.num_classes)
        self.labelled = labelled
        self.label_seed = label_seed
        self.alpha = alpha
        logits = probe(self, self.classifier, torch.zeros(2, *self.spec.shape), None)
        if logits.shape != (2, self.spec.num_classes):
            raise InputError(
                f"SemiSupervisedVAE: {type(self.classifier).__name__} must give {self.spec.num_classes} numbers, one "
                f"for each class, and gave {tuple(logits.shape[1:])}"
            )
        self.accuracy = MulticlassAccuracy(self.spec.num_classes, average="micro")
        self._labelled_places: Tensor | None = None

    # --- training -------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self._labelled_places = None
        if self.num_images == 1:
            return
        if self.labelled > self.num_images:
            raise InputError(f"SemiSupervisedVAE: labelled is {self.labelled} of {self.num_images} training images")
        generator = torch.Generator().manual_seed(keyed_seed(self.label_seed, "labelled"))
        chosen = torch.randperm(self.num_images, generator=generator)[: self.labelled]
        labels = torch.as_tensor(self.trainer.datamodule.images("train").labels)[chosen]
        missing = set(range(self.spec.num_classes)) - set(labels.tolist())
        if missing:
            raise InputError(
                f"SemiSupervisedVAE: none of the {self.labelled} labelled images is of class {min(missing)}: raise "
                "labelled, or take another label_seed"
            )
        self._labelled_places = torch.zeros(self.num_images, dtype=torch.bool).index_fill_(0, chosen, True)

    def is_labelled(self, index: Tensor) -> Tensor:
        """Return which training images, by their index (B,), are labelled: bool (B,)."""
        if self._labelled_places is None:
            return index < self.labelled
        self._labelled_places = self._labelled_places.to(index.device)
        return self._labelled_places[index]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        n, classes = len(batch.levels), self.spec.num_classes
        # The same noise for every class of an image: they are told apart by what they say, not by luck.
        noise = self._noise(self.objective.samples, n).repeat(1, classes, 1)
        every = torch.arange(classes, device=self.device).repeat_interleave(n)
        terms = self.terms(batch.levels.repeat(classes, 1, 1, 1), every, noise)
        costs = (self.objective(terms) + math.log(classes)).view(classes, n).T
        log_q = self._log_classes(batch.levels)
        unknown = (log_q.exp() * (costs + log_q)).sum(1)

        seen = self.is_labelled(batch.index)
        labels = torch.where(seen, batch.labels, 0)[:, None]
        known, surprise = costs.gather(1, labels)[:, 0], -log_q.gather(1, labels)[:, 0]
        # By the share of labelled images in the data, not in the batch, a step is a mean over images.
        share = self.labelled / self.num_images if self._labelled_places is not None else 1.0
        generative = torch.where(seen, known, unknown).mean()
        classification = (surprise * seen).mean() / share
        loss = generative + self.alpha * classification
        self.track(loss=loss, bound=generative, cross_entropy=classification)
        self.count_images(batch)
        return loss

    # --- the protocol ---------------------------------------------------------------------------------------------

    def classify(self, levels: Tensor) -> Tensor:
        """Return log q(y | x), (B, num_classes), of levels (B, C, H, W)."""
        self.spec.check(levels)
        with evaluating(self):
            return self._log_classes(levels)

    def _log_classes(self, levels: Tensor) -> Tensor:
        logits = self.classifier(self.spec.to_unit(levels, self.dtype), None)
        return torch.log_softmax(at_least_float32(logits), 1)

    def likelihood(self, levels: Tensor, labels: Tensor | None = None) -> Likelihood:
        r"""Return the importance-weighted bound on log p(x | y), or without labels on
        :math:`\log \frac1C \sum_y p(x \mid y)`."""
        if labels is not None:
            return super().likelihood(levels, labels)
        each = [
            super(SemiSupervisedVAE, self).likelihood(levels, torch.full((len(levels),), label, device=self.device))
            for label in range(self.spec.num_classes)
        ]
        nats = torch.stack([likelihood.nats for likelihood in each]).logsumexp(0) - math.log(len(each))
        return each[0]._replace(nats=nats)

    def encode(self, levels: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return posterior means (B, D) of levels (B, C, H, W), of the class that the classifier takes them for where
        no labels are given."""
        return super().encode(levels, self.classify(levels).argmax(1) if labels is None else labels)

    # --- how it stands --------------------------------------------------------------------------------------------

    def take_in(self, batch: Batch) -> None:
        self.accuracy.update(self.classify(batch.levels), batch.labels)

    def own_figures(self) -> tuple[dict[str, float], dict[str, bool]]:
        """Return the share of images that the classifier recognises as what they are."""
        accuracy = float(self.accuracy.compute())
        self.accuracy.reset()
        return {"accuracy": accuracy}, {"accuracy": True}
