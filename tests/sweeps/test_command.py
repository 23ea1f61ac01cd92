"""Command lines against those of wandb's own agent, and what our parser makes of them."""

import json
import os
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from refusals import refusal
from wandb import wandb_agent

from lightning_gen.commands.check_sweep import CommandCheck, node_at, same
from lightning_gen.core.errors import InputError
from lightning_gen.shipped import find_config
from lightning_gen.sweeps.check import check_commands, commands_to_check, fit_arguments
from lightning_gen.sweeps.command import command_line, plain_values, shown_command
from lightning_gen.sweeps.file import MACROS, read_sweep

CONFIG = "configs/gan/relativistic-digits.yaml"
PLAIN = ["${env}", "${program}", "fit", "--config", CONFIG, "${args}"]
JSON = ["${env}", "${program}", "fit", "--config", CONFIG, "--config", "${args_json_file}"]
R1 = {"class_path": "lightning_gen.objectives.R1", "init_args": {"weight": 1e-05, "every": 8}}
FRECHET = {"class_path": "lightning_gen.metrics.FrechetDistance", "init_args": {"against": ["train"]}}

# What a sweep gives, and what a run must have.
VALUES = {
    "ema.half_life": (1e-05, 1e-05),
    "budget.minutes": (None, None),
    "checkpoint.monitor": (None, None),
    "data.batch_size": (64, 64),
    "evaluation.metrics": ([FRECHET, "lightning_gen.metrics.CopyShare"], [FRECHET, {"class_path": "lightning_gen.metrics.CopyShare"}]),
    "model.augmentation": (None, None),
    "model.discriminator_optimizer.betas": ([0, 0.99], [0.0, 0.99]),
    "model.generator": (
        {"class_path": "lightning_gen.networks.MLPGenerator", "init_args": {"widths": [64, 32], "conditional": False}},
        {"class_path": "lightning_gen.networks.MLPGenerator", "init_args": {"widths": [64, 32], "conditional": False}},
    ),
    "model.generator_optimizer.lr": (1e-4, 0.0001),
    "model.generator_optimizer.amsgrad": (True, True),
    "model.loss": ("lightning_gen.objectives.Hinge", {"class_path": "lightning_gen.objectives.Hinge"}),
    "model.penalties": ([R1], [R1]),
    "run.experiment": ("it's \"a b\", [c]: {d}", "it's \"a b\", [c]: {d}"),
    "run.root": ("1e-4", "1e-4"),
    "run.tensorboard": (False, False),
    "seed_everything": (3, 3),
    "trainer.limit_val_batches": (0.5, 0.5),
}  # fmt: skip
PARAMETERS = {name: given for name, (given, _) in VALUES.items()}


@pytest.fixture
def sweep(tmp_path):
    """Make a sweep with a command and parameters."""

    def sweep(command, parameters=PARAMETERS, **keys):
        entries = {name: {"value": value} for name, value in parameters.items()}
        given = {"program": "lightning", "method": "random", "command": command, "parameters": entries, **keys}
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(given, sort_keys=False).replace("value: 1e-4", "value: '1e-4'"))
        return read_sweep(path)

    return sweep


@pytest.fixture
def agent(tmp_path, monkeypatch):
    """Run wandb's agent up to where it would start a process, and return that command."""
    monkeypatch.setenv("WANDB_RUN_ID", "")  # which it sets
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "agent"))
    started = []
    monkeypatch.setattr(wandb_agent, "AgentProcess", lambda command, **_: started.append(command) or SimpleNamespace())

    def agent(sweep, parameters):
        state = SimpleNamespace(
            _in_jupyter=False,
            _sweep_command=list(sweep.command),
            _function=None,
            _run_processes={},
            _forward_signals=False,
        )
        command = {
            "run_id": "r",
            "program": sweep.program,
            "args": {name: {"value": value} for name, value in parameters.items()},
        }
        wandb_agent.Agent._command_run(state, command)
        return started[-1]

    return agent


@pytest.fixture(scope="module")
def checker():
    return CommandCheck()


