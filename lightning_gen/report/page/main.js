// The head of the page, the order in which parts are drawn, and the reload of a page that is rebuilt.

const SECTIONS = [
  ["runs", "Leaderboard"],
  ["curves", "Curves"],
  ["samples", "Samples"],
  ["configs", "What differs"],
  ["fronts", "Quality and cost"],
  ...(DATA.sweeps.length ? [["sweeps", DATA.sweeps.length > 1 ? "Sweeps" : "Sweep"]] : []),
];

function go(id) {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  $(id).scrollIntoView({ behavior: calm ? "auto" : "smooth" });
  $(id).focus({ preventScroll: true });
}

function renderHead() {
  const sets = unique(RUNS.map((run) => run.data).filter(Boolean));
  const families = unique(RUNS.map((run) => run.family).filter(Boolean));
  const running = RUNS.filter((run) => run.status === "running").length;
  const marked = RUNS.filter((run) => run.problems.length).length;
  const built = new Date(DATA.built).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  show(
    $("about"),
    [
      plural(RUNS.length, "run"),
      families.length ? `of ${families.length === 1 ? families[0] : `${families.length} families`}` : "",
      sets.length ? `on ${sets.length <= 3 ? sets.join(", ") : `${sets.length} data sets`}` : "",
    ]
      .filter(Boolean)
      .join(" "),
    DATA.sweeps.length ? `, ${plural(DATA.sweeps.length, "sweep")}` : "",
    running ? `, ${running} still running` : "",
    marked ? `, ${marked} with something to look at` : "",
    h("span", { class: "built" }, ` \u00b7 ${built}`)
  );
  show(
    $("links"),
    SECTIONS.map(([id, name]) => h("li", {}, h("a", { href: `#${id}` }, name)))
  );
  document.addEventListener("click", (event) => {
    const link = event.target.closest && event.target.closest('a[href^="#"]');
    if (!link) return;
    event.preventDefault(); // the address holds what was chosen
    go(link.getAttribute("href").slice(1));
  });
  show(
    $("foot"),
    h("p", {}, `Made by lightning-gen ${DATA.version} from ${DATA.roots.join(", ")}. Long curves are thinned to what an eye can see; their extremes are kept.`)
  );
}

// The best run of each data set, by the figures that decide: a distance, and each kind of likelihood.
function renderGlance() {
  const tiles = [];
  for (const data of unique(RUNS.map((run) => run.data))) {
    const own = RUNS.filter((run) => run.data === data);
    const has = (name) => own.some((run) => run[state.mode][name] !== undefined);
    const names = Object.keys(FIGURES).filter((name) => FIGURES[name].part === "val" && FIGURES[name].main && has(name));
    const distances = names.filter((name) => /^val\/fid/.test(name));
    const held = distances.filter((name) => /_heldout$/.test(name));
    for (const name of [...(held.length ? held : distances), ...names.filter((one) => FIGURES[one].kind)]) {
      const runs = own.filter((run) => run[state.mode][name] !== undefined);
      const higher = FIGURES[name].higher;
      const best = runs.reduce((a, b) => ((higher ? b[state.mode][name] > a[state.mode][name] : b[state.mode][name] < a[state.mode][name]) ? b : a));
      tiles.push({ data, name, best, count: runs.length });
    }
  }
  const shown = tiles.filter((tile) => tile.count > 1).slice(0, 8);
  $("glance").hidden = !shown.length;
  show(
    $("glance"),
    shown.map(({ data, name, best, count }) =>
      h(
        "div",
        { class: "tile" },
        h("p", { class: "quiet" }, data, FIGURES[name].kind ? ` \u00b7 ${KIND[FIGURES[name].kind]}` : ""),
        h("p", { class: "value" }, number(best[state.mode][name])),
        h("p", { class: "what" }, wrappable(name)),
        h("p", {}, h("button", { type: "button", class: "open", id: `glance-${data}-${name}`, onclick: () => openDetails(best) }, wrappableName(shortName(best)))),
        h("p", { class: "quiet" }, `best of ${plural(count, "run")}`)
      )
    )
  );
}

function renderAll() {
  renderGlance();
  renderBoard();
  renderCurves();
  renderSamples();
  renderConfigs();
  renderFronts();
  renderSweeps();
}

// --- a page that is rebuilt while runs go on loads itself again, and looks as before

const KEPT = `lightning-gen ${location.pathname}`;

function remembered() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT)) || {};
  } catch {
    return {};
  }
}

function remember(what) {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(what));
  } catch {
    // a browser without storage for files starts at the top again
  }
}

function keepLive() {
  const before = remembered();
  if (before.left && Date.now() - before.left < 60000) {
    if (before.focus && $(before.focus)) $(before.focus).focus({ preventScroll: true });
    scrollTo(0, before.scroll || 0);
  }
  if (DATA.live === null) {
    remember({});
    return;
  }
  // A page that was the same last time is asked less often.
  const pause = before.built === DATA.built ? Math.min(120, before.pause * 1.5) : Math.max(1, DATA.live);
  let paused = before.paused === true;
  let touched = 0;
  for (const kind of ["pointermove", "keydown", "wheel", "touchmove"]) addEventListener(kind, () => (touched = Date.now()), { passive: true });
  const button = h("button", { type: "button", class: "plain", id: "pause-live", onclick: () => { paused = !paused; say(); } });
  const words = h("span", {});
  const say = () => {
    words.textContent = paused ? "Rebuilt while runs go on; this page does not follow. " : "Live: this page follows the runs. ";
    button.textContent = paused ? "Follow" : "Hold";
  };
  say();
  $("live").hidden = false;
  show($("live"), h("span", { class: "dot", "aria-hidden": "true" }), words, button);
  const due = Date.now() + 1000 * pause;
  setInterval(() => {
    const busy = document.hidden || $("details").open || document.querySelector(".menu[open]") || Date.now() - touched < 3000;
    if (paused || busy || playing || Date.now() < due) return;
    writeState();
    const focus = document.activeElement ? document.activeElement.id : "";
    remember({ scroll: scrollY, focus, built: DATA.built, pause, paused, left: Date.now() });
    location.reload();
  }, 500);
}

$("old").hidden = true;
if (!("DecompressionStream" in globalThis)) {
  $("old").hidden = false;
  $("old").textContent = "This browser is too old for the plots on this page (it lacks DecompressionStream): use one of 2023 or later.";
}
renderHead();
renderFilters();
renderCurveTools();
renderAll();
watchers.push(renderAll);
addEventListener("hashchange", () => {
  renderFilters();
  renderCurveTools();
});
DARK.addEventListener("change", renderAll);
keepLive();
globalThis.lightningReport = { state: () => state, set, visible: () => visible().map((run) => run.id) };
