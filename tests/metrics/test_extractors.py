"""Extractors: the shipped digits classifier and the contract that all of them keep."""

import json
import socket
import sys
import time

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from jsonargparse import ArgumentParser
from PIL import Image
from torch_fidelity import calculate_metrics
from torch_fidelity.metric_kid import kid_features_to_metric

import lightning_gen.metrics.weights as weights_module
from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data.digits import Digits
from lightning_gen.data.fashion_mnist import DEBIAN_FOLDER, FashionMNIST
from lightning_gen.metrics import (
    ClassifierExtractor,
    DigitsExtractor,
    Extractor,
    FrechetDistance,
    InceptionExtractor,
    InceptionScore,
    KernelDistance,
    MetricSuite,
    ModuleExtractor,
    PrecisionRecall,
    TorchvisionExtractor,
)
from lightning_gen.metrics.extractors import (
    WEIGHTS,
    FashionMNISTExtractor,
    TimmExtractor,
    TransformersExtractor,
)
from lightning_gen.networks.classifier import SmallClassifier, load_classifier, save_classifier

SPEC = ImageSpec(1, 8, 8, levels=17, num_classes=10)


def levels(n: int, spec: ImageSpec = SPEC) -> torch.Tensor:
    return torch.randint(
        spec.levels, (n, *spec.shape), generator=torch.Generator().manual_seed(0), dtype=torch.int64
    ).to(torch.uint8)


def test_shipped_classifier_is_small_and_knows_digits():
    assert (WEIGHTS / "digits.safetensors").stat().st_size < 2 * 2**20
    network = load_classifier(WEIGHTS / "digits.safetensors")
    test = Digits().load("test")
    right = network(torch.from_numpy(test.levels)).argmax(1) == torch.from_numpy(test.labels)
    assert right.double().mean() >= 0.98


def test_shipped_features_are_standardised_on_the_training_part():
    features = DigitsExtractor()(torch.from_numpy(Digits().load("train").levels), SPEC).features
    assert features.shape == (1097, 64)
    assert features.mean(0).abs().max() < 0.3
    assert 0.7 < features.std(0).mean() < 1.3


def test_shipped_fashion_classifier_is_small_and_its_extractor_takes_fashion_mnist_only():
    assert (WEIGHTS / "fashion_mnist.safetensors").stat().st_size < 2 * 2**20
    extractor = FashionMNISTExtractor()
    assert extractor.name == "fashion_mnist"
    extractor.check(FashionMNIST.spec)
    features, logits = extractor(levels(3, FashionMNIST.spec), FashionMNIST.spec)
    assert (features.shape, logits.shape) == ((3, 64), (3, 10))
    with pytest.raises(InputError, match="scores 1 x 28 x 28 images, not 1 x 8 x 8"):
        extractor.check(SPEC)


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_shipped_fashion_classifier_knows_clothes_and_its_features_are_standardised():
    extractor, source = FashionMNISTExtractor(), FashionMNIST()
    test = source.load("test")
    _, logits = extractor(torch.from_numpy(test.levels[:2000]), source.spec)
    assert (logits.argmax(1) == torch.from_numpy(test.labels[:2000])).double().mean() >= 0.92
    train = torch.from_numpy(source.load("train").levels[:4000])
    features = torch.cat([extractor(part, source.spec).features for part in train.split(500)])
    assert features.mean(0).abs().max() < 0.3
    assert 0.7 < features.std(0).mean() < 1.3


def small_module():
    torch.manual_seed(0)
    return ModuleExtractor(torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3)), "small")


def torchvision_model(folder):
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), folder / "squeezenet.pth")
    return TorchvisionExtractor("squeezenet1_1", str(folder / "squeezenet.pth"), size=64)


