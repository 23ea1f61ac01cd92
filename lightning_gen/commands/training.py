"""fit, validate, test and predict: LightningCLI with the project's own groups, run folder and error lines."""

import argparse
import errno
import inspect
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

from lightning_gen.callbacks import (
    EMA,
    Budget,
    Checkpoints,
    CollapseMonitor,
    Dashboards,
    Diagnostics,
    ExactResume,
    GenerativeEvaluation,
    GracefulStop,
    HeldOutPictures,
    ImagesProgressBar,
    LearningRate,
    MetricsCSV,
    Recorder,
    RunInterrupted,
    SampleGrid,
    StoppedAtOnce,
    SweepTrial,
    TrainLog,
    WandbOptions,
    WandbRun,
    count_parameters,
)
from lightning_gen.callbacks.wandb import WandbArtifacts, agent_sweep, note_agent_trial, options_of
from lightning_gen.commands.defaults import config_of_source, set_defaults
from lightning_gen.commands.messages import OneLineErrors, input_error_behind
from lightning_gen.commands.verbs import TRAINING, fail
from lightning_gen.core import (
    HasLikelihood,
    ImageSpec,
    InputError,
    check_at_least,
    check_file,
    describe,
    flat,
    write_json,
)
from lightning_gen.data import ImageDataModule
from lightning_gen.metrics.base import is_of_one_class
from lightning_gen.models import GenerativeModule, ImageModule, read_checkpoint
from lightning_gen.models.state import CHECKPOINT_KEY
from lightning_gen.runs import CHILD_VARIABLE, RunFolder, run_of_checkpoint
from lightning_gen.steps.fast import look_for_no_gpu, no_profiler
from lightning_gen.steps.guard import TrainingDiverged
from lightning_gen.sweeps import trial
from lightning_gen.sweeps.command import plain_values

# Options of Lightning's Trainer whose place is taken by the project's own: refused, with the key to use, never ignored.
LENGTH = "a run's length is in images or minutes: --budget.images N, --budget.minutes M"
INTERVAL = "evaluations are counted in images: --evaluation.every N"
REPLACED = {
    **dict.fromkeys(("max_epochs", "max_steps", "max_time", "min_epochs", "min_steps"), LENGTH),
    **dict.fromkeys(("val_check_interval", "check_val_every_n_epoch"), INTERVAL),
    "default_root_dir": "runs are kept in --run.root DIR",
}
# Further ones that few users need: they work, but are not listed in --help.
UNLISTED = ("limit_", "overfit", "num_sanity", "barebones", "reload_data", "enable_autolog", "model_reg", "use_dist")
# Callbacks of every run, by the group of their options.
CALLBACKS = {
    "budget": Budget,
    "schedule": LearningRate,
    "ema": EMA,
    "evaluation": GenerativeEvaluation,
    "diagnostics": Diagnostics,
    "collapse": CollapseMonitor,
    "checkpoint": Checkpoints,
    "grid": SampleGrid,
    "pictures": HeldOutPictures,
}
TITLES = {
    "model": "model: what is trained",
    "data": "data: which images, and how they are made into batches",
    "budget": "budget: how long training lasts, whichever comes first",
    "schedule": "schedule: learning rates over a run, in images seen",
    "ema": "ema: average of the weights, used for evaluation and sampling",
    "evaluation": "evaluation: likelihood and samples, every so many images, and in validate and test",
    "checkpoint": "checkpoint: checkpoints/last.ckpt, and best.ckpt by a monitored figure",
    "diagnostics": "diagnostics: how training stands, in the model's own figures, at each evaluation",
    "collapse": "collapse: a warning when the figures say that training collapses",
    "grid": "grid: samples/<images seen>.png at each evaluation, always of the same latents",
    "pictures": "pictures: held-out images at each evaluation, reconstructed, interpolated and completed",
    "run": "run: where it is kept, what logs it",
    "wandb": "wandb: how Weights & Biases shows the run, with run.wandb true",
    "trainer": "trainer: devices, precision and further options of Lightning's Trainer",
}
DESCRIPTION = """{what}. Any value of a config can be given as --key value; several --config are merged in their order.
The shortest form of a key inside the model or the data leaves init_args out: --model.generator.widths "[512, 512]"
--data.batch_size 128. --print_config prints the complete config. Options of a class: --model.help CLASS."""


