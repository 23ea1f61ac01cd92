// Quality against cost over all runs of one data set, with the Pareto front.

function renderFronts() {
  const options = DATA.fronts.filter((one) => one.runs.length);
  if (!options.length || RUNS.length < 2) {
    show($("front-tools"));
    const why = options.length ? "Two runs or more are needed." : "No run has both a validation figure with a direction and a known cost yet.";
    show($("front"), h("p", { class: "quiet" }, why));
    return;
  }
  const sets = unique(options.map((one) => one.data));
  const data = sets.includes(state.fdata) ? state.fdata : mostRuns(sets);
  const figures = unique(options.filter((one) => one.data === data).map((one) => one.figure));
  const figure = figures.includes(state.fig) ? state.fig : [...plots(), USUAL_SORT.replace(/^-/, ""), figures[0]].find((name) => figures.includes(name));
  const costs = unique(options.filter((one) => one.data === data && one.figure === figure).map((one) => one.cost));
  const cost = costs.includes(state.cost) ? state.cost : costs[0];
  show(
    $("front-tools"),
    sets.length > 1 ? select("front-data", "Data", sets.map((value) => ({ value, label: value || "unknown" })), data, (fdata) => set({ fdata })) : null,
    select("front-figure", "Quality", figureOptions(figures), figure, (fig) => set({ fig })),
    select("front-cost", "Cost", costs.map((value) => ({ value, label: COSTS[value].label })), cost, (one) => set({ cost: one }))
  );
  const best = options.find((one) => one.data === data && one.figure === figure && one.cost === cost && one.which === state.mode);
  const on = best ? best.runs.map((id) => RUN.get(id)) : [];
  const value = (run) => run[state.mode][figure];
  const all = RUNS.filter((run) => run.data === data && value(run) !== undefined && run[cost]);
  if (!$("front-plot")) show($("front"), h("figure", { class: "card" }, h("div", { class: "plot", id: "front-plot" })), h("div", { id: "front-list" }));
  const seen = new Set(visible().map((run) => run.id));
  const places = new Map(chosen().map((run, place) => [run.id, place]));
  draw($("front-plot"), ["front", data, figure, cost, state.mode, [...seen].sort(), [...places.keys()]], async () =>
    frontPicture({
      points: all.map((run) => ({
        name: shortName(run),
        x: run[cost],
        y: value(run),
        on: on.includes(run),
        faint: !seen.has(run.id),
        colour: places.has(run.id) ? lineColour(places.get(run.id)) : colour("line-none"),
        run,
      })),
      front: on.map((run) => [run[cost], value(run)]),
      cost,
      quality: figure,
      higher: FIGURES[figure].higher,
    })
  );
  show(
    $("front-list"),
    h(
      "p",
      {},
      `${on.length === 1 ? "One run is" : `${on.length} runs are`} on the front of ${plural(all.length, "run")}: no other is at least as good for no more ${COSTS[cost].unit}.`
    ),
    frontTable(on.map((run) => [run, run[cost], value(run)]), cost, figure)
  );
}

const mostRuns = (sets) => sets.slice().sort((a, b) => count(b) - count(a))[0];
const count = (data) => RUNS.filter((run) => run.data === data).length;

function frontTable(rows, cost, quality) {
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "Runs on the front" },
    h(
      "table",
      { class: "plain-table" },
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col" }, "Run"),
          h("th", { scope: "col", class: "number" }, COSTS[cost].label),
          h("th", { scope: "col", class: "number" }, wrappable(quality))
        )
      ),
      h(
        "tbody",
        {},
        rows.map(([run, x, y]) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, h("button", { type: "button", class: "open", onclick: () => openDetails(run) }, wrappableName(shortName(run)))),
            h("td", { class: "number" }, COSTS[cost].shown(x)),
            h("td", { class: "number" }, number(y))
          )
        )
      )
    )
  );
}

function frontPicture({ points: list, front, cost, quality, higher }) {
  const logX = spreads(list.map((point) => point.x), 8);
  const logY = spreads(list.map((point) => point.y), 30);
  const part = (kept, more) => ({
    type: "scatter",
    mode: "markers",
    x: kept.map((point) => point.x),
    y: kept.map((point) => point.y),
    text: kept.map((point) => bare(point.name)),
    customdata: kept.map((point) => COSTS[cost].shown(point.x)),
    ids: kept.map((point) => point.run.id),
    hovertemplate: `%{text}<br>%{y:.5~g}, %{customdata}<extra></extra>`,
    ...more,
  });
  const [on, off] = [list.filter((point) => point.on), list.filter((point) => !point.on)];
  // Between two runs of the front nothing better is known than the cheaper one: a step, not a slope.
  return {
    traces: [
      {
        type: "scatter",
        mode: "lines",
        x: front.map(([x]) => x),
        y: front.map(([, y]) => y),
        line: { shape: "hv", color: colour("accent"), width: 1.5, dash: "dot" },
        hoverinfo: "skip",
      },
      part(off, { marker: { size: 8, color: off.map((p) => p.colour), opacity: off.map((p) => (p.faint ? 0.25 : 0.75)) } }),
      part(on, {
        marker: { size: 12, symbol: "diamond", color: on.map((p) => p.colour), line: { width: 2, color: colour("accent") } },
      }),
    ],
    click: (point) => openDetails(RUN.get(point.data.ids[point.pointIndex])),
    label: `${quality} against ${COSTS[cost].unit} of ${plural(list.length, "run")}; ${on.length} on the Pareto front, listed beside.`,
    layout: {
      xaxis: axis(COSTS[cost].unit, logX, { tickformat: cost === "seconds" ? "~g" : "~s" }),
      yaxis: axis(`${quality} (${higher ? "higher" : "lower"} is better)`, logY),
    },
  };
}
