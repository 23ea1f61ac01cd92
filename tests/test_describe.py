"""Objects as plain data and back; what is not plain is refused by name, and nothing untrusted is ever built."""

import collections
import enum
import functools
import json
import operator
import pathlib
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import OptimizerCallable
from refusals import refusal
from torch import nn

from lightning_gen.core.descriptions import TRUSTED, build, class_path, describe, find_class
from lightning_gen.core.errors import InputError
from lightning_gen.core.spec import ImageSpec
from lightning_gen.data import Digits, ImageDataModule
from lightning_gen.data.augment import RandomShift
from lightning_gen.models import GAN
from lightning_gen.networks import DCGANDiscriminator, MLPDiscriminator, MLPGenerator
from lightning_gen.objectives import R1, R2, AdversarialLoss, NonSaturating, Penalty, Relativistic
from lightning_gen.samplers import LatentSampler

SPEC = ImageSpec(1, 8, 8, levels=17)
HERE = (*TRUSTED, __name__)
Factory = Callable[[ImageSpec], nn.Module]


class Colour(enum.IntEnum):
    RED = 3


class Part:
    def __init__(self, size: int = 1):
        self.size = size

    class Nested:
        pass


class Whole:
    """Holds objects, a list of objects, factories and plain data."""

    def __init__(
        self,
        part: Part | None = None,
        parts: Sequence[Part] = (),
        factory: Callable[[int], Part] | None = None,
        factories: Sequence[Callable[[int], Part]] = (),
        table: dict[str, Any] | None = None,
        pair: tuple[int, float] = (1, 2.0),
        untyped=None,
    ):
        self.part = part
        self.parts = parts
        self.factory = factory
        self.factories = factories
        self.table = table
        self.pair = pair
        self.untyped = untyped


class Forgetful:
    def __init__(self, size: int):
        self.other = size


class Variadic:
    def __init__(self, *sizes: int, **rest: int):
        self.sizes, self.rest = sizes, rest


class BiggerPart(Part):
    """Fixes nothing and passes all on."""

    def __init__(self, colour: int = 0, **rest):
        super().__init__(**rest)
        self.colour = colour


class TypedForCheckersOnly:
    def __init__(self, size: "Nowhere" = 1, part: "Nowhere" = None):  # noqa: F821
        self.size, self.part = size, part


class Widget(nn.Module):
    def __init__(self, spec: ImageSpec, inner: Callable[[int], nn.Module], penalty: Penalty | None = None):
        super().__init__()


def a_function(x):
    return x


def there_and_back(value, expected=Any, **options):
    """Describe, check that JSON and torch.load(weights_only=True) could carry it, build."""
    description = describe(value)
    assert json.loads(json.dumps(description)) == description
    return build(description, expected, HERE, **options)


# Round trips


def test_plain_data_are_themselves():
    for value in (None, True, 3, -0.5, "a.b.C", [1, [2, "x"]], {"a": {"b": [None, False]}}, [], {}):
        assert describe(value) == value
        assert there_and_back(value) == value