class RunOptions:
    """Where a run is kept, and how many threads it uses.

    Args:
        root: folder of all runs.
        experiment: name of the folder of this run's versions; null takes the name of the first config file, or
            sweep-ID where an agent of a W&B sweep starts the run.
        threads: CPU threads of torch in each process; null leaves torch's choice. Small models are fastest with 1.
        wandb: log to Weights & Biases, too: online if you have logged in, else offline into the run's folder. Agents of
            W&B's sweeps need not ask for it.
        tensorboard: log to TensorBoard, too, into the run's folder.
    """

    def __init__(
        self,
        root: str = "runs",
        experiment: str | None = None,
        threads: int | None = None,
        wandb: bool = False,
        tensorboard: bool = False,
    ):
        self.root = root
        self.experiment = experiment
        self.threads = threads
        self.wandb = wandb
        self.tensorboard = tensorboard


class TrainingParser(OneLineErrors, LightningArgumentParser):
    """A parser of one of LightningCLI's verbs."""

    unlisted: Sequence[argparse.Action] = ()
    """Options that work but are not listed: hidden in the help alone, because dumps leave suppressed options out."""

    def format_help(self) -> str:
        texts = [action.help for action in self.unlisted]
        for action in self.unlisted:
            action.help = argparse.SUPPRESS
        try:
            return super().format_help()
        finally:
            for action, text in zip(self.unlisted, texts, strict=True):
                action.help = text


