"""Weights & Biases: each run has one there, a resumed run goes on in it, and no server can hold a run up."""

import contextlib
import json
import netrc
import os
import re
import shlex
import shutil
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from lightning_gen.callbacks.checkpoints import Checkpoints
from lightning_gen.callbacks.interval import Interval
from lightning_gen.callbacks.signals import RunInterrupted
from lightning_gen.core import InputError, write_json
from lightning_gen.models.checkpoint import read_checkpoint
from lightning_gen.models.state import CHECKPOINT_KEY
from lightning_gen.runs import RunFolder
from lightning_gen.sweeps import trial

PROJECT = "lightning-gen"
AXIS = "images_seen"
ANSWER_SECONDS = 5.0
"""How long the server may take to answer before a run goes on without it."""
INIT_SECONDS = 20.0
FINISH_SECONDS = 120.0
"""How long a run's end may wait for uploads; what is not sent by then stays on disk."""
ARTIFACT_SECONDS = 900.0
KILLED = 255
"""Exit code by which W&B knows that somebody stopped a run."""
WRITE_SECONDS = 40.0
"""After so long a row is on disk: W&B's service writes every 15 s."""
# W&B's words for a server that does not answer, as opposed to one that says no.
NO_ANSWER = re.compile(r"timed out|deadline|giving up|connect|no such host|network|EOF|HTTP 5\d\d", re.IGNORECASE)
BINS = 64


class WandbOptions:
    """How a run is logged to Weights & Biases, where ``run.wandb`` is true or an agent of a W&B sweep starts it.

    Args:
        project: where it is listed; null takes $WANDB_PROJECT, else lightning-gen.
        entity: account or team; null takes $WANDB_ENTITY, else your own.
        name: what it is called there; null takes experiment/version, in a sweep sweep/trial.
        group: runs of one group can be shown as one; null takes the sweep's name, if there is one.
        tags: labels to find it by.
        notes: a description in your own words.
        mode: online; offline, into the run's folder; auto is online where you have logged in and the server answers.
        artifacts: checkpoints to upload: the best, the last or (all) one version at each evaluation.
        watch: histograms of the gradients that optimizers use, of the weights, or of all of them.
        watch_every: images between these histograms.

    Raises:
        InputError: for an interval below 1.
    """

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        mode: Literal["auto", "online", "offline"] = "auto",
        artifacts: Literal["none", "best", "last", "all"] = "none",
        watch: Literal["none", "gradients", "parameters", "all"] = "none",
        watch_every: int = 50_000,
    ):
        Interval(watch_every, "wandb.watch_every")
        self.project = project
        self.entity = entity
        self.name = name
        self.group = group
        self.tags = tags
        self.notes = notes
        self.mode = mode
        self.artifacts = artifacts
        self.watch = watch
        self.watch_every = watch_every


