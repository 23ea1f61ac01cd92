"""fit, validate, test and predict: LightningCLI with the project's own groups, run folder and error lines."""

import os
import signal
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import set_parsing_settings
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

from lightning_gen.callbacks import MetricsCSV, Recorder, RunInterrupted, StoppedAtOnce, WandbOptions
from lightning_gen.commands import loggers
from lightning_gen.commands.callbacks import CALLBACKS, in_order
from lightning_gen.commands.defaults import config_of_source, set_defaults
from lightning_gen.commands.failures import explain
from lightning_gen.commands.help import Listed, TrainingParser
from lightning_gen.commands.options import RunOptions, check_options, refuse_nulls
from lightning_gen.commands.resume import check_fit, check_resumed, initialise_from
from lightning_gen.commands.scores import check_predictions, report, write_predictions
from lightning_gen.commands.screen import conclude, introduce, quieten, say
from lightning_gen.commands.start import Start, experiment_of, start_of_fit, start_of_scoring
from lightning_gen.commands.verbs import TRAINING, fail
from lightning_gen.core import ImageSpec, InputError, check_at_least, describe
from lightning_gen.models import ImageModule
from lightning_gen.runs import CHILD_VARIABLE
from lightning_gen.steps.fast import look_for_no_gpu, no_profiler
from lightning_gen.steps.guard import TrainingDiverged
from lightning_gen.sweeps import trial
from lightning_gen.sweeps.command import plain_values


class TrainingCLI(LightningCLI):
    """LightningCLI in subclass mode, with the groups run, budget, schedule, ema, evaluation, diagnostics,
    collapse, checkpoint, grid and pictures."""

    def __init__(self, verb: str, args: Sequence[str]):
        self.verb = verb
        self.arguments = list(args)
        self.start = Start()
        self.trial = trial.join() if verb == "fit" else None

    def run(self) -> None:
        """Parse the arguments, make the objects, and run the verb: what LightningCLI does as it is made."""
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
            parser_kwargs={"parser_mode": "omegaconf+", "formatter_class": Listed},
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

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> TrainingParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.arrange(subcommand)
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
        check_options(self.options, (*CALLBACKS, "run", "wandb", "trainer"))

    def _parse_ckpt_path(self) -> None:
        """Nothing: a checkpoint never overrides the config."""

    # --- objects --------------------------------------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        options = self.options
        check_at_least("run", 1, threads=options.run.threads)
        if options.run.threads is not None:
            torch.set_num_threads(options.run.threads)
        for key in ("model", "data"):
            refuse_nulls(key, options[key])
        if self.trial is not None:
            parent = self.trial.folder.parent
            options.run.root, options.run.experiment = str(parent.parent), parent.name
        options.run.experiment = experiment_of(options)
        if self.verb == "fit":
            loggers.switch_on(options, self.arguments)
            self.start = start_of_fit(options, self.trial)
        else:
            self.start = start_of_scoring(self.verb, options)

    @property
    def complete_config(self) -> str:
        """The text of a config that runs this again: every default written out, no checkpoint."""
        text = self._parser(self.verb).dump(self.options, skip_none=False, skip_validation=True)
        of_this_session = ("ckpt_path", "init_from", "config")
        plain = {key: value for key, value in yaml.safe_load(text).items() if key not in of_this_session}
        source = getattr(getattr(self, "datamodule", None), "source", None)  # there is none where all is only parsed
        if names := getattr(source, "class_names", None):
            plain["data"]["init_args"]["source"]["init_args"]["class_names"] = names  # so that their numbers stay
        return yaml.safe_dump(plain, sort_keys=False, width=120)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        made = self.config_init[self.verb]
        if made.trainer.enable_checkpointing is None:
            kwargs["enable_checkpointing"] = True
        kwargs["logger"] = False
        if self.verb == "fit" and not made.trainer.fast_dev_run:
            further = loggers.dashboards(self.options.run, made.wandb, self.start, self.complete_config)
            kwargs["logger"] = [MetricsCSV(self.start.own_folder), *further, *loggers.listed(made.trainer.logger)]
        return super().instantiate_trainer(**kwargs)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
        folder, text = self.start.own_folder, self.complete_config
        dashboards = loggers.callbacks_of(config["logger"] or (), folder, text)
        own = in_order(callbacks, dashboards, Recorder(folder, text, self.start.resumed), self.trial, config)
        if config["profiler"] is None:
            config["profiler"] = no_profiler()
        try:
            trainer = super()._instantiate_trainer(config, own)
        except (ValueError, TypeError) as error:
            raise InputError(f"trainer: {error}") from error
        # EarlyStopping and ModelCheckpoint then act after each evaluation, not after an epoch that never ends.
        trainer.check_val_every_n_epoch = None
        return trainer

    # --- verbs ----------------------------------------------------------------------------------------------------

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        # A checkpoint is plain data: nothing in it may run.
        return super()._prepare_subcommand_kwargs(subcommand) | {"weights_only": True}

    def fit(self, model: ImageModule, **arguments: Any) -> None:
        describe(model, type(model).__name__)  # what a checkpoint could not hold is said now, not at the first save
        if self.options.init_from is not None:
            initialise_from(model, Path(self.options.init_from))
        if self.start.path is not None:
            check_resumed(model, self.start, self.options.budget.images)
        loggers.begin(self.trainer.loggers, self.start.own_folder)
        introduce(model, self.start)
        started = time.monotonic()
        try:
            self.trainer.fit(model, **arguments)
        finally:
            loggers.finish(self.trainer, self.start.own_folder)
        conclude(model, self.trainer, self.start, time.monotonic() - started)

    def after_instantiate_classes(self) -> None:
        if self.verb != "fit":
            check_fit(self.model, self.start.checkpoint["state_dict"], self.start.path)

    def validate(self, **arguments: Any) -> None:
        self._score(self.trainer.validate, arguments)

    def test(self, **arguments: Any) -> None:
        self._score(self.trainer.test, arguments)

    def _score(self, loop: Any, arguments: dict[str, Any]) -> None:
        loop(**arguments | {"verbose": False})
        report(self.verb, self.trainer, self.model, self.datamodule, self.start.path)

    def predict(self, **arguments: Any) -> None:
        check_predictions(self.trainer)
        write_predictions(self.trainer.predict(**arguments))