def test_what_is_nearly_plain_becomes_plain():
    for value, plain in [
        (np.float64(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (Colour.RED, 3),
        (pathlib.Path("a") / "b", "a/b"),
        ((1, 2), [1, 2]),
        (collections.OrderedDict(a=1), {"a": 1}),
    ]:
        assert describe(value) == plain
        assert type(describe(value)) is type(plain), value


def test_objects():
    whole = there_and_back(Whole(Part(2), [Part(3), BiggerlessPart()], table={"k": [1]}, pair=(4, 0.5)), Whole)
    assert type(whole) is Whole
    assert whole.part.size == 2
    assert [type(part) for part in whole.parts] == [Part, BiggerlessPart]
    assert whole.parts[0].size == 3
    assert (whole.table, list(whole.pair), whole.factory) == ({"k": [1]}, [4, 0.5], None)


class BiggerlessPart(Part):
    def __init__(self):
        super().__init__(5)


def test_factories():
    whole = there_and_back(
        Whole(factory=functools.partial(Part, size=7), factories=[Part, functools.partial(Part, size=8)]), Whole
    )
    assert isinstance(whole.factory, functools.partial)
    assert whole.factory().size == 7
    assert [factory().size for factory in whole.factories] == [1, 8]


def test_factories_within_factories():
    inner = functools.partial(MLPDiscriminator, widths=(4, 5))
    factory = there_and_back(functools.partial(Widget, inner=inner, penalty=R2(0.5, every=2)), Factory)
    assert factory.func is Widget
    assert factory.keywords["inner"].func is MLPDiscriminator
    assert factory.keywords["inner"].keywords == {"widths": [4, 5]}
    assert (type(factory.keywords["penalty"]), factory.keywords["penalty"].every) == (R2, 2)


def test_objects_of_the_package():
    for value, expected in [
        (NonSaturating(), AdversarialLoss),
        (Relativistic(), AdversarialLoss | None),
        (R1(0.25, every=4), Penalty),
        (LatentSampler(0.5, 1.5), LatentSampler | None),
        (SPEC, ImageSpec),
        (ImageDataModule(Digits(), 32, augment=[RandomShift(2)], seed=3), ImageDataModule),
    ]:
        again = there_and_back(value, expected)
        assert type(again) is type(value)
        assert describe(again) == describe(value)


def test_optimizers_of_torch():
    for optimizer in (
        functools.partial(torch.optim.Adam, lr=1e-3, betas=(0.0, 0.99)),
        functools.partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1),
        functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        torch.optim.RMSprop,
    ):
        parameters = [nn.Parameter(torch.zeros(2))]
        again = there_and_back(optimizer, OptimizerCallable)(parameters)
        original = optimizer(parameters)
        assert type(again) is type(original)
        for name, value in original.defaults.items():
            assert again.defaults[name] == value or list(again.defaults[name]) == list(value), (optimizer, name)


def test_factories_made_by_jsonargparse():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=Factory)
    parser.add_argument("--networks", type=list[Factory])
    parser.add_argument("--optimizer", type=OptimizerCallable)
    parser.add_argument("--loss", type=AdversarialLoss)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = parser.instantiate_classes(
            parser.parse_object(
                {
                    "network": {"class_path": "lightning_gen.networks.MLPGenerator", "init_args": {"widths": [3, 4]}},
                    "networks": ["lightning_gen.networks.DCGANDiscriminator"],
                    "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.5}},
                    "loss": "lightning_gen.objectives.Relativistic",
                }
            )
        )
    network = there_and_back(made.network, Factory)
    assert network.func is MLPGenerator
    linear = [m for m in network(SPEC).modules() if isinstance(m, nn.Linear)]
    assert [m.out_features for m in linear] == [3, 4, 64]
    assert there_and_back(made.networks, list[Factory])[0].func is DCGANDiscriminator
    assert there_and_back(made.optimizer, OptimizerCallable)([nn.Parameter(torch.zeros(1))]).defaults["lr"] == 0.5
    assert type(there_and_back(made.loss, AdversarialLoss)) is Relativistic


def test_subclass_that_passes_the_rest_on_as_a_factory():
    factory = there_and_back(functools.partial(BiggerPart, colour=2, size=9), Callable[[], Part])
    assert (factory().colour, factory().size) == (2, 9)


def test_plain_arguments_need_no_readable_annotation():
    again = there_and_back(TypedForCheckersOnly(4), TypedForCheckersOnly)
    assert (again.size, again.part) == (4, None)
    with pytest.raises(InputError, match=r"value.part: no annotation says what this may be"):
        there_and_back(TypedForCheckersOnly(4, Part(1)), TypedForCheckersOnly)


def test_nested_classes_and_class_paths():
    assert class_path(Part.Nested) == f"{__name__}.Part.Nested"
    assert type(there_and_back(Part.Nested(), Part.Nested)) is Part.Nested


def test_extra_arguments_reach_the_outermost_object_alone():
    description = {"class_path": f"{__name__}.Whole", "init_args": {"part": describe(Part(4))}}
    whole = build(description, Whole, HERE, untyped="given")
    assert (whole.untyped, whole.part.size) == ("given", 4)


