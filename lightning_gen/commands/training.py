"""fit, validate, test and predict: LightningCLI with the project's own groups, run folder and error lines."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf.errors import OmegaConfBaseException

from lightning_gen.callbacks import (
    EMA,
    Budget,
    Checkpoints,
    CollapseMonitor,
    Diagnostics,
    ExactResume,
    GenerativeEvaluation,
    GracefulStop,
    ImagesProgressBar,
    LearningRate,
    MetricsCSV,
    Recorder,
    RunInterrupted,
    SampleGrid,
    TrainLog,
)
from lightning_gen.callbacks.recorder import count_parameters
from lightning_gen.commands.messages import TrainingParser, input_error_behind
from lightning_gen.commands.verbs import TRAINING, fail
from lightning_gen.errors import InputError
from lightning_gen.files import flat, write_json
from lightning_gen.metrics.base import is_of_one_class
from lightning_gen.models import HasLikelihood, ImageModule, read_checkpoint
from lightning_gen.models.base import CHECKPOINT_KEY, TrainingDiverged
from lightning_gen.runs import CHILD_VARIABLE, RunFolder, run_of_checkpoint
from lightning_gen.spec import ImageSpec

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
    "run": "run: where it is kept, what logs it",
    "trainer": "trainer: devices, precision and further options of Lightning's Trainer",
}
DESCRIPTION = """{what}. Any value of a config can be given as --key value; several --config are merged in their order.
The shortest form of a key inside the model or the data leaves init_args out: --model.generator.widths "[512, 512]"
--data.batch_size 128. --print_config prints the complete config. Options of a class: --model.help CLASS."""


class RunOptions:
    """Where a run is kept, and how many threads it uses.

    Args:
        root: folder of all runs.
        experiment: name of the folder of this run's versions; null takes the name of the first config file.
        threads: CPU threads of torch in each process; null leaves torch's choice. Small models are fastest with 1.
        wandb: log to Weights & Biases, too: online if you have logged in, else offline into the run's folder.
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


class NoProfiler(PassThroughProfiler):
    """Lightning's own makes and unwinds a generator at each of some hundred hooks a step."""

    NOTHING = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager:
        return self.NOTHING