def plain(node):
    """Return what was parsed as plain data."""
    if hasattr(node, "as_dict"):
        node = node.as_dict()
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    return [plain(item) for item in node] if isinstance(node, list | tuple) else node


def only(expected, parsed):
    """Return ``parsed`` without the defaults that ``expected`` does not name."""
    if isinstance(expected, dict) and isinstance(parsed, dict):
        return {key: only(value, parsed.get(key)) for key, value in expected.items()}
    if isinstance(expected, list) and isinstance(parsed, list) and len(expected) == len(parsed):
        return [only(a, b) for a, b in zip(expected, parsed, strict=True)]
    return parsed


# --- wandb's own command line -------------------------------------------------------------------------------------


def test_every_macro_is_what_wandbs_agent_makes_of_it(sweep, agent, tmp_path):
    macros = [macro for macro in MACROS if macro.startswith("args") and macro != "args_json_file"]
    assert len(macros) >= 7
    for macro in macros:
        given = sweep(["${env}", "${interpreter}", "${program}", "fit", 3, f"${{{macro}}}", "end"])
        assert command_line(given, PARAMETERS, tmp_path) == agent(given, PARAMETERS), macro
        assert not (tmp_path / "parameters.json").exists(), macro


def test_the_json_file_is_what_wandbs_agent_writes(sweep, agent, tmp_path):
    given = sweep(JSON)
    ours, theirs = command_line(given, PARAMETERS, tmp_path), agent(given, PARAMETERS)
    assert ours[:-1] == theirs[:-1]
    assert Path(ours[-1]).read_bytes() == Path(theirs[-1]).read_bytes()
    assert Path(ours[-1]) == tmp_path / "parameters.json"


