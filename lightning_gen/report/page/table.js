// The leaderboard: what each column holds, filters, order, and the choice of columns and runs.

const FIGURES = DATA.figures;
const STATUS = {
  finished: "finished",
  running: "running",
  interrupted: "interrupted",
  failed: "failed",
  pruned: "pruned",
  lost: "lost",
  unknown: "unknown",
};
const KIND = { exact: "exact", dequantized: "dequantized", bound: "bound", ais: "AIS", estimate: "estimate" };
const SWEEP = new Map(DATA.sweeps.map((sweep) => [sweep.id, sweep]));
const sweepName = (run) => (run.sweep ? SWEEP.get(run.sweep).name : "");

// Where a figure's value stands: last or best of training, or what `lightning validate` or `test` wrote.
const SOURCES = {
  val: { title: () => `Validation, ${state.mode} value`, of: (run) => run[state.mode], facts: "val" },
  validate: { title: () => "Validation, scored afterwards", of: (run) => run.scored.validate || {}, facts: "validate" },
  test: { title: () => "Test", of: (run) => run.scored.test || {}, facts: "test" },
  train: { title: () => "Training, last value", of: (run) => run.last, facts: "" },
};

function valueOf(run, source, name) {
  const value = SOURCES[source].of(run)[name];
  return value === undefined ? null : value;
}

function figureColumns() {
  const columns = [];
  const add = (source, name) => {
    const about = FIGURES[name];
    const arrow = about.higher === null ? "" : about.higher ? "\u2191" : "\u2193";
    const direction = about.higher === null ? "" : about.higher ? "higher is better" : "lower is better";
    columns.push({
      key: source === "validate" ? `scored:${name}` : name,
      source,
      name,
      label: about.plain,
      arrow,
      direction,
      kind: about.kind,
      higher: about.higher,
      main: about.main,
      numeric: true,
      value: (run) => valueOf(run, source, name),
      cell: (run) => figureCell(run, source, name),
    });
  };
  const has = (source) => (name) => RUNS.some((run) => SOURCES[source].of(run)[name] !== undefined);
  // Of those that lead, the ones that most runs have come first; all else in the order it came in.
  const known = (name) => RUNS.filter((run) => name in run.last).length;
  const names = Object.keys(FIGURES)
    .map((name) => [name, known(name)])
    .sort(([a, most], [b, fewer]) => FIGURES[b].main - FIGURES[a].main || (FIGURES[a].main ? fewer - most : 0))
    .map(([name]) => name);
  const training = names.filter((name) => RUNS.some((run) => name in run.last));
  for (const name of training.filter((name) => FIGURES[name].part === "val")) add("val", name);
  for (const name of names.filter((name) => FIGURES[name].part === "val").filter(has("validate"))) add("validate", name);
  for (const name of names.filter((name) => FIGURES[name].part === "test").filter(has("test"))) add("test", name);
  for (const name of training.filter((name) => FIGURES[name].part !== "val")) add("train", name);
  return columns;
}

function figureCell(run, source, name) {
  const value = valueOf(run, source, name);
  if (value === null) {
    // Figures without a direction have no best value: the last one stands in, and says so.
    const last = source === "val" && state.mode === "best" ? run.last[name] : undefined;
    if (last === undefined) return h("span", { class: "none" }, "\u2013", hidden("none"));
    return [number(last), h("small", {}, " last")];
  }
  const about = FIGURES[name];
  if (!about.kind) return number(value);
  const figures = source === "val" ? run.last : SOURCES[source].of(run);
  const error = state.mode === "last" || source !== "val" ? figures[`${name}_se`] : undefined;
  const facts = run.facts[SOURCES[source].facts] || {};
  const samples = facts.kind === about.kind && facts.num_samples > 1 ? ` \u00d7${facts.num_samples}` : "";
  return [
    number(value),
    error === undefined ? null : h("small", {}, ` \u00b1${error.toFixed(3)}`),
    h("small", { class: "kind", title: factsText(facts, about.kind) }, `${KIND[about.kind]}${samples}`),
  ];
}

