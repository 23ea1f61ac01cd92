"""lightning report as users call it: the file, what is refused, and watching."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from refusals import refused

from lightning_gen.cli import main
from lightning_gen.report import build


def make_run(folder: Path, value: float = 1.0) -> Path:
    """Write the least that makes a run."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("model: {class_path: lightning_gen.models.GAN}\n")
    summary = {"status": "finished", "last": {"val/fid_digits": value}, "images_seen": 100, "seconds": 1.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.csv").write_text(f"images_seen,val/fid_digits\r\n100,{value}\r\n", newline="")
    return folder


def records(page: Path) -> list[dict]:
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])["runs"]


def test_a_page_is_written_and_one_line_says_so(tmp_path, capsys):
    make_run(tmp_path / "runs" / "quick" / "version_0")
    make_run(tmp_path / "more" / "slow" / "version_0")
    out = tmp_path / "report.html"
    main(["report", str(tmp_path / "runs"), str(tmp_path / "more"), "--out", str(out), "--title", "Two <runs>"])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"2 runs in {out} (")
    assert {record["name"] for record in records(out)} == {"runs/quick/version_0", "more/slow/version_0"}
    assert "<title>Two &lt;runs&gt;</title>" in out.read_text(encoding="utf-8")


def test_a_run_with_damage_is_a_marked_row(tmp_path, capsys):
    make_run(tmp_path / "quick" / "version_0")
    (make_run(tmp_path / "quick" / "version_1") / "summary.json").write_text('{"status": "fin')
    main(["report", str(tmp_path), "--out", str(tmp_path / "r.html")])
    assert "1 marked with what is wrong" in capsys.readouterr().err
    sound, damaged = records(tmp_path / "r.html")
    assert sound["problems"] == []
    assert damaged["problems"] == ["summary.json is not JSON: half written, or damaged"]
    assert damaged["last"] == sound["last"]


def test_what_cannot_be_done_is_said_in_one_line(tmp_path, capsys):
    make_run(tmp_path / "runs" / "quick" / "version_0")
    (tmp_path / "empty").mkdir()
    runs, out = str(tmp_path / "runs"), str(tmp_path / "r.html")
    assert "no such folder" in refused(capsys, "report", str(tmp_path / "nowhere"), "--out", out)
    assert "no runs in it" in refused(capsys, "report", str(tmp_path / "empty"), "--out", out)
    assert "there is no folder" in refused(capsys, "report", runs, "--out", str(tmp_path / "nowhere" / "r.html"))
    assert "is a folder" in refused(capsys, "report", runs, "--out", str(tmp_path / "empty"))
    assert "is a file" in refused(capsys, "report", runs + "/quick/version_0/summary.json", "--out", out)
    assert "folders come first" in refused(capsys, "report", "--watch", runs, runs, "--out", out)
    assert "from 0.1 to 86400" in refused(capsys, "report", runs, "--watch", "0", "--out", out)
    assert "DIR: is required" in refused(capsys, "report", "--out", out)
    assert "cannot be written" in refused(capsys, "report", runs, "--out", str(tmp_path / ("x" * 300)))
    assert "no such option" in refused(capsys, "report", runs, "--oot", out)
    assert not Path(out).exists()


def test_without_plotly_the_remedy_is_named(tmp_path, capsys, monkeypatch):
    make_run(tmp_path / "quick" / "version_0")
    build.plotly_source.cache_clear()
    find = build.importlib.util.find_spec
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None if name == "plotly" else find(name))
    assert "pip install 'lightning-gen[report]'" in refused(
        capsys, "report", str(tmp_path), "--out", str(tmp_path / "r.html")
    )


def test_watching_builds_again_after_a_change_and_ends_with_ctrl_c(tmp_path):
    run = make_run(tmp_path / "runs" / "quick" / "version_0", 5.0)
    out = tmp_path / "report.html"
    arguments = ["report", str(tmp_path / "runs"), "--out", str(out), "--watch", "0.1"]
    watching = subprocess.Popen(
        [sys.executable, "-m", "lightning_gen", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which background jobs of a shell ignore
    )
    try:
        wait_for(lambda: out.exists(), watching)
        first = out.stat().st_mtime_ns
        assert '"live":0.1' in out.read_text(encoding="utf-8")
        time.sleep(1)
        assert out.stat().st_mtime_ns == first  # nothing has changed, so nothing is written
        (run / "metrics.csv").write_text("images_seen,val/fid_digits\n100,5.0\n200,4.0\n")
        make_run(tmp_path / "runs" / "quick" / "version_1", 3.0)
        wait_for(lambda: len(records(out)) == 2, watching)
        os.kill(watching.pid, signal.SIGINT)
        _, said = watching.communicate(timeout=60)
    finally:
        watching.kill()
        watching.wait()
    assert watching.returncode == 130
    assert said.strip().splitlines()[-1] == f"stopped; {out} stays as it is"
    assert "Traceback" not in said
    assert '"live":null' in out.read_text(encoding="utf-8")  # an open page stops to follow


def wait_for(ready, process, seconds=120):
    """Wait until something holds, while the process lives."""
    end = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.05)
