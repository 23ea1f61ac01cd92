"""The page in a real browser, opened from disk: it works by mouse, by keyboard and on a phone, and asks for nothing."""

import contextlib
import json
import re
import shutil
import time
from pathlib import Path

import pytest

from lightning_gen.report import Report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]

HOSTILE = "<img src=x onerror=alert(1)>"
SCRIPT = "</script><script>alert(2)</script><b>&amp;\u2028"
DESKTOP = {"viewport": {"width": 1440, "height": 1000}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def runs(make_run, make_sweep, tmp_path_factory) -> Path:
    """Three experiments, one with a hostile name, two sweeps, and damage."""
    root = tmp_path_factory.mktemp("runs")
    for k in range(4):
        make_run(root / "quick" / f"version_{k}", k, level=1 + k, evaluations=4 + k)
    make_run(root / "quick" / "version_4", 4, level=9, evaluations=300, grids=False)
    hostile = make_run(
        root / HOSTILE / "version_0",
        5,
        level=0.5,
        config={"run": {"experiment": SCRIPT}},
        summary={"command": ["lightning", SCRIPT], "device": SCRIPT},
    )
    (hostile / "test.json").write_text(json.dumps({"test/fid_digits": 1.25, "n": 2000}))
    broken = make_run(root / "broken" / "version_0", 6, level=20)
    (broken / "summary.json").write_text('{"status": "fini')
    (broken / "samples" / "000000020000.png").write_bytes(b"\x89PNG")
    bits = {
        "last": {"val/bpd_bound": 2.5, "val/bpd_bound_se": 0.01},
        "likelihood": {"kind": "bound", "num_samples": 64},
    }
    make_run(root / "bits" / "version_0", 7, summary=bits)
    make_run(root / "bits" / "version_1", 8, summary={"last": {"val/bpd": 2.0}, "likelihood": {"kind": "exact"}})
    make_sweep(root / "gan-sweep", 24)
    make_sweep(root / "short", 5, seed=1, name=HOSTILE)
    return root


@pytest.fixture(scope="module")
def page_file(runs, tmp_path_factory) -> Path:
    return write(runs, tmp_path_factory.mktemp("page") / "report.html")


def write(root, file, live=None) -> Path:
    report = Report([root])
    report.scan()
    file.write_text(report.page(live), encoding="utf-8")
    return file


@pytest.fixture
def visit(browser, page_file):
    """Open a page and wait for its plots; afterwards nothing may have been complained about or asked for."""
    contexts, complaints = [], []

    def open_page(file=page_file, state="", plots=True, **options):
        context = browser.new_context(**(options or DESKTOP))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        address = f"file://{file}"
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"exception: {error}"))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: check_request(request.url, address))
        page.goto(address + state)
        if plots:
            page.wait_for_selector("#charts .main-svg")
        return page

    def check_request(url, address):
        if not url.startswith((address, "data:", "blob:")):
            complaints.append(f"request: {url}")

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def names(page) -> list[str]:
    return page.eval_on_selector_all("#board tbody th .open", "all => all.map((one) => one.textContent)")


def column(page, label) -> list[str]:
    place = page.eval_on_selector_all(
        "#board .heads > *",
        "(all, label) => all.findIndex((one) => one.querySelector('span')?.textContent === label)",
        label,
    )
    return page.eval_on_selector_all(
        "#board tbody tr", "(all, place) => all.map((row) => row.children[place].textContent.trim())", place
    )


def numbers(texts) -> list[float]:
    found = [re.match(r"[\u2212\d.,]+", text) for text in texts]
    return [float(match[0].replace("\u2212", "-").replace(",", "")) for match in found if match]


