"""The codes of a trained model as a data set: what it holds, where it comes from, and what it refuses."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch

import lightning_gen
from lightning_gen.core.descriptions import build, describe
from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import Digits, ImageDataModule
from lightning_gen.models import VQVAE, Codes, Uniform
from lightning_gen.networks import FSQ, GridDecoder, GridEncoder, VectorQuantizer

DIGITS = Digits.spec


def store(path, quiet_trainer, quantizer, seed=0, data=True, **options):
    torch.manual_seed(seed)
    networks = {"halvings": 2, "width": 8, "depth": 0}
    adam = partial(torch.optim.Adam, lr=3e-3)
    model = VQVAE(DIGITS, partial(GridEncoder, **networks), partial(GridDecoder, **networks), adam, quantizer)
    trainer = quiet_trainer(max_steps=5, **options)
    module = ImageDataModule(Digits(), batch_size=64)
    trainer.fit(model, module if data else module.train_dataloader())
    trainer.save_checkpoint(path)
    return str(path)


@pytest.fixture(scope="module", params=[partial(VectorQuantizer, codes=12, dim=4), partial(FSQ, levels=[8, 8, 5])])
def checkpoint(request, tmp_path_factory, quiet_trainer):
    return store(tmp_path_factory.mktemp("codes") / "vq.ckpt", quiet_trainer, request.param)


def test_the_images_are_the_models_own_codes(checkpoint):
    source, model = Codes(checkpoint), lightning_gen.load(checkpoint)
    assert source.spec == ImageSpec(1, 2, 2, levels=model.quantizer.codes, num_classes=10)
    for part in ("train", "val", "test"):
        images, plain = source.load(part), Digits().load(part)
        expected = model.encode(torch.from_numpy(plain.levels))
        assert images.levels.dtype == source.spec.array_dtype
        np.testing.assert_array_equal(images.levels[:, 0], expected.numpy())
        np.testing.assert_array_equal(images.labels, plain.labels)


def test_nothing_is_encoded_before_it_is_asked_for(checkpoint, monkeypatch):
    monkeypatch.setattr(VQVAE, "encode", lambda *args: pytest.fail("encoded"))
    source = Codes(checkpoint)
    assert "_loaded" not in vars(source)
    assert source.parts == ("train", "val", "test")


def test_the_averaged_weights_encode(tmp_path, quiet_trainer):
    from lightning_gen.callbacks import EMA

    path = store(tmp_path / "vq.ckpt", quiet_trainer, VectorQuantizer, callbacks=[EMA(half_life=1000)])
    averaged, live = (lightning_gen.load(path, average=average) for average in (True, False))
    assert averaged.fingerprint() != live.fingerprint()
    assert Codes(path).fingerprint_of_codes == averaged.fingerprint()


def test_batches_of_codes_come_from_the_data_module(checkpoint):
    data = ImageDataModule(Codes(checkpoint), batch_size=16)
    batch = next(iter(data.train_dataloader()))
    levels = torch.from_numpy(Digits().load("train").levels)[batch.index]
    assert torch.equal(batch.levels[:, 0].long(), lightning_gen.load(checkpoint).encode(levels))


def test_the_description_names_the_weights_and_refuses_others(checkpoint, tmp_path, quiet_trainer):
    source = Codes(checkpoint)
    description = describe(source)
    assert description["init_args"]["fingerprint_of_codes"] == source.fingerprint_of_codes
    again = build(description, Codes)
    assert again.fingerprint("val") == source.fingerprint("val")
    assert pickle.loads(pickle.dumps(source)).fingerprint("val") == source.fingerprint("val")
    other = store(tmp_path / "other.ckpt", quiet_trainer, VectorQuantizer, seed=1)
    with pytest.raises(InputError, match=r"other.ckpt has other weights than when these codes were made"):
        Codes(other, source.fingerprint_of_codes)


def test_a_file_that_changed_in_between_is_refused(tmp_path, quiet_trainer):
    path = store(tmp_path / "vq.ckpt", quiet_trainer, VectorQuantizer)
    source = Codes(path)
    store(tmp_path / "vq.ckpt", quiet_trainer, VectorQuantizer, seed=1)
    with pytest.raises(InputError, match="has other weights"):
        source.load("train")


def test_what_has_no_codes_is_refused_in_one_line(tmp_path, quiet_trainer, make_batches):
    with pytest.raises(InputError, match="no checkpoint at"):
        Codes(str(tmp_path / "none.ckpt"))
    trainer = quiet_trainer()
    trainer.fit(Uniform(DIGITS), make_batches(DIGITS, 1))
    trainer.save_checkpoint(tmp_path / "uniform.ckpt")
    with pytest.raises(InputError, match=r"uniform.ckpt holds a Uniform, which has no codes"):
        Codes(str(tmp_path / "uniform.ckpt"))
    many = store(tmp_path / "many.ckpt", quiet_trainer, partial(FSQ, levels=[40, 40, 40]))
    with pytest.raises(InputError, match="levels must be at most 32768, got 64000"):
        Codes(many)
    bare = store(tmp_path / "bare.ckpt", quiet_trainer, VectorQuantizer, data=False)
    with pytest.raises(InputError, match="does not say on which data its model was trained"):
        Codes(bare)


def test_codes_of_held_out_images_that_were_trained_on_are_refused(checkpoint, tmp_path):
    stored = torch.load(checkpoint, weights_only=True)
    held_out = torch.from_numpy(Digits().hashes("val")[:3].view(np.int64))
    trained_on = stored["ImageDataModule"]["trained_on"]
    stored["ImageDataModule"]["trained_on"] = torch.cat([trained_on, held_out]).sort().values
    torch.save(stored, tmp_path / "vq.ckpt")
    source = Codes(str(tmp_path / "vq.ckpt"))
    assert len(source.load("train").levels) == 1097
    with pytest.raises(InputError, match=r"was trained on 3 of the 200 images of the val part"):
        source.load("val")