function factsText(facts, kind) {
  const parts = [KIND[kind]];
  if (facts.kind === kind) {
    if (facts.num_samples > 1) parts.push(`${whole(facts.num_samples)} samples behind each likelihood`);
    if (facts.n) parts.push(`${whole(facts.n)} images`);
    if (facts.given_labels) parts.push("given the class");
  }
  return parts.join(", ");
}

const text = (key, label, value, more = {}) => ({
  key,
  source: "run",
  label,
  value: (run) => value(run) || null,
  cell: (run) => value(run) || h("span", { class: "none" }, "\u2013"),
  main: true,
  ...more,
});
const amount = (key, label, shown, more = {}) => ({
  key,
  source: "cost",
  label,
  numeric: true,
  value: (run) => run[key] ?? null,
  cell: (run) => shown(run[key]),
  main: true,
  ...more,
});

const badge = (run) => h("span", { class: `badge ${run.status}` }, STATUS[run.status] || run.status);

// Where a sweep goes over config files, its runs' names do not say what they are.
const CONFIGS_SWEPT = DATA.sweeps.some((sweep) => sweep.parameters.some((parameter) => parameter.name === "config"));

const RUN_COLUMNS = [
  text("family", "family", (run) => run.family),
  text("data", "data", (run) => run.data),
  text("status", "status", (run) => run.status, { cell: badge }),
  text("config", "config", (run) => run.config, { main: CONFIGS_SWEPT }),
  ...(DATA.sweeps.length
    ? [
        text("sweep", "sweep", sweepName),
        { ...amount("trial", "trial", (value) => value ?? "\u2013"), source: "run" },
      ]
    : []),
];
const COST_COLUMNS = [
  amount("parameters", "parameters", whole),
  amount("seconds", "time", duration, { note: "seconds of training, evaluation included" }),
  amount("rate", "images/s", (value) => (value >= 100 ? whole(value) : number(value)), {
    note: "images seen per second of training, evaluation included",
  }),
  amount("images_seen", "images seen", whole),
  amount("seed", "seed", (value) => value ?? "\u2013"),
];
const NAME_COLUMN = { key: "name", source: "run", label: "run", value: (run) => run.name };
const COLUMNS = [...RUN_COLUMNS, ...figureColumns(), ...COST_COLUMNS];
const GROUPS = { run: () => "Run", ...Object.fromEntries(Object.entries(SOURCES).map(([k, v]) => [k, v.title])), cost: () => "Cost" };

const usual = () => COLUMNS.filter((c) => c.main && (c.source !== "train" || !c.name)).map((c) => c.key);
// Columns that nobody asked for are left out where none of the runs has anything in them.
function shownColumns(runs) {
  if (state.cols) return COLUMNS.filter((column) => state.cols.includes(column.key));
  const keys = usual();
  const filled = (column) => !runs || runs.some((run) => column.value(run) !== null || (column.name && column.name in run.last));
  return COLUMNS.filter((column) => keys.includes(column.key) && filled(column));
}

// The order at first: by the figure that most runs have, distances to held-out images before those to the training part.
const USUAL_SORT = (() => {
  const ready = COLUMNS.filter((column) => column.source === "val" && column.main && column.higher !== null);
  const covered = (column) => RUNS.filter((run) => run.last[column.name] !== undefined).length;
  const weight = (column) => covered(column) + (/_heldout$/.test(column.name) ? 0.5 : 0);
  const best = ready.reduce((a, b) => (a && weight(a) >= weight(b) ? a : b), null);
  return best ? (best.higher ? `-${best.key}` : best.key) : "name";
})();

const SEARCHED = new Map(
  RUNS.map((run) => [run.id, [run.name, run.family, run.data, run.status, run.config, sweepName(run)].join(" ").toLowerCase()])
);

function visible() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const kept = RUNS.filter(
    (run) =>
      words.every((word) => SEARCHED.get(run.id).includes(word)) &&
      ["family", "data", "status", "sweep"].every((key) => !state[key] || run[key] === state[key])
  );
  const wanted = state.sort || USUAL_SORT;
  const column = [NAME_COLUMN, ...COLUMNS].find((one) => one.key === wanted.replace(/^-/, "")) || NAME_COLUMN;
  const sign = wanted.startsWith("-") ? -1 : 1;
  return kept
    .map((run) => [run, column.value(run)])
    .sort(([, a], [, b]) => {
      if (a === null || b === null) return (a === null) - (b === null); // those without a value stand last
      return sign * (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
    })
    .map(([run]) => run);
}