class TrainingCLI(LightningCLI):
    """LightningCLI in subclass mode, with the groups run, budget, schedule, ema, evaluation, diagnostics,
    collapse, checkpoint, grid and pictures."""

    def __init__(self, verb: str, args: Sequence[str]):
        self.verb = verb
        self.arguments = list(args)
        self.resumed = False
        self.checkpoint_path: Path | None = None
        self.trial = trial.join() if verb == "fit" else None
        set_parsing_settings(omegaconf_absolute_to_relative_paths=True, subclasses_enabled=[ImageSpec])
        super().__init__(
            model_class=ImageModule,
            datamodule_class=LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            seed_everything_default=0,
            parser_class=TrainingParser,
            parser_kwargs={"parser_mode": "omegaconf+"},
            trainer_defaults={"max_epochs": -1, "num_sanity_val_steps": 0, "enable_model_summary": False},
            args=self.arguments,
        )

    # --- the parser -----------------------------------------------------------------------------------------------

    def subcommands(self) -> dict[str, set[str]]:
        # A parser for each of the four verbs would double the time to the first step.
        return {verb: skip | {"weights_only"} for verb, skip in super().subcommands().items() if verb == self.verb}

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        # Model and data first, Lightning's long list last.
        parser.add_lightning_class_args(self._model_class, "model", subclass_mode=True)
        parser.add_lightning_class_args(self._datamodule_class, "data", subclass_mode=True)
        parser.link_arguments("data", "model.init_args.spec", compute_fn=_spec_of, apply_on="instantiate")
        for group, callback in CALLBACKS.items():
            parser.add_lightning_class_args(callback, group)
        parser.add_class_arguments(RunOptions, "run")
        parser.add_class_arguments(WandbOptions, "wandb")
        if self.verb == "fit":
            parser.add_argument(
                "--init_from", type=str | None, default=None, help="Checkpoint to take weights from, for a new run."
            )
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{key}": value for key, value in self.trainer_defaults.items()})
        set_defaults(parser)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.usage = f"lightning {subcommand} --config FILE [--config FILE ...] [--KEY VALUE ...]"
        parser.description = DESCRIPTION.format(what=TRAINING[subcommand])
        for group in parser._action_groups:
            keys = {str(action.dest).partition(".")[0] for action in group._group_actions}
            if group.title == "Linked arguments":
                for action in group._group_actions:
                    action.help = argparse.SUPPRESS
            elif len(keys) == 1 and (key := keys.pop()) in TITLES:
                group.title, group.description = TITLES[key], None
        names = [(action, str(action.dest).removeprefix("trainer.")) for action in parser._actions]
        parser.unlisted = [
            action
            for action, name in names
            if name != action.dest and (name in REPLACED or name.startswith(UNLISTED) or name.endswith(".help"))
        ]
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        if len(self.arguments) == 1:
            raise InputError(f"which model and data? give --config FILE ({TRAINING[self.verb]})")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="LightningCLI's args parameter")
            super().parse_arguments(parser, [args[0], "--config", config_of_source(parser, args), *args[1:]])
        self.options = self.config[self.verb]
        for key in ("model", "data"):
            if not self.options.get(key):
                raise InputError(f"no {key}: give --config FILE, or --{key} CLASS")
        unset = {"check_val_every_n_epoch": 1}
        for key, remedy in REPLACED.items():
            if self.options.trainer.get(key) not in (None, -1, unset.get(key)):
                raise InputError(f"trainer.{key}: {remedy}")
        if "spawn" in str(self.options.trainer.strategy) or "fork" in str(self.options.trainer.strategy):
            raise InputError("trainer.strategy: spawned processes give no results back; use ddp")

    def _parse_ckpt_path(self) -> None:
        """Nothing: a checkpoint never overrides the config."""

    # --- the run's folder -----------------------------------------------------------------------------------------

    @property
    def config_files(self) -> list[Path]:
        """The config files of the command line."""
        files = [
            value.partition("=")[2] if value.startswith("--config=") else self.arguments[i + 1]
            for i, value in enumerate(self.arguments)
            if value in ("--config", "-c") or value.startswith("--config=")
        ]
        return [Path(file) for file in files if not file.lstrip().startswith("{")]

    @property
    def run_of_config(self) -> RunFolder | None:
        """The run whose own config.yaml was given as the first config, if it was."""
        files = self.config_files
        if files and files[0].name == "config.yaml" and (files[0].parent / "summary.json").is_file():
            return RunFolder(files[0].parent)
        return None

    @property
    def experiment(self) -> str:
        """Name of the folder of this run's versions."""
        if self.options.run.experiment:
            return self.options.run.experiment
        if sweep := agent_sweep():
            return f"sweep-{sweep}"
        files = self.config_files
        return files[0].stem if files else self.options.model.class_path.rpartition(".")[2].lower()

    def before_instantiate_classes(self) -> None:
        threads = self.options.run.threads
        check_at_least("run", 1, threads=threads)
        if threads is not None:
            torch.set_num_threads(threads)
        for key in ("model", "data"):
            refuse_nulls(key, self.options[key])
        if self.trial is not None:
            self.options.run.root = str(self.trial.folder.parent.parent)
            self.options.run.experiment = self.trial.folder.parent.name
        self.options.run.experiment = self.experiment
        if self.verb == "fit":
            self._switch_dashboards_on()
        if self.trial is not None and not self.options.trainer.fast_dev_run:
            self._go_on_with_trial(RunFolder(self.trial.folder))
        self._find_checkpoint()
        if self.verb == "fit" and not self.options.trainer.fast_dev_run:
            self._choose_folder()

    def _go_on_with_trial(self, folder: RunFolder) -> None:
        """Take the folder that a sweep chose, and go on from what an earlier attempt at the trial left there."""
        self.folder = folder
        if folder.last.is_file():
            self.resumed = True
            self.options.ckpt_path = str(folder.last)
            self.options.init_from = None  # that was the first attempt's beginning
        elif rank_zero_only.rank == 0:
            folder.clear(keep=trial.FILES)

    def _find_checkpoint(self) -> None:
        given = self.options.get("ckpt_path")
        if given is None:
            if self.verb != "fit":
                raise InputError(f"{self.verb} what? give --ckpt_path FILE, or last or best (of the newest run)")
            return
        if self.verb == "fit" and self.options.get("init_from"):
            raise InputError("--ckpt_path goes on with a run, --init_from starts a new one: give one of them")
        root = self.options.run.root
        if given == "last" and self.verb == "fit":
            own = self.run_of_config
            self.folder = own.check_unfinished() if own else RunFolder.unfinished(root, self.experiment)
            self.resumed = True
            path = self.folder.last
        elif given in ("last", "best"):
            if self.verb == "fit":
                raise InputError("--ckpt_path best: training goes on from last, or from a file")
            folder = self.run_of_config or RunFolder.newest(root, self.experiment)
            path = getattr(folder, given)
            if not path.is_file():
                raise InputError(f"{folder.path} has no {given} checkpoint: set checkpoint.monitor, or use last")
        else:
            path = Path(given)
            goes_on = self.verb == "fit" and self.trial is None and path.name == "last.ckpt"
            if goes_on and (folder := run_of_checkpoint(path)):
                folder.refuse_if_running()
                self.folder, self.resumed = folder, True
        self.checkpoint = read_checkpoint(path)
        self.checkpoint_path = path
        self.options.ckpt_path = str(path)

    def _choose_folder(self) -> None:
        if rank_zero_only.rank:
            if CHILD_VARIABLE in os.environ:  # started on this machine by the first rank, which chose
                self.folder = RunFolder(os.environ[CHILD_VARIABLE])
        else:
            self.folder = self.folder or RunFolder.new(self.options.run.root, self.experiment)
            os.environ[CHILD_VARIABLE] = str(self.folder.path)

    def _switch_dashboards_on(self) -> None:
        """Settle whether W&B and TensorBoard are on, so that one place decides about names and folders.

        A logger of the trainer for which the project has options of its own is replaced by these options.
        """
        options, left = self.options, []
        for logger in _listed(options.trainer.get("logger")):
            root, _, name = logger.class_path.rpartition(".")
            cls = {"WandbLogger": WandbLogger, "TensorBoardLogger": TensorBoardLogger}.get(name)
            if cls is None or root.partition(".")[0] != "lightning":
                left.append(logger)
                continue
            arguments = _changed_arguments(logger, cls)
            if cls is WandbLogger:
                options.run.wandb = True
                unset = inspect.signature(WandbOptions).parameters
                for key, value in options_of(arguments, dict(logger.get("dict_kwargs") or {})).items():
                    if options.wandb[key] == unset[key].default:
                        options.wandb[key] = value
            elif set(arguments) == {"save_dir"} and arguments["save_dir"] in (".", ""):
                options.run.tensorboard = True
            else:
                left.append(logger)
        if isinstance(options.trainer.get("logger"), Namespace | list):
            options.trainer.logger = left or None
        options.run.wandb = options.run.wandb or agent_sweep() is not None
        given = [argument.partition("=")[0] for argument in self.arguments if argument.startswith("--wandb.")]
        if given and not options.run.wandb:
            raise InputError(f"{given[0]}: W&B is off: add --run.wandb true")

    # --- objects --------------------------------------------------------------------------------------------------

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        options = self.options.trainer
        loggers = _listed(self.config_init[self.verb].trainer.get("logger"))
        if options.get("enable_checkpointing") is None:
            kwargs["enable_checkpointing"] = True
        if self.verb == "fit":
            own = [MetricsCSV(self._own_folder()), *self._further_loggers()]
            kwargs["logger"] = False if options.fast_dev_run else [*own, *loggers]
        else:
            kwargs["logger"] = False
        return super().instantiate_trainer(**kwargs)

    def _further_loggers(self) -> list[Logger]:
        folder = self._own_folder()
        if folder is None:
            return []
        loggers: list[Logger] = []
        if self.options.run.wandb:
            name, config = f"{self.experiment}/{folder.path.name}", yaml.safe_load(self.complete_config())
            loggers.append(WandbRun(folder, self.config_init[self.verb].wandb, name, config, self.resumed))
        if self.options.run.tensorboard:
            if not find_spec("tensorboard"):
                raise InputError("run.tensorboard needs TensorBoard: pip install 'lightning-gen[tensorboard]'")
            # What an earlier session logged after the checkpoint is logged again.
            purge = self.checkpoint[CHECKPOINT_KEY]["images_seen"] + 1 if self.resumed else None
            loggers.append(
                TensorBoardLogger(
                    str(folder.path), name="", version="tensorboard", default_hp_metric=False, purge_step=purge
                )
            )
        return loggers

    def _dashboards(self, loggers: Sequence[Logger]) -> list[Callback]:
        """Return what W&B and TensorBoard need of callbacks, where one of them is on."""
        folder = self._own_folder()
        if folder is None or not any(isinstance(logger, WandbLogger | TensorBoardLogger) for logger in loggers):
            return []
        further = [callback for run in loggers if isinstance(run, WandbRun) for callback in run.callbacks()]
        return [Dashboards(folder, yaml.safe_load(self.complete_config())), *further]

    def _own_folder(self) -> RunFolder | None:
        return self.folder if rank_zero_only.rank == 0 else None

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
        if config.get("enable_checkpointing") is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoints)]
        callbacks = [*callbacks, *self._dashboards(config["logger"] or ())]
        if config.get("enable_checkpointing") is False and any(isinstance(c, WandbArtifacts) for c in callbacks):
            raise InputError("wandb.artifacts: this run writes no checkpoints (trainer.enable_checkpointing)")
        own = sorted([TrainLog(), *callbacks], key=lambda callback: not isinstance(callback, EMA))  # averages first
        own += [Recorder(self._own_folder(), self.complete_config(), self.resumed), ExactResume()]
        if config.get("enable_progress_bar") in (None, True):
            own.append(ImagesProgressBar())
        # The signal comes last but for checkpoints, which Lightning always puts at the end: all state is settled then.
        if self.trial is not None:
            own.append(SweepTrial(self.trial))
        own.append(GracefulStop())
        if config.get("profiler") is None:
            config["profiler"] = no_profiler()
        try:
            trainer = super()._instantiate_trainer(config, own)
        except (ValueError, TypeError) as error:
            raise InputError(f"trainer: {error}") from error
        # EarlyStopping and ModelCheckpoint then act after each evaluation, not after an epoch that never ends.
        trainer.check_val_every_n_epoch = None
        return trainer

    def complete_config(self) -> str:
        """Return the text of a config that runs this again: every default written out, no checkpoint."""
        text = self._parser(self.verb).dump(self.options, skip_none=False, skip_validation=True)
        of_this_session = ("ckpt_path", "init_from", "config")
        plain = {key: value for key, value in yaml.safe_load(text).items() if key not in of_this_session}
        return yaml.safe_dump(plain, sort_keys=False, width=120)

    # --- verbs ----------------------------------------------------------------------------------------------------

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        # A checkpoint is plain data: nothing in it may run.
        return super()._prepare_subcommand_kwargs(subcommand) | {"weights_only": True}

    def fit(self, model: ImageModule, **arguments: Any) -> None:
        describe(model, type(model).__name__)  # what a checkpoint could not hold is said now, not at the first save
        if self.options.init_from:
            initialise_from(model, Path(self.options.init_from))
        if self.checkpoint_path is not None:
            self._report_differences(model)
        self._begin_loggers()
        self._introduce(model)
        started = time.monotonic()
        try:
            self.trainer.fit(model, **arguments)
        finally:
            self._finish_loggers()
        if self.folder is not None and rank_zero_only.rank == 0:
            self._conclude(model, time.monotonic() - started)

    def _begin_loggers(self) -> None:
        """Open W&B's run: before other ranks are started, so that they do not wait for one that is refused."""
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbRun):
                logger.start()
        if folder := self._own_folder():
            note_agent_trial(folder, "running")

    def _finish_loggers(self) -> None:
        code = int(self.trainer.state.status != "finished")
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbRun):
                logger.finish(code)
            elif isinstance(logger, WandbLogger) and logger._experiment is not None:  # one that a user made
                logger._experiment.finish(exit_code=code)
        if folder := self._own_folder():
            note_agent_trial(folder, folder.summary().get("status", "failed"))

    def _report_differences(self, model: ImageModule) -> None:
        check_fit(model, self.checkpoint["state_dict"], self.checkpoint_path)
        stored = self.checkpoint[CHECKPOINT_KEY]
        budget = self.options.budget.images
        killed = self.resumed and self.folder is not None and not self.folder.is_finished()  # it may just be concluded
        if not killed and budget is not None and stored["images_seen"] >= budget:
            raise InputError(
                f"{self.checkpoint_path} has {stored['images_seen']:,} images behind it: "
                f"raise budget.images ({budget:,})"
            )
        for line in differences(stored["model"], describe(model), "model"):
            say(f"note: {line} (the config counts, not the checkpoint)")
        if stored["seed"] != model.seed:
            say(f"note: the run began with seed {stored['seed']} and keeps it for its noise")

    def _introduce(self, model: ImageModule) -> None:
        sizes = ", ".join(f"{name} {count:,}" for name, count in count_parameters(model).items()) or "no"
        size = "x".join(map(str, model.spec.shape))
        verb = "continuing" if self.resumed else "training"
        where = f" in {self.folder.path}" if self.folder is not None else ""
        say(f"{verb} {type(model).__name__} ({sizes} parameters) on images of {size}{where}")

    def _conclude(self, model: ImageModule, seconds: float) -> None:
        recorder = next(callback for callback in self.trainer.callbacks if isinstance(callback, Recorder))
        figures = ", ".join(
            f"{name} {value:.4g}"
            for name, value in recorder.last.items()
            if name.removeprefix("val/").startswith(("fid", "bpd"))
            and not name.endswith("_se")
            and not is_of_one_class(name)
        )
        say(
            f"done: {model.images_seen:,} images in {seconds:,.0f} s"
            + (f", {figures}" if figures else "")
            + f"; results are in {self.folder.path} (samples/, metrics.csv, summary.json, checkpoints/)"
        )

    def validate(self, **arguments: Any) -> None:
        self._score(self.trainer.validate, arguments)

    def test(self, **arguments: Any) -> None:
        self._score(self.trainer.test, arguments)

    def _score(self, loop: Any, arguments: dict[str, Any]) -> None:
        check_fit(self.model, self.checkpoint["state_dict"], self.checkpoint_path)
        loop(verbose=False, **{key: value for key, value in arguments.items() if key != "verbose"})
        if rank_zero_only.rank:
            return
        results = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
        evaluation = next(c for c in self.trainer.callbacks if isinstance(c, GenerativeEvaluation))
        if not results:
            able = isinstance(self.model, HasLikelihood) and evaluation.likelihood is False
            off = ", or set evaluation.likelihood to true" if able else ""
            raise InputError(f"nothing to report: give evaluation.extractor and evaluation.metrics{off}")
        if isinstance(self.datamodule, ImageDataModule):
            say("\n".join(self.datamodule.counts("val" if self.verb == "validate" else "test")))
        for name, value in results.items():
            print(f"{name:<32} {value:.6g}")
        folder = run_of_checkpoint(self.checkpoint_path)
        if folder is not None:
            facts = {"checkpoint": str(self.checkpoint_path), "images_seen": self.model.images_seen}
            report = results | facts | evaluation.description() | sampler_of(self.model)
            write_json(folder.path / f"{self.verb}.json", flat(report))
            say(f"written to {folder.path / f'{self.verb}.json'}")

    def predict(self, **arguments: Any) -> None:
        import numpy as np

        if self.trainer.world_size > 1:
            raise InputError("predict draws on one device: give --trainer.devices 1")
        path = Path("predictions.npy")
        if path.exists():
            raise InputError(f"{path} exists: rename or remove it, or run predict in another folder")
        check_file("predict:", path)
        drawn = self.trainer.predict(**arguments)
        if drawn and not rank_zero_only.rank:
            np.save(path, torch.cat(drawn).cpu().numpy())
            say(f"{sum(map(len, drawn))} images written to {path}")


