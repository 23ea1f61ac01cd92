"""Sweep files: what is read, what is refused and with which words, and the override of the config."""

from pathlib import Path

import pytest
import yaml
from refusals import refusal

from lightning_gen.core.errors import InputError
from lightning_gen.shipped import find_sweep, sweeps_folder
from lightning_gen.sweeps.file import EarlyTermination, read_sweep, sweep_text, with_config, with_metric

COMMAND = ["${env}", "${program}", "fit", "--config", "configs/gan/relativistic-digits.yaml", "${args}"]
SWEEP = {
    "program": "lightning",
    "command": COMMAND,
    "method": "bayes",
    "metric": {"name": "val/fid_digits_heldout"},
    "parameters": {"ema.half_life": {"min": 1, "max": 9}},
}


@pytest.fixture
def write(tmp_path):
    """Write a sweep file: text, or the usual one with some keys changed, None leaving one out."""

    def write(text=None, **changes):
        path = tmp_path / "mine.yaml"
        if text is None:
            text = yaml.safe_dump({key: value for key, value in {**SWEEP, **changes}.items() if value is not None})
        path.write_text(text, encoding="utf-8")
        return path

    return write


def message(path) -> str:
    return refusal(read_sweep, path)


def test_a_file_says_all_of_it(write):
    path = write(
        name="GAN, narrow",
        description="what it is",
        project="p",
        entity="e",
        metric={"name": "a", "goal": "maximize", "target": 2},
        early_terminate={"type": "hyperband", "max_iter": 27, "s": 2, "eta": 2, "strict": False},
        run_cap=7,
        parameters={"b": {"value": 1}, "a": {"min": 0.0, "max": 1.0}},
    )
    sweep = read_sweep(path)
    assert (sweep.path, sweep.name, sweep.method, sweep.program) == (path, "GAN, narrow", "bayes", "lightning")
    assert (sweep.metric, sweep.goal, sweep.target, sweep.run_cap) == ("a", "maximize", 2, 7)
    assert sweep.early_terminate == EarlyTermination(max_iter=27, s=2, eta=2.0, strict=False)
    assert {name: distribution.kind for name, distribution in sweep.parameters.items()} == {
        "a": "uniform",
        "b": "constant",
    }
    assert list(sweep.parameters) == ["a", "b"]
    assert sweep.command == tuple(COMMAND)
    assert sweep.raw == yaml.safe_load(path.read_text(encoding="utf-8"))


def test_what_is_left_out_has_wandbs_defaults(write):
    sweep = read_sweep(write(program="train.py", command=None, method="random", metric=None))
    assert sweep.command == ("${env}", "${interpreter}", "${program}", "${args}")
    assert (sweep.name, sweep.metric, sweep.goal, sweep.target) == ("mine", None, "minimize", None)
    assert (sweep.early_terminate, sweep.run_cap) == (None, None)
    early = read_sweep(write(early_terminate={"type": "hyperband", "min_iter": 3})).early_terminate
    assert early == EarlyTermination(min_iter=3, eta=3.0, strict=True)