def timm_model(folder):
    """A tiny vision transformer, saved at another size and with a classifier of ten classes."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", img_size=64, num_classes=10).state_dict(), folder / "vit.pth")
    return TimmExtractor("test_vit", str(folder / "vit.pth"), size=32)


def dinov2(folder, **options):
    """A tiny DINOv2 as ``save_pretrained`` leaves it."""
    transformers = pytest.importorskip("transformers")
    arguments = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
    torch.manual_seed(0)
    transformers.Dinov2Model(transformers.Dinov2Config(**arguments | options)).save_pretrained(folder / "tiny-dinov2")
    return folder / "tiny-dinov2"


CONTRACT = {
    "digits": lambda folder: DigitsExtractor(),
    "module": lambda folder: small_module(),
    "torchvision": torchvision_model,
    "timm": timm_model,
    "transformers": lambda folder: TransformersExtractor(str(dinov2(folder)), size=28),
}


@pytest.mark.parametrize("make", CONTRACT.values(), ids=CONTRACT.keys())
def test_contract(make, tmp_path):
    extractor = make(tmp_path)
    extractor.check(SPEC)
    extractor.train()
    assert not extractor.training
    assert not any(p.requires_grad for p in extractor.parameters())
    batch = levels(12)
    features, logits = extractor(batch, SPEC)
    assert features.ndim == 2
    assert features.dtype == torch.float32
    again = extractor(batch, SPEC).features
    assert torch.equal(features, again)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(extractor(batch[order], SPEC).features, features[order], rtol=1e-4, atol=1e-5)
    assert logits is None or (logits.ndim == 2 and len(logits) == 12)
    assert features.std() > 0
    assert make(tmp_path).content_hash == extractor.content_hash
    next(extractor.parameters()).data.view(-1)[0] += 1
    assert make(tmp_path).content_hash != extractor.content_hash


def test_levels_other_than_the_classifiers_own_are_scaled():
    extractor, own = DigitsExtractor(), levels(6)
    photographs = ImageSpec(1, 8, 8, levels=256, num_classes=10)
    scaled = photographs.to_levels(SPEC.to_unit(own))
    assert torch.equal(extractor(scaled, photographs).features, extractor(own, SPEC).features)


def test_other_sizes_are_refused():
    with pytest.raises(InputError, match="scores 1 x 8 x 8 images, not 3 x 32 x 32"):
        DigitsExtractor().check(ImageSpec(3, 32, 32))


def test_classifier_file_round_trip(tmp_path):
    spec = ImageSpec(3, 12, 9, levels=50, num_classes=4)
    network = SmallClassifier(spec, widths=(4, 6), num_features=5, dropout=0.1).eval()
    save_classifier(network, tmp_path / "mine.safetensors")
    extractor = ClassifierExtractor(str(tmp_path / "mine.safetensors"))
    assert extractor.name == "mine"
    assert extractor.network.spec == spec
    features, logits = extractor(levels(7, spec), spec)
    assert torch.equal(features, network.features(levels(7, spec)))
    assert torch.equal(logits, network(levels(7, spec)))
    assert [file.name for file in tmp_path.iterdir()] == ["mine.safetensors"]


def test_bad_classifier_files_and_arguments_are_named(tmp_path):
    with pytest.raises(InputError, match="do not exist"):
        ClassifierExtractor(str(tmp_path / "none.safetensors"))
    (tmp_path / "foreign.safetensors").write_bytes(b"hello")
    with pytest.raises(InputError, match="is not a classifier file"):
        ClassifierExtractor(str(tmp_path / "foreign.safetensors"))
    with pytest.raises(InputError, match="labelled"):
        SmallClassifier(ImageSpec(1, 8, 8))
    with pytest.raises(InputError, match="5 stages do not fit 8 x 8"):
        SmallClassifier(SPEC, widths=(4,) * 5)


# Published networks, with random weights


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    """A weights file of the right shape; Kaiming-initialised, because other random weights make all features equal."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    class Unfilled(module.FeatureExtractorInceptionV3):
        def load_state_dict(self, state, **_):
            pass

    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save({}, path)
    network = Unfilled("inception", ["2048"], feature_extractor_weights_path=str(path))
    draw = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter, generator=draw)
    network.fc.weight.mul_(30)  # so that classes differ between images
    torch.save(network.state_dict(), path)
    return path


