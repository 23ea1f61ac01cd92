"""W&B: what a run's log holds, read back from disk and from a server; resuming; servers that do not answer."""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lightning_gen.callbacks import wandb as wandb_module
from lightning_gen.callbacks.dashboards import precision_recall_picture, precision_recall_ways
from lightning_gen.callbacks.wandb import (
    WandbOptions,
    WandbRun,
    WandbWatch,
    agent_parameters,
    answers,
    has_key,
    options_of,
)
from lightning_gen.cli import main
from lightning_gen.core.errors import InputError
from lightning_gen.runs import RunFolder, read_metrics

CONFIG = str(Path(__file__).parents[1] / "conf" / "gan.yaml")
METRICS = """
evaluation:
  every: 320
  n: 200
  neighbours: true
  metrics: [lightning_gen.metrics.FrechetDistance, lightning_gen.metrics.PrecisionRecall]
"""
BLOCK, HEADER = 32768, 7
KEY = "0123456789" * 4


# --- reading back -----------------------------------------------------------------------------------------------------


def records(path: Path):
    """Yield the records of a .wandb file: protocol buffers in LevelDB's log format, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), HEADER, b""
    assert data[:4] in (b"", b":W&B")
    while at + HEADER <= len(data):
        if (left := BLOCK - at % BLOCK) < HEADER:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        parts += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def of_kind(path: Path, kind: str, killed: bool = False) -> list:
    """Return the records of one kind, once W&B's service has written the last of them."""
    deadline = time.monotonic() + 60
    while True:
        found = [(record.WhichOneof("record_type"), record) for record in records(path)]
        if killed or any(name == "exit" for name, _ in found):
            return [getattr(record, kind) for name, record in found if name == kind]
        assert time.monotonic() < deadline, f"{path} is not finished"
        time.sleep(0.02)


def items(found) -> dict:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in found}


def logs(run: RunFolder) -> list[Path]:
    return sorted((run.path / "wandb").glob("*run-*/run-*.wandb"))


def rows(run: RunFolder) -> list[dict]:
    return [items(row.item) for path in logs(run) for row in of_kind(path, "history")]


def assert_every_figure_of_the_csv_is_in(rows: list[dict], run: RunFolder):
    """Each at its own number of images, with its own value, bit for bit."""
    found = {(row["images_seen"], name, value) for row in rows for name, value in row.items() if np.isscalar(value)}
    _, expected = read_metrics(run.path / "metrics.csv")
    cells = [
        (int(row["images_seen"]), name, float(value))
        for row in expected
        for name, value in row.items()
        if value and name not in ("images_seen", "seconds")  # W&B has a clock of its own
    ]
    assert len(cells) > 20
    assert [cell for cell in cells if cell not in found] == []


@pytest.fixture(scope="module")
def logged(tmp_path_factory) -> RunFolder:
    """Train with all that W&B can be given, then go on in the same folder."""
    root = tmp_path_factory.mktemp("logged")
    (root / "metrics.yaml").write_text(METRICS)
    fit = ["fit", "--config", CONFIG, "--config", str(root / "metrics.yaml"), "--run.root", str(root)]
    fit += ["--run.wandb=true", "--wandb.watch=all", "--wandb.watch_every=320", "--wandb.artifacts=all"]
    fit += ["--trainer.log_every_n_steps=5"]
    main([*fit, "--budget.images=640"])
    run = RunFolder(root / "gan" / "version_0")
    main([*fit, "--budget.images=960", "--ckpt_path", str(run.last)])
    return run


def test_every_figure_is_there_at_its_images_seen(logged):
    found = rows(logged)
    assert_every_figure_of_the_csv_is_in(found, logged)
    assert [row["images_seen"] for row in found if "val/fid_digits" in row] == [320, 640, 960]
    # of one evaluation in one row, so that they can be plotted against each other
    assert all("val/recall_digits" in row and "val/diversity" in row for row in found if "val/fid_digits" in row)


