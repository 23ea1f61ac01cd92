// One sweep at a time: its winner, parallel coordinates, importance, history, and quality against cost.

const trialName = (trial) => `trial ${trial.number}`;
let windows = new Map(); // brushed ranges of the parallel coordinates, by axis

function currentSweep() {
  return SWEEP.get(state.study) || SWEEP.get(state.sweep) || DATA.sweeps[0];
}

function renderSweeps() {
  if (!DATA.sweeps.length) return;
  $("sweeps").hidden = false;
  $("sweeps-title").textContent = DATA.sweeps.length > 1 ? "Sweeps" : "Sweep";
  const sweep = currentSweep();
  show(
    $("sweep-tools"),
    DATA.sweeps.length > 1
      ? select("study", "Sweep", DATA.sweeps.map((one) => ({ value: one.id, label: one.name })), sweep.id, (study) => set({ study }))
      : h("h3", { class: "alone" }, sweep.name),
    h(
      "button",
      { type: "button", class: "plain", id: "show-trials", onclick: () => { set({ sweep: sweep.id, sel: [] }); renderFilters(); go("runs"); } },
      "Its trials in the leaderboard"
    )
  );
  const box = $("sweep");
  if (box.dataset.sweep !== sweep.id) {
    box.dataset.sweep = sweep.id;
    windows = new Map();
    show(
      box,
      overview(sweep),
      h(
        "figure",
        { class: "card" },
        h("figcaption", {}, h("h3", {}, "Parallel coordinates"), h("span", { class: "quiet" }, "drag along an axis, or use its arrow keys, to choose trials")),
        h("div", { class: "scroll", id: "parallel", tabindex: "-1" }),
        h("p", { class: "quiet" }, "The best value is at the top; strong lines are good trials, dashed ones were pruned, dotted ones failed."),
        h("p", { class: "quiet", id: "brushed", role: "status", "aria-live": "polite" }),
        trialTable(sweep)
      ),
      h(
        "div",
        { class: "charts" },
        h("figure", { class: "card" }, h("figcaption", {}, h("h3", {}, "What decides")), importancePart(sweep)),
        h(
          "figure",
          { class: "card" },
          h("figcaption", {}, h("h3", {}, "History"), h("span", { class: "quiet" }, "value of each trial, and the best so far")),
          h("div", { class: "plot", id: "history" })
        ),
        h(
          "figure",
          { class: "card" },
          h("figcaption", { id: "sweep-front-head" }),
          h("div", { class: "plot", id: "sweep-front" }),
          h("div", { id: "sweep-front-list" })
        )
      )
    );
    drawParallel(sweep);
  }
  draw($("history"), ["history", sweep.id], async () => historyPicture(sweep));
  renderSweepFront(sweep);
}

function overview(sweep) {
  const counts = new Map();
  for (const trial of sweep.trials) counts.set(trial.state, (counts.get(trial.state) || 0) + 1);
  const states = [...counts].map(([name, n]) => `${whole(n)} ${name}`).join(", ");
  const goal = `${sweep.metric || "its figure"}, ${sweep.higher ? "higher" : "lower"} is better`;
  const constant = Object.entries(sweep.constant);
  const winner = sweep.winner === null ? null : sweep.trials[sweep.winner];
  const run = winner && RUN.get(winner.run);
  return [
    h("p", {}, `${plural(sweep.trials.length, "trial")} (${states}) for ${goal}.`,
      constant.length ? ` The same in all: ${constant.map(([name, value]) => `${name} = ${brief(value, true)}`).join(", ")}.` : ""),
    winner
      ? h(
          "div",
          { class: "winner card" },
          h("p", {}, h("strong", {}, `Trial ${winner.number} won with ${number(winner.value)}.`), " ",
            h("button", { type: "button", class: "open", onclick: () => openDetails(run) }, wrappableName(shortName(run)))),
          h(
            "ul",
            { class: "settings" },
            sweep.parameters.map((parameter, i) => h("li", {}, h("span", {}, parameter.name), " ", h("b", {}, setting(parameter, winner.parameters[i]))))
          ),
          sweep.command ? commandBox(sweep.command) : null
        )
      : h("p", { class: "quiet" }, "No trial has finished with a value yet."),
  ];
}

function setting(parameter, value) {
  if (value === null) return "not set";
  if (parameter.kind !== "choice") return plain(value);
  return briefly(parameter.choices[value], briefChoices(parameter.choices)[value]);
}

