"""Who gets which trial with which parameters: the same sequence whatever interrupts it, and each trial once."""

import json
import math
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml
from optuna.pruners import HyperbandPruner
from optuna.trial import TrialState
from sqlalchemy import event, text
from sqlalchemy.engine import Engine

from lightning_gen.core.errors import InputError
from lightning_gen.sweeps import study as study_module
from lightning_gen.sweeps.file import EarlyTermination, read_sweep
from lightning_gen.sweeps.study import Hyperband, Superseded, SweepStudy, grid_points, this_process

PARAMETERS = {
    "model.lr": {"distribution": "log_uniform_values", "min": 1.0e-4, "max": 0.1},
    "model.widths": {"values": [[32], [64, 64], None]},
    "ema.half_life": {"distribution": "q_log_uniform_values", "min": 500, "max": 20000, "q": 100},
    "data.batch_size": {"distribution": "q_normal", "mu": 64, "sigma": 16, "q": 8},
}


@pytest.fixture(autouse=True, scope="module")
def _unsafe_but_fast():
    """Let SQLite not wait for the disk."""

    def listen(connection, record):
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", listen)
    yield
    event.remove(Engine, "connect", listen)


@pytest.fixture
def make_study(tmp_path):
    """Open the sweep of a file with some method and parameters, as a process of its own would."""

    def make(method="random", parameters=PARAMETERS, root="runs", name="s", metric="val/x", goal="minimize", **options):
        extra = {key: options.pop(key) for key in ("early_terminate",) if key in options}
        content = {
            "program": "x.py",
            "method": method,
            "metric": {"name": metric, "goal": goal},
            "parameters": parameters,
            **extra,
        }
        path, text = tmp_path / "s.yaml", yaml.safe_dump(content, sort_keys=False)
        if not path.is_file() or path.read_text() != text:  # workers in threads read it while others begin
            path.write_text(text)
        return SweepStudy(read_sweep(path), str(tmp_path / root), name, **options)

    return make


def value_of(attempt) -> float:
    return abs(math.log10(attempt.parameters["model.lr"]) + 2) + attempt.parameters["data.batch_size"] / 1000


def draw(study, count, tell=value_of):
    """Take trials one after the other, telling each its value, and return their parameters."""
    drawn = []
    while (attempt := study.next(count)) is not None:
        assert attempt.index == len(drawn)
        drawn.append(attempt.parameters)
        study.finished(attempt, tell(attempt), 1.0)
    return drawn


# --- the sequence -------------------------------------------------------------------------------------------------


# TPE draws its first ten at random.
LENGTHS = {"random": 3, "bayes": 12}


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_the_seed_decides_the_sequence(method, make_study):
    count = LENGTHS[method]
    one = draw(make_study(method, root="a", seed=3), count)
    assert one == draw(make_study(method, root="b", seed=3), count)
    assert one != draw(make_study(method, root="c", seed=4), count)
    assert len({json.dumps(parameters) for parameters in one}) == count


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_the_sequence_does_not_depend_on_restarts(method, make_study):
    whole = draw(make_study(method, root="a"), LENGTHS[method])
    parts = []
    for count in (2, LENGTHS[method] - 1, LENGTHS[method]):
        study = make_study(method, root="b")
        while (attempt := study.next(count)) is not None:
            parts.append(attempt.parameters)
            study.finished(attempt, value_of(attempt), 1.0)
    assert parts == whole


def test_random_parameters_do_not_depend_on_the_number_of_jobs(make_study):
    alone = draw(make_study(root="a"), 6)
    study = make_study(root="b")
    together = [study.next(6) for _ in range(6)]
    assert [attempt.parameters for attempt in together] == alone
    assert study.next(6) is None


def test_an_interruption_does_not_change_what_comes_after_it(make_study):
    whole = draw(make_study("bayes", root="a"), 12)
    study = make_study("bayes", root="b")
    drawn = {}
    for number in range(100):
        attempt = study.next(12)
        if attempt is None:
            break
        assert drawn.setdefault(attempt.index, attempt.parameters) == attempt.parameters
        if number % 4 == 1:
            study.put_back(attempt)
            study = make_study("bayes", root="b")
        else:
            study.finished(attempt, value_of(attempt), 1.0)
    assert [drawn[index] for index in range(12)] == whole


def test_bayes_finds_better_parameters_than_random(make_study):
    """What TPE proposes after 20 trials lies nearer to the optimum than the ten that it draws at random."""
    found = draw(make_study("bayes", root="a"), 32)
    late = np.median([abs(math.log10(p["model.lr"]) + 2) for p in found[20:]])
    early = np.median([abs(math.log10(p["model.lr"]) + 2) for p in found[:10]])
    assert late < early / 2


