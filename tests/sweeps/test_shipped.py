"""Every shipped sweep: its header is its command, and its command lines parse in both forms, on other images, too."""

import re
import shlex
from dataclasses import replace

import pytest

from lightning_gen.commands.check_sweep import CommandCheck
from lightning_gen.core.errors import InputError
from lightning_gen.shipped import sweeps_folder
from lightning_gen.sweeps.check import commands_to_check, fit_arguments
from lightning_gen.sweeps.command import command_line
from lightning_gen.sweeps.file import read_sweep, with_config

SWEEPS = sorted(sweeps_folder().glob("*.yaml"))
every_sweep = pytest.mark.parametrize("path", SWEEPS, ids=[path.stem for path in SWEEPS])


@pytest.fixture(scope="module")
def checker():
    return CommandCheck()


def header(path, mark: str) -> list[str]:
    """Return the words after ``mark`` in the comments at the head of a file."""
    found = re.search(rf"^# {mark}(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{path} has no line '# {mark}...'"
    return shlex.split(found[1])


def test_there_are_sweeps():
    assert {"gan", "gan-architecture", "classical", "classical-gaussian", "families", "vae"} <= {
        path.stem for path in SWEEPS
    }


def test_the_header_is_the_command_and_runs_are_of_lightning_and_named_after_the_file():
    for path in SWEEPS:
        first, sweep = path.read_text(encoding="utf-8").partition("\n")[0], read_sweep(path)
        assert first.startswith(f"# lightning sweep sweeps/{path.name}")
        assert header(path, "wandb sweep ")[0] == f"sweeps/{path.name},"
        assert sweep.command[:3] == ("${env}", "${program}", "fit"), path
        assert sweep.program == "lightning", path
        assert sweep.name == path.stem
        assert sweep.metric, path


def check(sweep, checker, tmp_path, lenient=False):
    """Parse every command line to check, make every model, and return what is noted."""
    lines = [fit_arguments(command_line(sweep, parameters, tmp_path)) for parameters in commands_to_check(sweep)]
    return checker.build(lines, [checker.check(line) for line in lines], lenient, 600)


@every_sweep
def test_every_value_parses_and_fits_the_others(path, checker, tmp_path):
    assert check(read_sweep(path), checker, tmp_path) == []


@every_sweep
def test_every_value_parses_as_json(path, checker, tmp_path):
    sweep = read_sweep(path)
    place = sweep.command.index("${args}")
    command = (*sweep.command[:place], "--config", "${args_json_file}", *sweep.command[place + 1 :])
    sweep = replace(sweep, command=command)
    for parameters in commands_to_check(sweep):
        args = fit_arguments(command_line(sweep, parameters, tmp_path))
        if "config" in sweep.parameters:
            with pytest.raises(InputError, match=r"^config: a config file cannot name another one"):
                checker.check(args)
        else:
            checker.check(args)


@every_sweep
def test_other_images_are_one_override_away(path, checker, tmp_path):
    file, option, config = header(path, "Other images: lightning sweep ")
    assert (file, option) == (f"sweeps/{path.name}", "--config")
    notes = check(with_config(read_sweep(path), config), checker, tmp_path, lenient=True)
    if path.stem == "classical":  # as its header says
        assert len(notes) == 1
        assert notes[0].startswith("note: model: lightning_gen.models.ChowLiuMixture fails: trees of 784 pixels")
    elif path.stem == "families":  # the same
        assert len(notes) == 1
        assert notes[0].startswith("note: configs/vae/vq-prior-fashion-mnist.yaml fails: no checkpoint at /")
    else:
        assert notes == []