function trialTable(sweep) {
  return h(
    "details",
    {},
    h("summary", {}, "The trials as a table"),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Trials" },
      h(
        "table",
        { class: "plain-table" },
        h(
          "thead",
          {},
          h("tr", {}, ["Trial", "State", sweep.metric || "value", ...sweep.parameters.map((one) => one.name)].map((name) => h("th", { scope: "col" }, name)))
        ),
        h(
          "tbody",
          {},
          sweep.trials.map((trial) =>
            h(
              "tr",
              {},
              h("th", { scope: "row" }, h("button", { type: "button", class: "open", onclick: () => openDetails(RUN.get(trial.run)) }, String(trial.number))),
              h("td", {}, h("span", { class: `badge ${trial.state}` }, trial.state)),
              h("td", { class: "number" }, number(trial.value)),
              sweep.parameters.map((parameter, i) => h("td", { class: parameter.kind === "number" ? "number" : "" }, setting(parameter, trial.parameters[i])))
            )
          )
        )
      )
    )
  );
}

// --- parallel coordinates: drawn here, because keys and a phone's width matter more than a million lines

function axesOf(sweep) {
  const rows = sweep.importance.rows ? sweep.importance.rows.map((row) => row.name) : [];
  const rank = (parameter) => (rows.includes(parameter.name) ? rows.indexOf(parameter.name) : rows.length);
  const list = sweep.parameters
    .map((parameter, i) => ({ ...parameter, get: (trial) => trial.parameters[i] }))
    .sort((a, b) => rank(a) - rank(b));
  const values = sweep.trials.map((trial) => trial.value).filter((value) => value !== null);
  if (values.length) {
    const flip = !sweep.higher; // the best always at the top
    list.push({ name: sweep.metric || "value", kind: "number", log: spreads(values, 20), choices: [], flip, last: true, get: (trial) => trial.value });
  }
  for (const one of list) {
    if (one.kind === "choice") {
      one.at = (value) => (one.choices.length > 1 ? 0.06 + (0.88 * value) / (one.choices.length - 1) : 0.5);
      one.ticks = briefChoices(one.choices).map((label, value) => [one.at(value), label]);
      continue;
    }
    const scale = one.log ? Math.log : (value) => value;
    const known = sweep.trials.map(one.get).filter((value) => value !== null && (!one.log || value > 0));
    const [low, high] = [scale(Math.min(...known)), scale(Math.max(...known))];
    const place = (value) => (high > low ? (scale(value) - low) / (high - low) : 0.5);
    one.at = one.flip ? (value) => 1 - place(value) : place;
    const back = (share) => (one.log ? Math.exp(low + share * (high - low)) : low + share * (high - low));
    const few = unique(known).sort((a, b) => a - b);
    const roomy = few.length <= 6 && few.every((value, i) => i === 0 || place(value) - place(few[i - 1]) > 0.05);
    if (!one.last && high > low && roomy) {
      one.ticks = few.map((value) => [one.at(value), plain(value)]); // chosen by a person, or nearly
      continue;
    }
    one.ticks = (high > low ? [0, 0.25, 0.5, 0.75, 1] : [0.5]).map((share) => [one.flip ? 1 - share : share, plain(Number(back(share).toPrecision(3)))]);
  }
  return list;
}

function drawParallel(sweep) {
  const box = $("parallel");
  const axes = axesOf(sweep);
  if (sweep.parameters.length === 0 || sweep.trials.every((trial) => trial.value === null)) {
    show(box, h("p", { class: "quiet" }, sweep.parameters.length ? "No trial has a value yet." : "No parameter varies."));
    return;
  }
  const [top, height] = [46, 250];
  const { places, rooms, width } = placesOf(axes, box.clientWidth);
  const y = (share) => top + (1 - share) * height;
  const order = sweep.trials
    .filter((trial) => trial.value !== null)
    .sort((a, b) => (sweep.higher ? a.value - b.value : b.value - a.value)); // the best is drawn last, on top
  const tone = new Map(order.map((trial, i) => [trial, order.length > 1 ? i / (order.length - 1) : 1]));
  const lines = new Map();
  const layer = svg("g", {});
  for (const trial of [...sweep.trials.filter((one) => one.value === null), ...order]) {
    let path = "";
    let pen = "M";
    axes.forEach((one, i) => {
      const value = one.get(trial);
      if (value === null) {
        pen = "M";
        return;
      }
      path += `${pen}${places[i]} ${y(one.at(value)).toFixed(1)}`;
      pen = "L";
    });
    const share = tone.get(trial);
    const line = svg(
      "path",
      {
        d: path,
        class: `trial ${trial.state}`,
        style: {
          "--tone": share === undefined ? 0 : share.toFixed(3),
          "stroke-width": share === undefined ? 1 : 1 + 1.6 * share ** 3,
        },
        onclick: () => openDetails(RUN.get(trial.run)),
      },
      svg("title", {}, `${trialName(trial)}, ${trial.state}: ${number(trial.value)}`)
    );
    lines.set(trial, line);
    layer.append(line);
  }
  const update = () => {
    const kept = sweep.trials.filter((trial) =>
      [...windows].every(([i, [low, high]]) => {
        const value = axes[i].get(trial);
        return value !== null && axes[i].at(value) >= low - 1e-9 && axes[i].at(value) <= high + 1e-9;
      })
    );
    for (const [trial, line] of lines) line.classList.toggle("out", !kept.includes(trial));
    const values = kept.map((trial) => trial.value).filter((value) => value !== null);
    const best = values.length ? `; the best of them reached ${number(sweep.higher ? Math.max(...values) : Math.min(...values))}` : "";
    $("brushed").textContent = windows.size ? `${whole(kept.length)} of ${plural(sweep.trials.length, "trial")} inside the ranges${best}. Escape clears.` : "";
  };
  const picture = svg(
    "svg",
    { class: "parallel", width, height: top + height + 22, viewBox: `0 0 ${width} ${top + height + 22}`, role: "group", "aria-label": "Parallel coordinates of the trials; each axis can be focused" },
    layer,
    axes.map((one, i) => parallelAxis(one, i, places[i], y, [rooms[i], Math.min(rooms[i], rooms[i + 1] || WIDEST)], update))
  );
  show(box, picture);
  update();
}