class TrainingCLI(LightningCLI):
    """LightningCLI in subclass mode, with the groups run, budget, schedule, ema, evaluation, diagnostics,
    collapse, checkpoint and grid."""

    def __init__(self, verb: str, args: Sequence[str]):
        self.verb = verb
        self.arguments = list(args)
        self.resumed = False
        self.checkpoint_path: Path | None = None
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
        parser.add_lightning_class_args(Budget, "budget")
        parser.add_lightning_class_args(LearningRate, "schedule")
        parser.add_lightning_class_args(EMA, "ema")
        parser.add_lightning_class_args(GenerativeEvaluation, "evaluation")
        parser.add_lightning_class_args(Diagnostics, "diagnostics")
        parser.add_lightning_class_args(CollapseMonitor, "collapse")
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.add_lightning_class_args(SampleGrid, "grid")
        parser.add_class_arguments(RunOptions, "run")
        if self.verb == "fit":
            parser.add_argument(
                "--init_from", type=str | None, default=None, help="Checkpoint to take weights from, for a new run."
            )
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{key}": value for key, value in self.trainer_defaults.items()})

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
            super().parse_arguments(parser, args)
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
        files = self.config_files
        return files[0].stem if files else self.options.model.class_path.rpartition(".")[2].lower()

    def before_instantiate_classes(self) -> None:
        threads = self.options.run.threads
        if threads is not None and threads < 1:
            raise InputError(f"run.threads must be at least 1, got {threads}")
        if threads is not None:
            torch.set_num_threads(threads)
        self.experiment_name = self.experiment
        self.options.run.experiment = self.experiment_name
        self._find_checkpoint()
        if self.verb == "fit" and not self.options.trainer.fast_dev_run:
            self._choose_folder()

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
            self.folder = own.check_unfinished() if own else RunFolder.unfinished(root, self.experiment_name)
            self.resumed = True
            path = self.folder.last
        elif given in ("last", "best"):
            if self.verb == "fit":
                raise InputError("--ckpt_path best: training goes on from last, or from a file")
            folder = self.run_of_config or RunFolder.newest(root, self.experiment_name)
            path = getattr(folder, given)
            if not path.is_file():
                raise InputError(f"{folder.path} has no {given} checkpoint: set checkpoint.monitor, or use last")
        else:
            path = Path(given)
            if self.verb == "fit" and path.name == "last.ckpt" and (folder := run_of_checkpoint(path)):
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
            self.folder = self.folder or RunFolder.new(self.options.run.root, self.experiment_name)
            os.environ[CHILD_VARIABLE] = str(self.folder.path)
        for logger in _listed(self.options.trainer.get("logger")):
            self._place_logger(logger)

    def _place_logger(self, logger: Namespace) -> None:
        """Let further loggers write into the run's folder, unless the config sends them elsewhere."""
        name = logger.class_path.rpartition(".")[2]
        if self.folder is None or name not in ("WandbLogger", "TensorBoardLogger"):
            return
        arguments = logger.init_args
        if arguments.get("save_dir") in (None, ".", ""):
            arguments.save_dir = str(self.folder.path)
        if name == "TensorBoardLogger" and arguments.get("version") is None:
            arguments.name, arguments.version = "", "tensorboard"
        if name == "WandbLogger":
            if arguments.get("name") is None:
                arguments.name = f"{self.experiment_name}/{self.folder.path.name}"
            if not arguments.get("offline") and not wandb_has_key():
                arguments.offline = True

    # --- objects --------------------------------------------------------------------------------------------------

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        options = self.options.trainer
        extra = self.config_init[self.verb].trainer.get("logger")
        loggers = [] if isinstance(extra, bool | None) else extra if isinstance(extra, list) else [extra]
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
            name = f"{self.experiment_name}/{folder.path.name}"
            loggers.append(
                WandbLogger(
                    name=name,
                    project="lightning-gen",
                    save_dir=str(folder.path),
                    offline=not wandb_has_key(),
                    config=yaml.safe_load(self.complete_config()),
                )
            )
        if self.options.run.tensorboard:
            if not find_spec("tensorboard"):
                raise InputError("run.tensorboard needs TensorBoard: pip install 'lightning-gen[tensorboard]'")
            loggers.append(TensorBoardLogger(str(folder.path), name="", version="tensorboard"))
        return loggers

    def _own_folder(self) -> RunFolder | None:
        return self.folder if rank_zero_only.rank == 0 else None

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
        folder = self._own_folder()
        if config.get("enable_checkpointing") is False:
            callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoints)]
        averages = [callback for callback in callbacks if isinstance(callback, EMA)]
        others = [callback for callback in callbacks if not isinstance(callback, EMA)]
        own = [*averages, TrainLog(), *others, Recorder(folder, self.complete_config(), self.resumed), ExactResume()]
        if config.get("enable_progress_bar") in (None, True):
            own.append(ImagesProgressBar())
        # The signal comes last but for checkpoints, which Lightning always puts at the end: all state is settled then.
        own.append(GracefulStop())
        for callback in own:
            for hook in ("on_train_batch_start", "on_train_batch_end"):
                if getattr(type(callback), hook) is getattr(Callback, hook):
                    # Lightning leaves out what is not callable, and the microseconds of each empty call add up.
                    setattr(callback, hook, None)
        if config.get("profiler") is None:
            config["profiler"] = NoProfiler()
        try:
            trainer = super()._instantiate_trainer(config, own)
        except (ValueError, TypeError) as error:
            raise InputError(f"trainer: {error}") from error
        # EarlyStopping and ModelCheckpoint then act after each evaluation, not after an epoch that never ends.
        trainer.check_val_every_n_epoch = None
        return trainer

    def complete_config(self) -> str:
        """Return the text of a config that runs this again: every default written out, no checkpoint."""
        config = self.options.clone()
        for key in ("ckpt_path", "init_from", "config"):
            config.pop(key, None)
        parser = self._parser(self.verb)
        text = parser.dump(config, skip_none=False, skip_validation=True)
        plain = {key: value for key, value in yaml.safe_load(text).items() if key not in ("ckpt_path", "init_from")}
        return yaml.safe_dump(plain, sort_keys=False, width=120)

    # --- verbs ----------------------------------------------------------------------------------------------------

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        arguments["weights_only"] = True  # a checkpoint is plain data: nothing in it may run
        return arguments

    def fit(self, model: ImageModule, **arguments: Any) -> None:
        model.description()  # what a checkpoint could not hold is said now, not at the first save
        if self.options.init_from:
            initialise_from(model, Path(self.options.init_from))
        if self.checkpoint_path is not None:
            self._report_differences(model)
        self._introduce(model)
        started = time.monotonic()
        try:
            self.trainer.fit(model, **arguments)
        finally:
            self._finish_loggers()
        if self.folder is not None and rank_zero_only.rank == 0:
            self._conclude(model, time.monotonic() - started)

    def _finish_loggers(self) -> None:
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger) and rank_zero_only.rank == 0 and logger._experiment is not None:
                logger._experiment.finish(exit_code=int(self.trainer.state.status != "finished"))

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
        for line in differences(stored["model"], model.description(), "model"):
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
        if not results:
            off = ", or set evaluation.likelihood to true" if isinstance(self.model, HasLikelihood) else ""
            raise InputError(f"nothing to report: give evaluation.extractor and evaluation.metrics{off}")
        for name, value in results.items():
            print(f"{name:<32} {value:.6g}")
        folder = run_of_checkpoint(self.checkpoint_path)
        if folder is not None:
            report = {**results, "checkpoint": str(self.checkpoint_path), "images_seen": self.model.images_seen}
            evaluation = next(c for c in self.trainer.callbacks if isinstance(c, GenerativeEvaluation))
            report |= evaluation.description()
            write_json(folder.path / f"{self.verb}.json", flat(report))
            say(f"written to {folder.path / f'{self.verb}.json'}")

    def predict(self, **arguments: Any) -> None:
        import numpy as np

        if self.trainer.world_size > 1:
            raise InputError("predict draws on one device: give --trainer.devices 1")
        drawn = self.trainer.predict(**arguments)
        if drawn and not rank_zero_only.rank:
            path = Path("predictions.npy")
            np.save(path, torch.cat(drawn).cpu().numpy())
            say(f"{sum(map(len, drawn))} images written to {path}")


