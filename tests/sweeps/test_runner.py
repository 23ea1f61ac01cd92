"""Runs of a sweep as processes of their own: what they are given, how they end, and that none is lost or left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lightning_gen.core.errors import InputError
from lightning_gen.sweeps import runner as runner_module
from lightning_gen.sweeps.file import read_sweep
from lightning_gen.sweeps.runner import (
    Runner,
    SweepFailed,
    check_program,
    environment_of_runs,
    last_figure,
    visible_devices,
)
from lightning_gen.sweeps.study import SweepStudy, this_process

# A run that takes part in a sweep without importing anything slow. It counts its evaluations in a file, its checkpoint.
PROGRAM = """
import ast, json, os, signal, sys, time
options = {key: ast.literal_eval(value) for key, value in (arg.lstrip("-").split("=", 1) for arg in sys.argv[1:])}
time.sleep(options.get("before", 0))
from lightning_gen.sweeps import trial
sweep = trial.join()
assert trial.join() is sweep
saved = sweep.folder / "saved"
count = int(saved.read_text()) if saved.exists() else 0
with (sweep.folder / "starts").open("a") as file:
    file.write(f"{os.getpid()} {count}\\n")
(sweep.folder / "seen.json").write_text(json.dumps({"environ": dict(os.environ), "options": options}))
ending = []
if options.get("deaf"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
elif options.get("graceful"):
    signal.signal(signal.SIGTERM, lambda *_: ending.append(1))
mode = options.get("mode")
print("this run is", mode, flush=True)
if mode == "fail":
    print("error: the disk is full", file=sys.stderr)
    sys.exit(1)
if mode == "crash":
    raise RuntimeError("boom")
if mode == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if mode == "nameless":
    os.kill(os.getpid(), signal.SIGRTMIN + 6)
if mode == "other":
    sweep.no_metric(["val/fid_digits", "val/y", "val/xx"])
    sys.exit(2)
if mode == "silent":
    sys.exit(0)
if mode == "child":
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    (sweep.folder / "child").write_text(str(child.pid))
while count < options.get("evaluations", 3):
    time.sleep(options.get("pause", 0.01))
    if ending:
        sys.exit(143)
    count += 1
    value = float("nan") if mode == "nan" else options["x"] + 1 / count
    stop = sweep.report(100 * count, count, value)
    saved.write_text(str(count))
    if stop:
        break
"""
# A sweep in a process of its own, as `lightning sweep` runs it, without the time that its parser takes to import.
SWEEP = """
import json, sys
from lightning_gen.sweeps import study as module
from lightning_gen.sweeps.file import read_sweep
from lightning_gen.sweeps.runner import Runner, SweepStopped
options = json.loads(sys.argv[1])
if options.get("machine"):
    module._machine = lambda: options["machine"]
class Screen:
    def note(self, state, attempt, *rest): print(state, attempt.index, flush=True)
    def refresh(self): pass
    def say(self, line): print(line, flush=True)
sweep = read_sweep(options["file"])
study = module.SweepStudy(sweep, options["root"], "s", heartbeat=1, grace=options.get("grace", 60))
try:
    Runner(study, options["jobs"], options["count"], Screen()).run()
except SweepStopped as stop:
    sys.exit(128 + stop.signum)
"""


class Notes:
    """A screen that remembers."""

    def __init__(self):
        self.ended, self.lines = {}, []

    def note(self, state, attempt, value, seconds, reason):
        assert attempt.index not in self.ended, "a trial ended twice"
        self.ended[attempt.index] = (state, value, reason)

    def refresh(self):
        pass

    def say(self, line):
        self.lines.append(line)


@pytest.fixture
def make(tmp_path):
    """Write a sweep over ``x`` and fixed options of the program; return a function that opens its study."""
    (tmp_path / "program.py").write_text(PROGRAM)

    def write(early_terminate=None, method="grid", **options):
        parameters = {key: value if isinstance(value, dict) else {"value": value} for key, value in options.items()}
        content = {
            "program": str(tmp_path / "program.py"),
            "method": method,
            "metric": {"name": "val/x", "goal": "minimize"},
            "command": ["${env}", "${interpreter}", "${program}", "${args}"],
            "parameters": {"x": {"values": [0, 1, 2, 3]}, **parameters},
        }
        if early_terminate:
            content["early_terminate"] = early_terminate
        (tmp_path / "s.yaml").write_text(yaml.safe_dump(content))
        return lambda **more: SweepStudy(read_sweep(tmp_path / "s.yaml"), str(tmp_path / "runs"), "s", **more)

    return write


def quoted(*values):
    """Values of a parameter that the program reads as literals of Python's."""
    return {"values": [json.dumps(value) for value in values]}


def trial_json(folder: Path, index: int) -> dict:
    return json.loads((folder / f"version_{index}" / "trial.json").read_text())


def starts(folder: Path, index: int) -> list[int]:
    """Evaluations that the sessions of a trial started with."""
    file = folder / f"version_{index}" / "starts"
    return [int(line.split()[1]) for line in file.read_text().splitlines()] if file.exists() else []


def processes_of(folder: Path) -> set[int]:
    """Numbers of living processes that run the program beside a sweep's runs."""
    program, found = str(folder.parent.parent / "program.py").encode(), set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if program in (process / "cmdline").read_bytes().split(b"\0"):
                found.add(int(process.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def until(condition, seconds=60, message="it did not happen in time"):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, message
        time.sleep(0.02)
    return found


# --- how runs end -------------------------------------------------------------------------------------------------


def test_every_trial_runs_once_with_its_parameters(make, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_GEN_RUN_FOLDER", "of the run around the sweep")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    study, notes = make()(), Notes()
    Runner(study, 2, 4, notes).run()
    assert notes.ended == {i: ("finished", pytest.approx(i + 1 / 3), None) for i in range(4)}
    for i in range(4):
        assert starts(study.folder, i) == [0]
        kept = trial_json(study.folder, i)
        assert (kept["sweep"], kept["trial"], kept["metric"], kept["goal"]) == ("s", i, "val/x", "minimize")
        assert (kept["state"], kept["parameters"]) == ("finished", {"x": i})
        assert kept["command"] == ["/usr/bin/env", "python", str(tmp_path / "program.py"), f"--x={i}"]
        assert kept["value"] == pytest.approx(i + 1 / 3)
        environ = json.loads((study.folder / f"version_{i}" / "seen.json").read_text())["environ"]
        assert environ["OMP_NUM_THREADS"] == str(max(1, len(os.sched_getaffinity(0)) // 2))
        assert "LIGHTNING_GEN_RUN_FOLDER" not in environ
        assert "fd" not in json.loads(environ["LIGHTNING_GEN_SWEEP"]), "runs of a run would take its link for theirs"
        assert "this run is" in (study.folder / f"version_{i}" / "log.txt").read_text()
    again = Notes()
    Runner(make()(), 2, 4, again).run()
    assert again.ended == {}
    assert study.best().index == 0


def test_a_failing_trial_is_kept_with_its_reason_and_stops_no_other(make):
    modes = quoted("child", "fail", "crash", "nan", "silent", "killed", "nameless")
    study, notes = make(mode=modes, x={"value": 1})(), Notes()
    Runner(study, 2, 7, notes).run()
    assert {i: (state, reason) for i, (state, _, reason) in notes.ended.items()} == {
        0: ("finished", None),
        1: ("failed", "the disk is full"),
        2: ("failed", "it ended with exit code 1: RuntimeError: boom"),
        3: ("failed", "its last val/x is nan"),
        4: ("failed", "it reported no val/x: a run needs at least one evaluation"),
        5: ("failed", "it was ended by SIGKILL (out of memory?)"),
        6: ("failed", f"it was ended by signal {signal.SIGRTMIN + 6}"),
    }
    assert trial_json(study.folder, 2)["reason"].endswith("boom")
    tail = study.storage.get_trial(study._id(2)).user_attrs["tail"]
    assert tail[0] == "this run is crash"
    assert tail[-1] == "RuntimeError: boom"
    left = int((study.folder / "version_0" / "child").read_text())
    until(lambda: not Path(f"/proc/{left}").exists(), message="what a run started outlived it")


def test_a_sweep_whose_first_trials_all_fail_ends(make):
    study, notes = make(mode=quoted("fail"), x={"values": list(range(9))})(), Notes()
    with pytest.raises(SweepFailed, match=r"the first 5 trials have failed, the last one so: the disk is full .*log"):
        Runner(study, 1, 9, notes).run()
    assert len(notes.ended) == 5


def test_a_metric_that_no_run_logs_ends_the_sweep_naming_what_there_is(make):
    study, notes = make(mode=quoted("other"))(), Notes()
    with pytest.raises(InputError) as raised:
        Runner(study, 1, 4, notes).run()
    assert "no figure is named 'val/x' (did you mean 'val/xx'?)" in str(raised.value)
    assert "trial 0 gives val/xx, val/y, val/fid_digits;" in str(raised.value)
    assert [result.state for result in study.results()] == ["failed"]


def test_a_metric_that_only_some_runs_log_is_the_failure_of_the_others(make):
    study, notes = make(mode=quoted("fine", "other"), x={"value": 1})(), Notes()
    Runner(study, 1, 2, notes).run()
    assert [state for state, *_ in notes.ended.values()] == ["finished", "failed"]


def test_early_termination_stops_what_is_worse(make):
    early = {"type": "hyperband", "max_iter": 8, "s": 3, "eta": 2}
    study, notes = make(early, evaluations=8, x={"values": list(range(10))})(), Notes()
    Runner(study, 1, 10, notes).run()
    pruned = [i for i, (state, *_) in notes.ended.items() if state == "pruned"]
    assert pruned
    assert 0 not in pruned
    for i in pruned:
        evaluations = int((study.folder / f"version_{i}" / "saved").read_text())
        assert evaluations < 8
        assert notes.ended[i][1] == pytest.approx(i + 1 / evaluations)
        assert study.results()[i].value == notes.ended[i][1]
        assert trial_json(study.folder, i)["state"] == "pruned"


def test_a_run_that_was_over_before_the_sweep_was_told_is_not_run_again(make):
    study, notes = make(mode=quoted("fail"), x={"values": [0, 1, 2]})(), Notes()
    attempts = [study.next(3) for _ in range(3)]
    for index, (status, value) in enumerate([("finished", 0.25), ("pruned", 0.5), ("finished", None)]):
        attempt = attempts[index]
        folder = study.folder / f"version_{index}"
        folder.mkdir()
        study.report(attempt, 1, 0.5)
        (folder / "trial.json").write_text(json.dumps({"sweep": "s", "trial": index, "command": ["x"]}))
        (folder / "summary.json").write_text(json.dumps({"status": status, "seconds": 7, "last": {"val/x": value}}))
        study.put_back(attempt)
    Runner(study, 2, 3, notes).run()
    assert notes.ended == {
        0: ("finished", 0.25, None),
        1: ("pruned", 0.5, None),
        2: ("failed", None, "its last val/x is nan"),
    }
    assert [starts(study.folder, i) for i in range(3)] == [[], [], []]
    assert trial_json(study.folder, 0)["state"] == "finished"
    assert study.results()[0].seconds == 7


def test_a_sweep_that_dies_before_it_is_told_ends_the_trial_again(make, monkeypatch):
    class Killed(BaseException):
        pass

    def dies(*args):
        raise Killed

    make_study = make(x={"value": 1})
    with monkeypatch.context() as patch:
        patch.setattr(SweepStudy, "finished", dies)
        with pytest.raises(Killed):
            Runner(make_study(), 1, 1, Notes()).run()
    study, notes = make_study(), Notes()
    assert trial_json(study.folder, 0)["state"] == "finished"
    assert study.results()[0].state == "running"
    dead = {**this_process(), "start": "1"}
    study.storage.set_trial_user_attr(study._id(0), "owner", dead)
    Runner(study, 1, 1, notes).run()
    assert notes.ended == {0: ("finished", pytest.approx(1 + 1 / 3), None)}


def test_a_folder_in_the_way_is_left_alone(make):
    study = make()()
    (study.folder / "version_1").mkdir()
    (study.folder / "version_1" / "mine.txt").write_text("")
    with pytest.raises(InputError, match=r"version_1 is in the way of trial 1: .*move it away"):
        Runner(study, 1, 4, Notes()).run()
    assert os.listdir(study.folder / "version_1") == ["mine.txt"]
    (study.folder / "version_1" / "mine.txt").unlink()
    notes = Notes()
    Runner(make()(), 1, 4, notes).run()
    assert sorted(notes.ended) == [1, 2, 3]


def test_a_larger_count_adds_trials(make):
    make_study = make()
    for count, new in ((1, [0]), (3, [1, 2]), (2, []), (99, [3])):
        notes = Notes()
        Runner(make_study(), 1, count, notes).run()
        assert list(notes.ended) == new


# --- sweeps that end before their runs ----------------------------------------------------------------------------


def start_sweep(tmp_path: Path, **options) -> subprocess.Popen:
    given = {"file": str(tmp_path / "s.yaml"), "root": str(tmp_path / "runs"), "jobs": 2, "count": 4, **options}
    log = (tmp_path / f"sweep-{time.monotonic_ns()}.log").open("w")
    return subprocess.Popen([sys.executable, "-c", SWEEP, json.dumps(given)], stdout=log, stderr=log)


@pytest.mark.parametrize("graceful", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_after_sigkill_of_the_sweep_no_run_is_left_and_the_next_one_continues(graceful, make, tmp_path):
    study = make(evaluations=25, pause=0.1, graceful=graceful, x={"values": [0, 1, 2, 3]})()
    sweep = start_sweep(tmp_path)
    saved = [study.folder / f"version_{i}" / "saved" for i in range(4)]

    def in_the_middle():
        counts = [int(file.read_text() or 0) if file.exists() else 0 for file in saved]
        return counts.count(25) in (1, 2) and sum(2 < count < 22 for count in counts) == 2

    until(in_the_middle)
    sweep.kill()
    sweep.wait()
    until(lambda: not processes_of(study.folder), message="a run outlived its sweep")
    states = [trial_json(study.folder, i) for i in range(len(list(study.folder.glob("version_*"))))]
    finished = [kept["trial"] for kept in states if kept["state"] == "finished"]
    running = [kept["trial"] for kept in states if kept["state"] == "running"]
    assert finished
    assert running
    parameters = {kept["trial"]: kept["parameters"] for kept in states}
    notes = Notes()
    Runner(make(evaluations=25, pause=0.1, graceful=graceful)(), 2, 4, notes).run()
    assert sorted(notes.ended) == [i for i in range(4) if i not in finished]
    for i in finished:
        assert starts(study.folder, i) == [0], "a finished trial ran again"
    for i in running:
        first, second = starts(study.folder, i)
        assert first == 0
        assert second > 0, "it did not go on from its checkpoint"
        assert trial_json(study.folder, i)["parameters"] == parameters[i]
    assert [result.state for result in study.results()] == ["finished"] * 4
    assert study.best().value == pytest.approx(1 / 25)


def test_a_run_that_has_not_joined_yet_ends_with_its_sweep(make, tmp_path):
    study = make(before=3, evaluations=1000, pause=0.1)()
    sweep = start_sweep(tmp_path)
    until(lambda: len(processes_of(study.folder)) == 2)
    sweep.kill()
    sweep.wait()
    assert len(processes_of(study.folder)) == 2
    assert not list(study.folder.glob("version_*/starts")), "they joined before the sweep was killed"
    until(lambda: not processes_of(study.folder), message="a run outlived its sweep")


def test_a_run_that_does_not_end_in_time_is_killed_with_all_it_started(make, tmp_path, monkeypatch):
    facts = {"folder": str(tmp_path), "sweep": "s", "trial": 0, "metric": "m", "goal": "minimize", "parameters": {}}
    make()
    code = (tmp_path / "program.py").read_text()
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs:
        facts |= {"fd": theirs.fileno(), "inode": os.fstat(theirs.fileno()).st_ino, "grace": 0.5}
        run = subprocess.Popen(
            [sys.executable, "-c", code, "--deaf=True", '--mode="child"', "--x=1", "--pause=300"],
            env={**os.environ, "LIGHTNING_GEN_SWEEP": json.dumps(facts)},
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        theirs.close()
        child = int(until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text()))
    assert run.wait(60) == -signal.SIGKILL
    until(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text())


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_runs_save_and_be_continued(signum, code, make, tmp_path):
    study = make(evaluations=20, pause=0.05, graceful=True, x={"values": [0, 1]})()
    sweep = start_sweep(tmp_path, count=2)
    for i in range(2):
        until(lambda i=i: (study.folder / f"version_{i}" / "saved").exists())
    sweep.send_signal(signum)
    assert sweep.wait(60) == code
    assert not processes_of(study.folder)
    assert [trial_json(study.folder, i)["state"] for i in range(2)] == ["interrupted"] * 2
    assert [result.state for result in study.results()] == ["waiting"] * 2
    notes = Notes()
    Runner(study, 2, 2, notes).run()
    assert sorted(notes.ended) == [0, 1]
    for i in range(2):
        assert len(starts(study.folder, i)) == 2
        assert starts(study.folder, i)[1] > 0


def test_a_second_signal_ends_deaf_runs_at_once(make, tmp_path):
    study = make(evaluations=1000, pause=0.05, deaf=True)()
    sweep = start_sweep(tmp_path, jobs=1)
    until(lambda: (study.folder / "version_0" / "saved").exists())
    sweep.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert sweep.poll() is None
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait(60) == 130
    assert not processes_of(study.folder)
    assert [result.state for result in study.results()] == ["waiting"]


# --- several workers ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_dead_workers_trial_is_taken_over_by_exactly_one_other(make, tmp_path):
    """The workers believe to be on different machines, so that heartbeats alone tell who is alive."""
    study = make(evaluations=60, pause=0.1, graceful=True, x={"values": [0, 1, 2]})(grace=3)
    first = start_sweep(tmp_path, machine="one", jobs=1, count=3, grace=3)
    until(lambda: (study.folder / "version_0" / "saved").exists())
    others = [start_sweep(tmp_path, machine=name, jobs=1, count=3, grace=3) for name in ("two", "three")]
    until(lambda: all((study.folder / f"version_{i}" / "saved").exists() for i in range(3)))
    first.kill()
    first.wait()
    assert [other.wait(120) for other in others] == [0, 0]
    assert len(starts(study.folder, 0)) == 2
    assert starts(study.folder, 0)[1] > 0
    assert [starts(study.folder, i) for i in (1, 2)] == [[0], [0]], "a living worker's trial was taken from it"
    assert [(r.state, r.value) for r in study.results()] == [("finished", pytest.approx(i + 1 / 60)) for i in range(3)]


def test_a_worker_that_was_taken_for_dead_ends_its_run(make):
    study = make(evaluations=40, pause=0.1, x={"value": 1})(heartbeat=1)

    class Impatient(Notes):
        def refresh(self):
            for attempt in study.study.get_trials(deepcopy=False):
                if attempt.number == 0 and attempt.state.name == "RUNNING" and attempt.intermediate_values:
                    study._put_back(attempt)

    notes = Impatient()
    Runner(study, 1, 1, notes).run()
    assert notes.lines == ["trial 0 was taken over by another worker: ending it here"]
    assert len(starts(study.folder, 0)) == 2, "nobody else was there: it went on with it itself"
    assert [result.state for result in study.results()] == ["finished"]


# --- small parts --------------------------------------------------------------------------------------------------


def test_each_job_has_a_gpu_of_its_own_where_there_are_several(make, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-abc,7")
    assert visible_devices() == ["5", "GPU-abc", "7"]
    study = make(pause=0.3)()
    Runner(study, 2, 4, Notes()).run()
    seen = [json.loads((study.folder / f"version_{i}" / "seen.json").read_text())["environ"] for i in range(4)]
    assert {environ["CUDA_VISIBLE_DEVICES"] for environ in seen} == {"5", "GPU-abc"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert visible_devices() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'\necho '  MIG 1g.5gb'\necho 'GPU 1: A (UUID: GPU-2)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert visible_devices() == ["0", "1"]


def test_threads_that_the_user_chose_are_left_alone(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert environment_of_runs(2)["OMP_NUM_THREADS"] == "7"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert environment_of_runs(10_000)["OMP_NUM_THREADS"] == "1"
    assert environment_of_runs(2)["PATH"].startswith(str(Path(sys.executable).parent))


def test_a_program_that_is_not_there_is_told_before_anything_runs():
    check_program(["/usr/bin/env", "python", "x.py"])
    with pytest.raises(InputError, match=r"the sweep's program 'pithon' is not to be found"):
        check_program(["/usr/bin/env", "pithon", "x.py"])


def test_a_figure_that_json_cannot_hold_is_not_a_missing_one():
    assert last_figure({"last": {"a": 1.0}}, "a") == 1.0
    assert last_figure({"last": {"a": 1.0}}, "b") is None
    assert last_figure({}, "b") is None
    assert last_figure({"last": {"a": None}}, "a") != last_figure({"last": {"a": None}}, "a")


def test_a_message_that_is_not_understood_is_answered_and_told(make):
    study, notes = make()(), Notes()
    runner = runner_module.Runner(study, 1, 1, notes)

    class Socket:
        sent = b""

        def sendall(self, data):
            self.sent += data

    class Run:
        attempt = study.next(1)
        socket = Socket()
        value = None

    for line in (b"{", b"[]", b'{"count": 1}', b'"text"', b'{"value": null, "count": 1}'):
        runner._answer(Run, line)
    assert Run.socket.sent == b"go\n" * 5
    assert len(notes.lines) == 5
    runner._answer(Run, b'{"no_metric": "val/x", "known": []}')
    assert "gives none; correct metric.name" in str(runner.error)