def test_the_config_is_nested_as_in_the_file(logged):
    config = yaml.safe_load((logged.path / "config.yaml").read_text())
    for path, budget in zip(logs(logged), (640, 960), strict=True):
        (found,) = [items(run.config.update) for run in of_kind(path, "run")]
        assert found.pop("budget") == {"images": budget, "minutes": None}
        assert {name: value for name, value in found.items() if name != "_wandb"} == {
            name: value for name, value in config.items() if name != "budget"
        }


def test_pictures_are_those_on_disk(logged):
    shown = {}
    for path in logs(logged):
        for row in of_kind(path, "history"):
            values = items(row.item)
            for name in ("samples", "neighbours", "precision_recall_digits"):
                if f"{name}.filenames" in values:
                    (file,) = values[f"{name}.filenames"]
                    assert values[f"{name}.captions"] == [f"{values['images_seen']:,} images seen"]
                    shown[name, values["images_seen"]] = np.asarray(Image.open(path.parent / "files" / file))
    assert {images for _, images in shown} == {320, 640, 960}
    way = precision_recall_ways(logged)["precision_recall_digits"]
    for (name, images), pixels in shown.items():
        file = {"samples": "", "neighbours": "-neighbours"}.get(name)
        if file is None:
            expected = precision_recall_picture([point for point in way if point[0] <= images])
        else:
            expected = Image.open(logged.path / "samples" / f"{images:012d}{file}.png")
        assert pixels.dtype == np.uint8
        assert pixels.max() > pixels.min()
        assert np.array_equal(pixels, np.asarray(expected)), (name, images)


def test_figures_are_defined_with_their_axis_and_direction(logged):
    for path in logs(logged):
        found = {metric.name or metric.glob_name: metric for metric in of_kind(path, "metric")}
        assert found["*"].step_metric == "images_seen"
        for name, lower in {"val/fid_digits": True, "val/fid_digits_heldout": True, "val/recall_digits": False}.items():
            assert found[name].step_metric == "images_seen"
            summary = found[name].summary
            assert (summary.min, summary.max, summary.last) == (lower, not lower, True)
        assert "train/loss_critic" not in found


def test_a_resumed_run_has_its_id_and_its_best_values(logged):
    first, second = logs(logged)
    stored = json.loads((logged.path / "wandb.json").read_text())
    assert {run.run_id for path in (first, second) for run in of_kind(path, "run")} == {stored["id"]}
    summary = {}
    for update in of_kind(second, "summary"):
        summary |= items(update.update)
    recorded = logged.summary()
    assert summary["val/fid_digits"] == {
        "min": recorded["best"]["val/fid_digits"],
        "last": recorded["last"]["val/fid_digits"],
    }
    assert summary["parameters"] == recorded["parameters"]