def _spec_of(data: LightningDataModule) -> ImageSpec:
    if not hasattr(data, "spec"):
        raise InputError(f"{type(data).__name__} has no attribute spec: a data module must say what its images are")
    return data.spec


def run(verb: str, args: Sequence[str]) -> None:
    """Run one of the training verbs; see :func:`lightning_gen.cli.main` for exit codes."""
    if trial.VARIABLE in os.environ or "WANDB_SWEEP_ID" in os.environ:
        args = plain_values(args)
    quieten()
    look_for_no_gpu()
    environment = os.environ.get(CHILD_VARIABLE)
    cli = TrainingCLI(verb, args)
    try:
        cli.run()
    except RunInterrupted as stop:
        if rank_zero_only.rank == 0:
            again = f"lightning {' '.join(args)}" + ("" if "--ckpt_path" in args else " --ckpt_path last")
            say(f"stopped by {stop}, everything is saved; to go on: {again}")
            raise SystemExit(128 + stop.signum) from None
    except (StoppedAtOnce, KeyboardInterrupt) as stop:
        say("stopped at once; the last checkpoint is as it was")
        raise SystemExit(128 + (stop.signum if isinstance(stop, StoppedAtOnce) else signal.SIGINT)) from None
    except Exception as error:
        message, code = explain(error, cli.start.folder)
        if not message:
            raise
        if rank_zero_only.rank and isinstance(error, TrainingDiverged):  # all ranks agree; the first one says it
            raise SystemExit(code) from None
        fail(message, code)
    finally:
        if cli.start.folder is not None:
            cli.start.folder.discard_if_empty()
        if environment is None:
            os.environ.pop(CHILD_VARIABLE, None)