def options_of(logger: Mapping[str, Any], further: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of :class:`WandbOptions` that mean what arguments of Lightning's WandbLogger mean.

    Args:
        logger: its named arguments, defaults left out.
        further: what it passes on to ``wandb.init``.

    Raises:
        InputError: naming an argument that has no counterpart.
    """
    options: dict[str, Any] = {}
    for key, value in {**logger, **further}.items():
        if key in ("name", "project", "entity", "group", "tags", "notes", "mode"):
            options[key] = value
        elif key == "offline":
            options["mode"] = "offline" if value else "auto"
        elif key == "log_model":
            options["artifacts"] = "all" if value == "all" else "best" if value else "none"
        else:
            raise InputError(
                f"trainer.logger: {key} of WandbLogger is not known here: give --run.wandb true and options --wandb..."
            )
    return options


class WandbRun(WandbLogger):
    """The W&B run of a run folder: its id is kept in ``wandb.json`` there, and a resumed run goes on in it.

    All figures of one number of images seen become one row, so that they can be plotted against each other; a figure
    that comes twice begins a new one. The x-axis of everything is ``images_seen``, and figures whose direction is known
    have their best value in the summary beside the last. W&B's own step counts rows.

    Args:
        folder: the run's folder; W&B's files lie in it, too.
        options: project, names, mode.
        name: what the run is called where the options do not say.
        config: the complete config, nested.
        resumed: whether the run goes on in a folder that was there before.
    """

    def __init__(
        self,
        folder: RunFolder,
        options: WandbOptions,
        name: str,
        config: dict[str, Any],
        resumed: bool = False,
    ):
        known = _read(folder.path / "wandb.json") if resumed else {}
        part = trial.join()
        in_sweep = agent_sweep() is not None and not known
        # What W&B takes from its own variables must not be overridden by defaults of ours.
        given = {
            "project": options.project or known.get("project") or os.environ.get("WANDB_PROJECT") or PROJECT,
            "entity": options.entity or known.get("entity"),
            "name": options.name or _unless("WANDB_NAME", name if part is None else f"{part.sweep}/{part.number}"),
            "group": options.group or (None if part is None else _unless("WANDB_RUN_GROUP", part.sweep)),
            "id": known.get("id"),
        }
        if in_sweep:  # the sweep decides about these, and W&B would warn
            given |= {"project": None, "entity": None}
        super().__init__(
            **given,
            save_dir=str(folder.path),
            tags=options.tags,
            notes=options.notes,
            config=config,
            job_type="fit",
        )
        if in_sweep:
            self._wandb_init["project"] = None
        self.folder = folder
        self.options = options
        self.resumed = resumed and bool(known)
        self.in_sweep = in_sweep
        self.online = False
        self._at: int | None = None
        self._names: set[str] = set()
        self._directions: dict[str, bool] = {}
        self._known = known
        self._facts: dict[str, Any] = {}
        self._committed: deque[tuple[float, int]] = deque()
        self._noted = 0.0

    # --- beginning and end ----------------------------------------------------------------------------------------

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run itself; it begins when it is first asked for."""
        if self._experiment is None:
            self.start()
        return self._experiment

    def start(self) -> None:
        """Begin the run at W&B, and say in one line where it is.

        Raises:
            InputError: where the server refuses the run, or mode is online and that is not possible.
        """
        import wandb

        settings = wandb.setup(quiet_settings()).settings
        if settings.mode == "disabled" and self.options.mode == "auto":
            self._experiment = wandb.init(mode="disabled")
            return
        problem = self._problem(settings)
        if problem is None:
            try:
                self._experiment = self._init("online")
            except wandb.Error as error:
                release()
                problem = self._explain(error)
                wandb.setup(quiet_settings())
        self.online = self._experiment is not None
        if not self.online:
            try:
                self._experiment = self._init("offline")
            except wandb.Error as error:
                self._explain(error)
        self._experiment.define_metric(AXIS, hidden=True)
        self._experiment.define_metric("*", step_metric=AXIS)
        self._facts = {"id": self._experiment.id, "project": self._experiment.project, "online": self.online}
        if "written" in self._known:
            self._facts["written"] = self._known["written"]
        if self.online:
            self._facts |= {"entity": self._experiment.entity, "url": self._experiment.url}
        self._note()
        if self.online:
            _say(f"W&B: {self._experiment.url}")
        else:
            _say(f"W&B: offline{f', because {problem}' if problem else ''}; to upload it later: {self.sync_command()}")

    def _problem(self, settings: Any) -> str | None:
        """Return why the run cannot be online, None where it can, and '' where it is not to be."""
        strict = self.options.mode == "online"
        if self.options.mode == "offline" or (settings.mode in ("offline", "dryrun") and not strict):
            return ""
        problem = None
        if not has_key(settings.base_url, settings.api_key):
            problem = "you have not logged in (wandb login)"
        elif not answers(settings.base_url, settings.http_proxy, settings.https_proxy):
            problem = f"{settings.base_url} does not answer"
        if problem and strict:
            raise InputError(f"wandb.mode online: {problem}")
        return problem

    def _init(self, mode: str) -> Any:
        import wandb

        wanted = FINISH_SECONDS if self.options.artifacts == "none" else ARTIFACT_SECONDS
        timeouts = {"init_timeout": INIT_SECONDS, "finish_timeout": wanted, "finish_timeout_raises": True}
        own = {name: value for name, value in timeouts.items() if f"WANDB_{name.upper()}" not in os.environ}
        arguments = {key: value for key, value in self._wandb_init.items() if key != "anonymous"}
        return wandb.init(**arguments, mode=mode, settings=quiet_settings(**own))

    def _explain(self, error: Exception) -> str:
        """Return what went wrong where a server does not answer.

        Raises:
            InputError: where it says no.
        """
        import wandb

        text = " ".join(str(error).split())
        if isinstance(error, wandb.errors.CommError) and NO_ANSWER.search(text):
            problem = f"the server does not answer ({text[:120]})"
            if self.options.mode == "online":
                raise InputError(f"wandb.mode online: {problem}") from error
            return problem
        remedy = "check wandb.project and wandb.entity, log in again (wandb login), or add --wandb.mode offline"
        if self.resumed:
            remedy += f"; to go on in a new W&B run, delete {self.folder.path / 'wandb.json'}"
        else:
            shutil.rmtree(self.folder.path / "wandb", ignore_errors=True)
        raise InputError(f"W&B refuses this run: {text[:200]} ({remedy})") from error

    def sync_command(self) -> str:
        """Return the command that uploads what is not uploaded yet, of all sessions of this run."""
        kind = "--include-online " if self.online else ""
        return f"wandb sync {kind}{shlex.quote(str(self.folder.path))}/wandb/{'' if self.online else 'offline-'}run-*"

    def finish(self, exit_code: int) -> None:
        """End the run at W&B; waits for uploads, but not forever.

        A run that was interrupted, and can go on, is shown as killed there, not as failed.
        """
        if self._experiment is None:
            return
        if exit_code and self.folder.summary().get("status") == "interrupted":
            exit_code = KILLED
        try:
            self._experiment.finish(exit_code=exit_code)
        except TimeoutError:
            _say(f"W&B did not take everything in time; to send the rest: {self.sync_command()}")
            return
        if self._facts:
            self._facts |= {"complete": True} | ({} if self._at is None else {"written": self._at})
            self._note()

    def callbacks(self) -> list[Callback]:
        """Return what the options ask for beside figures and pictures."""
        watch = [WandbWatch(self, self.options.watch, self.options.watch_every)]
        artifacts = [WandbArtifacts(self, self.options.artifacts)]
        return (watch if self.options.watch != "none" else []) + (artifacts if self.options.artifacts != "none" else [])

    # --- figures --------------------------------------------------------------------------------------------------

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run has the complete config."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log figures, pictures or histograms at ``step`` images seen."""
        plain = {name: float(value) if is_number(value) else value for name, value in metrics.items()}
        if step is None:
            self.experiment.log(plain)
            return
        images_seen = int(step)
        self.begin_row(images_seen, plain)
        self.experiment.log({**plain, AXIS: images_seen}, commit=False)

    def begin_row(self, images_seen: int, names: Iterable[str] = ()) -> None:
        """Let what is logged from now on belong to so many images seen."""
        if images_seen != self._at or not self._names.isdisjoint(names):
            self.commit()
        self._at = images_seen
        self._names.update(names)

    def commit(self) -> None:
        """Close the row: the dashboard has it from now on."""
        if self._names:
            self.experiment.log({}, commit=True)
            self._committed.append((time.monotonic(), self._at))
            self._note_progress()
        self._names = set()

    def _note_progress(self) -> None:
        """Note on disk which rows W&B's service has written by now: it writes late, and ends with this process."""
        before = time.monotonic() - WRITE_SECONDS
        while self._committed and self._committed[0][0] < before:
            self._facts["written"] = self._committed.popleft()[1]
        if self._facts and self._noted < before:
            self._note()

    def _note(self) -> None:
        write_json(self.folder.path / "wandb.json", self._facts)
        self._noted = time.monotonic()

    def written(self) -> int | None:
        """Return up to how many images seen W&B has the figures of this run's earlier sessions; None for all."""
        if not self.resumed or self._known.get("complete"):
            return None
        at_server = self.experiment.summary.get(AXIS) if self.online else None
        return int(at_server if at_server is not None else self._known.get("written", 0))

    @rank_zero_only
    def define(self, higher_is_better: Mapping[str, bool]) -> None:
        """Keep the best value of these figures in the summary, beside the last.

        In a sweep of W&B's own, whose server reads a figure by its plain name, the summary stays the last value.
        """
        for name, higher in higher_is_better.items():
            if name not in self._directions and not self.in_sweep:
                self.experiment.define_metric(name, step_metric=AXIS, summary="max,last" if higher else "min,last")
            self._directions[name] = higher

    @rank_zero_only
    def restore_best(self, best: Mapping[str, float], last: Mapping[str, float]) -> None:
        """Set best values in the summary of a resumed run, whose earlier ones W&B does not look at."""
        if self.resumed and not self.in_sweep:
            for name in self._directions.keys() & best.keys() & last.keys():
                kind = "max" if self._directions[name] else "min"
                self.experiment.summary[name] = {kind: best[name], "last": last[name]}


class WandbWatch(Callback):
    """Log histograms of weights and of the gradients that optimizers use, every so many images.

    Gradients are read after an optimizer's step, so they are those of all terms of the loss, averaged over ranks and
    clipped, and no hook is in the way of a penalty's double backward.

    Args:
        logger: where they go.
        what: "gradients", "parameters" or "all".
        every: images between histograms.
    """

    def __init__(self, logger: WandbRun, what: str, every: int):
        self.logger = logger
        self.what = what
        self.interval = Interval(every, "wandb.watch_every")
        self._names: dict[Tensor, str] = {}
        self._handles: list[Any] = []
        self._due = False
        self._waiting: set[torch.optim.Optimizer] = set()
        self._found: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.interval.start(pl_module.images_seen)
        self._names = {parameter: name for name, parameter in pl_module.named_parameters() if parameter.requires_grad}
        if self.what != "parameters":
            if not trainer.optimizers:
                raise InputError(f"wandb.watch {self.what}: {type(pl_module).__name__} is trained without gradients")
            self._handles = [optimizer.register_step_post_hook(self._note) for optimizer in trainer.optimizers]
        self._ask(trainer)

    def _ask(self, trainer: Trainer) -> None:
        """Let the next step of each optimizer be noted: networks may take turns."""
        self._due = True
        self._waiting = set(trainer.optimizers) if self._handles else set()

    def _note(self, optimizer: torch.optim.Optimizer, *args: Any) -> None:
        if optimizer not in self._waiting:
            return
        self._waiting.discard(optimizer)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter in self._names:
                    self._found[f"gradients/{self._names[parameter]}"] = parameter.grad.detach().clone()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self._due and not self._waiting:
            self._due = False
            if self.what != "gradients":
                self._found |= {f"parameters/{name}": parameter.detach() for parameter, name in self._names.items()}
            values = {name: histogram(tensor) for name, tensor in self._found.items()}
            self.logger.log_metrics({name: value for name, value in values.items() if value}, pl_module.images_seen)
            self._found = {}
        if self.interval.passed(pl_module.images_seen):
            self._ask(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)


class WandbArtifacts(Checkpoint):
    """Upload checkpoints as versions of one W&B artifact, with what is known of them.

    Aliases are ``last``, ``best`` and ``images-<images seen>``; the metadata are the images seen, the figures of the
    last evaluation before, and the monitored figure. A :class:`Checkpoint` in name, so that Lightning calls it after
    those that write files.

    Args:
        logger: the run.
        which: "best" or "last", uploaded when training ends; "all" uploads the last at each evaluation.
    """

    def __init__(self, logger: WandbRun, which: str):
        super().__init__()
        self.logger = logger
        self.which = which
        self._uploaded: set[int] = set()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.which == "all" and trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.upload(trainer, self.logger.folder.last)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = self.logger.folder.best if self.which == "best" else self.logger.folder.last
        if path.is_file():
            self.upload(trainer, path)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, RunInterrupted):
            self.on_train_end(trainer, pl_module)

    def upload(self, trainer: Trainer, path: Path) -> None:
        """Hand one checkpoint over, once."""
        import wandb

        stored = read_checkpoint(path)
        images_seen = stored[CHECKPOINT_KEY]["images_seen"]
        if images_seen in self._uploaded:
            return
        self._uploaded.add(images_seen)
        metadata = {
            "images_seen": images_seen,
            "figures": dict(stored["callbacks"].get("Recorder", {}).get("last", {})),
        }
        aliases = ["last", f"images-{images_seen}"] if path == self.logger.folder.last else [f"images-{images_seen}"]
        best = self.logger.folder.best
        if best.is_file() and (path.samefile(best) or path.read_bytes() == best.read_bytes()):
            aliases.append("best")
        for callback in trainer.callbacks:
            if isinstance(callback, Checkpoints) and callback.monitor:
                metadata |= {"monitor": callback.monitor, "mode": callback.mode}
        run = self.logger.experiment
        artifact = wandb.Artifact(f"checkpoint-{run.id}", type="model", metadata=metadata)
        artifact.add_file(str(path), name="model.ckpt")
        run.log_artifact(artifact, aliases=aliases)