def sampler_of(model: ImageModule) -> dict[str, Any]:
    """Return how the model draws, for a report; nothing of one that does not."""
    return {"sampler": describe(model.sampler)} if isinstance(model, GenerativeModule) else {}


def refuse_nulls(key: str, given: Any) -> None:
    """Refuse null for an argument that means nothing by it, which the parser lets through.

    Args:
        key: of what is given.
        given: a class and its arguments; anything else is passed over.

    Raises:
        InputError: naming the argument.
    """
    if isinstance(given, list):
        for i, item in enumerate(given):
            refuse_nulls(f"{key}.{i}", item)
    if not isinstance(given, Namespace) or "class_path" not in given or not isinstance(given.class_path, str):
        return
    module, _, name = given.class_path.rpartition(".")
    cls = getattr(sys.modules.get(module), name, None)
    for argument, value in vars(given.get("init_args") or Namespace()).items():
        is_linked = key == "model" and argument == "spec"  # which the data will give
        if value is None and not is_linked and inspect.isclass(cls) and not _may_be_null(cls, argument):
            raise InputError(f"{key}.{argument}: must not be null: give a value, or leave it out")
        refuse_nulls(f"{key}.{argument}", value)


def _may_be_null(cls: type, argument: str) -> bool:
    """Whether a class says, or does not say otherwise, that an argument may be None; a base may have it, too."""
    for owner in cls.__mro__:
        function = vars(owner).get("__init__")
        parameters = inspect.signature(function).parameters if inspect.isfunction(function) else {}
        if argument not in parameters:
            continue
        if parameters[argument].default is None:
            return True
        try:
            kind = get_type_hints(function).get(argument, Any)
        except NameError:  # a hint that is for type checkers alone
            return True
        return kind in (Any, object, None) or type(None) in get_args(kind)
    return True