def wait(page, condition, seconds=60):
    """Wait until a condition holds; asked from here, because the page's policy lets nothing be evaluated inside it."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(Exception):  # it is just loading itself again, or the plot is not there yet
            if page.evaluate(f"!!({condition})"):
                return
        assert time.monotonic() < end, condition
        time.sleep(0.05)


def in_view(page) -> int:
    return page.evaluate("document.documentElement.scrollWidth")


def test_it_opens_without_a_complaint_and_shows_every_run(visit):
    page = visit()
    assert page.title().startswith("Runs in runs")
    assert len(names(page)) == 38
    assert page.locator("#old").is_hidden()
    assert page.locator("#charts .plot .scatterlayer .trace").count() > 8
    assert page.locator("#cards img:visible").count() > 0
    assert page.locator("#history .main-svg").count() > 0
    assert page.locator("#parallel path.trial").count() == 24


def test_a_click_on_a_head_sorts_and_another_turns_it_round(visit):
    page = visit()
    first = numbers(column(page, "fid_digits_heldout"))
    assert first == sorted(first)
    head = page.locator("#board th", has=page.locator("[id='sort-val/precision_digits']"))
    assert head.get_attribute("aria-sort") == "none"
    page.click("[id='sort-val/precision_digits']")
    assert head.get_attribute("aria-sort") == "descending"  # the best first
    down = numbers(column(page, "precision_digits"))
    assert down == sorted(down, reverse=True)
    page.click("[id='sort-val/precision_digits']")
    assert head.get_attribute("aria-sort") == "ascending"
    assert numbers(column(page, "precision_digits")) == down[::-1]
    page.click("#sort-name")
    assert names(page) == sorted(
        names(page), key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]
    )


def test_filters_narrow_the_table_and_say_how_far(visit):
    page = visit()
    page.fill("#search", "quick version")
    assert len(names(page)) == 5
    assert page.locator("#count").inner_text().startswith("5 of 38 runs")
    assert page.locator("#count").get_attribute("aria-live") == "polite"
    page.fill("#search", "no such run")
    assert page.locator("#board .empty").is_visible()
    page.fill("#search", "")
    page.select_option("#by-status", "pruned")
    assert set(column(page, "status")) == {"pruned"}
    page.select_option("#by-status", "")
    page.select_option("#by-sweep", label="gan")
    assert len(names(page)) == 24


def test_columns_can_be_chosen_and_kinds_stay_apart(visit):
    page = visit()
    assert sum(text.startswith("2.500 \u00b10.010bound \u00d764") for text in column(page, "bpd_bound")) == 1
    assert sum(text.startswith("2.000exact") for text in column(page, "bpd")) == 1
    groups = page.locator("#board .groups th").all_inner_texts()
    assert groups == ["Run", "Validation, last value", "Test", "Cost"]
    page.click("#columns")
    page.uncheck("#column-family")
    page.check("[id='column-train/loss_critic']")
    heads = page.locator("#board .heads button > span:first-child").all_inner_texts()
    assert "family" not in heads
    assert "loss_critic" in heads
    page.keyboard.press("Escape")
    assert page.locator(".sheet").is_hidden()
    page.check("#mode-best", force=True)
    assert page.locator("#board .groups th").nth(1).inner_text() == "Validation, best value"


def test_a_sweep_over_config_files_says_which_one_a_run_is_of(visit, make_run, tmp_path):
    files = ["configs/gan/cgan-digits.yaml", "configs/vae/mlp-digits.yaml"]
    for k, file in enumerate(files):
        command = ["lightning", "fit", f"--config={file}"]
        run = make_run(tmp_path / "runs" / "families" / f"version_{k}", k, 1 + k, summary={"command": command})
        trial = {"sweep": "families", "trial": k, "metric": "val/fid_digits", "goal": "minimize", "value": 1.0 + k}
        trial |= {"parameters": {"config": file}, "command": command, "state": "finished", "reason": None}
        (run / "trial.json").write_text(json.dumps(trial))
    page = visit(write(tmp_path / "runs", tmp_path / "page.html"))
    assert column(page, "config") == files
    heads = visit().locator("#board .heads button > span:first-child").all_inner_texts()
    assert "family" in heads
    assert "config" not in heads, "elsewhere names of runs say it"


def test_ticked_runs_are_those_of_plots_samples_and_configs(visit):
    page = visit()
    page.click("#sort-name")
    for name in ("quick/version_0", "quick/version_2"):
        page.check(f"#board input[aria-label='Choose {name}']")
    assert page.locator("#legend li").all_inner_texts() == ["quick/version_0", "quick/version_2"]
    assert page.locator("#cards figcaption b").all_inner_texts() == ["quick/version_0", "quick/version_2"]
    rows = page.eval_on_selector_all(
        "#differences tbody tr", "all => all.map((row) => [...row.children].map((cell) => cell.textContent))"
    )
    assert rows == [
        ["seed_everything", "0", "2"],
        ["model.generator.widths", "[64, 64]", "[66, 64]"],
    ]
    wait(page, "document.querySelectorAll('#charts .plot')[0].data.length === 2")
    page.click("#unpick")
    assert page.locator("#legend li").count() == 8


def test_the_slider_moves_all_grids_to_one_moment(visit):
    page = visit()
    page.click("#sort-name")
    for name in ("quick/version_0", "quick/version_3"):
        page.check(f"#board input[aria-label='Choose {name}']")
    captions = page.locator("#cards figcaption .quiet")
    assert captions.all_inner_texts() == ["40,000 images seen", "70,000 images seen"]  # each its newest
    before = page.locator("#cards img").first.get_attribute("src")
    page.locator("#at").focus()
    page.keyboard.press("Home")
    assert page.locator("#at-shown").inner_text() == "10,000 images seen"
    assert page.locator("#at").get_attribute("aria-valuetext") == "10,000 images seen"
    assert captions.all_inner_texts() == ["10,000 images seen", "10,000 images seen"]
    assert page.locator("#cards img").first.get_attribute("src") != before
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert captions.all_inner_texts() == ["40,000 images seen", "50,000 images seen"]
    assert page.locator("#cards img").nth(1).get_attribute("alt") == "Samples of quick/version_3 at 50,000 images seen"
    page.locator("#cards .frame").first.click()
    assert page.locator("#details img.large").is_visible()


def test_curves_take_any_figure_axis_and_smoothing(visit):
    page = visit()
    page.fill("#search", "quick/version_4")
    page.select_option("#add-plot", "val/precision_digits")
    assert page.locator("#charts h3").last.inner_text() == "val/precision_digits"
    wait(
        page,
        "document.querySelectorAll('#charts .plot')[document.querySelectorAll('#charts .plot').length - 1].data?.length === 1",
    )
    points = page.evaluate("[...document.querySelectorAll('#charts .plot')].pop().data[0].y.length")
    assert 100 < points < 300  # thinned from 300 evaluations
    page.check("#x-log")
    page.check("#y-log")
    wait(page, "document.querySelector('#charts .plot').layout.yaxis.type === 'log'")
    page.locator("#smooth").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    wait(page, "document.querySelector('#charts .plot').data.length === 2")
    page.select_option("#x-axis", "pace")
    wait(page, "document.querySelector('#charts .plot').layout.xaxis.title.text.startsWith('seconds')")
    count = page.locator("#charts figure").count()
    page.locator("#charts .close").first.click()
    assert page.locator("#charts figure").count() == count - 1


def test_the_sweep_says_what_won_and_why(visit):
    page = visit(state="#study=")
    page.select_option("#study", label="gan")
    page.wait_for_selector("#history .main-svg")
    assert page.locator(".importance tbody th").first.inner_text() == "model.generator_optimizer.lr"
    assert re.match(r"Trial \d+ won with 1\.\d+\.", page.locator(".winner strong").inner_text())
    assert "batch_size = 64" in page.locator("#sweep").inner_text()
    marks = page.evaluate("document.querySelector('#history').data.map((trace) => trace.name)")
    assert {"finished", "pruned", "running", "without a value", "best so far"} <= set(marks)
    axis = page.locator("#parallel .axis").first
    axis.focus()
    for _ in range(8):
        page.keyboard.press("ArrowUp")
    assert re.match(r"\d+ of 24 trials inside the ranges", page.locator("#brushed").inner_text())
    assert "from about" in axis.get_attribute("aria-label")
    assert page.locator("#parallel path.trial.out").count() > 3
    page.keyboard.press("Escape")
    assert page.locator("#parallel path.trial.out").count() == 0
    page.select_option("#sweep-cost", "parameters")
    wait(page, "document.querySelector('#sweep-front').layout.xaxis.title.text === 'parameters'")
    page.select_option("#study", label=HOSTILE)
    assert "at least 10 finished trials" in page.locator("#sweep").inner_text()


def test_no_word_of_the_parallel_coordinates_is_cut_off_and_lists_stay_apart(visit):
    page = visit()
    page.select_option("#study", label="gan")
    page.wait_for_selector("#parallel .axis")
    outside = """() => {
      const all = document.querySelector("#parallel svg").getBoundingClientRect();
      return [...document.querySelectorAll("#parallel text")].filter((text) => {
        const box = text.getBoundingClientRect();
        return box.left < all.left || box.right > all.right;
      }).map((text) => text.textContent);
    }"""
    assert page.evaluate(outside) == []
    words = page.locator("#parallel text").all_text_contents()
    assert {"val/fid_digits", "R1 + R2 weight 0.5", "R1 + R2 weight 2", "R1"} <= set(words)


def test_the_pictures_of_a_run_are_with_its_details(visit, make_run, make_grid, tmp_path):
    run = make_run(tmp_path / "runs" / "gan" / "version_0")
    for seen in (10_000, 40_000):
        make_grid(seen).save(run / "samples" / f"{seen:012d}-neighbours.png")
    report = Report([tmp_path / "runs"])
    report.scan()
    (tmp_path / "page.html").write_text(report.page(), encoding="utf-8")
    page = visit(tmp_path / "page.html")
    page.locator("#board .open").first.click()
    picture = page.locator("#details figure.other")
    assert picture.count() == 1, "the newest of each kind"
    assert "nearest to it, at 40,000 images seen" in picture.inner_text()
    assert picture.locator("img").get_attribute("alt") == "Neighbours of gan/version_0 at 40,000 images seen"
    assert picture.locator("img").evaluate("(image) => image.complete && image.naturalWidth > 0")


def test_an_axis_can_be_brushed_with_the_mouse(visit):
    page = visit()
    page.select_option("#study", label="gan")
    page.locator("#parallel").scroll_into_view_if_needed()
    box = page.locator("#parallel .axis .grab").first.bounding_box()
    page.mouse.move(box["x"] + 8, box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 8, box["y"] + 0.6 * box["height"], steps=5)
    page.mouse.up()
    assert "inside the ranges" in page.locator("#brushed").inner_text()


def test_hostile_names_are_only_text(visit):
    page = visit()
    assert f"{HOSTILE}/version_0" in names(page)
    assert page.evaluate("document.querySelectorAll('main img[src=x], main b > script, main script').length") == 0
    page.click("#sort-name")
    page.locator("#board .open", has_text=HOSTILE).first.click()
    shown = page.locator("#details").inner_text()
    assert HOSTILE in shown
    assert SCRIPT.replace("\u2028", "") in shown.replace("\u2028", "").replace("\n", "")
    page.keyboard.press("Escape")
    page.check(f"#board input[aria-label='Choose {HOSTILE}/version_0']")
    page.check("#board input[aria-label='Choose quick/version_0']")
    assert SCRIPT.partition("<b>")[0] in page.locator("#differences").inner_text()
    wait(page, "document.querySelector('#charts .plot').data.length === 2")
    page.locator("#charts .plot .scatterlayer .point").first.hover(force=True)
    page.wait_for_timeout(500)
    assert page.locator("main img[src=x]").count() == 0


def test_damage_is_a_marked_row_that_says_what_is_wrong(visit):
    page = visit()
    marked = page.locator("#board tr.marked", has_text="broken/version_0")
    said = marked.locator(".problems li").all_inner_texts()
    assert said == [
        "summary.json is not JSON: half written, or damaged",
        "samples/000000020000.png is not a readable picture",
    ]
    place = names(page).index("broken/version_0")
    assert 20 < numbers([column(page, "fid_digits")[place]])[0] < 40  # its rows still count


def test_what_was_chosen_survives_a_reload(visit):
    page = visit()
    page.fill("#search", "quick")
    page.click("[id='sort-val/precision_digits']")
    page.check("#board input[aria-label='Choose quick/version_1']")
    page.check("#mode-best", force=True)
    page.locator("#at").focus()
    page.keyboard.press("Home")
    page.select_option("#add-plot", "val/precision_digits")
    page.wait_for_timeout(400)
    before = [names(page), page.url, page.locator("#charts h3").all_inner_texts()]
    page.reload()
    page.wait_for_selector("#charts .main-svg")
    assert [names(page), page.url, page.locator("#charts h3").all_inner_texts()] == before
    assert page.locator("#search").input_value() == "quick"
    assert page.locator("#at-shown").inner_text() == "10,000 images seen"
    assert page.locator("#mode-best").is_checked()
    assert page.locator("#legend li").all_inner_texts() == ["quick/version_1"]


def test_a_watched_page_follows_the_runs_and_keeps_its_state(visit, make_run, tmp_path):
    root = tmp_path / "runs"
    make_run(root / "quick" / "version_0", 0)
    make_run(root / "quick" / "version_1", 1)
    file = write(root, tmp_path / "report.html", live=1.0)
    page = visit(file, state="#sort=name&q=quick")
    page.check("#board input[aria-label='Choose quick/version_1']")
    assert page.locator("#live").is_visible()
    make_run(root / "quick" / "version_2", 2)
    write(root, file, live=None)  # the last build
    wait(page, "document.querySelectorAll('#board tbody tr').length === 3")
    page.wait_for_selector("#charts .main-svg")
    assert names(page) == ["quick/version_0", "quick/version_1", "quick/version_2"]
    assert page.locator("#search").input_value() == "quick"
    assert page.locator("#legend li").all_inner_texts() == ["quick/version_1"]
    assert page.locator("#live").is_hidden()


def test_what_real_images_score_stands_below_the_runs(visit):
    page = visit()
    rows = page.eval_on_selector_all("#board tfoot tr", "all => all.map((row) => row.textContent)")
    assert [row[:5] for row in rows] == ["floor", "memor"]
    assert "1.46" in rows[0]
    assert "1.34" in rows[1]


def test_everything_can_be_done_with_the_keyboard(visit):
    page = visit()

    def focused():
        return page.evaluate("document.activeElement.id || document.activeElement.textContent")

    page.keyboard.press("Tab")
    assert focused() == "Skip to the leaderboard"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert focused() == "search"
    page.keyboard.type("quick")
    assert len(names(page)) == 5
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(focused())
        ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        hidden_radio = focused().startswith("mode-")
        assert ring not in ("none", "") or hidden_radio, f"no focus ring on {focused()}"
        if focused() == "sort-val/fid_digits":
            break
    assert {"by-status", "columns", "board", "pick-all", "sort-name"} <= set(reached)
    page.keyboard.press("Enter")
    assert focused() == "sort-val/fid_digits"  # the focus stays where it was
    order = numbers(column(page, "fid_digits"))
    assert order == sorted(order)
    while not focused().startswith("pick-") or focused() == "pick-all":
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.locator("#legend li").count() == 1
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#details").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#details").is_hidden()
    assert focused().startswith("open-")  # back where it was opened


def test_landmarks_labels_and_table_semantics_are_there(visit):
    page = visit()
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('input, select, button, [role=img], [role=region]')]
            .filter((one) => !one.closest('.modebar') && one.type !== 'hidden')
            .filter((one) => !(one.labels?.length || one.getAttribute('aria-label') || one.getAttribute('aria-labelledby') || one.textContent.trim()))
            .map((one) => one.outerHTML.slice(0, 120))"""
    )
    assert unnamed == []
    repeated = page.evaluate(
        "() => { const ids = [...document.querySelectorAll('[id]')].map((one) => one.id); return ids.filter((id, i) => ids.indexOf(id) !== i && !id.includes('clip')) }"
    )
    assert repeated == []
    for tag in ("header", "nav", "main", "footer", "h1"):
        assert page.locator(tag).count() == 1
    assert page.locator("#board tbody th[scope=row]").count() == 38
    assert page.locator("#board thead th[scope=col]:not([aria-sort])").count() == 0
    assert page.evaluate("document.querySelector('#board table').caption.textContent") != ""
    assert "Newest values" in page.locator("#charts .plot").first.get_attribute("aria-label")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(visit, scheme):
    page = visit(**DESKTOP, color_scheme=scheme)
    dull = page.evaluate(CONTRAST)
    assert dull == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
    assert brightness > 200 if scheme == "light" else brightness < 50
    ink = page.evaluate("document.querySelector('#charts .plot .xtick text').style.fill")
    assert (sum(map(int, re.findall(r"\d+", ink)[:3])) / 3 < 128) == (scheme == "light")