// Where axes stand: the words of an axis are on its left, so each has as much room there as they need, within limits;
// names are above, centred on the axis. What is left of the box is shared out.
const [LETTER, NARROWEST, WIDEST] = [6.6, 104, 236]; // pixels
const wide = (text) => LETTER * text.length;
const namesOf = (one) => (one.last ? [one.name] : one.name.split(".").slice(-2));

function placesOf(axes, available) {
  const wanted = axes.map((one) => Math.min(WIDEST, Math.max(...one.ticks.map(([, text]) => wide(text) + 22))));
  const heads = axes.map((one) => Math.min(WIDEST, Math.max(...namesOf(one).map(wide)) + 12));
  const rooms = axes.map((_, i) =>
    i === 0 ? Math.max(wanted[0], heads[0] / 2) : Math.max(NARROWEST, wanted[i], Math.min(NARROWEST * 1.5, (heads[i - 1] + heads[i]) / 2))
  );
  const end = Math.max(24, heads[axes.length - 1] / 2);
  const spare = available - rooms.reduce((a, b) => a + b, 0) - end;
  if (spare > 0 && axes.length > 1) for (let i = 1; i < axes.length; i++) rooms[i] += Math.floor(spare / (axes.length - 1));
  const places = [];
  for (const room of rooms) places.push((places.length ? places[places.length - 1] : 0) + room);
  return { places, rooms: rooms.map((room, i) => (i ? room : Math.max(room, 2 * places[0]))), width: places[places.length - 1] + end };
}