def _spec_of(data: LightningDataModule) -> ImageSpec:
    if not hasattr(data, "spec"):
        raise InputError(f"{type(data).__name__} has no attribute spec: a data module must say what its images are")
    return data.spec


def _listed(logger: Any) -> list[Any]:
    """Return the loggers that an option names, which may be one, several, or only whether there is one."""
    loggers = logger if isinstance(logger, list) else [logger]
    return [item for item in loggers if not isinstance(item, bool | None)]


def _changed_arguments(logger: Namespace, cls: type) -> dict[str, Any]:
    """Return the arguments of a logger of the config that are not its class's defaults."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "logger")  # which knows what the class passes on, too
    defaults = parser.get_defaults().logger.as_dict()
    return {name: value for name, value in logger.init_args.as_dict().items() if value != defaults.get(name)}


def initialise_from(model: ImageModule, path: Path) -> None:
    """Take from a checkpoint the (averaged) weights whose names and shapes fit, and say what could not be used.

    Raises:
        InputError: where nothing fits.
    """
    checkpoint = read_checkpoint(path)
    stored = dict(checkpoint["state_dict"])
    for name, average in checkpoint.get("ema", {}).items():
        stored |= {(key if name == "model" else f"{name}.{key}"): value for key, value in average.items()}
    own = model.state_dict()
    fitting = {name: value for name, value in stored.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise InputError(f"--init_from {path}: no weight in it fits this model")
    model.load_state_dict(fitting, strict=False)
    say(f"took {len(fitting)} of {len(own)} tensors from {path}")
    for what, tensors in {"left as initialised": own, "not used": stored}.items():
        if names := [name for name in tensors if name not in fitting]:
            say(f"{what}: {', '.join(names[:8])}" + (f" and {len(names) - 8} more" if len(names) > 8 else ""))


def check_fit(model: ImageModule, stored: dict[str, torch.Tensor], path: Path) -> None:
    """Raise InputError, naming one tensor, if stored weights do not fit the model of the config."""
    own = model.state_dict()
    for name in [*own, *stored]:
        sizes = [None if name not in side else tuple(side[name].shape) for side in (own, stored)]
        if sizes[0] != sizes[1]:
            raise InputError(
                f"the weights in {path} do not fit the config's model: {name} is {sizes[1] or 'missing'} there and "
                f"{sizes[0] or 'missing'} here; to take what fits into a new run, use --init_from"
            )


def differences(old: Any, new: Any, where: str) -> list[str]:
    """Return one line per value that differs between two descriptions."""
    if isinstance(old, dict) and isinstance(new, dict):
        # What one side alone writes out is a default, as a config's factories hold every argument.
        shared = {key: where if key == "init_args" else f"{where}.{key}" for key in new if key in old}
        return [line for key, name in shared.items() for line in differences(old[key], new[key], name)]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line for i, (a, b) in enumerate(zip(old, new, strict=True)) for line in differences(a, b, f"{where}[{i}]")
        ]
    return [] if old == new else [f"{where} was {old} in the checkpoint and is {new}"]


@rank_zero_only
def say(message: str) -> None:
    """Print a line on stderr, once over all ranks."""
    print(message, file=sys.stderr, flush=True)


def quieten() -> None:
    """Hide messages of Lightning that tell a user of this package nothing."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in ("LeafSpec", "not have many workers", "Checkpoint directory .* exists", "Unable to serialize instance"):
        warnings.filterwarnings("ignore", message=f".*{text}.*")


