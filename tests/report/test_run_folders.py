"""Runs are found at any depth, each once, under names that tell them apart."""

import os

import pytest

from lightning_gen.core.errors import InputError
from lightning_gen.report.folders import find_runs, stamp


def lay(root, *files):
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")


def test_runs_are_found_at_any_depth_in_the_order_that_people_count(tmp_path):
    lay(
        tmp_path,
        "a/version_10/summary.json",
        "a/version_9/config.yaml",
        "b/c/d/version_0/trial.json",
        "b/empty/notes.txt",
        "metrics/version_0/metrics.csv",
    )
    (tmp_path / "b" / "nothing").mkdir()
    names = list(find_runs([tmp_path]).values())
    assert names == ["a/version_9", "a/version_10", "b/c/d/version_0", "metrics/version_0"]


def test_the_root_may_be_a_run_or_an_experiment(tmp_path):
    lay(tmp_path, "runs/quick/version_0/summary.json", "runs/quick/version_1/summary.json")
    assert list(find_runs([tmp_path / "runs" / "quick" / "version_1"]).values()) == ["quick/version_1"]
    assert list(find_runs([tmp_path / "runs" / "quick"]).values()) == ["quick/version_0", "quick/version_1"]


def test_a_run_given_twice_counts_once(tmp_path):
    lay(tmp_path, "runs/quick/version_0/summary.json")
    assert len(find_runs([tmp_path, tmp_path / "runs", tmp_path / "runs" / "quick" / "version_0"])) == 1


def test_several_roots_keep_the_part_of_the_path_that_differs(tmp_path):
    lay(tmp_path, "one/runs/quick/version_0/summary.json", "two/runs/quick/version_0/summary.json")
    names = find_runs([tmp_path / "one" / "runs", tmp_path / "two" / "runs"]).values()
    assert list(names) == ["one/runs/quick/version_0", "two/runs/quick/version_0"]


def test_what_lies_inside_a_run_is_no_run(tmp_path):
    lay(
        tmp_path,
        "quick/version_0/config.yaml",
        "quick/version_0/summary.json",
        "quick/version_0/wandb/offline-run/files/config.yaml",
        "quick/version_0/old/summary.json",
    )
    assert list(find_runs([tmp_path]).values()) == ["quick/version_0"]


def test_a_config_beside_runs_makes_no_run_of_their_root(tmp_path):
    lay(tmp_path, "runs/config.yaml", "runs/quick/version_0/summary.json")
    assert list(find_runs([tmp_path / "runs"]).values()) == ["quick/version_0"]


def test_links_are_followed_and_loops_end(tmp_path):
    lay(tmp_path, "elsewhere/quick/version_0/summary.json", "runs/slow/version_0/summary.json")
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "elsewhere" / "quick")
    (tmp_path / "elsewhere" / "quick" / "loop").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "self").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "dangling").symlink_to(tmp_path / "nowhere")
    assert list(find_runs([tmp_path / "runs"]).values()) == ["linked/version_0", "slow/version_0"]


@pytest.mark.parametrize(("name", "said"), [("nowhere", "no such folder"), ("file", "is a file")])
def test_a_root_that_is_no_folder_is_refused(tmp_path, name, said):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=said):
        find_runs([tmp_path / name])


def test_every_change_of_a_file_that_counts_changes_the_stamp(make_run, tmp_path):
    run = make_run(tmp_path / "version_0")
    before = stamp(run)
    assert stamp(run) == before
    (run / "log.txt").write_text("not read by the report")
    assert stamp(run) == before
    for name in ("summary.json", "metrics.csv", "config.yaml", "samples/000000010000.png"):
        was = stamp(run)
        os.utime(run / name, ns=(1, 1))
        assert stamp(run) != was, name
    was = stamp(run)
    (run / "test.json").write_text("{}")
    assert stamp(run) != was
    was = stamp(run)
    (run / "samples" / "000000010000.png").unlink()
    assert stamp(run) != was