def test_watching_and_logging_change_nothing(logged, tmp_path):
    fit = ["fit", "--config", CONFIG, "--run.root", str(tmp_path), "--budget.images=960"]
    main([*fit, "--evaluation.every=320", "--checkpoint.every=640"])
    weights = [
        torch.load(path, weights_only=True)["state_dict"]
        for path in (logged.last, tmp_path / "gan" / "version_0" / "checkpoints" / "last.ckpt")
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_weights_and_gradients_of_both_networks_are_watched(logged):
    found = [row for row in rows(logged) if any(name.startswith("gradients/") for name in row)]
    assert len(found) >= 3
    sizes = {
        name: tensor.numel()
        for name, tensor in torch.load(logged.last, weights_only=True)["state_dict"].items()
        if name.startswith(("generator", "discriminator")) and "running" not in name and "num_batches" not in name
    }
    for row in found:
        for kind in ("gradients", "parameters"):
            assert {name: sum(row[f"{kind}/{name}.values"]) for name in sizes} == sizes


def test_watched_gradients_are_those_that_optimizers_use():
    """With a gradient penalty in the loss, and networks that take turns; by plain descent w' = w - lr g."""
    layers = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 4), "b": torch.nn.Linear(4, 1)})
    layers.images_seen = 0
    optimizers = [torch.optim.SGD(layers[name].parameters(), lr=0.5) for name in "ab"]
    trainer, told = SimpleNamespace(optimizers=optimizers), []
    watch = WandbWatch(SimpleNamespace(log_metrics=lambda values, step: told.append((step, values))), "gradients", 100)
    watch.on_train_start(trainer, layers)
    before, moved = {name: p.detach().clone() for name, p in layers.named_parameters()}, {}
    for step in range(3):
        x = torch.randn(5, 3, requires_grad=True)
        score = layers["b"](torch.tanh(layers["a"](x))).sum()
        (slope,) = torch.autograd.grad(score, x, create_graph=True)
        own = list(layers["ab"[step % 2]].parameters())
        for parameter, gradient in zip(own, torch.autograd.grad(score + slope.square().sum(), own), strict=True):
            parameter.grad = gradient
        optimizers[step % 2].step()
        for parameter in own:
            parameter.grad = None
        if step < 2:
            moved |= {n: (before[n] - p) / 0.5 for n, p in layers.named_parameters() if p.detach().ne(before[n]).any()}
        layers.images_seen += 10
        watch.on_train_batch_end(trainer, layers)
    watch.on_train_end(trainer, layers)
    ((step, values),) = told
    assert step == 20  # once both have stepped
    # the output's bias is in no penalty, and all of its layer's gradients are there
    assert values.keys() == {f"gradients/{name}" for name in before}
    for name, gradient in moved.items():
        counts, edges = np.histogram(gradient.detach().numpy(), 64)
        found = values[f"gradients/{name}"]
        np.testing.assert_allclose(found.bins, edges, rtol=1e-3, atol=1e-6)
        assert sum(found.histogram) == gradient.numel() == counts.sum()
    assert all(not optimizer._optimizer_step_post_hooks for optimizer in optimizers)


def test_watching_gradients_needs_an_optimizer():
    watch = WandbWatch(SimpleNamespace(), "all", 100)
    module = torch.nn.Linear(1, 1)
    module.images_seen = 0
    with pytest.raises(InputError, match=r"wandb.watch all: Linear is trained without gradients"):
        watch.on_train_start(SimpleNamespace(optimizers=[]), module)


def test_checkpoints_are_versions_with_their_facts(logged):
    found = [artifact for path in logs(logged) for artifact in of_kind(path, "artifact")]
    assert [set(artifact.aliases) - {"latest"} for artifact in found] == [
        {"best", "images-320", "last"},
        {"best", "images-640", "last"},
        {"best", "images-960", "last"},
    ]
    _, expected = read_metrics(logged.path / "metrics.csv")
    for artifact in found:
        facts = json.loads(artifact.metadata)
        (row,) = [
            row for row in expected if row["val/fid_digits"] and float(row["images_seen"]) == facts["images_seen"]
        ]
        assert facts["figures"]["val/fid_digits"] == float(row["val/fid_digits"])
        assert facts["monitor"] == "val/fid_digits_heldout"
        assert [entry.path for entry in artifact.manifest.contents] == ["model.ckpt"]


# --- rows, names, sweeps ----------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(monkeypatch):
    """Let W&B read its environment anew, and forget it again."""
    import wandb

    wandb.teardown()
    yield monkeypatch
    monkeypatch.undo()
    wandb.teardown()


def start(folder: Path, resumed: bool = False, **options) -> WandbRun:
    folder.mkdir(exist_ok=True, parents=True)
    run = WandbRun(RunFolder(folder), WandbOptions(**options), "gan/version_0", {"a": {"b": 1}}, resumed)
    run.start()
    return run


def test_figures_of_equal_names_and_images_are_all_kept(tmp_path):
    run = start(tmp_path)
    run.log_metrics({"x": 1.0, "y": 2.0}, 10)
    run.log_metrics({"z": float("nan")}, 10)
    run.log_metrics({"x": 3.0}, 10)
    run.log_metrics({"x": torch.tensor(4.0)}, 20)
    run.define({"x": False})
    run.log_metrics({"stray": 1.0})
    run.finish(0)
    found = [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows(RunFolder(tmp_path))]
    assert np.isnan(found[0].pop("z"))
    assert found == [
        {"x": 1, "y": 2, "images_seen": 10},
        {"x": 3, "images_seen": 10},
        {"x": 4, "stray": 1, "images_seen": 20},
    ]


