"""Extractors: the shipped digits classifier and the contract that all of them keep."""

import socket
import time

import pytest
import torch
import torchvision
from jsonargparse import ArgumentParser

import lightning_gen.metrics.weights as weights_module
from lightning_gen.data.digits import Digits
from lightning_gen.errors import InputError
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
from lightning_gen.metrics.extractors import WEIGHTS
from lightning_gen.networks.classifier import SmallClassifier, load_classifier, save_classifier
from lightning_gen.spec import ImageSpec

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


def small_module():
    torch.manual_seed(0)
    return ModuleExtractor(torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3)), "small")


def torchvision_model(folder):
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), folder / "squeezenet.pth")
    return TorchvisionExtractor("squeezenet1_1", str(folder / "squeezenet.pth"), size=64)


CONTRACT = {
    "digits": lambda folder: DigitsExtractor(),
    "module": lambda folder: small_module(),
    "torchvision": torchvision_model,
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
def test_inception_path_is_that_of_torch_fidelity_on_the_same_pictures(inception_file, tmp_path):
    from PIL import Image
    from torch_fidelity import calculate_metrics

    generated, real = photographs(24, 0) // 2, photographs(24, 1)
    for folder, images in (("generated", generated), ("real", real)):
        (tmp_path / folder).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / folder / f"{i:05}.png")
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
        kid_subset_size=20,
        kid_subsets=4,
        batch_size=8,
        cuda=False,
        cache=False,
        verbose=False,
    )
    metrics = [FrechetDistance(), InceptionScore(2), KernelDistance(subsets=4, subset_size=20), PrecisionRecall()]
    suite = MetricSuite(InceptionExtractor(str(inception_file)), metrics, cache=False, batch_size=8)
    suite.set_reference("train", real, ImageSpec(3, 32, 32))
    for index in torch.arange(24).split(8):
        suite.update(generated[index], index)
    ours = suite.compute()
    pairs = {
        "fid": "frechet_inception_distance",
        "is": "inception_score_mean",
        "is_std": "inception_score_std",
        "kid_subsets": "kernel_inception_distance_mean",
        "precision": "precision",
        "recall": "recall",
    }
    assert ours["is"] > 1.02
    for name, key in pairs.items():
        # torch-fidelity sums KID's kernel in float32, and subtracts nearly equal sums
        assert ours[name] == pytest.approx(theirs[key], rel=1e-3 if name == "kid_subsets" else 1e-5), name


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