def test_parameters_are_what_the_file_describes(make_study):
    drawn = draw(make_study(), 15)
    assert {json.dumps(p["model.widths"]) for p in drawn} == {"[32]", "[64, 64]", "null"}
    assert all(1e-4 <= p["model.lr"] <= 0.1 for p in drawn)
    assert all(p["data.batch_size"] % 8 == 0 and isinstance(p["data.batch_size"], int) for p in drawn)


# --- grids --------------------------------------------------------------------------------------------------------

GRID = {
    "b": {"values": ["x", None]},
    "a": {"distribution": "q_uniform", "min": 0.0, "max": 0.3, "q": 0.1},
    "c": {"value": [1, 2]},
}


def test_a_grid_has_every_point_once_in_the_order_of_names(make_study):
    study = make_study("grid", GRID)
    drawn = draw(study, 100, tell=lambda attempt: 0.0)
    expected = [{"a": a, "b": b, "c": [1, 2]} for a in (0.0, 0.1, 0.2) for b in ("x", None)]
    assert drawn == expected
    assert grid_points(study.sweep) == expected
    assert draw(make_study("grid", GRID, root="b"), 4, tell=lambda attempt: 0.0) == expected[:4]


def test_a_grid_goes_on_where_it_was_interrupted(make_study):
    study = make_study("grid", GRID)
    taken = [study.next(6) for _ in range(6)]
    for attempt in taken[1:3]:
        study.put_back(attempt)
    for attempt in (taken[0], *taken[3:]):
        study.finished(attempt, 0.0, 1.0)
    again = [study.next(6), study.next(6)]
    assert [(a.index, a.parameters, a.continued) for a in again] == [(a.index, a.parameters, True) for a in taken[1:3]]
    assert study.next(6) is None


# --- counting -----------------------------------------------------------------------------------------------------


def test_a_count_is_of_finished_pruned_and_failed_trials_and_of_a_continued_one_once(make_study):
    study = make_study()
    ended = [study.next(4) for _ in range(3)]
    study.finished(ended[0], 1.0, 1.0)
    study.report(ended[1], 1, 2.0)
    study.pruned(ended[1], 1.0)
    study.failed(ended[2], "it broke", ["a", "b"], 1.0)
    last = study.next(4)
    study.put_back(last)
    study.put_back(study.next(4))
    continued = study.next(4)
    assert (continued.index, continued.continued) == (3, True)
    assert study.next(4) is None
    study.finished(continued, 0.5, 1.0)
    assert study.next(4) is None
    assert [(r.index, r.state, r.value) for r in study.results()] == [
        (0, "finished", 1.0),
        (1, "pruned", 2.0),
        (2, "failed", None),
        (3, "finished", 0.5),
    ]
    assert study.results()[2].reason == "it broke"
    assert study.best().index == 3
    more = study.next(5)
    assert (more.index, more.continued) == (4, False)


def test_the_goal_decides_which_is_best_and_the_target_when_it_is_enough(make_study, tmp_path):
    study = make_study(goal="maximize")
    study.sweep.raw["metric"]["target"] = 5
    study.sweep = read_sweep_with(tmp_path, study.sweep.raw)
    kept = study.next(10)
    for value in (1.0, 3.0, 5.5):
        assert not study.target_is_reached()
        study.finished(study.next(10), value, 1.0)
    assert study.best().value == 5.5
    assert study.target_is_reached()
    assert study.next(10) is None
    study.put_back(kept)
    assert study.next(10) is None
    assert not study.is_open(), "what waits is no longer needed"


def read_sweep_with(folder, raw):
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump(raw))
    return read_sweep(path)


