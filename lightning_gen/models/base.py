"""The protocol of every model: a LightningModule about images of one ImageSpec."""

from __future__ import annotations

import hashlib
import inspect
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

import lightning_gen
from lightning_gen.data import Batch
from lightning_gen.describe import class_path, describe
from lightning_gen.errors import InputError
from lightning_gen.spec import ImageSpec

CHECKPOINT_FORMAT = 1
CHECKPOINT_KEY = "lightning_gen"
MOST_SKIPPED_IN_A_ROW = 10


class TrainingDiverged(RuntimeError):
    """Too many steps in a row met a loss or gradient that is not finite."""


class Likelihood(NamedTuple):
    """What a model says about images: ``nats`` (B,) of the discrete levels, and of which kind the figure is."""

    nats: Tensor
    kind: str
    num_samples: int = 1


@runtime_checkable
class HasLikelihood(Protocol):
    """A model that gives log p(levels), or a bound or estimate of it, in nats."""

    def likelihood(self, levels: Tensor, labels: Tensor | None = None) -> Likelihood: ...


@runtime_checkable
class HasLatent(Protocol):
    """A model with a latent space."""

    def encode(self, levels: Tensor, labels: Tensor | None = None) -> Tensor: ...

    def decode(self, latent: Tensor, labels: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class HasCompletion(Protocol):
    """A model that draws the missing pixels of images given the others."""

    def complete(self, levels: Tensor, known: Tensor, labels: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class HasPixelTerms(Protocol):
    """A model whose likelihood is a sum over pixels: terms (B, C, H, W) in nats, of a chain rule or of independence."""

    def pixel_nats(self, levels: Tensor, labels: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class HasPixelPredictions(Protocol):
    """A model that predicts pixels: log-probabilities (B, C, H, W, L) of levels, whose terms sum to its likelihood."""

    def pixel_log_probs(self, levels: Tensor, labels: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class HasPixelMean(Protocol):
    """A decoder of standard normal latents that gives pixels without saying how likely others are.

    ``normal_latents`` returns how many numbers a latent has, and raises InputError where the model's latents are
    distributed otherwise; ``pixel_mean`` maps latents (B, D) to unit images (B, C, H, W), differentiably.
    """

    def normal_latents(self) -> int: ...

    def pixel_mean(self, latent: Tensor, labels: Tensor | None = None) -> Tensor: ...


@runtime_checkable
class HasLatentLikelihood(Protocol):
    r"""A model :math:`p(x) = \int p(z)\, p(x|z)\, dz` whose two factors can be computed, differentiably in z.

    ``draw_prior`` gives latents (n, D), ``log_prior`` and ``log_conditional`` nats (B,), the latter of the discrete
    levels, and ``draw_levels`` levels (B, C, H, W) from :math:`p(x|z)`.
    """

    def draw_prior(self, n: int, generator: torch.Generator) -> Tensor: ...

    def log_prior(self, latent: Tensor) -> Tensor: ...

    def log_conditional(self, levels: Tensor, latent: Tensor, labels: Tensor | None = None) -> Tensor: ...

    def draw_levels(
        self, latent: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor: ...


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put ``module`` into eval mode without gradients for a while; every submodule's mode is restored."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def probe(owner: nn.Module, part: nn.Module, *inputs: Tensor | None) -> Tensor:
    """Return what a network makes of inputs in eval mode, without gradients: whether it is of the right kind.

    Args:
        owner: whose network it is, named in messages.
        part: the network.
        inputs: examples.

    Raises:
        InputError: for a network that cannot be called so.
    """
    with evaluating(part):
        try:
            return part(*inputs)
        except (TypeError, RuntimeError) as error:
            shapes = ", ".join("labels" if x is None or x.ndim == 1 else str(tuple(x.shape)) for x in inputs)
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{type(owner).__name__}: {type(part).__name__} cannot be called with {shapes}: {reason}"
            ) from error


def keyed_seed(*key: int | str) -> int:
    """Return a 63-bit seed that depends only on ``key``, the same on every machine."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def full_precision(device_type: str) -> AbstractContextManager:
    """Switch autocast off, where it is on: entering it for nothing costs as much as a small layer."""
    return torch.autocast(device_type, enabled=False) if torch.is_autocast_enabled(device_type) else nullcontext()


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of all tensors together, a scalar; zero for none."""
    if not tensors:
        return torch.zeros(())
    # torch.nn.utils.get_total_norm sorts tensors by device and type first, which small steps would feel.
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))


class RunningMean:
    """Mean of tensors whose own means are only taken when many have come together: small steps must not pay for it."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0
        self.waiting: list[Tensor] = []

    def add(self, value: Tensor) -> None:
        """Take in the mean of ``value``."""
        self.waiting.append(value)
        if len(self.waiting) == 64:
            self.value()

    def value(self) -> float:
        """Return the mean of everything so far."""
        if self.waiting:
            if len({value.shape for value in self.waiting}) == 1:
                self.total += float(torch.stack(self.waiting).mean()) * len(self.waiting)
            else:
                self.total += float(torch.stack([value.mean() for value in self.waiting]).sum())
            self.count += len(self.waiting)
            self.waiting = []
        return self.total / self.count


class ImageModule(LightningModule):
    """A LightningModule about images of one :class:`ImageSpec`.

    It counts images seen, keys its randomness on them, keeps running means of what it is told to track, skips steps
    that meet something that is not finite (weights, optimizers, averages and buffers stay as they were), and describes
    itself in checkpoints. A family calls :meth:`count_images` once at the end of its ``training_step``, and ``super()``
    in ``on_train_start``, ``on_train_end``, ``on_train_batch_start`` and ``on_before_optimizer_step`` if it has them.

    Args:
        spec: the images; the data module's. A plain mapping is accepted too.
    """

    _init_arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any):
        self = super().__new__(cls)
        try:
            bound = inspect.signature(cls.__init__).bind(self, *args, **kwargs)
        except TypeError:  # copying calls __new__ bare; for anybody else __init__ raises the same in better words
            return self
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        for parameter in bound.signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:  # a subclass that passes the rest on
                arguments |= arguments.pop(parameter.name)
            elif parameter.kind is parameter.VAR_POSITIONAL and not arguments[parameter.name]:
                del arguments[parameter.name]
        self.__dict__["_init_arguments"] = arguments
        return self

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        step = cls.__dict__.get("training_step")
        if inspect.isfunction(step):
            # Lightning looks the signature up at every step, and working it out takes its time.
            step.__signature__ = inspect.signature(step)

    def __init__(self, spec: ImageSpec):
        super().__init__()
        self.spec = ImageSpec.of(spec)
        self.images_seen = 0
        self.skipped_steps = 0
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        self._skipped_in_a_row = 0
        self._skip_reason = ""
        self._own_ranks: tuple[int, int] | None = None  # while training, when they are asked for many times a step
        self._last_step_skipped = False
        self._step_buffers: list[Tensor] = []
        self._kept_buffers: list[Tensor] = []
        self._tracked: dict[str, RunningMean] = {}
        self._pending: dict[str, Tensor] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the name of every hook that it calls, and torch looks long for what a name could stand for.
        if type(value) in (str, int, float, bool, type(None)) and name in self.__dict__:
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    # --- randomness and ranks -------------------------------------------------------------------------------------

    @property
    def attached_trainer(self) -> Trainer | None:
        """The trainer, or None before one has the model; Lightning's ``trainer`` raises then."""
        try:
            return self.trainer
        except RuntimeError:
            return None

    @property
    def ranks(self) -> tuple[int, int]:
        """This process's rank and the number of ranks."""
        if self._own_ranks is not None:
            return self._own_ranks
        trainer = self.attached_trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

    def random(self, purpose: str) -> torch.Generator:
        """Return a generator on this device, keyed on (seed, purpose, images seen).

        It is the same on every rank: draw for the global batch and keep :meth:`own_rows`, so that a run depends
        neither on the number of ranks nor on having been stopped and resumed.
        """
        return torch.Generator(self.device).manual_seed(keyed_seed(self.seed, purpose, self.images_seen))

    def own_rows(self, n: int) -> slice:
        """Return the rows of a global draw that belong to this rank, where each rank has ``n``."""
        rank, _ = self.ranks
        return slice(rank * n, (rank + 1) * n)

    def mean_over_ranks(self, value: Tensor) -> Tensor:
        """Return the mean of a detached tensor over all ranks, the same on each; to be called on all of them."""
        _, world = self.ranks
        if world == 1:
            return value
        total = value.detach().clone()
        torch.distributed.all_reduce(total)
        return total / world

    # --- training -------------------------------------------------------------------------------------------------

    def count_images(self, batch: Batch, skipped: bool = False) -> None:
        """Advance the images seen by the global batch; to be called once at the end of every training step.

        Args:
            batch: this rank's batch; all ranks have equally many images.
            skipped: whether the step met something that is not finite and changed nothing.

        Raises:
            TrainingDiverged: after ten skipped steps in a row.
        """
        _, world = self.ranks
        self.images_seen += len(batch.levels) * world
        if skipped or not self.automatic_optimization:  # else the gradients, not known yet, decide
            self._conclude_step(skipped)

    def on_train_start(self) -> None:
        self._step_buffers = list(self.buffers())
        self._kept_buffers = [torch.empty_like(buffer) for buffer in self._step_buffers]
        self._own_ranks = (self.trainer.global_rank, self.trainer.world_size)

    def on_train_end(self) -> None:
        self._own_ranks = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # A skipped step must leave nothing behind, and forward passes move batch statistics and spectral norms.
        if self._kept_buffers:
            torch._foreach_copy_(self._kept_buffers, self._step_buffers)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        # As Optimizer.zero_grad(), without its entry in a profile that nobody takes: small steps feel it.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if gradient_clip_val is not None:  # else Lightning looks long for the reason to do nothing
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Under automatic optimization: leave out the step where a gradient is not finite (ranks have averaged it)."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = total_norm([p.grad for p in parameters])
        trainer = self.attached_trainer
        scaled = trainer is not None and str(trainer.precision) == "16-mixed"  # whose scaler skips by itself
        finite = scaled or math.isfinite(norm)
        if finite:
            self.track(gradient_norm=norm)
        else:
            self.report_skip("the gradient of the loss")
            for parameter in parameters:
                parameter.grad = None
        self._conclude_step(not finite)

    def _conclude_step(self, skipped: bool) -> None:
        self._last_step_skipped = skipped
        pending = self._pending.copy()
        self._pending.clear()  # kept: torch looks long at what a module is given anew
        if not skipped:
            self._skipped_in_a_row = 0
            for name, value in pending.items():
                self._tracked.setdefault(name, RunningMean()).add(value)
            return
        for buffer, kept in zip(self._step_buffers, self._kept_buffers, strict=True):
            buffer.copy_(kept)
        self.skipped_steps += 1
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW:
            raise TrainingDiverged(
                f"{MOST_SKIPPED_IN_A_ROW} steps in a row met a loss or gradient that is not finite "
                f"({self._skip_reason}); lower the learning rate, add or strengthen a penalty, or use precision 32-true"
            )

    @property
    def last_step_skipped(self) -> bool:
        """Whether the last training step changed nothing (EMA then stays as it was, too)."""
        return self._last_step_skipped

    def track(self, **values: Tensor) -> None:
        """Note figures of this step for the running means logged as ``train/<name>``; they stay on the device.

        They are taken over once the step is known to be taken, and dropped if it was skipped.
        """
        for name, value in values.items():
            self._pending[name] = value.detach()

    def tracked(self) -> dict[str, float]:
        """Return the means since the last call, and start anew."""
        means = {name: mean.value() for name, mean in self._tracked.items()}
        self._tracked = {}
        return means

    def descend(
        self,
        name: str,
        loss: Tensor,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        clip: float | None = None,
    ) -> bool:
        """Take one optimizer step on ``parameters`` alone, or none on any rank where something is not finite.

        Gradients are averaged over ranks exactly once, in one collective that also carries the loss, so all ranks
        agree before any of them steps. No other parameter's ``grad`` is touched: gradients are asked for by name.

        Args:
            name: of the loss, for messages.
            loss: scalar, the mean over this rank's batch.
            parameters: what the optimizer moves.
            optimizer: a plain torch optimizer.
            clip: largest norm of the gradient, over all parameters and ranks; a longer one is scaled down to it.

        Returns:
            Whether the step was taken.
        """
        with full_precision(self.device.type):
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        used = [(p, g) for p, g in zip(parameters, gradients, strict=True) if g is not None]
        _, world = self.ranks
        loss = loss.detach()
        if world > 1:
            flat = torch.cat([loss.reshape(1).to(used[0][1].dtype), *(g.reshape(-1) for _, g in used)])
            torch.distributed.all_reduce(flat)
            flat /= world
            loss, averaged = flat[0], flat[1:].split([g.numel() for _, g in used])
            used = [(p, g.view_as(p)) for (p, _), g in zip(used, averaged, strict=True)]
        norm = total_norm([g for _, g in used])
        if not torch.isfinite(loss + norm):
            finite_loss = bool(torch.isfinite(loss))
            self.report_skip(f"the gradient of the {name} loss" if finite_loss else f"the {name} loss ({float(loss)})")
            return False
        if clip is not None:
            # Not in place: gradients of terms of a sum may share their memory.
            scaled = torch._foreach_mul([g for _, g in used], (clip / norm).clamp(max=1.0))
            used = [(p, g) for (p, _), g in zip(used, scaled, strict=True)]
        for parameter, gradient in used:
            # A double backward may give other strides, and fused optimizers read gradients as flat memory.
            fits = gradient.stride() == parameter.stride()
            parameter.grad = gradient if fits else torch.empty_like(parameter).copy_(gradient)
        optimizer.step()
        for parameter, _ in used:
            parameter.grad = None
        self.track(**{f"gradient_norm_{name}": norm})
        self.count_step()
        return True

    def count_step(self) -> None:
        """Advance Lightning's ``global_step`` under manual optimization: it would take no checkpoint without steps."""
        trainer = self.attached_trainer
        if trainer is not None and not self.automatic_optimization:
            # Raw optimizers are faster than Lightning's wrappers, but they do not count as steps by themselves.
            progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
            progress.increment_ready()
            progress.increment_completed()

    def report_skip(self, what: str) -> None:
        """Remember what was not finite, and say so once per run of skipped steps."""
        where = f"at {self.images_seen:,} images seen"
        self._skip_reason = f"the last was {what} {where}"
        if self._skipped_in_a_row == 0 and self.ranks[0] == 0:
            warning = f"warning: {what} is not finite {where}: step skipped, weights unchanged"
            (print if self.attached_trainer is None else self.print)(warning)

    # --- figures --------------------------------------------------------------------------------------------------

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log as Lightning does, with images seen as the x-axis."""
        super().log(name, value, *args, **kwargs)
        if kwargs.get("logger") is not False:
            kwargs = {key: item for key, item in kwargs.items() if key in ("on_step", "on_epoch", "batch_size")}
            super().log("step", torch.tensor(self.images_seen, dtype=torch.float64), **kwargs)

    def report(
        self, figures: dict[str, float], higher_is_better: dict[str, bool] | None = None, detail: bool = False
    ) -> None:
        """Give the figures of an evaluation to loggers, to callbacks that monitor them, and to the run's summary.

        Call it at the end of a validation or test epoch, on all ranks, with figures that are equal on all of them.

        Args:
            figures: value by name, such as ``val/accuracy``.
            higher_is_better: for the names of which a best value is to be kept.
            detail: whether they are too many for the line on the screen.
        """
        for name, value in figures.items():
            if value != value:
                rank_zero_warn(f"{name} is not a number at {self.images_seen:,} images seen")
            super().log(name, torch.tensor(value, dtype=torch.float64), logger=False, sync_dist=self.ranks[1] > 1)
        if self.trainer.state.fn == "fit":
            for logger in self.trainer.loggers:
                logger.log_metrics(figures, step=self.images_seen)
        for callback in self.trainer.callbacks:
            if note := getattr(callback, "note_details" if detail else "note_figures", None):
                note(figures, higher_is_better or {})

    # Callbacks compute the figures that families share, through the protocol; a family may have figures of its own.
    def take_in(self, batch: Batch) -> None:
        """Take in one batch of held-out images, towards the figures of :meth:`own_figures`."""

    def own_figures(self) -> tuple[dict[str, float], dict[str, bool]]:
        """Return the family's own figures of the images taken in since the last call, equal on all ranks, and of those
        with a direction whether higher is better."""
        return {}, {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.take_in(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.take_in(batch)

    def on_validation_epoch_end(self) -> None:
        self._report_own_figures("val")

    def on_test_epoch_end(self) -> None:
        self._report_own_figures("test")

    def _report_own_figures(self, part: str) -> None:
        figures, better = ({f"{part}/{name}": value for name, value in item.items()} for item in self.own_figures())
        if figures:
            self.report(figures, better)

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def description(self) -> dict[str, Any]:
        """Return the plain data from which this model can be built again, without its spec.

        Raises:
            InputError: naming an argument that cannot be stored, such as a lambda.
        """
        name = type(self).__name__
        for parameter in inspect.signature(type(self).__init__).parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL and parameter.name in self._init_arguments:
                raise InputError(f"{name}: a checkpoint cannot name what is given as *{parameter.name}: use keywords")
        arguments = {
            key: describe(value, f"{name}({key}=...)") for key, value in self._init_arguments.items() if key != "spec"
        }
        return {"class_path": class_path(type(self)), "init_args": arguments}

    def averaged_modules(self) -> dict[str, nn.Module]:
        """Return what an exponential moving average averages, by name; by default the whole model."""
        return {"model": self}

    def diagnostics(self, batch: Batch) -> dict[str, Tensor]:
        """Return family-specific figures of one batch, for callbacks that know no family."""
        return {}

    def counters(self) -> dict[str, int]:
        """Return further integers that exact resume needs; a family adds its own."""
        return {}

    def load_counters(self, counters: dict[str, int]) -> None:
        """Restore what :meth:`counters` returned."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        datamodule = getattr(self.attached_trainer, "datamodule", None)
        data = None
        if datamodule is not None:
            try:
                data = describe(datamodule, type(datamodule).__name__)
            except InputError as error:  # training on it is fine; only `lightning evaluate` will need a config
                rank_zero_warn(f"the checkpoint does not describe its data: {error}")
        checkpoint[CHECKPOINT_KEY] = {
            "format": CHECKPOINT_FORMAT,
            "version": lightning_gen.__version__,
            "model": self.description(),
            "data": data,
            "spec": self.spec.as_dict(),
            "images_seen": self.images_seen,
            "seed": self.seed,
            "skipped_steps": self.skipped_steps,
            "skipped_in_a_row": self._skipped_in_a_row,
            "counters": self.counters(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get(CHECKPOINT_KEY)
        if state is None:
            raise InputError("this checkpoint was not written by lightning-gen (it does not describe its model)")
        check_format(state)
        if ImageSpec.of(state["spec"]) != self.spec:
            raise InputError(f"the checkpoint is of images {state['spec']}, the data are {self.spec.as_dict()}")
        self.images_seen = state["images_seen"]
        self.seed = state["seed"]
        self.skipped_steps = state["skipped_steps"]
        self._skipped_in_a_row = state["skipped_in_a_row"]
        self.load_counters(state["counters"])


def check_format(state: dict[str, Any]) -> None:
    """Raise InputError for a checkpoint that a newer version wrote."""
    if state["format"] > CHECKPOINT_FORMAT:
        raise InputError(
            f"the checkpoint has format {state['format']} (written by lightning-gen {state['version']}), "
            f"this version reads up to {CHECKPOINT_FORMAT}: upgrade lightning-gen"
        )


class GenerativeModule(ImageModule, ABC):
    """A model that draws images: what metrics, callbacks and commands rely on.

    Sampling options (temperature, truncation, guidance, steps) live in ``self.sampler``, an injected object that can
    be replaced after :func:`lightning_gen.load`. Further abilities are the protocols :class:`HasLikelihood`,
    :class:`HasLatent` and :class:`HasCompletion`.
    """

    @property
    def conditional(self) -> bool:
        """Whether :meth:`sample` heeds labels."""
        return False

    @abstractmethod
    def sample(self, n: int, labels: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` images.

        Args:
            n: how many.
            labels: classes (n,) for a class-conditional model; None draws them, by their shares of the training images
                where the model knows these, else uniformly.
            generator: source of all randomness, on the model's device; None draws a fresh one from torch's global
                generator. Equal generators give equal images.

        Returns:
            levels (n, C, H, W), uint8, on the model's device.
        """

    def check_labels(self, labels: Tensor, n: int) -> Tensor:
        """Return ``labels`` on this device if they are ``n`` classes of this model's images.

        Raises:
            InputError: for another number of them, or a class that does not exist.
        """
        if labels.shape != (n,) or labels.dtype.is_floating_point:
            raise InputError(f"labels: expected {n} whole numbers, got {labels.dtype} of shape {tuple(labels.shape)}")
        if n and not 0 <= int(labels.min()) <= int(labels.max()) < self.spec.num_classes:
            wrong = labels[(labels < 0) | (labels >= self.spec.num_classes)][0]
            raise InputError(f"labels: there is no class {int(wrong)}: classes are 0 .. {self.spec.num_classes - 1}")
        return labels.to(self.device, torch.int64)

    def fresh_generator(self) -> torch.Generator:
        """Return a generator on this device, seeded from torch's global one."""
        return torch.Generator(self.device).manual_seed(int(torch.randint(2**62, ())))

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Draw as many images as the batch has, with its labels where the model takes labels."""
        return self.sample(len(batch.levels), batch.labels, generator=self.random(f"predict/{batch_idx}"))
