"""load: what it returns, what it refuses, and that no code from a file ever runs."""

import os
import pickle
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch.optim import SGD

import lightning_gen
from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.models import GAN, read_checkpoint
from lightning_gen.models.state import CHECKPOINT_FORMAT, CHECKPOINT_KEY
from lightning_gen.networks import MLPDiscriminator, MLPGenerator
from lightning_gen.objectives import R1, Relativistic

SPEC = ImageSpec(1, 4, 4, levels=17)


def gan(**options) -> GAN:
    arguments = {
        "generator": partial(MLPGenerator, latent_dim=2, widths=(8,)),
        "discriminator": partial(MLPDiscriminator, widths=(8,)),
        "generator_optimizer": partial(SGD, lr=0.1),
        "discriminator_optimizer": partial(SGD, lr=0.1),
    }
    return GAN(SPEC, **{**arguments, **options})


def draw(model) -> torch.Tensor:
    return model.sample(16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def store(quiet_trainer, make_batches, tmp_path):
    """Train a model for a step under a plain Trainer and save it."""

    def run(model, name="model.ckpt") -> Path:
        trainer = quiet_trainer()
        trainer.fit(model, make_batches(model.spec, 1))
        trainer.save_checkpoint(tmp_path / name)
        return tmp_path / name

    return run


@pytest.fixture
def path(store):
    return store(gan())


def changed(path: Path, change) -> Path:
    """Rewrite a checkpoint with something changed."""
    content = torch.load(path, weights_only=True)
    change(content, content[CHECKPOINT_KEY])
    torch.save(content, path)
    return path


# What is stored and comes back


def test_a_checkpoint_is_plain_data_and_names_every_part(path):
    content = torch.load(path, weights_only=True)[CHECKPOINT_KEY]
    assert content["format"] == CHECKPOINT_FORMAT
    assert content["version"] == lightning_gen.__version__
    assert content["spec"] == SPEC.as_dict()
    assert (content["images_seen"], content["data"]) == (8, None)
    assert content["model"]["class_path"] == "lightning_gen.models.gan.GAN"
    generator = content["model"]["init_args"]["generator"]
    assert generator == {
        "class_path": "lightning_gen.networks.mlp.MLPGenerator",
        "init_args": {"latent_dim": 2, "widths": [8]},
    }
    assert "spec" not in content["model"]["init_args"]


def test_load_accepts_a_path_as_text_and_a_device(path):
    for map_location in ("cpu", torch.device("cpu")):
        model = lightning_gen.load(str(path), map_location=map_location)
        assert model.device == torch.device("cpu")
        assert not model.training


def test_load_gives_injected_parts_back(store):
    model = lightning_gen.load(store(gan(loss=Relativistic(), penalties=[R1(0.5, every=4)], critic_steps=3)))
    assert type(model.loss) is Relativistic
    assert [(type(p), p.weight, p.every) for p in model.penalties] == [(R1, 0.5, 4)]
    assert model.critic_steps == 3
    optimizers = model.configure_optimizers()
    assert [(type(o), o.defaults["lr"]) for o in optimizers] == [(SGD, 0.1), (SGD, 0.1)]


def test_numpys_numbers_are_numbers(store):
    model = lightning_gen.load(store(gan(penalties=[R1(np.float64(0.5))])))
    assert [(type(p), p.weight) for p in model.penalties] == [(R1, 0.5)]


def test_a_checkpoint_loads_in_a_process_that_knows_only_the_package(path):
    code = (
        "import sys, torch, lightning_gen; model = lightning_gen.load(sys.argv[1]);"
        "print(int(model.sample(16, generator=torch.Generator().manual_seed(0)).sum()))"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert int(done.stdout) == int(draw(lightning_gen.load(path)).sum())


class Fixed(GAN):
    """A subclass that fixes one argument and passes the rest on."""

    def __init__(self, spec: ImageSpec, critic_steps: int = 2, **rest):
        super().__init__(spec, critic_steps=critic_steps, loss=Relativistic(), **rest)


def test_a_subclass_that_passes_arguments_on(store):
    arguments = {
        key: value for key, value in gan().init_arguments.items() if key not in ("spec", "loss", "critic_steps")
    }
    model = Fixed(SPEC, **arguments)
    loaded = lightning_gen.load(store(model), trust=(__name__,))
    assert type(loaded) is Fixed
    assert (loaded.critic_steps, type(loaded.loss)) == (2, Relativistic)
    assert torch.equal(draw(loaded), draw(model))


def test_what_cannot_be_described_is_said_when_saving(quiet_trainer, make_batches, tmp_path):
    trainer = quiet_trainer()
    trainer.fit(gan(generator=lambda spec: MLPGenerator(spec, 2)), make_batches(SPEC, 1))
    with pytest.raises(InputError, match=r"^GAN\.generator: the function .*<lambda> cannot be stored"):
        trainer.save_checkpoint(tmp_path / "a.ckpt")


# Trust


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A network in a package of the user's own."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "my_load_pkg.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    latent_dim = 2\n"
        "    def __init__(self, spec, width: int = 3):\n"
        "        super().__init__()\n"
        "        self.spec = spec\n"
        "        self.net = nn.Sequential(nn.Linear(2, width), nn.Linear(width, spec.dims), nn.Tanh())\n"
        "    def forward(self, latent, labels=None):\n"
        "        return self.net(latent).unflatten(1, self.spec.shape)\n"
    )
    monkeypatch.syspath_prepend(folder)
    import my_load_pkg

    yield my_load_pkg
    sys.modules.pop("my_load_pkg", None)


def test_classes_of_other_packages_need_trust(store, foreign):
    model = gan(generator=partial(foreign.Net, width=5))
    path = store(model)
    with pytest.raises(InputError, match=r'my_load_pkg.Net is not from a trusted .* trust=\("my_load_pkg",\)'):
        lightning_gen.load(path)
    for trust in (("my_load_pkg",), ["numpy", "my_load_pkg"], "my_load_pkg"):
        loaded = lightning_gen.load(path, trust=trust)
        assert type(loaded.generator) is foreign.Net
        assert torch.equal(draw(loaded), draw(model))


def test_a_package_that_nobody_trusts_is_not_even_imported(store, foreign):
    path = store(gan(generator=foreign.Net))
    sys.modules.pop("my_load_pkg")  # from here on, importing it would run its code again
    with pytest.raises(InputError, match=r"my_load_pkg\.Net is not from a trusted package"):
        lightning_gen.load(path)
    assert "my_load_pkg" not in sys.modules
    lightning_gen.load(path, trust=("my_load_pkg",))
    assert "my_load_pkg" in sys.modules


def test_a_trusted_package_that_is_not_installed(store, foreign, monkeypatch):
    path = store(gan(generator=foreign.Net))
    sys.modules.pop("my_load_pkg")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if "package" not in Path(entry).name])
    with pytest.raises(InputError, match=r"there is no class my_load_pkg.Net: is the package .* installed\?"):
        lightning_gen.load(path, trust=("my_load_pkg",))