# --- the surroundings -------------------------------------------------------------------------------------------------


def agent_sweep() -> str | None:
    """Return the id of the W&B sweep whose agent started this process, if one did."""
    return os.environ.get("WANDB_SWEEP_ID") or None


def note_agent_trial(folder: RunFolder, state: str) -> None:
    """Write trial.json for a run that an agent of a W&B sweep started, as ``lightning sweep`` does for its own.

    Args:
        folder: the run's folder.
        state: running, or the status of its summary.json.
    """
    sweep = agent_sweep()
    if sweep is None:
        return
    path = folder.path / "trial.json"
    facts = _read(path) or {
        "sweep": sweep,
        "trial": os.environ.get("WANDB_RUN_ID"),
        "metric": None,  # only the server knows
        "goal": None,
        "parameters": agent_parameters(),
        "command": sys.argv,
        "value": None,
        "reason": None,
    }
    write_json(path, {**facts, "state": state})


def agent_parameters() -> dict[str, Any]:
    """Return the values that a W&B sweep chose for this run, by dotted name."""
    import yaml

    path = os.environ.get("WANDB_SWEEP_PARAM_PATH")
    if not path:
        return {}
    try:
        stored = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"the sweep's parameters in {path} cannot be read: {error}") from error
    return {name: item["value"] for name, item in stored.items() if isinstance(item, dict) and "value" in item}