def test_workers_that_ask_at_once_get_different_trials(make_study, tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    make_study(storage=url)
    taken, errors = [], []

    def work():
        try:
            own = make_study(storage=url, create=False)
            while (attempt := own.next(12)) is not None:
                taken.append((attempt.index, json.dumps(attempt.parameters)))
                own.finished(attempt, 1.0, 1.0)
        except Exception as error:
            errors.append(error)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors
    assert sorted(index for index, _ in taken) == list(range(12))
    alone = draw(make_study(root="alone"), 12)
    assert [json.loads(parameters) for _, parameters in sorted(taken)] == alone


# --- workers that die ---------------------------------------------------------------------------------------------


def dead_process() -> dict:
    """Name a process of this machine that has ended."""
    code = "import json; from lightning_gen.sweeps.study import this_process; print(json.dumps(this_process()))"
    return json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


def own_by(study, attempt, owner):
    study.storage.set_trial_user_attr(study._id(attempt.number), "owner", owner)


def test_a_trial_of_a_dead_process_of_this_machine_is_taken_over_at_once(make_study):
    study = make_study()
    attempts = [study.next(3) for _ in range(2)]
    study.report(attempts[0], 1, 7.0)
    own_by(study, attempts[0], dead_process())
    other = make_study()
    taken = other.next(3)
    assert (taken.index, taken.parameters, taken.continued) == (0, attempts[0].parameters, True)
    assert taken.history == {1: 7.0}
    assert other.next(3).index == 2, "trial 1 belongs to this process, which is alive"
    with pytest.raises(Superseded):
        study.finished(attempts[0], 1.0, 1.0)
    with pytest.raises(Superseded):
        study.beat(attempts[0])
    with pytest.raises(Superseded):
        study.report(attempts[0], 2, 1.0)


def test_a_process_that_nobody_waited_for_is_dead(make_study):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = {**this_process(), "pid": process.pid, "start": study_module._start_of(process.pid)}
    assert study_module.is_gone(owner) is False
    process.kill()
    while (state := Path(f"/proc/{process.pid}/stat").read_text().split()[2]) != "Z":
        assert state
    assert study_module.is_gone(owner) is True
    process.communicate()
    assert study_module.is_gone(owner) is True
    assert study_module.is_gone({**owner, "machine": "elsewhere"}) is None


def test_a_process_with_the_number_of_a_dead_one_is_not_taken_for_it(make_study):
    study = make_study()
    attempt = study.next(2)
    own_by(study, attempt, {**this_process(), "start": "1"})
    assert make_study().next(2).index == 0


def test_a_trial_of_another_machine_is_taken_over_when_its_heartbeat_stops(make_study):
    study = make_study(grace=1)
    attempt = study.next(1)
    own_by(study, attempt, {"machine": "elsewhere", "pid": 1, "start": "1"})
    assert make_study(grace=1).next(1) is None
    session = study.storage.scoped_session()
    session.execute(text("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-5 seconds')"))
    session.commit()
    taken = make_study(grace=1).next(1)
    assert (taken.index, taken.parameters, taken.continued) == (0, attempt.parameters, True)
    assert make_study(grace=1).next(1) is None


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_worker_that_dies_while_it_takes_a_trial_leaves_nothing_behind(method, make_study, monkeypatch):
    whole = draw(make_study(method, root="a"), 3)
    study = make_study(method, root="b")
    first = study.next(3)
    study.finished(first, value_of(first), 1.0)

    class Killed(BaseException):
        pass

    suggested = []
    original = optuna.Trial._suggest

    def dies(self, name, distribution):
        if suggested:
            raise Killed
        suggested.append(name)
        return original(self, name, distribution)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "_suggest", dies)
        with pytest.raises(Killed):
            study.next(3)
    other = make_study(method, root="b")
    again = other.next(3)
    assert (again.index, again.parameters) == (1, whole[1])
    other.finished(again, value_of(again), 1.0)
    assert other.next(3).parameters == whole[2]


def test_a_worker_that_dies_while_it_puts_a_trial_back_loses_it_not(make_study, monkeypatch):
    study = make_study()
    attempt = study.next(1)

    class Killed(BaseException):
        pass

    def dies(*args):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SweepStudy, "_enqueue", dies)
        with pytest.raises(Killed):
            study.put_back(attempt)
    other = make_study()
    assert other.results()[0].state == "waiting"
    taken = other.next(1)
    assert (taken.index, taken.parameters) == (0, attempt.parameters)
    assert other.next(1) is None


# --- early termination --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [2, 3])
@pytest.mark.parametrize("most", [9, None])
@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_hyperband_decides_as_optunas_does(eta, most, goal):
    steps, trials = 9, 30
    rng = np.random.default_rng(eta)
    study = optuna.create_study(
        study_name="s", direction=goal, pruner=HyperbandPruner(1, most or "auto", reduction_factor=eta)
    )
    ours = Hyperband(1, most, eta, name="s")
    sign = 1 if goal == "minimize" else -1
    histories, longest, live, stopped = {}, 0, {}, 0
    started = 0
    while started < trials or live:
        jobs = 4 if most or longest else 1
        while len(live) < jobs and started < trials:
            live[started] = study.ask()
            started += 1
        index = int(rng.choice(sorted(live)))
        trial = live[index]
        history = histories.setdefault(index, {})
        step = len(history) + 1
        history[step] = float(rng.normal())
        trial.report(history[step], step)
        expected = trial.should_prune()
        # Of runs before it knows how long they are, Optuna keeps no record: here that is the first one.
        known = {i: h for i, h in histories.items() if most or i > 0 or i == index}
        assert ours.stops(index, known, longest, sign) == expected, (index, step)
        if expected:
            stopped += 1
            study.tell(live.pop(index), state=TrialState.PRUNED)
        elif step == steps:
            longest = max(longest, step)
            study.tell(live.pop(index), history[step])
    assert trials / 5 < stopped < trials