def _spec_of(data: LightningDataModule) -> ImageSpec:
    if not hasattr(data, "spec"):
        raise InputError(f"{type(data).__name__} has no attribute spec: a data module must say what its images are")
    return data.spec


def _listed(logger: Any) -> list[Namespace]:
    loggers = logger if isinstance(logger, list) else [logger]
    return [item for item in loggers if isinstance(item, Namespace)]


def wandb_has_key() -> bool:
    """Whether the user has logged in to W&B: looked up without a network and without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    if os.environ.get("WANDB_MODE"):
        return True  # the user chose a mode: it is not ours to change
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return netrc.is_file() and "wandb" in netrc.read_text(errors="ignore")


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
    kept = [name for name in own if name not in fitting]
    unused = [name for name in stored if name not in fitting]
    for what, names in {"left as initialised": kept, "not used": unused}.items():
        if names:
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
        lines = []
        for key in [*new, *(key for key in old if key not in new)]:
            if key not in old or key not in new:
                # written out by one side only: a default, as a config's factories hold every argument
                continue
            lines += differences(old[key], new[key], where if key == "init_args" else f"{where}.{key}")
        return lines
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line for i, (a, b) in enumerate(zip(old, new, strict=True)) for line in differences(a, b, f"{where}[{i}]")
        ]
    return [] if old == new else [f"{where} was {old} in the checkpoint and is {new}"]


def say(message: str) -> None:
    """Print a line on stderr, once over all ranks."""
    if rank_zero_only.rank == 0:
        print(message, file=sys.stderr, flush=True)


def look_for_no_gpu() -> None:
    """Spare every optimizer step a search for a GPU's driver library where there is no GPU (0.1 ms of Adam's)."""
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"  # which importing lightning sets to 1


def quieten() -> None:
    """Leave the screen to the run: no banners of the libraries below."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists.*")
    warnings.filterwarnings("ignore", message=".*Unable to serialize instance.*")


def run(verb: str, args: Sequence[str]) -> None:
    """Run one of the training verbs; see :func:`lightning_gen.cli.main` for exit codes."""
    quieten()
    look_for_no_gpu()
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True, subclasses_enabled=[ImageSpec])
    environment = os.environ.get(CHILD_VARIABLE)
    cli = TrainingCLI.__new__(TrainingCLI)  # its constructor runs everything; errors want to know its folder
    cli.folder = None
    try:
        cli.__init__(verb, args)
    except RunInterrupted as stop:
        if rank_zero_only.rank == 0:
            again = f"lightning {' '.join(args)}" + ("" if "--ckpt_path" in args else " --ckpt_path last")
            say(f"stopped by {stop}, everything is saved; to go on: {again}")
            raise SystemExit(128 + stop.signum) from None
    except KeyboardInterrupt:
        say("stopped at once; the last checkpoint is as it was")
        raise SystemExit(128 + signal.SIGINT) from None
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
    if cause is not None:
        return str(cause), 2
    if isinstance(error, MisconfigurationException):
        return str(error), 2
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
    if _is_out_of_memory(error):
        remedy = "lower --data.batch_size or --evaluation.batch_size, or a network's width"
        return f"out of memory: {remedy}; {good}", 1
    return "", 1


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error).lower() for words in ("out of memory", "can't allocate memory", "not enough memory"))