def test_the_first_value_counts_among_the_best(tmp_path):
    run = start(tmp_path)
    for images, value in ((10, 1.0), (20, 5.0), (30, 3.0)):
        run.log_metrics({"x": value}, images)
        run.define({"x": False})  # told after the fact, as evaluations do
        run.commit()
    run.finish(0)
    last = {}
    for update in of_kind(logs(RunFolder(tmp_path))[0], "summary"):
        last |= items(update.update)
    assert last["x"] == {"min": 1, "last": 3}


@pytest.mark.parametrize(("status", "code", "shown"), [("interrupted", 1, 255), ("failed", 1, 1), ("finished", 0, 0)])
def test_an_interrupted_run_is_shown_as_stopped_by_somebody_not_as_failed(tmp_path, status, code, shown):
    run = start(tmp_path)
    RunFolder(tmp_path).write_summary({"status": status})
    run.finish(code)
    (log,) = logs(RunFolder(tmp_path))
    assert [record.exit_code for record in of_kind(log, "exit")] == [shown]


def test_names_come_from_options_then_variables_then_the_folder(tmp_path, fresh):
    import wandb

    start(tmp_path / "plain").finish(0)
    fresh.setenv("WANDB_PROJECT", "theirs")
    fresh.setenv("WANDB_NAME", "called")
    wandb.teardown()  # variables are read once
    start(tmp_path / "variables").finish(0)
    options = {"project": "ours", "entity": "team", "name": "n", "group": "g", "tags": ["a", "b"], "notes": "why"}
    start(tmp_path / "options", **options).finish(0)
    facts = {"fd": None, "folder": str(tmp_path), "sweep": "tune", "trial": 7, "metric": "m", "goal": "minimize"}
    fresh.delenv("WANDB_NAME")
    fresh.setenv("LIGHTNING_GEN_SWEEP", json.dumps({**facts, "parameters": {}}))
    start(tmp_path / "sweep").finish(0)
    found = {}
    for name in ("plain", "variables", "options", "sweep"):
        (run,) = of_kind(logs(RunFolder(tmp_path / name))[0], "run")
        found[name] = (run.project, run.entity, run.display_name, run.run_group, list(run.tags), run.notes)
    assert found == {
        "plain": ("lightning-gen", "", "gan/version_0", "", [], ""),
        "variables": ("theirs", "", "called", "", [], ""),
        "options": ("ours", "team", "n", "g", ["a", "b"], "why"),
        "sweep": ("theirs", "", "tune/7", "tune", [], ""),
    }


def test_a_name_that_wandb_does_not_take_is_one_clear_error(tmp_path):
    with pytest.raises(InputError, match=r"W&B refuses this run: Invalid project name 'a/b'"):
        start(tmp_path, project="a/b")
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_a_sweeps_agent_logs_by_itself_and_says_which_trial_it_is(tmp_path, fresh):
    parameters = tmp_path / "config-r1.yaml"
    parameters.write_text("wandb_version: 1\nbudget.images: {value: 320}\nmodel.critic_steps: {value: 1}\n")
    for name, value in {"SWEEP_ID": "s1", "RUN_ID": "r1", "PROJECT": "tuning", "SWEEP_PARAM_PATH": parameters}.items():
        fresh.setenv(f"WANDB_{name}", str(value))
    main(["fit", "--config", CONFIG, "--run.root", str(tmp_path), "--budget.images=320", "--model.critic_steps=1"])
    run = RunFolder(tmp_path / "sweep-s1" / "version_0")
    trial = json.loads((run.path / "trial.json").read_text())
    assert {name: trial[name] for name in ("sweep", "trial", "state", "parameters")} == {
        "sweep": "s1",
        "trial": "r1",
        "state": "finished",
        "parameters": {"budget.images": 320, "model.critic_steps": 1},
    }
    (log,) = logs(run)
    (begun,) = of_kind(log, "run")
    assert (begun.run_id, begun.project, begun.sweep_id) == ("r1", "tuning", "s1")
    # the sweep's server reads the figure by its plain name
    assert "val/fid_digits" not in {metric.name for metric in of_kind(log, "metric")}
    assert items(begun.config.update)["model"]["init_args"]["critic_steps"] == 1