def test_a_change_of_scheme_reaches_the_plots(visit):
    page = visit(**DESKTOP, color_scheme="light")
    ink = "document.querySelector('#charts .plot .xtick text')?.style.fill"
    before = page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    wait(page, f"{ink} && {ink} !== {json.dumps(before)}")


def test_a_phone_scrolls_down_only(visit):
    page = visit(**PHONE)
    assert in_view(page) == 390
    page.locator("#sweeps").scroll_into_view_if_needed()
    page.wait_for_selector("#history .main-svg")
    assert in_view(page) == 390
    page.locator("#columns").tap()
    box = page.locator(".sheet").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    page.locator("#columns").tap()
    page.locator("#board .open").first.tap()
    box = page.locator("#details").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390


def test_one_run_and_a_run_without_anything_are_explained(visit, make_run, tmp_path):
    make_run(tmp_path / "one" / "quick" / "version_0")
    page = visit(write(tmp_path / "one", tmp_path / "one.html"))
    assert names(page) == ["quick/version_0"]
    assert page.locator("#sweeps").is_hidden()
    assert "Two runs or more" in page.locator("#configs-note").inner_text()
    bare = tmp_path / "bare" / "quick" / "version_0"
    bare.mkdir(parents=True)
    (bare / "config.yaml").write_text("model: {class_path: lightning_gen.models.GAN}\n")
    page = visit(write(tmp_path / "bare", tmp_path / "bare.html"), plots=False)
    assert "no curves" in page.locator("#curves").inner_text()
    assert "sample grids" in page.locator("#samples").inner_text()
    assert page.locator("#board .problems li").all_inner_texts() == [
        "summary.json is missing: the run is just starting, or ended before it could be written"
    ]


