"""Long work says how far it is, by a clock that the tests move; and an evaluation that a signal cuts short."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lightning_gen.callbacks import signals
from lightning_gen.cli import main
from lightning_gen.core import progress
from lightning_gen.core.progress import ProgressLine, in_words, watched, watching
from lightning_gen.models import GAN
from lightning_gen.runs import RunFolder, read_metrics

CONFIG = str(Path(__file__).parent / "conf" / "gan.yaml")


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is moved, for everything that asks how long work takes."""
    clock = SimpleNamespace(now=1000.0)
    for module in (progress, signals):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


# Shares of nested work


def test_parts_of_an_inner_loop_are_shares_of_the_outer_ones_present_part():
    told = []
    with watching(told.append):
        for outer in watched("ab"):
            for inner in watched(range(4)):
                assert (outer, inner) == ("ab"[len(told) // 5], len(told) % 5)
        for _ in watched([0]):
            pass
    assert told == [0.125, 0.25, 0.375, 0.5, 0.5, 0.625, 0.75, 0.875, 1.0, 1.0, 1.0]


def test_watchers_are_told_in_their_turn_and_only_while_they_watch():
    told = []
    with watching(lambda share: told.append(("first", share))):
        for _ in watched(range(2)):
            with watching(lambda share: told.append(("second", share))):
                list(watched(range(2)))
    list(watched(range(3)))  # nobody watches
    assert told == [
        *(("first", 0.25), ("second", 0.25), ("first", 0.5), ("second", 0.5), ("first", 0.5)),
        *(("first", 0.75), ("second", 0.75), ("first", 1.0), ("second", 1.0), ("first", 1.0)),
    ]


def test_a_watcher_may_end_the_work_and_nothing_of_it_is_left():
    def enough(share):
        if share > 0.25:
            raise KeyboardInterrupt

    done, told = [], []

    def work():
        for _ in watched(range(2)):
            done.extend(watched(range(5)))

    with pytest.raises(KeyboardInterrupt), watching(enough):
        work()
    assert done == [0, 1, 2]  # of five, in the first of two rounds
    with watching(told.append):
        assert list(watched([])) == []
        assert list(watched(range(2))) == [0, 1]
    assert told == [0.5, 1.0]


# The line on the screen


def lines_of(clock, seconds: list[float], what: str = "drawing 5 samples") -> list[str]:
    """Return what is printed about parts that take so long."""
    lines = []
    with watching(ProgressLine(what, lines.append)):
        for part in watched(seconds):
            clock.now += part
    return lines


def test_short_work_says_nothing_and_long_work_at_once(clock):
    assert lines_of(clock, [2.0] * 5) == []
    assert lines_of(clock, [9.0]) == []  # all of it is done
    assert lines_of(clock, [16.0] * 5)[0] == "drawing 5 samples: 20% done, about 64 s left"
    assert lines_of(clock, [600.0] * 5)[0] == "drawing 5 samples: 20% done, about 40 min left"
    assert lines_of(clock, [7200.0] * 5)[0] == "drawing 5 samples: 20% done, about 8.0 h left"


def test_lines_are_ten_seconds_apart_and_never_of_what_is_done(clock):
    assert lines_of(clock, [2.0] * 16) == [
        "drawing 5 samples: 38% done, about 20 s left",
        "drawing 5 samples: 75% done, about 8 s left",
    ]
    # A beginning that looks short, and then is not.
    assert lines_of(clock, [1.0, 40.0, 1.0]) == ["drawing 5 samples: 67% done, about 20 s left"]


def test_the_line_goes_to_standard_error_unless_told_otherwise(clock, capsys):
    line = ProgressLine("work")
    clock.now += 100
    line(0.5)
    assert capsys.readouterr() == ("", "work: 50% done, about 100 s left\n".replace("100 s", "2 min"))


def test_lengths_of_time_are_rounded():
    words = {0.2: "0 s", 40: "40 s", 99: "99 s", 300: "5 min", 5900: "98 min", 6000: "1.7 h", 90_000: "25.0 h"}
    assert {seconds: in_words(seconds) for seconds in words} == words


def test_sample_and_evaluate_say_how_far_they_are(clock, tmp_path, capsys, monkeypatch):
    main(["fit", "--config", CONFIG, f"--run.root={tmp_path}", "--budget.images=320", "--evaluation.every=1000000"])
    last = str(RunFolder(tmp_path / "gan" / "version_0").last)
    decode = GAN.decode

    def slowly(self, *args, **options):
        clock.now += 30
        return decode(self, *args, **options)

    monkeypatch.setattr(GAN, "decode", slowly)
    capsys.readouterr()
    small = ["--batch_size", "10"]
    main(["sample", last, "--n", "40", "--out", str(tmp_path / "drawn"), *small])
    assert "drawing 40 images: 25% done, about 90 s left\n" in capsys.readouterr().err
    main(["evaluate", last, "--n", "40", *small])
    assert "drawing 40 samples: 25% done, about 90 s left\n" in capsys.readouterr().err
    more = [
        "--ckpt_path",
        last,
        "--budget.images=640",
        "--evaluation.batch_size=20",
        "--evaluation.minutes=null",
        "--grid.n=0",
        "--diagnostics.n=0",
    ]
    main(["fit", "--config", CONFIG, f"--run.root={tmp_path}", "--evaluation.every=1000000", *more])
    said = capsys.readouterr()
    assert "evaluation: 10% done, about 4 min left\n" in said.out + said.err


# A signal in the middle of an evaluation


FIT = [
    "fit",
    "--config",
    CONFIG,
    "--budget.images=960",
    "--evaluation.every=640",
    "--evaluation.batch_size=20",
    "--evaluation.minutes=null",
]
FIT += ["--grid.n=0", "--diagnostics.n=0", "--checkpoint.every=1000000"]


def evaluations(run: RunFolder) -> list[int]:
    return [int(row["images_seen"]) for row in read_metrics(run.path / "metrics.csv")[1] if row.get("val/fid_digits")]


def weights(run: RunFolder) -> dict:
    return torch.load(run.last, weights_only=True)["state_dict"]


@pytest.fixture
def slow_sampler(clock, monkeypatch):
    """Let the third chunk of samples of this process bring a signal, and every one of them so many seconds."""
    decode = GAN.decode

    def make(seconds: float) -> list[int]:
        chunks = []

        def slowly(self, latent, *args, **options):
            chunks.append(len(latent))
            clock.now += seconds
            if len(chunks) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return decode(self, latent, *args, **options)

        monkeypatch.setattr(GAN, "decode", slowly)
        return chunks

    return make


def stopped(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main([*FIT, *arguments])
    return stop.value.code


def test_a_long_evaluation_is_left_after_a_signal_and_made_up_for_when_resumed(
    slow_sampler, tmp_path, monkeypatch, capsys
):
    main([*FIT, f"--run.root={tmp_path / 'whole'}"])
    whole = RunFolder(tmp_path / "whole" / "gan" / "version_0")
    assert evaluations(whole) == [640, 960]
    chunks = slow_sampler(6.0)
    assert stopped(f"--run.root={tmp_path}") == 143
    assert chunks == [20] * 5  # it came in the third one, and after the fifth its ten seconds are over
    run = RunFolder(tmp_path / "gan" / "version_0")
    assert (run.summary()["status"], run.summary()["images_seen"], evaluations(run)) == ("interrupted", 640, [])
    assert "stopped by SIGTERM, everything is saved; to go on: lightning fit" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    saved = torch.load(run.last, weights_only=True)
    assert saved["lightning_gen"]["images_seen"] == 640
    assert not list((run.path / "samples").glob("0*.png"))
    monkeypatch.undo()
    main([*FIT, f"--run.root={tmp_path}", "--ckpt_path=last"])
    assert evaluations(run) == [640, 960]  # before its first step, and as usual
    assert run.is_finished()
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(run).items())
    assert run.summary()["last"] == whole.summary()["last"]


def test_the_last_evaluation_is_made_up_for_though_there_is_no_step_left(slow_sampler, tmp_path, monkeypatch):
    slow_sampler(6.0)
    assert stopped(f"--run.root={tmp_path}", "--budget.images=640") == 143
    monkeypatch.undo()
    main([*FIT, f"--run.root={tmp_path}", "--budget.images=640", "--ckpt_path=last"])
    run = RunFolder(tmp_path / "gan" / "version_0")
    assert run.is_finished()
    assert evaluations(run) == [640]


def test_a_short_evaluation_ends_before_the_run_does(slow_sampler, tmp_path, monkeypatch):
    chunks = slow_sampler(1.0)
    assert stopped(f"--run.root={tmp_path}") == 143
    assert chunks == [20] * 10
    run = RunFolder(tmp_path / "gan" / "version_0")
    assert evaluations(run) == [640]
    assert (run.summary()["status"], run.summary()["images_seen"]) == ("interrupted", 672)
    monkeypatch.undo()
    main([*FIT, f"--run.root={tmp_path}", "--ckpt_path=last"])
    assert evaluations(run) == [640, 960]  # nothing to make up for


def test_a_second_signal_ends_at_once(tmp_path, monkeypatch, capsys):
    decode = GAN.decode

    def twice(self, *args, **options):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return decode(self, *args, **options)

    monkeypatch.setattr(GAN, "decode", twice)
    assert stopped(f"--run.root={tmp_path}") == 130
    assert "stopped at once; the last checkpoint is as it was" in capsys.readouterr().err