def photographs(n: int, seed: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 4, 4, generator=draw)
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    return (smooth * 230 + 20 * torch.rand(n, 3, 32, 32, generator=draw)).to(torch.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [3, 1], ids=["colour", "grey"])
def test_inception_path_is_that_of_torch_fidelity_on_the_same_pictures(inception_file, tmp_path, channels):
    generated, real = photographs(16, 0)[:, :channels] // 2, photographs(16, 1)[:, :channels]
    for folder, images in (("generated", generated), ("real", real)):
        (tmp_path / folder).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy()).save(tmp_path / folder / f"{i:05}.png")
    subsets = {"kid_subsets": 4, "kid_subset_size": 14}
    theirs = calculate_metrics(
        input1=str(tmp_path / "generated"),
        input2=str(tmp_path / "real"),
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(inception_file),
        fid=True,
        isc=True,
        kid=True,
        prc=True,
        isc_splits=2,
        **subsets,
        batch_size=8,
        cuda=False,
        cache=False,
        verbose=False,
    )
    metrics = [FrechetDistance(), InceptionScore(2), KernelDistance(subsets=4, subset_size=14), PrecisionRecall()]
    suite = MetricSuite(InceptionExtractor(str(inception_file)), metrics, cache=False, batch_size=8)
    suite.set_reference("train", real, ImageSpec(channels, 32, 32))
    for index in torch.arange(16).split(8):
        suite.update(generated[index], index)
    ours = suite.compute()
    pairs = {
        "fid": "frechet_inception_distance",
        "is": "inception_score_mean",
        "is_std": "inception_score_std",
        "precision": "precision",
        "recall": "recall",
    }
    assert ours["is"] > 1.02
    for name, key in pairs.items():
        assert ours[name] == pytest.approx(theirs[key], rel=1e-5), name
    # torch-fidelity sums KID's kernel, whose values are about 1, in float32, and subtracts nearly equal sums: fed with
    # the same features in float64 it agrees to rounding, as it stands to float32's.
    features = [suite.samples.compute().features, suite.references["train"].features]
    options = subsets | {"kid_kernel": "poly", "rng_seed": 2020, "verbose": False}
    exact = kid_features_to_metric(*(rows.double() for rows in features), **options)
    for name, key in {"kid_subsets": "mean", "kid_subsets_std": "std"}.items():
        assert ours[name] == pytest.approx(exact[f"kernel_inception_distance_{key}"], rel=1e-9), name
        assert ours[name] == pytest.approx(theirs[f"kernel_inception_distance_{key}"], abs=1e-6), name


def test_inception_takes_grey_images_of_any_levels_and_names_the_clean_resize(inception_file):
    tensorflow = InceptionExtractor(str(inception_file))
    clean = InceptionExtractor(str(inception_file), resize="clean")
    assert (tensorflow.name, clean.name) == ("inception", "inception_clean")
    assert tensorflow.content_hash != clean.content_hash
    grey = levels(1)
    as_colour = ImageSpec(1, 8, 8).to_levels(SPEC.to_unit(grey)).repeat(1, 3, 1, 1)
    features, logits = tensorflow(grey, SPEC)
    assert features.shape == (1, 2048)
    assert logits.shape == (1, 1008)
    assert torch.equal(features, tensorflow(as_colour, ImageSpec(3, 8, 8)).features)
    assert not torch.allclose(features, clean(grey, SPEC).features, rtol=1e-3)
    with pytest.raises(InputError, match="1 or 3 channels, not 2"):
        clean.check(ImageSpec(2, 8, 8))


def test_inception_weights_are_never_unpickled_as_code(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"fc.weight": Attack()}, tmp_path / "attack.pth")
    with pytest.raises(InputError, match="holds more than tensors"):
        InceptionExtractor(str(tmp_path / "attack.pth"))
    assert not (tmp_path / "executed").exists()
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "foreign.pth")
    with pytest.raises(InputError, match="not a weights file of torch-fidelity's"):
        InceptionExtractor(str(tmp_path / "foreign.pth"))
    with pytest.raises(InputError, match="does not exist"):
        InceptionExtractor(str(tmp_path / "none.pth"))


