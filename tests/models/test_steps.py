"""What models bring to every training step: what it learns of the run, means of its figures, and shorter ways."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch.optim import SGD

from lightning_gen.core.ranks import Ranks
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import Digits, ImageDataModule, Images, Source
from lightning_gen.models import VAE
from lightning_gen.networks import MLPDecoder, MLPEncoder
from lightning_gen.steps import fast
from lightning_gen.steps.manual import averaged_gradients
from lightning_gen.steps.means import RunningMean, RunningMeans


class Uneven(Source):
    """Six images of three classes, of which one does not occur in training."""

    name = "uneven"
    spec = ImageSpec(1, 8, 8, levels=17, num_classes=3)

    def read(self, part: str) -> Images:
        labels = np.array([0, 2, 2, 2, 0, 2])
        return Images(np.zeros((6, 1, 8, 8), np.uint8), labels)


def vae(spec) -> VAE:
    encoder, decoder = partial(MLPEncoder, widths=(8,)), partial(MLPDecoder, widths=(8,), conditional=True)
    return VAE(spec, encoder, decoder, partial(SGD, lr=1e-3), latent_dim=2)


def test_a_model_learns_how_many_images_there_are_and_of_which_classes(quiet_trainer):
    model = vae(Uneven.spec)
    assert model.num_images == 1
    torch.testing.assert_close(model.class_shares, torch.full((3,), 1 / 3))
    quiet_trainer(max_steps=2).fit(model, ImageDataModule(Uneven(), batch_size=3))
    assert model.num_images == 6
    torch.testing.assert_close(model.class_shares, torch.tensor([2 / 6, 0.0, 4 / 6]))
    assert model.ranks == Ranks()
    seen = []
    model.decoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    model.sample(500)
    assert set(torch.cat(seen).tolist()) == {0, 2}


def test_class_shares_are_stored_with_the_model(quiet_trainer, tmp_path):
    model, other = vae(Uneven.spec), vae(Uneven.spec)
    trainer = quiet_trainer(max_steps=1)
    trainer.fit(model, ImageDataModule(Uneven(), batch_size=3))
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    other.on_load_checkpoint(torch.load(tmp_path / "model.ckpt", weights_only=True))
    assert torch.equal(other.class_shares, model.class_shares)
    assert (other.images_seen, other.seed) == (3, model.seed)


def test_means_are_of_all_steps_that_were_taken(monkeypatch):
    values = torch.randn(150, generator=torch.Generator().manual_seed(0))
    for window in (64, 1):
        monkeypatch.setattr("lightning_gen.steps.means.WINDOW", window)
        means, kept = RunningMeans(), []
        for step, value in enumerate(values):
            # A figure is averaged over whatever it is of, and may be of more or less of it at each step.
            means.note({"loss": value, "scores": torch.full((1 + step % 3,), float(step)).add(torch.zeros(1))})
            taken = step % 5 != 4
            means.conclude(taken)
            kept += [step] if taken else []
        found = means.take()
        assert found["loss"] == pytest.approx(float(values[kept].double().mean()), rel=1e-5)
        assert found["scores"] == pytest.approx(np.mean(kept), rel=1e-6)
        assert means.take() == {}
        means.note({"other": torch.tensor(2.0)})
        means.conclude(taken=True)
        assert means.take() == {"other": 2.0}
    mean = RunningMean()
    mean.add(torch.tensor([1.0, 3.0]))
    assert mean.value() == mean.value() == 2.0


def test_shorter_ways_lead_to_the_same(monkeypatch):
    def results():
        source = torch.Generator().manual_seed(0)
        first, second = ([torch.randn(shape, generator=source) for shape in ((3, 2), (4,), ())] for _ in range(2))
        norm, tripled = fast.norm_of(first), fast.scaled(first, torch.tensor(3.0))
        fast.move_all(first, second, 0.25)
        copied = [torch.empty_like(tensor) for tensor in second]
        fast.copy_all(copied, second)
        return [norm, fast.norm_of([]), *tripled, *first, *copied]

    short = results()
    monkeypatch.setattr(fast, "ON", False)
    for one, other in zip(short, results(), strict=True):
        torch.testing.assert_close(one, other)
    tensors = [torch.tensor([3.0]), torch.tensor([[4.0]])]
    assert float(fast.norm_of(tensors)) == pytest.approx(5)


def test_hooks_and_clipping_are_as_without_shorter_ways(quiet_trainer, monkeypatch):
    data = partial(ImageDataModule, Digits(), batch_size=16)
    weights = []
    for on in (True, False):
        monkeypatch.setattr(fast, "ON", on)
        for clip in (None, 0.01):
            torch.manual_seed(0)
            model = vae(Digits.spec)
            trainer = quiet_trainer(max_steps=3, gradient_clip_val=clip)
            trainer.fit(model, data())
            weights.append(torch.nn.utils.parameters_to_vector(model.parameters()).detach())
    assert torch.equal(weights[0], weights[2])
    assert torch.equal(weights[1], weights[3])
    assert not torch.equal(weights[0], weights[1])


def test_gradients_and_loss_of_ranks_are_averaged_in_one_exchange():
    class Two(Ranks):
        """A rank of two, of which the other has three times the numbers of this one."""

        asked: list

        def mean(self, value):
            self.asked.append(value)
            return 2 * value

    a, b, unused = (torch.nn.Parameter(torch.randn(shape)) for shape in ((3, 2), (4,), (5,)))
    loss = a.square().sum() + (b * torch.arange(4.0)).sum()
    ranks = Two(1, 2)
    ranks.asked = []
    found, used, gradients = averaged_gradients(loss, [a, unused, b], ranks)
    assert len(ranks.asked) == 1
    torch.testing.assert_close(found, 2 * loss.detach())
    assert [parameter is own for parameter, own in zip(used, (a, b), strict=True)] == [True, True]
    torch.testing.assert_close(gradients[0], 4 * a.detach())
    torch.testing.assert_close(gradients[1], 2 * torch.arange(4.0))
    alone = averaged_gradients(loss_of(a), [a], Ranks())
    assert not alone[0].requires_grad
    assert math.isfinite(float(alone[0]))


def loss_of(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.square().sum()