def test_hyperband_by_the_best_so_far_forgives_a_bad_evaluation():
    histories = {0: {1: 1.0, 2: 1.0}, 1: {1: 0.0, 2: 5.0}}
    assert Hyperband(2, 2, 2).stops(1, histories, 0)
    assert not Hyperband(2, 2, 2, strict=False).stops(1, histories, 0)


def test_hyperband_stops_what_is_not_a_number_and_leaves_short_runs_alone():
    assert Hyperband(1, 4, 2).stops(0, {0: {1: math.nan}, 1: {1: 1.0}}, 0) or Hyperband(1, 4, 2).bracket(0, 3) != 0
    assert Hyperband(1, 1, 2).stops(0, {0: {1: math.nan}}, 0)
    assert not Hyperband(5, 4, 2).stops(0, {0: {1: math.nan}}, 0)
    assert not Hyperband(1, None, 2).stops(0, {0: {1: math.nan}}, 0)


def test_the_form_with_max_iter_and_s_is_that_with_min_iter():
    of = Hyperband.of(EarlyTermination(max_iter=27, s=2, eta=3.0), "s")
    assert (of.min_resource, of.max_resource) == (3, 27)
    of = Hyperband.of(EarlyTermination(min_iter=4, eta=2.0), "s")
    assert (of.min_resource, of.max_resource) == (4, None)


def test_a_continued_trial_meets_the_same_decisions(make_study):
    early = {"type": "hyperband", "max_iter": 8, "s": 3, "eta": 2}
    decisions = []
    for interrupt in (False, True):
        study = make_study(root=f"runs{interrupt}", early_terminate=early)
        rng = np.random.default_rng(0)
        found = []
        for _ in range(12):
            attempt = study.next(12)
            for step in range(1, 9):
                if interrupt and step in (2, 5):
                    study.put_back(attempt)
                    attempt = study.next(12)
                    if step == 5:  # the last evaluation was not in the checkpoint, and is made again
                        study.report(attempt, 4, attempt.history[4])
                stop = study.report(attempt, step, rng.normal())
                found.append((attempt.index, step, stop))
                if stop:
                    study.pruned(attempt, 1.0)
                    break
            else:
                study.finished(attempt, 0.0, 1.0)
        decisions.append(found)
    assert decisions[0] == decisions[1]
    assert any(stop for _, _, stop in decisions[0])


# --- bad input ----------------------------------------------------------------------------------------------------


def test_a_name_that_is_taken_by_another_sweep_is_refused(make_study):
    make_study()
    make_study()  # the same one again is fine
    for options, what in (
        ({"method": "bayes"}, "method"),
        ({"metric": "val/y"}, "metric"),
        ({"goal": "maximize"}, "goal"),
        ({"parameters": {"a": {"value": 1}}}, "parameters"),
    ):
        with pytest.raises(InputError, match=f"has another {what} than .*--name NAME"):
            make_study(**options)
    with pytest.raises(InputError, match=r"started with --seed 0: leave --seed out"):
        make_study(seed=1)
    make_study(seed=0)


def test_a_folder_of_other_runs_is_left_alone(make_study, tmp_path):
    (tmp_path / "runs" / "s" / "version_0").mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds other runs already: choose another --name"):
        make_study()
    assert [path.name for path in (tmp_path / "runs" / "s" / "version_0").iterdir()] == []


def test_a_storage_that_cannot_be_reached_is_told_and_leaves_nothing(make_study, tmp_path):
    for url, message in {
        "nonsense": r"--storage 'nonsense' is not the URL of a database",
        "nosuchdb://x/y": r"cannot be reached.*nosuchdb",
        "sqlite:////no/such/folder/x.db": r"cannot be reached",
        "postgresql://me:secret@localhost/x": r"postgresql://me:\*\*\*@localhost/x",
    }.items():
        with pytest.raises(InputError, match=message) as raised:
            make_study(storage=url)
        assert "\n" not in str(raised.value)
        assert not (tmp_path / "runs").exists()


def test_what_is_not_there_cannot_be_joined(make_study, tmp_path):
    with pytest.raises(InputError, match=r"there is no sweep 's' in .*runs: start it with --count N"):
        make_study(create=False)
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    make_study(name="other", storage=url)
    with pytest.raises(InputError, match=r"the storage has no sweep 's'; it holds other: start it without --worker"):
        make_study(create=False, storage=url)


def test_a_root_that_cannot_be_written_is_told(make_study, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot make the sweep's folder .*choose another --root"):
        make_study(root="file")


def test_a_folder_with_odd_letters_is_fine(make_study):
    assert make_study(root="a b?c#d%20", name="ä €").next(1).index == 0