def test_mistakes_are_one_line_with_file_key_and_remedy(write):
    for changes, words in [
        ({"methd": "grid"}, "methd: no such key (did you mean 'method'?)"),
        ({"xyz": 1}, "xyz: no such key: command, description,"),
        ({"scheduler": {}}, "scheduler: a part of W&B's own services"),
        ({"method": None}, "method is missing: grid, random or bayes"),
        ({"method": "bayesian"}, "method: there is no 'bayesian' (did you mean 'bayes'?)"),
        ({"method": ["grid"]}, "method: there is no ['grid']"),
        ({"metric": None}, "method: bayes needs metric: {name: ..., goal: minimize}"),
        ({"metric": None, "method": "random", "early_terminate": {"type": "hyperband", "min_iter": 1}}, "early_terminate needs metric"),
        ({"metric": "val/fid"}, "metric must be a mapping such as {name: ..., goal: minimize}, got 'val/fid'"),
        ({"metric": {"goal": "minimize"}}, "metric.name is missing"),
        ({"metric": {"name": "a", "goal": "minimise"}}, "metric.goal: there is no 'minimise' (did you mean 'minimize'?)"),
        ({"metric": {"name": "a", "gaol": "minimize"}}, "metric.gaol: no such key (did you mean 'goal'?)"),
        ({"metric": {"name": "a", "target": "low"}}, "metric.target must be a number, got 'low'"),
        ({"parameters": None}, "parameters is missing"),
        ({"parameters": {}}, "parameters is missing"),
        ({"parameters": {"--model.loss": {"value": 1}}}, "'--model.loss' is not a dotted name: write model.loss"),
        ({"parameters": {1: {"value": 1}}}, "parameters: 1 is not a dotted name"),
        ({"parameters": {"a": {"min": 1}}}, "parameters.a: min needs max"),
        ({"method": "grid", "parameters": {"a": {"min": 0.0, "max": 1.0}}}, "parameters.a: method: grid cannot go through uniform: give values"),
        ({"early_terminate": {"type": "hyperbnd", "min_iter": 1}}, "early_terminate.type: there is no 'hyperbnd' (did you mean 'hyperband'?)"),
        ({"early_terminate": {"min_iter": 1}}, "early_terminate.type: there is no None: hyperband"),
        ({"early_terminate": {"type": "hyperband"}}, "early_terminate: give min_iter, or max_iter and s"),
        ({"early_terminate": {"type": "hyperband", "max_iter": 9}}, "early_terminate: give min_iter, or max_iter and s"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 0}}, "early_terminate.min_iter must be a positive integer, got 0"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1}}, "early_terminate.eta must be a number above 1, got 1"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1, "strict": 1}}, "early_terminate.strict must be true or false, got 1"),
        ({"early_terminate": {"type": "hyperband", "miniter": 1}}, "miniter: no such key (did you mean 'min_iter'?)"),
        ({"run_cap": 0}, "run_cap must be a positive integer, got 0"),
        ({"run_cap": 2.5}, "run_cap must be a positive integer, got 2.5"),
        ({"name": "a/b"}, "name: 'a/b' cannot be the folder of the runs"),
        ({"name": 3}, "name must be text, got 3"),
        ({"command": None}, "command is missing: for program: lightning write command:"),
        ({"command": "lightning fit"}, "command must be a list"),
        ({"command": ["${program}", {"args": 1}]}, "command[1] must be text (macros in quotes), got {'args': 1}"),
        ({"command": ["${env}", "${program}", "fit"]}, "command: no ${args} or ${args_json_file} among its items"),
        ({"command": ["${program}", "${arsg}"]}, "command[1]: there is no macro ${arsg} (did you mean 'args'?)"),
        ({"command": ["${program}", "--config=${args_json_file}"]}, "command[1]: --config=${args_json_file}: a macro must be a whole item"),
        ({"command": ["${program} fit ${args}"]}, "a macro must be a whole item"),
        ({"command": ["${env}${args}"]}, "command[0]: ${env}${args}: a macro must be a whole item"),
        ({"command": ["${args}", "${model.x}"]}, "command[1]: there is no macro ${model.x}: args, args_append_hydra, "),
        ({"command": ["${args}", "${envvar:home}"]}, "environment variables have capital letters"),
        ({"program": None}, "program is missing: ${program} in command stands for it"),
    ]:  # fmt: skip
        path = write(**changes)
        assert message(path).startswith(f"{path}: "), changes
        assert words in message(path), changes


def test_numbers_that_yaml_reads_as_text_are_told(write):
    for written, remedy in {
        "1e-4": "1.0e-4",
        "2.5e4": "2.5e+4",
        "1E5": "1.0e+5",
        "-3e+2": "-3.0e+2",
        ".5e3": ".5e+3",
        "1.e3": "1.e+3",
    }.items():
        assert isinstance(yaml.safe_load(written), str)
        assert yaml.safe_load(remedy) == float(written)
        text = f"parameters: {{a.lr: {{min: {written}, max: 1.0}}}}"
        assert f"parameters.a.lr.min: YAML reads {written} as text: write {remedy}" in message(write(text))
        text = f"parameters: {{a: {{values: [1, [2, {written}]]}}}}"
        assert f"parameters.a.values[1][1]: YAML reads {written} as text: write {remedy}" in message(write(text))