function parallelAxis(one, i, x, y, [room, head], update) {
  const range = svg("rect", { class: "window", x: x - 9, width: 18, rx: 3 });
  const words = one.name.split(".");
  const fits = (pixels) => Math.max(8, Math.floor(pixels / LETTER));
  const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}\u2026` : text);
  const label = (text, dy, name) => svg("text", { x, y: dy, class: name, "text-anchor": "middle" }, short(text, one.last ? 99 : fits(head)));
  const describeRange = () => {
    const [low, high] = windows.get(i) || [0, 1];
    const near = (share) => one.ticks.reduce((a, b) => (Math.abs(b[0] - share) < Math.abs(a[0] - share) ? b : a))[1];
    return windows.has(i) ? `from about ${near(low)} to about ${near(high)}` : "whole range";
  };
  const group = svg(
    "g",
    { class: "axis", tabindex: "0", role: "group" },
    svg("title", {}, one.name),
    svg("rect", { class: "reach", x: x - NARROWEST / 2, y: y(1) - 44, width: NARROWEST, height: y(0) - y(1) + 60 }),
    svg("line", { x1: x, x2: x, y1: y(1), y2: y(0) }),
    range,
    svg("rect", { class: "grab", x: x - 11, y: y(1) - 6, width: 22, height: y(0) - y(1) + 12 }),
    words.length > 1 ? label(words.slice(0, -1).slice(-1)[0], y(1) - 30, "path") : null,
    label(one.last ? one.name : words[words.length - 1], y(1) - 15, one.last ? "leaf value" : "leaf"),
    one.ticks.map(([share, text]) => svg("text", { x: x - 7, y: y(share) + 4, class: "tick", "text-anchor": "end" }, short(text, fits(room - 15))))
  );
  const apply = (next) => {
    if (next && next[1] - next[0] < 0.999) windows.set(i, [Math.max(0, next[0]), Math.min(1, next[1])]);
    else windows.delete(i);
    const [low, high] = windows.get(i) || [0, 0];
    range.setAttribute("y", y(high));
    range.setAttribute("height", Math.max(0, y(low) - y(high)));
    group.setAttribute("aria-label", `${one.name}: ${describeRange()}. Up and down move the lower end, with Shift the upper end; Escape clears.`);
    update();
  };
  const share = (event) => {
    const box = group.ownerSVGElement.getBoundingClientRect();
    const at = ((event.clientY - box.top) * group.ownerSVGElement.viewBox.baseVal.height) / box.height;
    return Math.min(1, Math.max(0, (y(0) - at) / (y(0) - y(1))));
  };
  let start = null;
  group.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch") return; // which scrolls
    start = share(event);
    group.setPointerCapture(event.pointerId);
  });
  group.addEventListener("pointermove", (event) => {
    if (start === null) return;
    const end = share(event);
    if (Math.abs(end - start) > 0.02) apply([Math.min(start, end), Math.max(start, end)]);
  });
  group.addEventListener("pointerup", (event) => {
    if (start !== null && Math.abs(share(event) - start) <= 0.02) apply(null);
    start = null;
  });
  group.addEventListener("keydown", (event) => {
    const [low, high] = windows.get(i) || [0, 1];
    const step = { ArrowUp: 0.05, ArrowDown: -0.05 }[event.key];
    if (event.key === "Escape") apply(null);
    else if (step && event.shiftKey) apply([low, Math.min(1, Math.max(low + 0.05, high + step))]);
    else if (step) apply([Math.max(0, Math.min(high - 0.05, low + step)), high]);
    else return;
    event.preventDefault();
  });
  queueMicrotask(() => apply(windows.get(i) || null));
  return group;
}

// --- importance

function importancePart(sweep) {
  const found = sweep.importance;
  if (found.why_not) return h("p", { class: "quiet" }, found.why_not);
  const most = Math.max(...found.rows.map((row) => row.importance), 1e-9);
  const weak = found.explained < 0.1;
  const share = `${Math.max(0, Math.round(100 * found.explained))}\u00a0%`;
  return [
    h(
      "p",
      { class: weak ? "caution" : "" },
      `A random forest on the ${found.trials} finished trials explains ${share} of the variance of ranks that it has not seen.`,
      weak ? " That is next to nothing: do not trust the order below." : ""
    ),
    h(
      "table",
      { class: "importance" },
      h(
        "thead",
        {},
        h("tr", {}, h("th", { scope: "col" }, "Parameter"), h("th", { scope: "col" }, "Importance"), h("th", { scope: "col" }, "Direction"))
      ),
      h(
        "tbody",
        {},
        found.rows.map((row) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, wrappable(row.name)),
            h(
              "td",
              { class: "bar-cell" },
              h(
                "div",
                { class: "measure" },
                h("span", { class: "track" }, h("span", { style: { width: `${Math.max(1, (100 * Math.max(0, row.importance)) / most)}%` } })),
                row.importance.toFixed(2).replace("-", MINUS)
              )
            ),
            h("td", {}, directionText(row, sweep.higher))
          )
        )
      )
    ),
    h(
      "p",
      { class: "quiet" },
      "Importance: share of the variance of ranks that is lost when the parameter is shuffled. \u03c1: Spearman\u2019s correlation of parameter and value."
    ),
  ];
}

function directionText(row, higher) {
  if (row.best !== undefined) return [h("b", {}, briefly(row.best, brief(row.best, true))), " has the best median"];
  if (row.correlation === null || row.correlation === undefined) return "\u2013";
  const rho = `\u03c1\u00a0=\u00a0${(row.correlation > 0 ? "+" : "") + row.correlation.toFixed(2).replace("-", MINUS)}`;
  const way = row.correlation > 0 === higher ? "\u2191 more is better" : "\u2193 less is better";
  const near = unique(row.near.map((value) => plain(value, 2))).join(" to ");
  return [h("b", {}, Math.abs(row.correlation) < 0.25 ? "no steady trend" : way), ` ${rho}`, h("br"), h("small", {}, `best quarter: ${near}`)];
}

// --- history and cost

function historyPicture(sweep) {
  const looks = {
    finished: { symbol: "circle", size: 8, color: colour("line-0") },
    running: { symbol: "circle-open", size: 9, color: colour("line-0") },
    pruned: { symbol: "x", size: 8, color: colour("line-3") },
    failed: { symbol: "triangle-up", size: 10, color: colour("bad") },
  };
  const other = { symbol: "square-open", size: 8, color: colour("quiet") };
  const values = sweep.trials.map((trial) => trial.value).filter((value) => value !== null);
  const traces = unique(sweep.trials.map((trial) => trial.state)).map((name) => {
    const own = sweep.trials.filter((trial) => trial.state === name && trial.value !== null);
    return {
      type: "scatter",
      mode: "markers",
      name,
      showlegend: true,
      x: own.map((trial) => trial.number),
      y: own.map((trial) => trial.value),
      ids: own.map((trial) => trial.run),
      marker: { ...(looks[name] || other), opacity: 0.9 },
      hovertemplate: `trial %{x}, ${bare(name)}: %{y:.5~g}<extra></extra>`,
    };
  });
  const without = sweep.trials.filter((trial) => trial.value === null);
  traces.push({
    type: "scatter",
    mode: "markers",
    name: "without a value",
    showlegend: without.length > 0,
    x: without.map((trial) => trial.number),
    y: without.map(() => 0.03),
    yaxis: "y2",
    ids: without.map((trial) => trial.run),
    text: without.map((trial) => bare(trial.state)),
    marker: { symbol: "triangle-up-open", size: 10, color: colour("bad") },
    hovertemplate: "trial %{x}, %{text}: no value<extra></extra>",
  });
  const best = sweep.trials.filter((trial) => trial.best !== null);
  traces.push({
    type: "scatter",
    mode: "lines",
    name: "best so far",
    showlegend: true,
    x: best.map((trial) => trial.number),
    y: best.map((trial) => trial.best),
    line: { shape: "hv", color: colour("accent"), width: 2 },
    hoverinfo: "skip",
  });
  const top = sweep.winner === null ? "none finished" : number(sweep.trials[sweep.winner].value);
  return {
    traces: traces.filter((trace) => trace.x.length),
    click: (point) => point.data.ids && openDetails(RUN.get(point.data.ids[point.pointIndex])),
    label: `Value of ${plural(sweep.trials.length, "trial")} in order; best ${top}${sweep.winner === null ? "" : `, trial ${sweep.trials[sweep.winner].number}`}.`,
    layout: {
      showlegend: true,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 11 } },
      xaxis: axis("trial", false, { tickformat: "d" }),
      yaxis: axis(sweep.metric, spreads(values, 20)),
      yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
    },
  };
}

function renderSweepFront(sweep) {
  const costs = Object.keys(sweep.costs).filter((cost) => sweep.fronts[cost].length);
  const head = $("sweep-front-head");
  if (!costs.length) {
    show(head, h("h3", {}, "Quality against cost"));
    show($("sweep-front-list"), h("p", { class: "quiet" }, "No finished trial has both a value and a known cost yet."));
    $("sweep-front").hidden = true;
    return;
  }
  $("sweep-front").hidden = false;
  const cost = costs.includes(state.scost) ? state.scost : costs[0];
  show(
    head,
    h("h3", {}, "Quality against cost"),
    select("sweep-cost", "Cost", costs.map((value) => ({ value, label: COSTS[value].label })), cost, (scost) => set({ scost }), false)
  );
  const on = sweep.fronts[cost];
  const list = sweep.trials
    .map((trial, i) => ({ trial, i }))
    .filter(({ trial, i }) => trial.state === "finished" && trial.value !== null && sweep.costs[cost][i] !== null);
  draw($("sweep-front"), ["sweep front", sweep.id, cost], async () =>
    frontPicture({
      points: list.map(({ trial, i }) => ({
        name: trialName(trial),
        x: sweep.costs[cost][i],
        y: trial.value,
        on: on.includes(i),
        faint: false,
        colour: colour("line-0"),
        run: RUN.get(trial.run),
      })),
      front: on.map((i) => [sweep.costs[cost][i], sweep.trials[i].value]),
      cost,
      quality: sweep.metric,
      higher: sweep.higher,
    })
  );
  show(
    $("sweep-front-list"),
    h(
      "p",
      { class: "quiet" },
      "On the front: ",
      on.map((i, k) => `${k ? ", " : ""}trial ${sweep.trials[i].number} (${number(sweep.trials[i].value)}, ${COSTS[cost].shown(sweep.costs[cost][i])})`).join(""),
      "."
    )
  );
}

let settling = 0;
addEventListener("resize", () => {
  clearTimeout(settling);
  settling = setTimeout(() => DATA.sweeps.length && drawParallel(currentSweep()), 200);
});
