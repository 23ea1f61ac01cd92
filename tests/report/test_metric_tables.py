"""A metrics.csv in any state: its good rows count, and what is wrong with the others is said."""

import csv

import numpy as np
import pytest

from lightning_gen.report.tables import read_table

ROWS = ["images_seen,train/loss,val/fid", "100,1.5,", "200,,", "300,1.25,8.5", "400,,7.25"]


def written(tmp_path, content, **options):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(path, **options)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_with_empty_cells_are_read_as_they_stand(tmp_path, end):
    table = written(tmp_path, end.join([*ROWS, ""]))
    assert table.problems == []
    assert table.names == ["train/loss", "val/fid"]
    seen, loss = table.column("train/loss")
    assert (seen.tolist(), loss.tolist()) == ([100, 300], [1.5, 1.25])
    assert table.last() == {"train/loss": 1.25, "val/fid": 7.25}


def test_what_the_logger_writes_is_read_back(tmp_path):
    source = np.random.default_rng(0)
    values = np.where(source.random((50, 6)) < 0.5, np.nan, source.normal(size=(50, 6)))
    with (tmp_path / "metrics.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["images_seen", *(f"figure {i}" for i in range(6))])
        writer.writerows([i, *("" if np.isnan(v) else v for v in row)] for i, row in enumerate(values.tolist()))
    table = read_table(tmp_path / "metrics.csv")
    np.testing.assert_array_equal(table.values, values)
    np.testing.assert_array_equal(table.seen, np.arange(50))


def test_a_last_row_cut_short_is_a_problem_only_once_the_run_has_ended(tmp_path):
    text = "\n".join([*ROWS, "500,1.1"])  # 1.1 may be half of 1.125
    ended, running = written(tmp_path, text), written(tmp_path, text, running=True)
    assert ended.problems == ["metrics.csv: its last row was cut short and is left out"]
    assert running.problems == []
    assert ended.seen.tolist() == running.seen.tolist() == [100, 200, 300, 400]


def test_bad_rows_are_counted_and_cost_no_good_one(tmp_path):
    alone = ("350,1.0", "350,1.0,2.0,3.0", "350,abc,2.0", ",1.0,2.0", "\x00\x01\ufffd,1.0,2.0", "350", "")
    several = {"350,1.0\n,1.0,2.0\n350,1,2,3,4": "3 rows (line 4, 5, 6)"}
    for row, said in (dict.fromkeys(alone, "1 row (line 4)") | several).items():
        table = written(tmp_path, "\n".join([*ROWS[:3], row, *ROWS[3:], ""]))
        assert table.seen.tolist() == [100, 200, 300, 400], row
        assert table.last() == {"train/loss": 1.25, "val/fid": 7.25}, row
        (problem,) = table.problems
        assert said in problem, row


def test_two_bad_rows_whose_cells_add_up_are_still_seen(tmp_path):
    table = written(tmp_path, "images_seen,a\n1,2,3\n4\n5,6\n")
    assert table.seen.tolist() == [5]
    assert "2 rows (line 2, 3)" in table.problems[0]


def test_files_without_any_row_say_why(tmp_path):
    for content, said in {
        b"": "is empty",
        b"\n\n": "is empty",
        bytes(range(256)) * 8: "has no column images_seen",
        b"step,loss\n1,2\n": "has no column images_seen",
        b"images_seen,lo": "cut short",
    }.items():
        table = written(tmp_path, content)
        assert table.values.size == 0, content
        assert said in " ".join(table.problems), content


def test_a_missing_file_is_a_table_without_rows(tmp_path):
    table = read_table(tmp_path / "metrics.csv")
    assert (table.names, table.problems, table.last()) == ([], [], {})


def test_rows_are_in_the_order_of_images_seen(tmp_path):
    assert written(tmp_path, "images_seen,a\n300,3\n100,1\n200,2\n").column("a")[1].tolist() == [1, 2, 3]


def test_any_prefix_of_a_file_is_read_without_an_exception(tmp_path):
    whole = "\r\n".join([*ROWS, ""]).encode()
    for length in range(len(whole)):
        table = written(tmp_path, whole[:length])
        assert set(table.seen.tolist()) <= {100, 200, 300, 400}