def test_the_same_in_quotes_is_text(write):
    text = yaml.safe_dump(SWEEP).replace("max: 9\n    min: 1", "values: ['1e-4', '2E3']")
    sweep = read_sweep(write(text))
    assert sweep.parameters["ema.half_life"].points() == ["1e-4", "2E3"]
    again = read_sweep(write(sweep_text(sweep)))
    assert again.parameters["ema.half_life"].points() == ["1e-4", "2E3"]


def test_what_is_no_sweep_file_is_told(write):
    for text, words in [
        ("", "a sweep file is a mapping of keys"),
        ("- 1", "a sweep file is a mapping of keys"),
        ("a: [1", "cannot be read: line 1: expected ',' or ']'"),
        ("method: grid\ncommand: [${env}, ${args}]", "cannot be read: line 2: "),
        ("method: grid\nmethod: random", "method stands twice in line 2"),
        ("parameters: {a: {value: 1}, a: {value: 2}}", "parameters.a stands twice in line 1"),
        ("a: !!python/object:os.system {}", "cannot be read: line 1: could not determine a constructor"),
        ("a: &x [*x]", "nested too deeply"),
        ("a: \x01", "cannot be read: "),
        ("command: [${env}, ${args}]", "; macros stand in quotes: '${args}'"),
    ]:
        assert words in message(write(text)), text


def test_files_that_cannot_be_opened_are_told(tmp_path):
    assert message(tmp_path) == f"{tmp_path} is a folder: give a sweep file"
    assert message("sweeps/gann.yaml") == "no sweep file sweeps/gann.yaml: did you mean sweeps/gan.yaml?"
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    assert "not a text file" in message(tmp_path / "binary.yaml")


def test_shipped_files_are_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_sweep("sweeps/gan.yaml") == sweeps_folder() / "gan.yaml"
    Path("sweeps").mkdir()
    Path("sweeps/gan.yaml").write_text("method: grid")
    assert find_sweep("sweeps/gan.yaml") == Path("sweeps/gan.yaml")


# --- another config -----------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Write a config with a monitored figure, or with none."""
    monkeypatch.chdir(tmp_path)

    def config(name, monitor):
        Path(name).write_text(yaml.safe_dump({"checkpoint": {"monitor": monitor}} if monitor else {"model": {}}))
        return name

    return config


def test_the_config_and_its_figure_are_replaced(write, config):
    sweep = read_sweep(write(metric={"name": "val/fid_digits_heldout", "target": 1.5}))
    other = with_config(sweep, config("other.yaml", "val/kid"))
    assert other.command == ("${env}", "${program}", "fit", "--config", "other.yaml", "${args}")
    assert (other.metric, other.goal, other.target) == ("val/kid", "minimize", None)
    assert (sweep.metric, sweep.target) == ("val/fid_digits_heldout", 1.5)
    again = read_sweep(write(sweep_text(other)))
    assert (again.command, again.metric, again.target, again.raw) == (other.command, "val/kid", None, other.raw)
    assert with_config(sweep, "other.yaml", metric="val/fid_digits_heldout").target == 1.5, "the same figure"


def test_another_figure_is_optimised_in_its_own_direction(write):
    for name, goal in {"val/is_digits": "maximize", "val/kid": "minimize", "val/mine": "minimize"}.items():
        sweep = with_metric(read_sweep(write(metric={"name": "val/fid", "target": 3.0})), name)
        assert (sweep.metric, sweep.goal, sweep.target) == (name, goal, None)
        assert sweep.raw["metric"] == {"name": name, "goal": goal}
        assert with_metric(sweep, None) is sweep