def test_a_description_builds_only_what_each_parameter_expects(path):
    whole = path.read_bytes()
    for place, class_path, message in (
        ("generator", "os.system", "os.system is not from a trusted package"),
        (
            "generator",
            "lightning_gen.core.spec.ImageSpec",
            "model.generator: lightning_gen.core.spec.ImageSpec is not a Module",
        ),
        ("generator", "torch.hub.load", "there is no class torch.hub.load"),
        ("generator", "lightning_gen.core.descriptions.importlib.import_module", "there is no class"),
        ("loss", "torch.nn.Linear", "model.loss: torch.nn.Linear is not a AdversarialLoss"),
        ("sampler", "lightning_gen.objectives.R1", "model.sampler: lightning_gen.objectives.R1 is not a LatentSampler"),
        ("critic_steps", "torch.nn.Linear", "model.critic_steps: torch.nn.Linear is not a int"),
        ("generator_optimizer", "torch.nn.Linear", "model.generator_optimizer: torch.nn.Linear is not a Optimizer"),
        ("depth", "torch.nn.Linear", "GAN takes no argument 'depth'"),
    ):

        def change(content, state, place=place, class_path=class_path):
            state["model"]["init_args"][place] = {"class_path": class_path, "init_args": {}}

        path.write_bytes(whole)
        with pytest.raises(InputError, match=message):
            lightning_gen.load(changed(path, change))


def test_the_model_must_be_one(path):
    def change(content, state):
        state["model"] = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 1, "out_features": 1}}

    with pytest.raises(InputError, match=r"model: torch.nn.Linear is not a ImageModule"):
        lightning_gen.load(changed(path, change))


# Files with code in them


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def plant(kind: str, path: Path, good: Path, marker: Path) -> None:
    content = torch.load(good, weights_only=True)
    if kind == "beside":
        torch.save({**content, "extra": Evil(marker)}, path)
    elif kind == "inside":
        content[CHECKPOINT_KEY]["model"]["init_args"]["loss"] = Evil(marker)
        torch.save(content, path)
    elif kind == "alone":
        torch.save(Evil(marker), path)
    elif kind == "old format":
        torch.save({**content, "extra": Evil(marker)}, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(Evil(marker)))