def test_environment_variables_are_filled_in_as_by_wandbs_agent(sweep, agent, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_ROOT", "/a b")
    given = sweep(["${program}", "--root=${envvar:DATA_ROOT}/x", "${envvar:DATA_ROOT}", "${args}"])
    assert command_line(given, PARAMETERS, tmp_path) == agent(given, PARAMETERS)
    assert command_line(given, {}, tmp_path) == ["lightning", "--root=/a b/x", "/a b"]


def test_an_environment_variable_that_is_not_set_is_told(sweep, tmp_path):
    assert "NO_SUCH_VARIABLE" not in os.environ
    given = sweep(["${program}", "${envvar:NO_SUCH_VARIABLE}", "${args}"])
    with pytest.raises(InputError, match="the variable NO_SUCH_VARIABLE is not set"):
        command_line(given, {}, tmp_path)


# --- what a run makes of it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [PLAIN, JSON], ids=["args", "args_json_file"])
def test_wandbs_command_lines_mean_what_the_sweep_gave(sweep, agent, checker, command):
    args = plain_values(fit_arguments(agent(sweep(command), PARAMETERS)))
    checker.check(args)
    parsed = checker.cli.parse(args)
    for name, (_, expected) in VALUES.items():
        assert only(expected, plain(node_at(parsed, name))) == expected, name


@pytest.mark.parametrize("command", [PLAIN, JSON], ids=["args", "args_json_file"])
def test_null_inside_a_mapping_arrives(sweep, agent, checker, command):
    command = [item.replace("gan/relativistic", "classical/gaussian-low-rank") for item in command]
    model = {"class_path": "lightning_gen.models.GaussianMixture", "init_args": {"covariance": "full", "rank": None}}
    args = plain_values(fit_arguments(agent(sweep(command), {"model": model})))
    arguments = checker.cli.parse(args).model.init_args
    assert (arguments.covariance, arguments.rank) == ("full", None)


def test_values_written_as_python_become_yaml():
    expected = {
        "--a=None": "--a=null",
        "--a=True": "--a=True",
        "--a=None of them": "--a=None of them",
        "--a=[None, True, 'x', 1e-05]": '--a=[null, true, "x", 1e-05]',
        "--a={'b': {'c': None}}": '--a={"b": {"c": null}}',
        "--a=[null, 1]": "--a=[null, 1]",
        "--a=[b, c]": "--a=[b, c]",
        "--a=[1": "--a=[1",
        "--a={1, 2}": "--a={1, 2}",
        "--a=b=None": "--a=b=None",
        "--a": "--a",
        "None": "None",
        "a=None": "a=None",
    }
    assert {given: plain_values(["fit", given]) for given in expected} == {
        given: ["fit", value] for given, value in expected.items()
    }


def test_a_shown_command_can_be_typed_and_quotes_values_alone():
    for command, text in [
        (["/usr/bin/env", "lightning", "fit", "--config=a b.yaml", "--x=None"], "lightning fit --config='a b.yaml' --x=null"),
        (["python", "x.py", "--y=['a', None]", "--z=it's"], """python x.py --y='["a", null]' --z='it'"'"'s'"""),
        (["lightning", "--a b=c", "k=v w", "--x=1e-05", "--flag"], "lightning '--a b=c' 'k=v w' --x=1e-05 --flag"),
    ]:  # fmt: skip
        assert shown_command(command) == text
        words = [word for word in command if word != "/usr/bin/env"]
        assert shlex.split(text) == plain_values(words), text


# --- the check before a sweep -------------------------------------------------------------------------------------


WRONG = [
    ({"model.generatr_optimizer.lr": 0.1}, "model.generatr_optimizer.lr: no such option (did you mean 'model.generator_optimizer.lr'?)"),
    ({"ema.halflife": 3}, "ema.halflife: no such option (did you mean 'ema.half_life'?)"),
    ({"model.init_args.los": "a"}, "model.init_args.los: no such option (did you mean 'model.loss'?)"),
    ({"budget.image": 3}, "budget.image: no such option (did you mean 'budget.images'?)"),
    ({"xyz": 3}, "xyz: no such option"),
    ({"model.generator.zzz": 3}, "model.generator.zzz: no such option: model.generator has latent_dim, widths, negative_slope, "),
    ({"model.penalties.weight": 3.0}, "model.penalties.weight: model.penalties is a list, which is given as a whole: model.penalties: {values: [[{"),
    ({"model.penalties.0.weight": 3.0}, "model.penalties.0.weight: model.penalties is a list, which is given as a whole: model.penalties: {values: [[{"),
    ({"model.generator.widths.1": 3}, "model.generator.widths.1: model.generator.widths is a list, which is given as a whole: model.generator.widths: {values: [[256, 256, 256]]}"),
    ({"model.loss": 3.5}, "model.loss: '3.5' is not the import path of an AdversarialLoss; known ones are Hinge, "),
    ({"model.loss": ""}, "model.loss: '' is not the import path of an AdversarialLoss; known ones are Hinge, "),
    ({"model.loss": [1]}, "model.loss: '[1]' is not the import path of an AdversarialLoss; known ones are Hinge, "),
    ({"model.loss": {"class_path": 3}}, "model.loss: '3' is not the import path of an AdversarialLoss; known ones are Hinge, "),
    ({"model.loss": {"class_path": "lightning_gen.objectives.R1"}}, "model.loss: 'lightning_gen.objectives.R1' is not the import path of an AdversarialLoss"),
    ({"model.generator": 3}, "model.generator: '3' is not the import path of a class"),
    ({"model.penalties": 3}, "model.penalties: expected a list, got '3'"),
    ({"model.penalties": [3]}, "model.penalties: '3' is not the import path of a Penalty"),
    ({"seed_everything": "a"}, "seed_everything: expected true, false or a whole number, got 'a'"),
    ({"model.critic_steps": 2.0}, "model.critic_steps: expected a whole number, got '2.0'"),
    ({"ema.half_life": None}, "ema.half_life: expected a number, got 'None'"),
    ({"ema": 3}, "ema: "),
    ({"data.batch_size": 32, "model.loss": "lightning_gen.objectives.Hing"}, "model.loss: 'lightning_gen.objectives.Hing' is not the import path of an AdversarialLoss (did you mean 'Hinge'?)"),
    ({"model.penalties": [{**R1, "init_args": {"wight": 1}}]}, "model.penalties.wight: no such option (did you mean 'weight'?)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "left_out"),
    [(PLAIN, ()), (JSON, ("model.init_args.los", "xyz", "model.generator.zzz"))],
    ids=["args", "args_json_file"],
)
def test_the_key_at_fault_is_named_with_the_nearest_one(sweep, checker, tmp_path, command, left_out):
    for parameters, words in WRONG:
        if next(iter(parameters)) in left_out:
            continue
        line = fit_arguments(command_line(sweep(command, parameters), parameters, tmp_path))
        assert refusal(checker.check, line).startswith(words), parameters


GAUSSIAN = "configs/classical/gaussian-low-rank-digits.yaml"


def built(checker, *trials: dict, config: str = CONFIG, lenient: bool = False) -> list[str]:
    lines = [["fit", "--config", config, *(f"--{key}={value}" for key, value in trial.items())] for trial in trials]
    return checker.build(lines, [checker.check(line) for line in lines], lenient, 60)


def test_a_value_that_parses_but_cannot_be_built_is_blamed(checker):
    for key, good, bad, words in [
        ("model.generator.widths", [32], [0], r"^model.generator.widths: \[0\] fails: MLPGenerator.widths\[0\] must be a"),
        ("model.critic_steps", 1, 0, r"^model.critic_steps: 0 fails: GAN.critic_steps must be at least 1"),
        ("model.generator_optimizer.lr", 1, -1, r"^model.generator_optimizer.lr: -1 fails: Invalid learning rate: -1"),
        ("ema.half_life", 5, -1, r"^ema.half_life must be at least 0 images, got -1"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=words):
            built(checker, {key: good, "budget.images": 10}, {key: bad, "budget.images": 20})


def test_a_value_for_other_images_is_noted_alone(checker):
    trials = [{"model.critic_steps": 1}, {"model.critic_steps": 0}]
    assert built(checker, *trials, lenient=True) == [
        "note: model.critic_steps: 0 fails: GAN.critic_steps must be at least 1, got 0"
    ]
    with pytest.raises(InputError, match="critic_steps must be at least 1"):
        built(checker, trials[1], lenient=True)


def test_values_that_do_not_fit_each_other_are_noted_and_others_may_run(checker):
    fits = [{"model.covariance": "full", "model.rank": "null"}, {"model.covariance": "low_rank", "model.rank": 4}]
    assert built(checker, *fits, config=GAUSSIAN) == []
    mixed = {"model.covariance": "full", "model.rank": 4}
    (note,) = built(checker, *fits, mixed, config=GAUSSIAN)
    assert note.startswith("note: model.covariance full, model.rank 4: such a run fails: GaussianMixture: rank is the")
    crossed = [{"model.covariance": "full", "model.rank": 4}, {"model.covariance": "low_rank", "model.rank": "null"}]
    assert len(built(checker, *crossed, config=GAUSSIAN)) == 2, "full with null is a combination that works"


def test_a_sweep_of_which_nothing_can_be_built_is_refused(checker, tmp_path):
    with pytest.raises(InputError, match=r"^GaussianMixture: rank is the number of factors"):
        built(checker, {"model.covariance": "full", "model.rank": 4}, config=GAUSSIAN)
    broken = tmp_path / "broken.yaml"
    broken.write_text(find_config(CONFIG).read_text().replace("latent_dim: 32", "latent_dim: 0"))
    lines = [["fit", f"--config={file}"] for file in (CONFIG, broken)]
    with pytest.raises(InputError, match=r"broken.yaml fails: MLPGenerator.latent_dim must be a positive integer"):
        checker.build(lines, [checker.check(line) for line in lines], seconds=60)


def test_no_further_model_is_built_once_the_time_is_over(checker, monkeypatch):
    built = []
    monkeypatch.setattr(checker.cli, "build", built.append)
    lines = [["fit", "--config", CONFIG]] * 3
    assert checker.build(lines, ["a", "b", "c"], seconds=0) == []
    assert built == ["a"]


def test_a_value_that_a_later_config_replaces_is_told(checker):
    checker.check(["fit", f"--config={CONFIG}", "--budget.images=5"])
    with pytest.raises(
        InputError, match=r"^budget.images: the run would have 300000 instead of 5: does a later --config"
    ):
        checker.check(["fit", "--budget.images=5", f"--config={CONFIG}"])


def test_lists_may_be_appended_to(checker):
    stopping = ["--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping", "--trainer.callbacks.monitor=val/fid"]
    checker.check(["fit", "--config", CONFIG, *stopping, "--ema.half_life=5"])
    with pytest.raises(InputError, match=r"^ema.halflife: no such option"):
        checker.check(["fit", "--config", CONFIG, *stopping, "--ema.halflife=5"])


def test_configs_are_not_named_inside_json(sweep, checker, tmp_path):
    given = sweep(["${program}", "fit", "--config", "${args_json_file}"], {"config": CONFIG})
    with pytest.raises(InputError, match=r"^config: a config file cannot name another one: pass it by \$\{args\}"):
        checker.check(fit_arguments(command_line(given, {"config": CONFIG}, tmp_path)))


def test_options_need_hyphens(checker):
    with pytest.raises(
        InputError, match=r"^ema.half_life=3: options begin with two hyphens: put \$\{args\} into command"
    ):
        checker.check(["fit", "--config", CONFIG, "ema.half_life=3"])


def test_values_are_compared_by_what_they_mean():
    cases = [
        ("1e-05", 1e-05, True),
        ("1e-05", 2e-05, False),
        (1, 1.0, True),
        (True, 1, True),
        ("true", True, True),
        (True, False, False),
        ("null", None, True),
        (None, 0, False),
        ("3", "3", True),
        ("[1, 2.5]", (1.0, 2.5), True),
        ([1], [1, 2], False),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": 2}}, True),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, False),
    ]
    assert [(given, parsed, same(given, parsed)) for given, parsed, _ in cases] == cases


def test_every_value_and_both_ends_occur_in_the_sets_to_check(sweep):
    given = sweep(PLAIN, {"a": 1})
    entries = {
        "a": {"values": ["x", "y", "z"]},
        "b": {"min": 1, "max": 9},
        "c": {"value": None},
        "d": {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.5},
    }
    text = yaml.safe_dump({**given.raw, "parameters": entries})
    given.path.write_text(text)
    sets = commands_to_check(read_sweep(given.path))
    assert len(sets) == 3
    assert {key: [values[key] for values in sets] for key in entries} == {
        "a": ["x", "y", "z"],
        "b": [1, 9, 1],
        "c": [None, None, None],
        "d": [0.0, 1.0, 0.0],
    }


def test_command_lines_of_ours_are_recognised():
    cases = [
        (["/usr/bin/env", "lightning", "fit", "--a=1"], ["fit", "--a=1"]),
        (["/usr/bin/env", "python", "-m", "lightning_gen", "fit", "--a=1"], ["fit", "--a=1"]),
        (["/opt/bin/lightning-gen", "fit"], ["fit"]),
        (["lightning", "validate"], None),
        (["/usr/bin/env", "python", "train.py", "fit"], None),
        ([], None),
    ]
    assert [(command, fit_arguments(command)) for command, _ in cases] == cases


def test_the_check_runs_in_a_process_of_its_own(sweep, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert check_commands([["/usr/bin/env", "python", "train.py"]]) == []
    given = sweep(PLAIN)
    right = command_line(given, PARAMETERS, tmp_path)
    wrong = command_line(given, {"ema.halflife": 1}, tmp_path)
    with pytest.raises(InputError, match=r"^ema.halflife: no such option .did you mean 'ema.half_life'"):
        check_commands([right, wrong])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.yaml"]


def test_json_and_plain_form_blame_alike(checker, tmp_path):
    for value in (3, "abc"):
        (tmp_path / "parameters.json").write_text(json.dumps({"model.loss": value}))
        with pytest.raises(InputError, match=f"^model.loss: '{value}' is not the import path of an AdversarialLoss"):
            checker.check(["fit", "--config", CONFIG, "--config", str(tmp_path / "parameters.json")])