def test_parameters_of_an_agent_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(tmp_path / "none.yaml"))
    with pytest.raises(InputError, match=r"the sweep's parameters in .*none.yaml cannot be read"):
        agent_parameters()
    monkeypatch.delenv("WANDB_SWEEP_PARAM_PATH")
    assert agent_parameters() == {}


def test_a_logger_of_lightnings_turns_into_options():
    assert options_of({"project": "p", "log_model": True}, {"entity": "e", "tags": ["t"]}) == {
        "project": "p",
        "artifacts": "best",
        "entity": "e",
        "tags": ["t"],
    }
    assert options_of({"offline": True, "log_model": "all"}, {}) == {"mode": "offline", "artifacts": "all"}
    with pytest.raises(InputError, match=r"trainer.logger: prefix of WandbLogger is not known here"):
        options_of({"prefix": "x"}, {})


def test_options_without_wandb_are_an_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", CONFIG, "--run.root", str(tmp_path), "--wandb.project=x"])
    assert stop.value.code == 2
    assert "error: --wandb.project: W&B is off: add --run.wandb true" in capsys.readouterr().err
    assert not (tmp_path / "gan").exists()


@pytest.mark.slow
def test_wandb_is_not_imported_unless_it_is_on():
    code = "import sys; import lightning_gen.commands.training; print('wandb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