function renderFilters() {
  const options = (key, name) => [
    { value: "", label: `all` },
    ...unique(RUNS.map((run) => run[key]).filter(Boolean))
      .map((value) => ({ value, label: name ? name(value) : value }))
      .sort((a, b) => a.label.localeCompare(b.label)),
  ];
  const filter = (key, label, name) => {
    const found = options(key, name);
    return found.length > 2 || state[key] ? select(`by-${key}`, label, found, state[key], (value) => set({ [key]: value })) : null;
  };
  show(
    $("filters"),
    h(
      "label",
      { class: "field grow" },
      h("span", {}, "Filter"),
      h("input", {
        type: "search",
        id: "search",
        placeholder: "name, family, data \u2026",
        value: state.q,
        spellcheck: "false",
        oninput: (event) => set({ q: event.target.value }),
      })
    ),
    filter("family", "Family"),
    filter("data", "Data"),
    filter("status", "Status"),
    filter("sweep", "Sweep", (id) => SWEEP.get(id).name),
    h(
      "fieldset",
      { class: "switch" },
      h("legend", {}, "Validation value"),
      ["last", "best"].map((mode) =>
        h(
          "label",
          {},
          h("input", {
            type: "radio",
            name: "mode",
            id: `mode-${mode}`,
            value: mode,
            checked: state.mode === mode,
            onchange: () => set({ mode }),
          }),
          h("span", {}, mode)
        )
      )
    ),
    columnMenu()
  );
}

function columnMenu() {
  const groups = Object.entries(GROUPS).map(([source, title]) => [title(), COLUMNS.filter((c) => c.source === source)]);
  const boxes = new Map();
  const apply = () => {
    const keys = COLUMNS.filter((column) => boxes.get(column.key).checked).map((column) => column.key);
    set({ cols: keys.join() === usual().join() ? null : keys });
  };
  const menu = h(
    "details",
    { class: "menu" },
    h("summary", { id: "columns" }, "Columns"),
    h(
      "div",
      { class: "sheet" },
      h(
        "p",
        {},
        h(
          "button",
          {
            type: "button",
            class: "plain",
            id: "columns-usual",
            onclick: () => {
              const keys = usual();
              for (const [key, box] of boxes) box.checked = keys.includes(key);
              set({ cols: null });
            },
          },
          "As at first"
        )
      ),
      groups.map(([title, columns]) =>
        columns.length
          ? h(
              "fieldset",
              {},
              h("legend", {}, title),
              columns.map((column) => {
                const line = check(`column-${column.key}`, column.label, shownColumns().includes(column), apply);
                boxes.set(column.key, line.querySelector("input"));
                return line;
              })
            )
          : null
      )
    )
  );
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
  document.addEventListener("pointerdown", (event) => {
    if (menu.open && !menu.contains(event.target)) menu.open = false;
  });
  return menu;
}

function renderBoard() {
  const runs = visible();
  const columns = shownColumns(runs.length ? runs : RUNS);
  const wanted = state.sort || USUAL_SORT;
  const winners = bestCells(runs, columns);
  const plotted = new Map(chosen().map((run, place) => [run.id, place]));
  const ticked = new Set(state.sel);
  show(
    $("board"),
    h(
      "table",
      { class: "board" },
      h("caption", { class: "unseen" }, "Runs; the buttons in the column heads sort."),
      h("thead", {}, groupRow(columns), headRow(columns, wanted, runs)),
      h(
        "tbody",
        {},
        runs.map((run) => bodyRow(run, columns, winners, plotted.get(run.id), ticked.has(run.id))),
        runs.length ? null : h("tr", {}, h("td", { class: "empty", colspan: columns.length + 2 }, "No run matches the filter."))
      ),
      h("tfoot", {}, controls(runs).map((control) => controlRow(control, columns)))
    )
  );
  const filtered = runs.length < RUNS.length ? `${whole(runs.length)} of ${plural(RUNS.length, "run")}` : plural(RUNS.length, "run");
  const picked = ticked.size
    ? [
        `, ${whole(ticked.size)} chosen for plots and samples `,
        h("button", { type: "button", class: "plain", id: "unpick", onclick: () => set({ sel: [] }) }, "Clear"),
      ]
    : runs.length > FIRST
      ? `; the first ${FIRST} are in the plots, until you tick others`
      : "";
  show($("count"), filtered, runs.length ? picked : "");
  renderNotes(columns, runs);
}