@pytest.mark.parametrize("kind", ["refused", "silent"])
def test_weights_that_cannot_be_fetched_are_one_error_within_seconds(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("LIGHTNING_GEN_CACHE", str(tmp_path))
    monkeypatch.setattr(weights_module, "SECONDS_WITHOUT_ANSWER", 1.0)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with socket.socket() as listening:  # accepts connections and never answers, like a network that swallows packets
        listening.bind(("127.0.0.1", 0))
        if kind == "silent":
            listening.listen()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/some-weights.pth"
        start = time.monotonic()
        with pytest.raises(InputError, match=r"some-weights\.pth cannot be downloaded .*; give a file"):
            weights_module.find_weights(url, "give a file")
        assert time.monotonic() - start < 10
    assert list((tmp_path / "weights").iterdir()) == []


def test_weights_are_downloaded_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_GEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    torch.save({"a": torch.ones(3)}, tmp_path / "w.pth")
    found = weights_module.find_weights((tmp_path / "w.pth").as_uri(), "give a file")
    assert torch.equal(weights_module.load_state(found)["a"], torch.ones(3))
    assert weights_module.find_weights("http://nowhere.invalid/w.pth", "give a file") == found


def test_torchvision_models_serve_by_name(tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.resnet18().eval()
    torch.save(network.state_dict(), tmp_path / "resnet.pth")
    extractor = TorchvisionExtractor("resnet18", str(tmp_path / "resnet.pth"), size=64)
    images = photographs(2, 0)
    features, logits = extractor(images, ImageSpec(3, 32, 32))
    unit = torch.nn.functional.interpolate(images / 255, size=(64, 64), mode="bilinear", antialias=True)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = network((unit - mean.reshape(3, 1, 1)) / deviation.reshape(3, 1, 1))
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(network.fc(features), expected)
    assert extractor.name == "resnet18"
    with pytest.raises(InputError, match="no layer 'nose'"):
        TorchvisionExtractor("resnet18", str(tmp_path / "resnet.pth"), layer="nose")
    with pytest.raises(InputError, match="no model 'resnet19'"):
        TorchvisionExtractor("resnet19")
    with pytest.raises(InputError, match="does not fit ResNet"):
        TorchvisionExtractor("resnet34", str(tmp_path / "resnet.pth"))


class Pair(torch.nn.Module):
    def forward(self, unit):
        return unit[:, :, :2], unit.flatten(1)[:, :3]


def test_modules_of_the_user_serve_with_or_without_logits():
    features, logits = ModuleExtractor(Pair(), "pair")(levels(3), SPEC)
    assert features.shape == (3, 16)
    assert logits.shape == (3, 3)
    features, logits = ModuleExtractor(torch.nn.Flatten(), "pixels")(levels(3), SPEC)
    torch.testing.assert_close(features, SPEC.to_unit(levels(3)).flatten(1))
    assert logits is None
    with pytest.raises(InputError, match="a name of its own"):
        ModuleExtractor(Pair(), "inception")


def test_suite_is_picked_in_yaml():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(MetricSuite, "suite")
    config = parser.parse_string(
        """
        suite:
          extractor: lightning_gen.metrics.DigitsExtractor
          metrics:
          - lightning_gen.metrics.FrechetDistance
          - {class_path: lightning_gen.metrics.PrecisionRecall, init_args: {k: 4}}
          - {class_path: lightning_gen.metrics.CopyShare, init_args: {space: features}}
          - {class_path: lightning_gen.metrics.KernelDistance, init_args: {against: [train], subsets: 10}}
        """
    )
    suite = parser.instantiate_classes(config).suite
    assert isinstance(suite.extractor, DigitsExtractor)
    assert suite.metrics[1].k == 4
    assert suite.metrics[2].keeps == {"features"}
    assert suite.metrics[3].against == ("train",)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Extractor, "extractor")
    config = parser.parse_string(
        "extractor: {class_path: lightning_gen.metrics.ModuleExtractor, "
        "init_args: {name: flat, module: torch.nn.Flatten}}"
    )
    assert parser.instantiate_classes(config).extractor.name == "flat"


# Networks of timm and transformers, where they are installed


def bicubic(images: torch.Tensor, size: int, mean: float | tuple, deviation: float | tuple) -> torch.Tensor:
    """Images resized by Pillow, in floating point as its 8-bit results lie within half a level of that."""
    planes = [
        [np.asarray(Image.fromarray(plane.float().numpy()).resize((size, size), Image.BICUBIC)) for plane in image]
        for image in images
    ]
    unit = torch.from_numpy(np.array(planes)).clamp(0, 255) / 255
    as_column = lambda value: torch.tensor(value).expand(3).reshape(3, 1, 1)  # noqa: E731
    return (unit - as_column(mean)) / as_column(deviation)


def test_timm_extractor_is_the_network_without_its_classifier_on_pillows_resize(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("test_vit", img_size=48, num_classes=10).eval()
    network.pos_embed.data.normal_()
    safetensors.torch.save_file(network.state_dict(), tmp_path / "vit.safetensors")
    extractor = TimmExtractor("test_vit", str(tmp_path / "vit.safetensors"), size=48)
    for images in (photographs(3, 0), photographs(3, 1).repeat(1, 1, 3, 3)):  # both ways: up and down
        features, logits = extractor(images, ImageSpec(*images.shape[1:]))
        network.reset_classifier(0)
        with torch.no_grad():
            torch.testing.assert_close(features, network(bicubic(images, 48, 0.5, 0.5)), rtol=1e-3, atol=1e-3)
        assert logits is None
    assert extractor.name == "test_vit"
    assert extractor.transform() == (
        "timm test_vit, 3 channels, bicubic antialiased to 48, mean 0.5,0.5,0.5, deviation 0.5,0.5,0.5"
    )


def test_timm_files_of_another_size_or_of_the_authors_own_format_serve(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    small = {"embed_dim": 16, "depth": 1, "num_heads": 1}
    state = timm.create_model("vit_small_patch14_dinov2", img_size=56, **small).state_dict()
    # DINOv2's own files have a mask token, which timm's networks have not
    torch.save(state | {"mask_token": torch.zeros(1, 16)}, tmp_path / "dinov2.pth")
    with pytest.MonkeyPatch.context() as patch:
        make = timm.create_model
        patch.setattr(timm, "create_model", lambda name, **options: make(name, **options, **small))
        same, other = (TimmExtractor("vit_small_patch14_dinov2", str(tmp_path / "dinov2.pth"), s) for s in (56, 28))
    for key, rows in same.network.state_dict().items():
        assert torch.equal(rows, state[key])
    assert other.network.pos_embed.shape == (1, 1 + 2 * 2, 16)
    assert same.content_hash != other.content_hash
    assert "mean 0.485,0.456,0.406, deviation 0.229,0.224,0.225" in same.transform()
    assert torch.isfinite(other(photographs(2, 0), ImageSpec(3, 32, 32)).features).all()


def test_timm_networks_without_an_input_size_serve_and_are_named_with_their_tag(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "resnet.pth")
    extractor = TimmExtractor("test_resnet.r160_in1k", str(tmp_path / "resnet.pth"), size=40)
    assert extractor.name == "test_resnet_r160_in1k"
    features = extractor(photographs(2, 0), ImageSpec(3, 32, 32)).features
    pooled = extractor.network.forward_features(bicubic(photographs(2, 0), 40, 0.5, 0.5)).mean((2, 3))
    torch.testing.assert_close(features, pooled, rtol=1e-3, atol=1e-3)


def test_bad_arguments_of_timm_extractor_are_named(tmp_path):
    timm = pytest.importorskip("timm")
    state = timm.create_model("test_vit").state_dict()
    torch.save(state, tmp_path / "vit.pth")
    torch.save({key: rows for key, rows in state.items() if "blocks.0.norm1" not in key}, tmp_path / "lacking.pth")
    for architecture, file, options, message in (
        ("vit_enormous", "vit.pth", {}, "timm has no model 'vit_enormous'"),
        ("hf-hub:timm/test_vit.r160_in1k", "vit.pth", {}, "timm has no model 'hf-hub"),
        ("test_vit.never_trained", "vit.pth", {}, "timm cannot make test_vit.never_trained of size 224"),
        ("test_vit", "vit.pth", {"size": 40}, "multiple of the 16 pixels of test_vit's patches, got 40"),
        ("test_vit", "vit.pth", {"size": 0}, "size must be a positive integer"),
        ("test_vit", "none.pth", {}, "does not exist"),
        ("test_vit", "lacking.pth", {}, "lacking.pth does not fit VisionTransformer: Missing key"),
        ("test_resnet", "vit.pth", {}, "vit.pth does not fit ResNet"),
        ("test_vit", "vit.pth", {"name": "inception"}, "a name of its own"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            TimmExtractor(architecture, str(tmp_path / file), **options)
        assert len(str(caught.value)) < 400
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("published", [False, True])
def test_transformers_extractor_gives_the_class_token_on_pillows_resize(tmp_path, published):
    folder = dinov2(tmp_path)
    mean, deviation = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    if published:
        (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": mean, "image_std": deviation}))
    else:
        mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    extractor = TransformersExtractor(str(folder), size=42)
    network = pytest.importorskip("transformers").Dinov2Model.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = network(bicubic(photographs(3, 0), 42, mean, deviation)).last_hidden_state[:, 0]
    features, logits = extractor(photographs(3, 0), ImageSpec(3, 32, 32))
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3)
    assert logits is None
    assert extractor.name == "tiny_dinov2"
    assert extractor.transform().startswith("transformers dinov2, 3 channels, bicubic antialiased to 42, mean ")


def test_weights_that_no_file_gave_never_enter_features(tmp_path):
    transformers = pytest.importorskip("transformers")
    arguments = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(image_size=32, patch_size=8, **arguments)
    torch.manual_seed(0)
    # as DINO's first files: a class token, and no pooler to go with it
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    first, second = (TransformersExtractor(str(tmp_path / "vit"), size=32) for _ in range(2))
    assert first.content_hash == second.content_hash
    images, spec = photographs(2, 0), ImageSpec(3, 32, 32)
    assert torch.equal(first(images, spec).features, second(images, spec).features)
    larger = TransformersExtractor(str(tmp_path / "vit"), size=64)
    assert larger(images, spec).features.shape == (2, 16)

    network = transformers.ViTModel(config)
    state = {key: rows for key, rows in network.state_dict().items() if key != "layernorm.weight"}
    network.save_pretrained(tmp_path / "lacking", state_dict=state)
    with pytest.raises(InputError, match=r"layernorm\.weight is missing or of another shape"):
        TransformersExtractor(str(tmp_path / "lacking"))
    config.hidden_size = 32
    config.save_pretrained(tmp_path / "vit")
    with pytest.raises(InputError, match="is missing or of another shape"):
        TransformersExtractor(str(tmp_path / "vit"))


def test_bad_folders_for_transformers_are_named_and_run_no_code(tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = dinov2(tmp_path)
    with pytest.raises(InputError, match="multiple of the 7 pixels of tiny_dinov2's patches, got 32"):
        TransformersExtractor(str(folder), size=32)
    with pytest.raises(InputError, match=r"is no folder with a config\.json"):
        TransformersExtractor(str(tmp_path / "facebook" / "dinov2-base"))
    (folder / "preprocessor_config.json").write_text("{}")
    with pytest.raises(InputError, match="does not give image_mean and image_std"):
        TransformersExtractor(str(folder))

    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "unpickled"), "w"))

    (folder / "model.safetensors").unlink()
    torch.save({"layernorm.weight": Attack()}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot read a model with safetensors weights"):
        TransformersExtractor(str(folder))
    (folder / "attack.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\nclass C: pass\nclass M: pass\n")
    config = {"model_type": "attack", "auto_map": {"AutoConfig": "attack.C", "AutoModel": "attack.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="cannot read a model"):
        TransformersExtractor(str(folder))
    assert not (tmp_path / "unpickled").exists()
    assert not (tmp_path / "executed").exists()

    sides = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    words = transformers.BertModel(transformers.BertConfig(vocab_size=20, **sides))
    masked = transformers.ViTMAEModel(transformers.ViTMAEConfig(image_size=32, patch_size=8, **sides))
    for network, message in ((words, "does not take images alone"), (masked, "hides parts of images at random")):
        network.save_pretrained(tmp_path / "network")
        with pytest.raises(InputError, match=message):
            TransformersExtractor(str(tmp_path / "network"))


@pytest.mark.parametrize("package", ["timm", "transformers"])
def test_a_missing_extra_is_one_line_with_the_command(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"needs {package}: pip install 'lightning-gen\[extractors\]'$"):
        TimmExtractor("test_vit", "vit.pth") if package == "timm" else TransformersExtractor(str(tmp_path))


def test_names_of_other_extractors_never_pass_for_the_literatures(tmp_path):
    save_classifier(SmallClassifier(SPEC, widths=(4,), num_features=4), tmp_path / "inception.safetensors")
    with pytest.raises(InputError, match=r"ClassifierExtractor\.name must be a name of its own, got 'inception'"):
        ClassifierExtractor(str(tmp_path / "inception.safetensors"))
    assert ClassifierExtractor(str(tmp_path / "inception.safetensors"), "mine").name == "mine"
    for name in ("", "inception_clean", "a/b", "a b"):
        with pytest.raises(InputError, match="a name of its own"):
            ModuleExtractor(torch.nn.Flatten(), name)


def test_clean_resize_is_pillows_and_rounded(inception_file, monkeypatch):
    clean = InceptionExtractor(str(inception_file), resize="clean")
    seen = []
    monkeypatch.setattr(clean.network, "forward", lambda images: seen.append(images) or (images, images))
    for images in (photographs(1, 0), photographs(1, 1).repeat(1, 1, 12, 12)):
        clean(images, ImageSpec(*images.shape[1:]))
        expected = (bicubic(images, 299, 0.0, 1.0) * 255).round()
        difference = (seen.pop().float() - expected).abs()
        assert difference.max() <= 1  # a half, rounded up or down
        assert difference.mean() < 1e-3