@pytest.mark.parametrize("kind", ["beside", "inside", "alone", "old format", "plain pickle"])
def test_code_in_a_file_is_refused_and_does_not_run(kind, path, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # some set it to load old files of other programs
    evil, marker = tmp_path / "evil.ckpt", tmp_path / "it ran"
    plant(kind, evil, path, marker)
    message = "refused" if kind in ("beside", "inside", "alone") else "is not a checkpoint"
    for read in (lightning_gen.load, read_checkpoint):
        with pytest.raises(InputError, match=rf"evil.ckpt .*{message}") as caught:
            read(evil)
        assert "\n" not in str(caught.value)
    assert not marker.exists()
    if kind == "beside":  # the trap is a real one
        torch.load(evil, weights_only=False)
        assert marker.exists()


def test_anything_but_plain_data_and_tensors_is_refused(path):
    whole = path.read_bytes()
    for value in (np.float64(1.0), Path("a"), range(3)):
        path.write_bytes(whole)
        with pytest.raises(InputError, match="holds more than plain data and tensors"):
            lightning_gen.load(changed(path, lambda content, state, value=value: content.update(extra=value)))


# Files that are no checkpoints, or broken


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(InputError, match=rf"^no checkpoint at {tmp_path}/none.ckpt$"):
        lightning_gen.load(tmp_path / "none.ckpt")
    with pytest.raises(InputError, match=rf"^no checkpoint at {tmp_path} \(it is a folder\)$"):
        lightning_gen.load(tmp_path)


def test_a_file_that_was_cut_short(path):
    content = path.read_bytes()
    for share in (0.0, 0.01, 0.5, 0.99):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(InputError, match=r"model.ckpt is not a checkpoint, or was cut short"):
            lightning_gen.load(path)


def test_other_files(tmp_path):
    text, archive = tmp_path / "config.yaml", tmp_path / "pictures.zip"
    text.write_text("model: GAN\n")
    with pytest.raises(InputError, match=r"config.yaml is not a checkpoint"):
        lightning_gen.load(text)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "hello")
    with pytest.raises(InputError, match=r"pictures.zip cannot be read as a checkpoint"):
        lightning_gen.load(archive)


def test_a_damaged_inside(path):
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    for garbage in (b"", b"garbage", b"\x80\x02", b"\x80\x02}q\x00(X", bytes(range(256)), b"\x80\x02h\x07."):
        with zipfile.ZipFile(path, "w") as file:
            for name, content in members.items():
                file.writestr(name, garbage if name.endswith("data.pkl") else content)
        with pytest.raises(InputError, match=r"model.ckpt") as caught:
            lightning_gen.load(path)
        assert "\n" not in str(caught.value)


class Foreign(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(16, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch.levels.float().flatten(1)).mean()

    def configure_optimizers(self):
        return SGD(self.parameters(), lr=0.1)


def test_checkpoints_of_other_programs(quiet_trainer, make_batches, tmp_path):
    trainer = quiet_trainer()
    trainer.fit(Foreign(), make_batches(SPEC, 1))
    trainer.save_checkpoint(tmp_path / "lightning.ckpt")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "weights.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    torch.save({CHECKPOINT_KEY: 3}, tmp_path / "number.ckpt")
    torch.save({CHECKPOINT_KEY: {"format": 1}}, tmp_path / "part.ckpt")
    for path in tmp_path.glob("*.ckpt"):
        with pytest.raises(InputError, match=rf"{path.name} was not written by lightning-gen"):
            lightning_gen.load(path)


def test_other_formats_say_what_to_do(path):
    whole = path.read_bytes()
    for step, remedy in ((1, "upgrade lightning-gen"), (-1, "train anew, or use the version that wrote it")):

        def change(content, state, step=step):
            state["format"], state["version"] = CHECKPOINT_FORMAT + step, "9.1"

        path.write_bytes(whole)
        message = rf"has format {CHECKPOINT_FORMAT + step} \(written by lightning-gen 9\.1\).*{remedy}"
        with pytest.raises(InputError, match=message):
            lightning_gen.load(changed(path, change))


def wider(content, state):
    state["model"]["init_args"]["generator"]["init_args"]["widths"] = [9]


def fewer(content, state):
    content["state_dict"].pop("generator.net.0.weight")


def more(content, state):
    content["state_dict"]["generator.net.7.weight"] = torch.zeros(1)


def none(content, state):
    content.pop("state_dict")


def other_average(content, state):
    content["ema"] = {"something": {}}


def other_images(content, state):
    state["spec"]["height"] = 5


def test_weights_that_do_not_fit(path):
    whole = path.read_bytes()
    for change in (wider, fewer, more, none, other_average, other_images):
        path.write_bytes(whole)
        message = r"model.ckpt: the weights do not fit the model that the file describes"
        with pytest.raises(InputError, match=message) as caught:
            lightning_gen.load(changed(path, change))
        assert "\n" not in str(caught.value)


def test_resuming_refuses_other_images_and_other_programs(path, quiet_trainer, make_batches, tmp_path):
    other = ImageSpec(1, 4, 4, levels=16)
    model = GAN(other, **{key: value for key, value in gan().init_arguments.items() if key != "spec"})
    with pytest.raises(InputError, match=r"the checkpoint is of images .*'levels': 17.* the data are .*'levels': 16"):
        quiet_trainer().fit(model, make_batches(other, 1), ckpt_path=path, weights_only=True)
    with pytest.raises(InputError, match="was not written by lightning-gen"):
        gan().on_load_checkpoint({"state_dict": {}})