function groupRow(columns) {
  const cells = [h("td", { colspan: 2, class: "stuck" })];
  for (let i = 0; i < columns.length; ) {
    let end = i;
    while (end < columns.length && columns[end].source === columns[i].source) end += 1;
    cells.push(
      h("th", { scope: "colgroup", colspan: end - i, class: "group" }, h("span", {}, GROUPS[columns[i].source]()))
    );
    i = end;
  }
  return h("tr", { class: "groups" }, cells);
}

function headRow(columns, wanted, runs) {
  const all = runs.length > 0 && runs.every((run) => state.sel.includes(run.id));
  const box = h("input", {
    type: "checkbox",
    id: "pick-all",
    "aria-label": "Choose all runs shown",
    checked: all,
    onchange: (event) => {
      const ids = runs.map((run) => run.id);
      const others = state.sel.filter((id) => !ids.includes(id));
      set({ sel: event.target.checked ? [...others, ...ids] : others });
    },
  });
  const head = (column, i) => {
    const sorted = wanted.replace(/^-/, "") === column.key;
    const down = wanted.startsWith("-");
    const first = column.higher ? `-${column.key}` : column.key; // the best first
    const next = sorted ? (down ? column.key : `-${column.key}`) : first;
    return h(
      "th",
      {
        scope: "col",
        class: [column.numeric ? "number" : "", column.key === "name" ? "stuck name" : "", starts(columns, i) ? "edge" : ""].join(" "),
        "aria-sort": sorted ? (down ? "descending" : "ascending") : "none",
      },
      h(
        "button",
        {
          type: "button",
          id: `sort-${column.key}`,
          title: [column.name || column.label, column.kind ? `${KIND[column.kind]} likelihood` : "", column.direction, column.note]
            .filter(Boolean)
            .join(", "),
          onclick: () => set({ sort: next === USUAL_SORT ? "" : next }),
        },
        h("span", {}, column.label),
        column.arrow ? h("span", { class: "way", "aria-hidden": "true" }, column.arrow) : null,
        column.direction ? hidden(`, ${column.direction}`) : null,
        h("span", { class: "sort", "aria-hidden": "true" }, sorted ? (down ? "\u25bc" : "\u25b2") : "")
      )
    );
  };
  return h("tr", { class: "heads" }, h("td", { class: "stuck pick" }, box), head(NAME_COLUMN, -1), columns.map(head));
}

const CONTROLS = {
  floor: "real held-out images in place of samples",
  memoriser: "training images drawn again: the ceiling of copying",
};

// What real images score, for each data set of the runs shown; null where runs of it disagree, as with other n.
function controls(runs) {
  const found = new Map();
  for (const run of runs) {
    for (const [source, byControl] of Object.entries(run.controls)) {
      for (const [name, figures] of Object.entries(byControl)) {
        const key = `${run.data} ${name}`;
        if (!found.has(key)) found.set(key, { name, data: run.data, values: {} });
        const values = found.get(key).values;
        for (const [figure, value] of Object.entries(figures)) {
          const place = `${source} ${figure}`;
          values[place] = values[place] === undefined || values[place] === value ? value : null;
        }
      }
    }
  }
  return [...found.values()].filter((control) => Object.keys(control.values).length);
}