# What cannot be described


def refused(value, message):
    with pytest.raises(InputError, match=message):
        describe(value, "GAN(generator=...)")


def test_functions_are_refused_by_name():
    refused(lambda spec: MLPGenerator(spec), r"^GAN\(generator=...\): the function test_functions.*<lambda> cannot be")
    refused(a_function, r"^GAN\(generator=...\): the function a_function cannot be stored in a checkpoint")
    refused(print, "the function print cannot")
    refused(LatentSampler().latents, "the function LatentSampler.latents cannot")


def test_the_place_is_named():
    with pytest.raises(InputError, match=r"^top\.parts\[1\]\.size: the function .*lambda"):
        describe(Whole(parts=[Part(), Part(size=lambda: 1)]), "top")
    with pytest.raises(InputError, match=r"^top\.inner\.widths: the function .*lambda"):
        describe(functools.partial(Widget, inner=functools.partial(MLPGenerator, widths=lambda: 1)), "top")
    with pytest.raises(InputError, match=r"^top\.table\.k: the function"):
        describe(Whole(table={"k": a_function}), "top")


def test_local_classes_are_refused_by_name():
    class Local(nn.Module):
        pass

    for value in (Local, Local(), functools.partial(Local)):
        refused(value, "Local is defined inside a function: move it to a module")


def test_other_partials_are_refused():
    for factory in (
        functools.partial(MLPGenerator, SPEC),
        functools.partial(MLPGenerator, a_function),
        functools.partial(MLPGenerator, MLPDiscriminator),
        functools.partial(a_function, 1),
        functools.partial(a_function, MLPGenerator),  # what it does with the class, nobody can tell
        functools.partial(lambda spec: spec),
        functools.partial(operator.add, 1),
    ):
        refused(factory, r"^GAN\(generator=...\): a factory must be functools.partial\(Class, name=value, ...\)")


def test_objects_whose_arguments_are_lost_are_refused():
    refused(Forgetful(3), "Forgetful does not keep its argument 'size' as an attribute of that name")
    for value in (Variadic(1, a=2), {1, 2}, b"x", 1j, torch.zeros(2), np.zeros(2), torch.float32, torch.device("cpu")):
        refused(value, f"cannot describe a {type(value).__name__}, whose arguments cannot be read back")


# What is not built


def not_built(path, expected=object, **options) -> str:
    """Return what building of a class is refused with."""
    return refusal(build, {"class_path": path, "init_args": {}}, expected, **options)


def test_classes_of_other_packages_are_refused():
    for path in (
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "torchvision.models.ResNet",
        "lightning.pytorch.Trainer",
        "lightning_gen_evil.Thing",
        "torchevil.Thing",
        "test_describe.Part",
        "Part",
        "",
        ".torch.nn.Linear",
    ):
        loaded = set(sys.modules)
        assert "not from a trusted package (lightning_gen, torch)" in not_built(path), path
        assert set(sys.modules) == loaded, path  # not even imported


def test_the_remedy_is_named():
    with pytest.raises(InputError, match=r'load with trust=\("my_pkg",\) or --trust my_pkg'):
        find_class("my_pkg.nets.Net")


def test_what_is_no_class_is_refused():
    for path in (
        "torch.hub.load",
        "torch.load",
        "torch.os.system",
        "torch.nn",
        "torch.nn.Linear.forward",
        "torch.nn.functional.relu",
        "torch.NoSuchThing",
        "torch.nn.Linear.NoSuchThing",
        "torch.no_such_module.Thing",
        "lightning_gen.core.descriptions.importlib.import_module",
        "lightning_gen.core.descriptions.build",
        "lightning_gen.models.checkpoint.torch.load",
        "lightning_gen.__main__.main",
        "torch..nn.Linear",
        "torch.nn.Linear.",
        "torch. nn.Linear",
    ):
        assert "there is no class" in not_built(path), path