def test_of_several_families_those_that_watched_the_figure_say_what_takes_its_place(write, config):
    for name in ("gan/a-digits", "vae/a-digits", "gan/a-faces", "vae/a-faces", "em/a-digits", "em/a-faces"):
        Path(name).parent.mkdir(exist_ok=True)
    old = [config("gan/a-digits", "val/fid_digits"), config("vae/a-digits", "val/bpd"), config("em/a-digits", None)]
    for name, figure in (("gan", "val/fid_faces"), ("vae", "val/bpd"), ("em", None)):
        config(f"{name}/a-faces", figure)
    entry = {"config": {"values": old}}
    sweep = read_sweep(write(command=["lightning", "${args}"], metric={"name": "val/fid_digits"}, parameters=entry))
    other = with_config(sweep, "*/a-faces")
    assert other.parameters["config"].points() == ["em/a-faces", "gan/a-faces", "vae/a-faces"]
    assert other.metric == "val/fid_faces"
    assert with_config(sweep, config("gan/b-faces", "val/kid")).metric == "val/kid"


def test_a_figure_of_its_own_stays(write, config):
    sweep = read_sweep(write(metric={"name": "val/bpd"}))
    assert with_config(sweep, config("other.yaml", "val/kid")).metric == "val/bpd"
    assert with_config(sweep, config("other.yaml", None), metric="val/is").metric == "val/is"
    assert with_config(read_sweep(write(metric=None, method="random")), config("other.yaml", "a")).metric is None


def test_a_config_in_one_item_is_replaced(write, config):
    sweep = read_sweep(
        write(command=["${program}", "--config=configs/quickstart.yaml", "--config", "${args_json_file}"])
    )
    other = with_config(sweep, config("other.yaml", "val/kid"))
    assert other.command == ("${program}", "--config=other.yaml", "--config", "${args_json_file}")


def test_a_config_without_a_figure_asks_for_one(write, config):
    sweep = read_sweep(write())
    with pytest.raises(InputError, match=r"^other\.yaml: which figure is optimised\? .* --metric NAME$"):
        with_config(sweep, config("other.yaml", None))
    assert with_config(sweep, "other.yaml", metric="val/kid").metric == "val/kid"


def test_a_config_that_is_not_there_is_told(write):
    with pytest.raises(
        InputError, match=r"no config file configs/gan/relativstic-digits.yaml: did you mean configs/gan/relat"
    ):
        with_config(read_sweep(write()), "configs/gan/relativstic-digits.yaml")


def test_not_exactly_one_config_is_refused(write):
    for configs, count in (([], "no"), (["--config", "a.yaml", "--config=b.yaml"], "2")):
        sweep = read_sweep(write(command=["${program}", "fit", *configs, "${args}"]))
        with pytest.raises(InputError, match=f"its command has {count} --config FILE, of which one is replaced"):
            with_config(sweep, "configs/quickstart.yaml")


def test_a_sweep_over_configs_takes_a_pattern(write, config):
    first, second = config("a-digits.yaml", "val/fid"), config("b-digits.yaml", "val/fid")
    sweep = read_sweep(
        write(
            command=["${program}", "fit", "${args}"],
            metric={"name": "val/fid"},
            parameters={"config": {"values": [first, second]}},
        )
    )
    for name in ("a-faces.yaml", "b-faces.yaml"):
        config(name, "val/kid")
    other = with_config(sweep, "*-faces.yaml")
    assert other.parameters["config"].points() == ["a-faces.yaml", "b-faces.yaml"]
    assert other.metric == "val/kid"
    config("c-faces.yaml", "val/is")
    with pytest.raises(InputError, match="which figure is optimised"):
        with_config(sweep, "*-faces.yaml")
    with pytest.raises(InputError, match=r"no config file \*-nothing.yaml"):
        with_config(sweep, "*-nothing.yaml")


def test_a_pattern_finds_configs_of_the_package(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = read_sweep(
        write(command=["${program}", "fit", "${args}"], parameters={"config": {"values": ["configs/quickstart.yaml"]}})
    )
    values = with_config(sweep, "configs/gan/relativistic-*.yaml", metric="a").parameters["config"].points()
    assert "configs/gan/relativistic-digits.yaml" in values
