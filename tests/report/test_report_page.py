"""The page: one file that asks for nothing from outside, in which no text of a user can become markup."""

import base64
import gzip
import hashlib
import html.parser
import json
import os
import re
import time

import pytest

from lightning_gen.core.errors import InputError
from lightning_gen.report import Report, build

HOSTILE = "<img src=x onerror=alert(1)>"
SCRIPT = "</script><script>alert(2)</script><!-- \u2028 \" ' &lt; {{DATA}} \\u003c"


class Elements(html.parser.HTMLParser):
    """What a browser would find: tags with attributes, and the text of each script."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.scripts, self.title, self._inside = [], [], "", None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append([dict(attrs), ""])

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1][1] += data
        if self._inside == "title":
            self.title += data

    def handle_endtag(self, tag):
        self._inside = None

    def script(self, name):
        (found,) = (text for attributes, text in self.scripts if attributes.get("id") == name)
        return found


def page_of(*roots, **options):
    report = Report(list(roots), **options)
    report.scan()
    return report.page()


def data_of(page):
    return json.loads(Elements(page).script("data"))


def test_one_file_holds_everything_and_names_no_address(make_run, tmp_path):
    make_run(tmp_path / "quick" / "version_0")
    page = page_of(tmp_path)
    elements = Elements(page)
    for tag, attributes in elements.tags:
        for name in ("src", "href", "action", "srcset", "data"):
            assert re.match(r"#|data:|$", attributes.get(name) or ""), (tag, attributes)
    assert not re.search(r"@import|url\(", build.asset("page.css"))
    policy = next(a["content"] for t, a in elements.tags if t == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    script = next(text for attributes, text in elements.scripts if not attributes)
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    plotly = gzip.decompress(base64.b64decode(elements.script("plotly")))
    assert base64.b64encode(hashlib.sha256(plotly).digest()).decode() in policy
    assert plotly == build.plotly_source()


def test_names_and_texts_from_folders_cannot_leave_their_place(make_run, tmp_path):
    run = make_run(
        tmp_path / HOSTILE / "version_0",
        config={"run": {"experiment": SCRIPT}, SCRIPT: SCRIPT},
        summary={"device": SCRIPT, "last": {SCRIPT: 1.0, "val/fid_digits": 1.0}},
    )
    make_run(tmp_path / "other" / "version_0")
    (run / "trial.json").write_text(
        json.dumps(
            {"sweep": SCRIPT, "parameters": {SCRIPT: SCRIPT}, "state": "failed", "reason": SCRIPT, "metric": SCRIPT}
        )
    )
    (run / "metrics.csv").write_text(f'images_seen,"{HOSTILE}"\n1,2\n', encoding="utf-8")
    page = page_of(tmp_path, title=SCRIPT)
    sound = page_of(make_run(tmp_path / "sound" / "version_0"))
    elements = Elements(page)
    extra = [tag for tag in elements.tags if tag[1].get("id") != f"curves-{build.make_ids([run])[0]}"]
    assert [tag for tag, _ in extra] == [tag for tag, _ in Elements(sound).tags]  # not one element more
    assert elements.title.strip() == SCRIPT
    data = data_of(page)
    record = next(record for record in data["runs"] if HOSTILE in record["name"])
    assert record["about"]["device"] == SCRIPT
    assert record["last"][SCRIPT] == 1.0
    assert record["logged"] == [HOSTILE]
    assert SCRIPT in data["configs"]["keys"]
    assert data["sweeps"][0]["name"] == SCRIPT


def test_names_that_are_no_unicode_are_shown_somehow(make_run, tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("this file system takes no such names")
    make_run(folder + "/version_0", grids=False)
    page = page_of(tmp_path, title="caf\u00e9 \udcff")
    page.encode("utf-8")


def test_equal_pictures_are_stored_once_and_missing_ones_marked(make_run, make_grid, tmp_path):
    for k in range(3):
        make_run(tmp_path / "quick" / f"version_{k}", seed=1)
    (tmp_path / "quick" / "version_1" / "samples" / "000000020000.png").write_bytes(b"half a picture")
    page = page_of(tmp_path)
    data = data_of(page)
    assert len(json.loads(Elements(page).script("pictures"))) == 4
    assert [len(record["grids"]) for record in data["runs"]] == [4, 3, 4]
    assert data["runs"][1]["problems"] == ["samples/000000020000.png is not a readable picture"]


def test_pictures_beyond_the_budget_are_thinned_in_time(make_run, tmp_path, monkeypatch):
    for k in range(2):
        make_run(tmp_path / "quick" / f"version_{k}", seed=k, evaluations=12)
    monkeypatch.setattr(build, "PICTURE_BYTES", 30_000)
    data = data_of(page_of(tmp_path))
    grids = [[seen for seen, _ in record["grids"]] for record in data["runs"]]
    assert 1 <= len(grids[0]) < 12
    assert all(own[-1] == 120_000 for own in grids)  # the newest always
    assert data["runs"][0]["allGrids"] == 12


def test_pictures_that_are_no_grids_take_what_room_is_left(make_run, make_grid, tmp_path, monkeypatch):
    for k in range(2):
        run = make_run(tmp_path / "quick" / f"version_{k}", seed=k)
        make_grid(50 + k).save(run / "samples" / "000000040000-neighbours.png")

    def others() -> tuple[list, dict]:
        page = page_of(tmp_path)
        return [record["others"] for record in data_of(page)["runs"]], json.loads(Elements(page).script("pictures"))

    shown, pictures = others()
    assert [[(name, seen) for name, seen, _ in own] for own in shown] == [[("neighbours", 40_000)]] * 2
    sizes = [len(pictures.pop(key)[0]) for [(_, _, key)] in shown]
    grids = sum(len(data) for data, _, _ in pictures.values())
    monkeypatch.setattr(build, "PICTURE_BYTES", grids + max(sizes))
    shown, crowded = others()
    assert [bool(key) for [(_, _, key)] in shown] == [True, False]
    assert crowded.keys() == {*pictures, shown[0][0][2]}, "no sample grid gives way"


def test_kinds_of_bits_per_dimension_are_never_one_column(make_run, tmp_path):
    for kind, name in (("exact", "bpd"), ("dequantized", "bpd_dequantized"), ("bound", "bpd_bound")):
        figures = {"last": {f"val/{name}": 2.0}, "best": {f"val/{name}": 2.0}}
        make_run(tmp_path / kind / "version_0", summary=figures | {"likelihood": {"kind": kind, "num_samples": 5}})
    figures = data_of(page_of(tmp_path))["figures"]
    kinds = {name: about["kind"] for name, about in figures.items() if about["kind"]}
    assert kinds == {"val/bpd": "exact", "val/bpd_dequantized": "dequantized", "val/bpd_bound": "bound"}


def test_fronts_are_of_one_data_set_each(make_run, tmp_path):
    other = {"class_path": "lightning_gen.data.FashionMNIST"}
    data = {"class_path": "lightning_gen.data.ImageDataModule", "init_args": {"source": other}}
    for k in range(6):
        make_run(tmp_path / "a" / f"version_{k}", k, level=1 + k, grids=False)
        make_run(tmp_path / "b" / f"version_{k}", k, level=9 + k, grids=False, config={"data": data})
    page = data_of(page_of(tmp_path))
    own = {record["id"]: record for record in page["runs"]}
    assert {front["data"] for front in page["fronts"]} == {"Digits", "FashionMNIST"}
    for found in page["fronts"]:
        records = [record for record in page["runs"] if record["data"] == found["data"]]
        points = [(r[found["which"]][found["figure"]], r[found["cost"]]) for r in records]
        higher = found["figure"] == "val/precision_digits"
        for run_id in found["runs"]:
            value, cost = own[run_id][found["which"]][found["figure"]], own[run_id][found["cost"]]
            better = [(v, c) for v, c in points if (v >= value if higher else v <= value) and c <= cost]
            assert set(better) == {(value, cost)}


def test_only_keys_that_differ_are_sent(make_run, tmp_path):
    make_run(tmp_path / "a" / "version_0", 0, grids=False)
    make_run(tmp_path / "a" / "version_1", 1, grids=False)
    (make_run(tmp_path / "a" / "version_2", 0, grids=False) / "config.yaml").unlink()
    configs = data_of(page_of(tmp_path))["configs"]
    assert configs["keys"] == ["seed_everything", "model.generator.widths"]
    shown = [{configs["keys"][int(k)]: configs["texts"][v] for k, v in run.items()} for run in configs["runs"].values()]
    assert shown == [
        {"seed_everything": "0", "model.generator.widths": "[64, 64]"},
        {"seed_everything": "1", "model.generator.widths": "[65, 64]"},
    ]


def test_only_what_has_changed_is_read_again(make_run, tmp_path, monkeypatch):
    runs = [make_run(tmp_path / "quick" / f"version_{k}", k) for k in range(5)]
    report = Report([tmp_path])
    assert report.scan()
    report.page()
    read, encoded = [], []
    monkeypatch.setattr(build, "read_run", lambda folder: read.append(folder) or original(folder))
    monkeypatch.setattr(build, "read_picture", lambda file: encoded.append(file) or picture(file))
    assert not report.scan()
    report.page()
    assert (read, encoded) == ([], [])
    with (runs[2] / "metrics.csv").open("a") as file:
        file.write("999999,,1.0,2.0,0.5,0.5\r\n")
    assert report.scan()
    assert read == [runs[2]]
    make_run(tmp_path / "quick" / "version_5", 5)
    assert report.scan()
    assert "version_5" in report.page()
    assert len(read) == 2
    assert len(encoded) == 4
    (runs[0] / "summary.json").unlink()
    assert report.scan()


original, picture = build.read_run, build.read_picture


def test_ids_stay_when_other_runs_come_and_go(tmp_path):
    folders = [tmp_path / str(i) for i in range(300)]
    ids = build.make_ids(folders)
    assert len(set(ids)) == 300
    assert build.make_ids(folders[::2]) == ids[::2]


def test_the_same_folders_give_the_same_page(make_run, tmp_path, monkeypatch):
    make_run(tmp_path / "quick" / "version_0")
    pages = [re.sub(r'"built":"[^"]*"', "", page_of(tmp_path)) for _ in range(2)]
    assert pages[0] == pages[1]


def test_without_runs_or_without_plotly_one_line_says_so(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no runs in it"):
        Report([tmp_path]).scan()
    build.plotly_source.cache_clear()
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'lightning-gen\[report\]'"):
        Report([tmp_path])
    build.plotly_source.cache_clear()


def test_a_page_of_many_runs_stays_within_its_budget(make_run, tmp_path):
    for k in range(30):
        make_run(tmp_path / "quick" / f"version_{k}", k)
    page = page_of(tmp_path)
    script = len(build.compressed(build.plotly_source()))
    assert len(page) - script < 30 * 4 * 5_000 + 300_000
    assert time.strptime(data_of(page)["built"][:19], "%Y-%m-%dT%H:%M:%S")