function controlRow(control, columns) {
  const several = unique(RUNS.map((run) => run.data).filter(Boolean)).length > 1;
  return h(
    "tr",
    { "data-control": control.name },
    h("td", { class: "stuck pick" }),
    h(
      "th",
      { scope: "row", class: "stuck name", title: CONTROLS[control.name] || "" },
      control.name,
      several ? h("div", { class: "path" }, control.data) : null
    ),
    columns.map((column, i) => {
      const value = control.values[`${column.source} ${column.name}`];
      return h(
        "td",
        { class: [column.numeric ? "number" : "", starts(columns, i) ? "edge" : ""].join(" ") },
        value === undefined || value === null ? "" : number(value)
      );
    })
  );
}

const starts = (columns, i) => i >= 0 && (i === 0 || columns[i].source !== columns[i - 1].source);

function bodyRow(run, columns, winners, place, ticked) {
  return h(
    "tr",
    { class: [run.problems.length ? "marked" : "", ticked ? "ticked" : ""].join(" "), "data-run": run.id },
    h(
      "td",
      { class: "stuck pick" },
      h("input", {
        type: "checkbox",
        id: `pick-${run.id}`,
        "aria-label": `Choose ${run.name}`,
        checked: ticked,
        onchange: (event) =>
          set({ sel: event.target.checked ? [...state.sel, run.id] : state.sel.filter((id) => id !== run.id) }),
      })
    ),
    h(
      "th",
      { scope: "row", class: "stuck name" },
      h(
        "div",
        { class: "title" },
        place === undefined ? null : swatch(place),
        h("button", { type: "button", class: "open", id: `open-${run.id}`, onclick: () => openDetails(run) }, wrappableName(shortName(run)))
      ),
      shortName(run) === run.name ? null : h("div", { class: "path" }, wrappableName(run.name.split("/").slice(0, -2).join("/"))),
      run.problems.length
        ? h("ul", { class: "problems" }, run.problems.slice(0, 3).map((problem) => h("li", {}, problem)),
            run.problems.length > 3 ? h("li", {}, `and ${run.problems.length - 3} more: see the run`) : null)
        : null
    ),
    columns.map((column, i) =>
      h(
        "td",
        {
          class: [
            column.numeric ? "number" : "",
            starts(columns, i) ? "edge" : "",
            winners.has(`${run.id} ${column.key}`) ? "best" : "",
          ].join(" "),
        },
        column.cell(run),
        winners.has(`${run.id} ${column.key}`) ? hidden(", the best") : null
      )
    )
  );
}

// Cells with the best value of a column among the runs shown, for each data set by itself.
function bestCells(runs, columns) {
  const found = new Set();
  for (const column of columns.filter((one) => typeof one.higher === "boolean")) {
    const tops = new Map();
    for (const run of runs) {
      const value = column.value(run);
      if (value === null) continue;
      const top = tops.get(run.data) || { value, ids: [], count: 0 };
      top.count += 1;
      if (top.value === value) top.ids.push(run.id);
      else if (column.higher ? value > top.value : value < top.value) Object.assign(top, { value, ids: [run.id] });
      tops.set(run.data, top);
    }
    for (const top of tops.values()) if (top.count > 1) for (const id of top.ids) found.add(`${id} ${column.key}`);
  }
  return found;
}

function renderNotes(columns, runs) {
  const kinds = unique(columns.map((column) => column.kind).filter(Boolean));
  const several = unique(RUNS.map((run) => run.data).filter(Boolean)).length > 1;
  const best = state.mode === "best" && columns.some((column) => column.source === "val");
  const extractors = columns.some((column) => /^(val|test)\/(fid|kid|is)_/.test(column.name || ""));
  show(
    $("board-notes"),
    h(
      "p",
      {},
      [
        several ? "Bold is the best of its column among the runs shown on the same data." : "Bold is the best of its column among the runs shown.",
        best ? "Best values are of each figure by itself, maybe at different moments of training." : "",
        extractors ? "Distances in the features of different extractors stand in different columns and do not compare." : "",
        runs.some((run) => Object.keys((run.controls.val || {}).memoriser || {}).length)
          ? "Below the runs: the floor, real held-out images in place of samples, and a memoriser, training images drawn again."
          : "",
        kinds.length ? "Bits per dimension compare within one kind, one data set and one number of levels only." : "",
      ]
        .filter(Boolean)
        .join(" ")
    )
  );
}