def has_key(base_url: str, configured: str | None = None) -> bool:
    """Whether the user has logged in to the W&B server at ``base_url``: looked up without a network or a question."""
    if configured or os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    places = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for place in places:
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(Path(place).expanduser()).authenticators(urlsplit(base_url).netloc):
                return True
    return False


def answers(url: str, http_proxy: str | None = None, https_proxy: str | None = None) -> bool:
    """Whether a W&B server answers at ``url``, whatever it says, within :data:`ANSWER_SECONDS`.

    Args:
        url: of the server.
        http_proxy, https_proxy: to go through; None for the system's.
    """
    found: list[bool] = []

    def ask() -> None:
        proxies = {scheme: proxy for scheme, proxy in {"http": http_proxy, "https": https_proxy}.items() if proxy}
        opener = urllib.request.build_opener(*([urllib.request.ProxyHandler(proxies)] if proxies else []))
        # The very place that a run begins at; the answer may well be that nobody has logged in.
        question = urllib.request.Request(
            url.rstrip("/") + "/graphql", b'{"query": "{__typename}"}', {"Content-Type": "application/json"}
        )
        try:
            opener.open(question, timeout=ANSWER_SECONDS).close()
            found.append(True)
        except urllib.error.HTTPError as error:
            found.append(error.code < 500)
        except urllib.error.URLError as error:
            # A certificate that is not trusted here: somebody is there, and W&B has its own settings for that.
            found.append(isinstance(error.reason, ssl.SSLCertVerificationError))
        except (OSError, ValueError):
            found.append(False)

    # A thread, because looking a name up has no time limit of its own.
    thread = threading.Thread(target=ask, name="wandb-answers", daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS + 0.5)
    return bool(found and found[0])


def is_number(value: Any) -> bool:
    """Whether a logged value is a figure."""
    return isinstance(value, int | float | np.number) or (isinstance(value, Tensor) and value.numel() == 1)


def release() -> None:
    """End W&B's service after a run that could not begin, so that the run's id is free again."""
    import wandb

    with contextlib.suppress(ImportError, AttributeError):  # else its telemetry waits for the server, too, at the end
        from wandb.analytics.opentelemetry import opentelemetry_proxy

        opentelemetry_proxy.disable()
    wandb.teardown()


def histogram(tensor: Tensor) -> Any:
    """Return the histogram of a tensor's finite values as W&B has it, or None without any."""
    import wandb

    values = tensor.float().flatten().cpu().numpy()
    values = values[np.isfinite(values)]
    return wandb.Histogram(np_histogram=np.histogram(values, BINS)) if values.size else None


def quiet_settings(**further: Any) -> Any:
    """Return W&B's settings for a quiet screen: warnings, as of uploads that fail, remain."""
    import wandb

    return wandb.Settings(quiet=True, show_info=False, **further)


def _unless(variable: str, value: str) -> str | None:
    return None if os.environ.get(variable) else value


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