def test_without_decompression_one_line_says_so(browser, page_file):
    context = browser.new_context(**DESKTOP)
    page = context.new_page()
    page.add_init_script("delete globalThis.DecompressionStream")
    page.goto(f"file://{page_file}")
    assert "too old" in page.locator("#old").inner_text()
    assert len(names(page)) == 38  # the table needs no plots
    context.close()
    context = browser.new_context(**DESKTOP, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"file://{page_file}")
    assert "needs JavaScript" in page.locator("#old").inner_text()
    context.close()


# Texts whose contrast with what lies behind them is below 4.5 (WCAG 2.2, level AA).
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (text) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].map((one, i) => (i === 3 ? one / 255 : one));
  };
  const over = (front, back) => front.slice(0, 3).map((one, i) => one * front[3] + back[i] * (1 - front[3]));
  const light = (colour) => {
    const [r, g, b] = colour.map((one) => ((one /= 255) <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    let layers = [];
    for (let one = element; one; one = one.parentElement) layers.push(rgba(getComputedStyle(one).backgroundColor));
    return layers.reverse().reduce((back, front) => over(front, back), [255, 255, 255]);
  };
  const found = new Map();
  for (const element of document.querySelectorAll('main *, header *, nav *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.closest('svg, .plot, .unseen, .none') || !element.checkVisibility()) continue;
    const back = behind(element);
    const front = over(rgba(getComputedStyle(element).color), back);
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) found.set(element.tagName + '.' + element.className, contrast.toFixed(2));
  }
  return [...found];
}"""