def test_foreign_classes_behind_a_trusted_name_are_refused():
    for path in (
        "lightning_gen.core.descriptions.functools.partial",
        "lightning_gen.core.files.Path",
        "lightning_gen.models.checkpoint.zipfile.ZipFile",
        "lightning_gen.runs.contextlib.suppress",
        "torch.nn.Linear.__class__",
        "torch.os._Environ",
    ):
        assert "which is not from a trusted package" in not_built(path), path


def test_a_class_path_that_is_no_text_is_refused():
    for path in (None, 3, ["torch.nn.Linear"], {"a": 1}):
        assert "class_path must be the import path of a class" in not_built(path), path


def test_classes_of_another_type_are_refused():
    for path, expected, name in [
        ("torch.nn.Linear", AdversarialLoss, "AdversarialLoss"),
        ("torch.nn.Linear", AdversarialLoss | None, "AdversarialLoss"),
        ("lightning_gen.core.spec.ImageSpec", Factory, "Module"),
        ("lightning_gen.objectives.NonSaturating", Factory, "Module"),
        ("torch.optim.Adam", Factory, "Module"),
        ("torch.nn.Linear", OptimizerCallable, "Optimizer"),
        ("torch.nn.Linear", int, "int"),
        ("torch.nn.Linear", str, "str"),
        ("lightning_gen.objectives.NonSaturating", Penalty, "Penalty"),
        ("lightning_gen.data.Digits", ImageDataModule, "ImageDataModule"),
    ]:
        said = not_built(path, expected, where="here")
        assert re.match(rf"here: {path} is not an? {name}", said), (path, expected, said)


def test_types_are_checked_inside_lists():
    for penalties in ([{"class_path": "torch.nn.Linear"}], {"class_path": "torch.nn.Linear"}):
        description = {"class_path": "lightning_gen.models.GAN", "init_args": {"penalties": penalties}}
        with pytest.raises(InputError, match=r"model.penalties(\[0\])?: torch.nn.Linear is not"):
            build(description, GAN, where="model", spec=SPEC)


def test_types_are_checked_where_nothing_is_expected():
    for expected in (Any, None, dict[str, int], list[int]):
        with pytest.raises(InputError):
            build({"class_path": "torch.nn.Linear", "init_args": {"in_features": 1}}, expected)


def test_wrong_arguments_are_refused_by_name():
    loss = {"class_path": "lightning_gen.objectives.NonSaturating", "init_args": {"margin": 1}}
    with pytest.raises(InputError, match=r"^loss: NonSaturating takes no argument 'margin'"):
        build(loss, AdversarialLoss, where="loss")
    network = {"class_path": "lightning_gen.networks.MLPGenerator", "init_args": {"depth": 1}}
    with pytest.raises(InputError, match=r"^generator: MLPGenerator takes no argument 'depth'"):
        build(network, Factory, where="generator")
    with pytest.raises(InputError, match=r"^model: GAN: missing a required argument: 'generator'"):
        build({"class_path": "lightning_gen.models.GAN", "init_args": {}}, GAN, where="model", spec=SPEC)
    for name in ("self", "__class__", "args", "kwargs"):
        with pytest.raises(InputError, match=f"takes no argument '{name}'"):
            build({"class_path": "torch.nn.LSTM", "init_args": {name: 1}}, nn.Module)


def test_further_packages_can_be_trusted(tmp_path, monkeypatch):
    package = tmp_path / "my_describe_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "losses.py").write_text(
        "from lightning_gen.objectives import NonSaturating\n"
        "class Mine(NonSaturating):\n    def __init__(self, margin=1.0):\n        self.margin = margin\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    description = {"class_path": "my_describe_pkg.losses.Mine", "init_args": {"margin": 0.5}}
    with pytest.raises(InputError, match="not from a trusted package"):
        build(description, AdversarialLoss)
    assert "my_describe_pkg" not in sys.modules
    for trust in ("my_describe_pkg", "my_describe_pkg.losses"):
        assert build(description, AdversarialLoss, (*TRUSTED, trust)).margin == 0.5
