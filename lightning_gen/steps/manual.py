"""One of several optimizers takes a step."""

from collections.abc import Sequence

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_gen.core import InputError, Ranks, full_precision
from lightning_gen.steps.fast import norm_of, scaled
from lightning_gen.steps.surroundings import trainer_of


def descend(
    module: LightningModule,
    name: str,
    losses: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    clip: float | None = None,
) -> bool:
    """Take one step of ``optimizer`` down the sum of ``losses``, or none on any rank where something is not finite.

    Only its own parameters are moved, and no other's ``grad`` is touched: gradients are asked for by name. A loss that
    needs no gradient has nothing to descend, and its step counts as taken.

    Args:
        module: whose step it is; manual optimization.
        name: of the network, for messages and figures.
        losses: scalars by name, means over this rank's batch, which are tracked.
        optimizer: a plain torch optimizer, one of ``self.optimizers(use_pl_optimizer=False)``.
        clip: largest norm of the gradient, over all parameters and ranks; a longer one is scaled down to it.

    Returns:
        Whether the step was taken.

    Raises:
        InputError: for a loss that depends on parameters, and on none of this optimizer's.
    """
    module.track(**losses)
    loss = sum(losses.values())
    if not loss.requires_grad:
        return True
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    with full_precision(module.device):
        loss, used, gradients = averaged_gradients(loss, parameters, module.ranks)
    if not used:
        raise InputError(
            f"{type(module).__name__}: the {name} loss depends on no parameter of its optimizer: is that the one which "
            "configure_optimizers returned for it?"
        )
    norm = norm_of(gradients)
    if not torch.isfinite(loss + norm):
        finite_loss = bool(torch.isfinite(loss))
        module.guard.report(
            module, f"the gradient of the {name} loss" if finite_loss else f"the {name} loss ({float(loss)})"
        )
        return False
    if clip is not None:
        gradients = scaled(gradients, (clip / norm).clamp(max=1.0))  # not in place: terms of a sum may share memory
    for parameter, gradient in zip(used, gradients, strict=True):
        # A double backward may give other strides, and fused optimizers read gradients as flat memory.
        fits = gradient.stride() == parameter.stride()
        parameter.grad = gradient if fits else torch.empty_like(parameter).copy_(gradient)
    optimizer.step()
    for parameter in used:
        parameter.grad = None
    module.track(**{f"gradient_norm_{name}": norm})
    count_step(module)
    return True


def averaged_gradients(
    loss: Tensor, parameters: Sequence[nn.Parameter], ranks: Ranks
) -> tuple[Tensor, list[nn.Parameter], list[Tensor]]:
    """Return the loss, the parameters that it depends on, and its gradients by these, all averaged over ranks.

    Gradients are averaged in one collective that also carries the loss, so all ranks agree before any of them steps.
    That is for parameters of which each rank has a whole copy (DDP). Sharded ones (FSDP) would want their gradients
    from ``backward``, whose hooks scatter them, and the norm summed over shards: another function in this one's place.
    """
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    used = [p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None]
    found = [gradient for gradient in gradients if gradient is not None]
    loss = loss.detach()
    if ranks.count > 1 and found:
        flat = ranks.mean(torch.cat([loss.reshape(1).to(found[0].dtype), *(g.reshape(-1) for g in found)]))
        loss, parts = flat[0], flat[1:].split([g.numel() for g in found])
        found = [part.view_as(p) for part, p in zip(parts, used, strict=True)]
    return loss, used, found


def count_step(module: LightningModule) -> None:
    """Advance Lightning's ``global_step`` under manual optimization: it would take no checkpoint without steps."""
    trainer = trainer_of(module)
    if trainer is not None and not module.automatic_optimization:
        # Raw optimizers are faster than Lightning's wrappers, but they do not count as steps by themselves.
        progress = trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()