# --- keys and servers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "url", "expected"),
    [
        ("machine api.wandb.ai login user password k", "https://api.wandb.ai", True),
        ("machine api.wandb.ai login user password k", "https://wandb.mine.org", False),
        ("machine wandb.mine.org:8080 login user password k", "http://wandb.mine.org:8080", True),
        ("not a netrc", "https://api.wandb.ai", False),
    ],
)
def test_keys_are_found_by_host(entry, url, expected, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not has_key(url)
    (tmp_path / "netrc").write_text(entry)
    assert has_key(url) is expected
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert has_key(url)


@pytest.fixture
def silent_server():
    """Accept connections, and never say a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.timeout(150)
def test_a_server_that_never_answers_is_not_waited_for(silent_server, fresh, tmp_path, capsys):
    fresh.delenv("WANDB_MODE")
    fresh.setenv("WANDB_BASE_URL", silent_server)
    fresh.setenv("WANDB_API_KEY", KEY)
    fresh.setattr(wandb_module, "ANSWER_SECONDS", 0.3)
    run = start(tmp_path / "a b")
    run.log_metrics({"x": 1.0}, 10)
    run.finish(0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"W&B: offline, because {silent_server} does not answer; to upload it later: "
        f"wandb sync '{tmp_path}/a b'/wandb/offline-run-*"
    )
    (row,) = rows(RunFolder(tmp_path / "a b"))
    assert row["x"] == 1
    with pytest.raises(InputError, match=r"wandb.mode online: .* does not answer"):
        start(tmp_path / "strict", mode="online")


@pytest.mark.timeout(150)
def test_a_name_server_that_never_answers_is_not_waited_for(monkeypatch):
    never = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: never.wait(30) and [])
    monkeypatch.setattr(wandb_module, "ANSWER_SECONDS", 0.2)
    assert not answers("https://api.wandb.ai")
    never.set()


def test_without_a_key_a_run_is_offline_and_says_why(fresh, tmp_path, capsys):
    fresh.delenv("WANDB_MODE")
    fresh.delenv("WANDB_API_KEY", raising=False)
    fresh.setenv("NETRC", str(tmp_path / "none"))
    fresh.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    start(tmp_path / "run").finish(0)
    assert capsys.readouterr().err.startswith("W&B: offline, because you have not logged in (wandb login); to upload")


def test_disabled_means_nothing_at_all(fresh, tmp_path, capsys):
    fresh.setenv("WANDB_MODE", "disabled")
    run = start(tmp_path)
    run.log_metrics({"x": 1.0}, 10)
    run.define({"x": True})
    run.finish(0)
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Say nothing: W&B's service drops connections when it ends."""


class Server(BaseHTTPRequestHandler):
    """As much of W&B's server as a run needs; keeps what it is sent."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, content: dict, code: int = 200) -> None:
        if self.server.dead.is_set():
            threading.Event().wait(60)
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self):
        self.server.files[self.path.partition("/up/")[2]] = self.body()
        self.answer({})

    def do_POST(self):
        body = self.body()
        content = json.loads(body) if body[:1] == b"{" else {}
        if "file_stream" in self.path:
            for name, part in (content.get("files") or {}).items():
                if "summary" in name:
                    self.server.summary = part["content"][-1]
                elif "history" in name:
                    for i, line in enumerate(part["content"]):
                        self.server.history[part["offset"] + i] = json.loads(line)
            self.answer({"exitcode": None, "limits": {}})
        elif self.path == "/graphql":
            operation = re.search(r"(?:query|mutation)\s+(\w+)", content["query"])
            if operation and operation[1] == self.server.refused:
                self.answer({"errors": [{"message": "permission denied"}]}, 403)
            else:
                self.answer({"data": self.graphql(operation and operation[1], content.get("variables") or {})})
        else:
            self.answer({})

    def graphql(self, operation: str | None, given: dict) -> dict:
        project = {"id": "p", "name": given.get("project"), "entity": {"id": "e", "name": "me"}}
        history = self.server.history
        if operation == "UpsertBucket":
            self.server.config |= json.loads(given.get("config") or "{}")
            bucket = {"id": "b", "name": given["name"], "displayName": "n", "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": len(history)}, "inserted": not history}}
        if operation == "RunResumeStatus":
            state = {"id": "b", "name": given["name"], "displayName": "n", "config": "{}", "tags": []}
            state |= {"historyLineCount": len(history), "eventsLineCount": 0, "logLineCount": 0, "eventsTail": "[]"}
            state |= {"summaryMetrics": self.server.summary, "wandbConfig": '{"t": 1}'}
            if history:
                state["historyTail"] = json.dumps([json.dumps(history[max(history)])])
            return {"model": {**project, "bucket": state if history else None}}
        if operation == "CreateRunFiles":
            url = f"http://127.0.0.1:{self.server.server_port}/up/"
            files = [{"name": name, "uploadUrl": url + name} for name in given["files"]]
            return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        if operation == "CreateArtifact":  # whose content is here already
            sequence = {"latestArtifact": None}
            return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": sequence}}}
        if operation == "Viewer":
            return {"viewer": {"id": "u", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        return {"serverInfo": {"features": []}}


@pytest.fixture
def server(fresh):
    """Let W&B's server be one of this process."""
    with QuietServer(("127.0.0.1", 0), Server) as own:
        own.history, own.config, own.files, own.summary = {}, {}, {}, "{}"
        own.refused, own.dead = None, threading.Event()
        threading.Thread(target=own.serve_forever, daemon=True).start()
        fresh.delenv("WANDB_MODE")
        fresh.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{own.server_port}")
        fresh.setenv("WANDB_API_KEY", KEY)
        yield own
        own.shutdown()


def test_an_online_run_says_where_it_is_and_sends_everything(server, tmp_path, capsys):
    run = start(tmp_path)
    for images in (10, 20):
        run.log_metrics({"x": images / 2}, images)
    run.finish(0)
    url = f"http://127.0.0.1:{server.server_port}/me/lightning-gen/runs/{run.version}"
    assert capsys.readouterr().err.splitlines() == [f"W&B: {url}"]
    assert json.loads((tmp_path / "wandb.json").read_text())["url"] == url
    again = start(tmp_path, resumed=True)
    again.log_metrics({"x": 15.0}, 30)
    again.finish(0)
    assert again.version == run.version
    assert again.written() is None  # all of it
    assert [(row["_step"], row["images_seen"], row["x"]) for _, row in sorted(server.history.items())] == [
        (0, 10, 5),
        (1, 20, 10),
        (2, 30, 15),
    ]
    assert server.config["a"] == {"value": {"b": 1}}
    facts = json.loads((tmp_path / "wandb.json").read_text())
    assert facts["written"] == 30
    (tmp_path / "wandb.json").write_text(json.dumps({**facts, "complete": False, "written": 10}))
    killed = start(tmp_path, resumed=True)
    assert killed.written() == 30  # what the server says
    killed.finish(0)


def test_a_run_that_the_server_refuses_is_one_clear_error(server, tmp_path):
    server.refused = "UpsertBucket"
    with pytest.raises(InputError, match=r"W&B refuses this run: permission denied \(check wandb.project"):
        start(tmp_path)
    assert not (tmp_path / "wandb.json").exists()
    assert not (tmp_path / "wandb").exists()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_server_that_falls_silent_does_not_hold_the_end_up(server, fresh, tmp_path, capsys):
    fresh.setattr(wandb_module, "FINISH_SECONDS", 3.0)
    run = start(tmp_path)
    run.log_metrics({"x": 1.0}, 10)
    server.dead.set()
    run.log_metrics({"x": 2.0}, 20)
    run.finish(0)
    last = capsys.readouterr().err.splitlines()[-1]
    assert (
        last
        == f"W&B did not take everything in time; to send the rest: wandb sync --include-online {tmp_path}/wandb/run-*"
    )
    server.dead.clear()
    sync(logs(RunFolder(tmp_path)))
    assert [row["x"] for _, row in sorted(server.history.items())] == [1, 2]


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_server_that_falls_silent_at_the_beginning_is_not_waited_for(server, fresh, tmp_path, capsys):
    fresh.setattr(wandb_module, "INIT_SECONDS", 2.0)
    fresh.setattr(wandb_module, "answers", lambda *args: True)
    server.dead.set()
    run = start(tmp_path)
    run.log_metrics({"x": 1.0}, 10)
    run.finish(0)
    assert "W&B: offline, because the server does not answer (" in capsys.readouterr().err
    assert any(row["x"] == 1 for row in rows(RunFolder(tmp_path)))


def sync(paths: list[Path]) -> None:
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", *(str(path.parent) for path in paths)]
    folder = paths[0].parent  # it writes a log where it is
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_wandb_sync_sends_all_sessions_of_a_run_as_one(logged, server):
    """Read by W&B's own reader, as the server gets it."""
    sync(logs(logged))
    found = [row for _, row in sorted(server.history.items())]
    assert [row["_step"] for row in found] == list(range(len(found)))
    assert_every_figure_of_the_csv_is_in(found, logged)
    config = yaml.safe_load((logged.path / "config.yaml").read_text())
    assert server.config["model"]["value"] == config["model"]
    pictures = [row["samples"]["filenames"][0] for row in found if "samples" in row]
    stored = [(logged.path / "samples" / f"{images:012d}.png").read_bytes() for images in (320, 640, 960)]
    assert [server.files[name] for name in pictures] == stored


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_run_goes_on_in_the_same_run_with_nothing_lost(tmp_path):
    options = [
        "--run.root",
        str(tmp_path),
        "--run.wandb=true",
        "--trainer.log_every_n_steps=5",
        "--budget.images=16000",
    ]
    command = [sys.executable, "-m", "lightning_gen", "fit", "--config", CONFIG, *options]
    run = RunFolder(tmp_path / "gan" / "version_0")
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "WANDB_MODE": "offline"})
        while not (found := read_metrics(run.path / "metrics.csv")[1]) or float(found[-1]["images_seen"]) < 9000:
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    main([*command[3:], "--ckpt_path", "last"])
    first, second = logs(run)
    assert first.name == second.name  # which is made of the run's id
    written, again = (of_kind(log, "history", killed=log == first) for log in (first, second))
    found = [items(row.item) for row in (*written, *again)]
    assert_every_figure_of_the_csv_is_in(found, run)
    pictures = {row["images_seen"] for row in found if "samples.filenames" in row}
    assert pictures == {int(path.stem) for path in (run.path / "samples").glob("0*.png")}