def run(verb: str, args: Sequence[str]) -> None:
    """Run one of the training verbs; see :func:`lightning_gen.cli.main` for exit codes."""
    if trial.VARIABLE in os.environ or "WANDB_SWEEP_ID" in os.environ:
        args = plain_values(args)
    quieten()
    look_for_no_gpu()
    environment = os.environ.get(CHILD_VARIABLE)
    cli = TrainingCLI.__new__(TrainingCLI)  # its constructor runs everything, and error messages name its folder
    cli.folder = None
    try:
        cli.__init__(verb, args)
    except RunInterrupted as stop:
        if rank_zero_only.rank == 0:
            again = f"lightning {' '.join(args)}" + ("" if "--ckpt_path" in args else " --ckpt_path last")
            say(f"stopped by {stop}, everything is saved; to go on: {again}")
            raise SystemExit(128 + stop.signum) from None
    except (StoppedAtOnce, KeyboardInterrupt) as stop:
        say("stopped at once; the last checkpoint is as it was")
        raise SystemExit(128 + (stop.signum if isinstance(stop, StoppedAtOnce) else signal.SIGINT)) from None
    except Exception as error:
        message, code = explain(error, cli)
        if not message:
            raise
        if rank_zero_only.rank and isinstance(error, TrainingDiverged):  # all ranks agree; the first one says it
            raise SystemExit(code) from None
        fail(message, code)
    finally:
        if cli.folder is not None:
            cli.folder.discard_if_empty()
        if environment is None:
            os.environ.pop(CHILD_VARIABLE, None)


def explain(error: Exception, cli: TrainingCLI) -> tuple[str, int]:
    """Return one line for the user and the exit code, or '' for an error that is not the user's or the machine's."""
    cause = input_error_behind(error)
    if cause is not None or isinstance(error, MisconfigurationException):
        return str(cause or error), 2
    if isinstance(error, OmegaConfBaseException):
        return f"the config cannot be resolved: {str(error).splitlines()[0]}", 2
    if isinstance(error, RuntimeError) and "Early stopping conditioned on metric" in str(error):
        return f"trainer.callbacks: {error}", 2
    if isinstance(error, TrainingDiverged):
        return f"training diverged: {error}", 1
    last = cli.folder.last if cli.folder is not None and cli.folder.last.is_file() else None
    good = (
        f"the last good checkpoint is {last}, go on from it with --ckpt_path last"
        if last
        else "no checkpoint was written"
    )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full ({error.filename or 'while writing'}): free some space; {good}", 1
    out_of_memory = ("out of memory", "can't allocate memory", "not enough memory")
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(w in str(error).lower() for w in out_of_memory):
        remedy = "lower --data.batch_size or --evaluation.batch_size, or a network's width"
        return f"out of memory: {remedy}; {good}", 1
    return "", 1
