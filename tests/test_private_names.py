"""Which names of torch and Lightning the package uses that these do not promise to keep, each with its reason.

When a release moves one, the test of that name fails and says which. A new use fails ``test_no_others_are_used``
until it is listed here, with a reason why no public way will do.
"""

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import WandbLogger
from torch.utils.tensorboard import SummaryWriter

import lightning_gen

FOREACH = "one call for many small tensors, in which a step of a small model spends a tenth of its time otherwise"
HELP = "the help of `lightning fit` has groups in an order of our own, and LightningCLI gives no way to that"
PRIVATE = {
    (torch, "_foreach_norm"): FOREACH,
    (torch, "_foreach_mul"): FOREACH,
    (torch, "_foreach_lerp_"): FOREACH,
    (torch, "_foreach_copy_"): FOREACH,
    (LightningCLI, "_parser"): "config.yaml is dumped, and sweeps are checked, by the parser of one verb",
    (LightningCLI, "_parse_ckpt_path"): "a checkpoint must not override the config and the command line",
    (LightningCLI, "_prepare_subcommand_parser"): HELP,
    (LightningCLI, "_prepare_subcommand_kwargs"): "checkpoints are always read with weights_only",
    (LightningCLI, "_instantiate_trainer"): "callbacks and loggers of a run are added to those of the config",
    (LightningCLI, "_model_class"): HELP,
    (LightningCLI, "_datamodule_class"): HELP,
    (WandbLogger, "_experiment"): "a run that goes on is opened in its own way, and closed with an exit code",
    (WandbLogger, "_wandb_init"): "what the logger was given is what wandb.init takes",
    (SummaryWriter, "_get_file_writer"): "a run's hyperparameters belong in the log it has, not in one of their own",
}
# Without an underscore, but in no documentation: paths of attributes from a Trainer.
INTERNAL = {
    "fit_loop.epoch_loop.val_loop": "an evaluation that a signal cut short is made up for before the next step",
    "fit_loop.epoch_loop.manual_optimization.optim_step_progress": "raw optimizers are not counted as steps otherwise",
    "val_check_batch": "evaluations are due by images, and Lightning counts batches",
    "enable_validation": "the last checkpoint is written after the evaluation that follows it, if one does",
}
# Private names of other packages, and of the standard library's argparse and NamedTuple.
ELSEWHERE = {"_actions", "_action_groups", "_group_actions", "_get_stale_trial_ids", "_replace"}


def sources() -> list[ast.Module]:
    root = Path(lightning_gen.__file__).parent
    return [ast.parse(path.read_text(encoding="utf-8")) for path in root.rglob("*.py")]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names(tree: ast.Module) -> set[str]:
    """Return private names that the module gives something to: functions, class attributes, attributes of self."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found |= {node.attr} if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls") else set()
        elif isinstance(node, ast.ClassDef | ast.Assign | ast.AnnAssign):
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def used_names(tree: ast.Module) -> set[str]:
    """Return private names that are asked of anything."""
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_private(node.attr)}


def overridden() -> set[str]:
    """Return private methods of torch's and Lightning's classes that the package's own classes replace."""
    found = set()
    for module in pkgutil.walk_packages(lightning_gen.__path__, "lightning_gen."):
        if module.name.endswith("__main__"):
            continue
        for cls in vars(importlib.import_module(module.name)).values():
            if not inspect.isclass(cls) or cls.__module__ != module.name:
                continue
            theirs = [base for base in cls.__mro__ if base.__module__.split(".")[0] in ("torch", "lightning")]
            names = {name for name in vars(cls) if is_private(name) and inspect.isfunction(vars(cls)[name])}
            found |= {name for name in names if any(name in vars(base) for base in theirs)}
    return found


def test_no_others_are_used():
    trees = sources()
    used = set().union(*map(used_names, trees)) - set().union(*map(own_names, trees)) | overridden()
    listed = {name for _, name in PRIVATE}
    assert used <= listed | ELSEWHERE
    assert listed <= used | {"_experiment"}, "listed, and no longer used"  # which the package's own logger has, too


@pytest.mark.parametrize(("owner", "name"), PRIVATE, ids=[name for _, name in PRIVATE])
def test_private_names_are_where_they_were(owner, name):
    found = hasattr(owner, name) or f"self.{name}" in inspect.getsource(owner)
    assert found, f"{owner.__name__}.{name} has moved; it is used because {PRIVATE[owner, name]}"


@pytest.mark.parametrize("path", INTERNAL)
def test_internals_of_the_trainer_are_where_they_were(path, quiet_trainer):
    found = quiet_trainer()
    for name in path.split("."):
        assert hasattr(found, name), f"Trainer.{path} has moved at {name}; it is used because {INTERNAL[path]}"
        found = getattr(found, name)
