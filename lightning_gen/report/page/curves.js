// Curves of any logged figure, runs overlaid.

const MOST_CHARTS = 12;
const unpacked = new Map();

function unpack(id) {
  if (!unpacked.has(id)) {
    const made = inflate(`curves-${id}`).then((content) => {
      const { axes, curves } = JSON.parse(content);
      for (const curve of Object.values(curves)) {
        let row = 0;
        curve.rows = curve.rows.map((step) => (row += step));
      }
      return { axes, curves };
    });
    unpacked.set(id, made);
  }
  return unpacked.get(id);
}

const CLOCK = /(^|\/)(processor_)?seconds$/;
const loggedFigures = unique(RUNS.flatMap((run) => run.logged)).filter((name) => !CLOCK.test(name));
const clocks = unique(RUNS.flatMap((run) => run.logged)).filter((name) => CLOCK.test(name));
const AXES = [
  { value: "images_seen", label: "images seen" },
  ...clocks.map((name) => ({ value: name, label: name })),
  ...(RUNS.some((run) => run.seconds && run.images_seen) ? [{ value: "pace", label: "seconds, at each run\u2019s mean pace" }] : []),
];

// At first: a distance, a likelihood and a loss that most of the chosen runs have.
function usualPlots() {
  const runs = chosen();
  const covered = (name) => runs.filter((run) => run.logged.includes(name)).length;
  const known = loggedFigures.filter(covered);
  const main = known.filter((name) => FIGURES[name].main && FIGURES[name].higher !== null && FIGURES[name].part === "val");
  const weight = (name) => covered(name) + (/_heldout$/.test(name) ? 0.5 : 0);
  const one = (names) => names.slice().sort((a, b) => weight(b) - weight(a))[0];
  const found = [
    one(main.filter((name) => /\/(fid|kid)/.test(name))),
    one(main.filter((name) => FIGURES[name].kind)),
    one(known.filter((name) => /^train\/(loss|objective)/.test(name))),
  ].filter(Boolean);
  return found.length ? found : known.slice(0, 2);
}

const plots = () => (state.plots || usualPlots()).filter((name) => loggedFigures.includes(name)).slice(0, MOST_CHARTS);
const setPlots = (names) => set({ plots: names.join("\n") === usualPlots().join("\n") ? null : names });

const figureOptions = (names) =>
  names.map((name) => ({
    value: name,
    label: name,
    group: { val: "Validation", train: "Training", test: "Test" }[FIGURES[name].part] || "Other",
  }));

function renderCurveTools() {
  if (!loggedFigures.length) {
    show($("curve-tools"), h("p", { class: "quiet" }, "No run has logged a figure yet, so there are no curves."));
    return;
  }
  const share = h("output", { for: "smooth" }, `${state.smooth} %`);
  show(
    $("curve-tools"),
    select("x-axis", "Over", AXES, state.x, (x) => set({ x })),
    check("x-log", "log x", !!state.xlog, (on) => set({ xlog: on ? "1" : "" })),
    check("y-log", "log y", !!state.ylog, (on) => set({ ylog: on ? "1" : "" })),
    h(
      "label",
      { class: "field", for: "smooth" }, // else it would be a label of the output inside it
      h("span", {}, "Smooth over ", share, " of a run"),
      h("input", {
        type: "range",
        id: "smooth",
        min: 0,
        max: 30,
        step: 1,
        value: state.smooth,
        oninput: (event) => {
          share.textContent = `${event.target.value} %`;
          set({ smooth: event.target.value });
        },
      })
    ),
    select(
      "add-plot",
      "Add a plot",
      [{ value: "", label: "choose a figure \u2026" }, ...figureOptions(loggedFigures)],
      "",
      (name) => {
        if (!name) return;
        setPlots(unique([...plots(), name]).slice(-MOST_CHARTS));
        $("add-plot").value = "";
      }
    )
  );
}

function renderCurves() {
  const runs = chosen();
  const names = plots();
  show(
    $("legend"),
    runs.map((run, place) =>
      h(
        "li",
        {},
        h(
          "button",
          {
            type: "button",
            class: "open",
            id: `legend-${run.id}`,
            onclick: () => openDetails(run),
            onmouseenter: () => highlight(place),
            onmouseleave: () => highlight(null),
            onfocus: () => highlight(place),
            onblur: () => highlight(null),
          },
          swatch(place),
          h("span", {}, wrappableName(shortName(run)))
        )
      )
    )
  );
  const box = $("charts");
  const there = [...box.children].map((figure) => figure.dataset.figure);
  if (there.join("\n") !== names.join("\n")) {
    const old = new Map([...box.children].map((figure) => [figure.dataset.figure, figure]));
    show(box, names.map((name) => old.get(name) || chartFrame(name)));
  }
  for (const figure of box.children) drawCurves(figure.querySelector(".plot"), figure.dataset.figure, runs);
}

function chartFrame(name) {
  const about = FIGURES[name];
  const direction = about.higher === null ? "" : about.higher ? "higher is better" : "lower is better";
  return h(
    "figure",
    { class: "card", "data-figure": name },
    h(
      "figcaption",
      {},
      h("h3", {}, name),
      h("span", { class: "quiet" }, [about.kind ? `${KIND[about.kind]} likelihood` : "", direction].filter(Boolean).join(", ")),
      h(
        "button",
        {
          type: "button",
          class: "close",
          "aria-label": `Remove the plot of ${name}`,
          onclick: () => {
            setPlots(plots().filter((one) => one !== name));
            $("add-plot").focus();
          },
        },
        "\u00d7"
      )
    ),
    h("div", { class: "plot" })
  );
}

function drawCurves(element, name, runs) {
  const what = [name, runs.map((run) => run.id), state.x, state.xlog, state.ylog, state.smooth];
  draw(element, what, async () => {
    const data = await Promise.all(runs.map((run) => unpack(run.id)));
    const width = Number(state.smooth) / 100;
    const traces = [];
    const ends = [];
    runs.forEach((run, place) => {
      const curve = data[place].curves[name];
      const line = curve && points(data[place], curve, run);
      if (!line || !line.x.length) return;
      const base = {
        type: "scatter",
        hovertemplate: `${bare(shortName(run))}<br>%{y:.5~g} at %{x:,.5~s}<extra></extra>`,
        meta: place,
      };
      const style = { color: lineColour(place), dash: lineDash(place), width: 2 };
      const few = line.x.length <= 40;
      if (width) {
        traces.push({ ...base, ...line, mode: "lines", line: { ...style, width: 1 }, opacity: 0.22, hoverinfo: "skip", hovertemplate: null });
        const soft = smoothed(curve.mean ? meanLine(curve, run) : line, width);
        traces.push({ ...base, ...soft, mode: "lines", line: { ...style, shape: "spline", smoothing: 0.4 } });
      } else {
        traces.push({ ...base, ...line, mode: few ? "lines+markers" : "lines", line: style, marker: { size: 5, color: style.color } });
      }
      ends.push([shortName(run), line.y[line.y.length - 1]]);
    });
    const title = (AXES.find((one) => one.value === state.x) || AXES[0]).label;
    return {
      traces,
      label: ends.length
        ? `${name} over ${title}. Newest values: ${ends.slice(0, 12).map(([run, y]) => `${run} ${number(y)}`).join("; ")}.`
        : `${name}: none of the chosen runs has logged it.`,
      layout: {
        xaxis: axis(title, !!state.xlog, { tickformat: "~s" }),
        yaxis: axis("", !!state.ylog),
        annotations: traces.length
          ? []
          : [
              {
                text: "None of the chosen runs has logged this figure.",
                showarrow: false,
                xref: "paper",
                yref: "paper",
                x: 0.5,
                y: 0.5,
                font: { color: colour("quiet"), size: 13 },
              },
            ],
      },
    };
  });
}

const pace = (run) => (run.seconds && run.images_seen ? run.seconds / run.images_seen : null);

function points({ axes }, curve, run) {
  const x = state.x === "pace" ? axes.images_seen : axes[state.x];
  const scale = state.x === "pace" ? pace(run) : 1;
  if (!x || scale === null) return null;
  return { x: curve.rows.map((row) => x[row] * scale), y: curve.y };
}

function meanLine(curve, run) {
  const x = state.x === "pace" ? curve.mean.images_seen : curve.mean[state.x];
  return { x: x.map((one) => one * (state.x === "pace" ? pace(run) : 1)), y: curve.mean.y };
}

// A Gaussian kernel over a share of the run, so that it does not matter how often a figure was logged.
function smoothed({ x, y }, share) {
  const scale = state.xlog ? (one) => Math.log(Math.max(one, 1e-9)) : (one) => one;
  const at = x.map(scale);
  const width = (share * (Math.max(...at) - Math.min(...at))) / 2 || 1;
  const soft = at.map((centre) => {
    let sum = 0;
    let weights = 0;
    for (let i = 0; i < at.length; i += 1) {
      const weight = Math.exp(-0.5 * ((at[i] - centre) / width) ** 2);
      if (y[i] === null || weight < 1e-6) continue;
      sum += weight * y[i];
      weights += weight;
    }
    return sum / weights;
  });
  return { x, y: soft };
}

async function highlight(place) {
  const library = plotly && (await plotly);
  for (const element of document.querySelectorAll("#charts .plot")) {
    if (!library || !element.data || !element.data.length) continue;
    const faint = element.data.map((trace) => (trace.hoverinfo === "skip" ? 0.22 : 1));
    const opacity = element.data.map((trace, i) => (place === null || trace.meta === place ? faint[i] : 0.12));
    library.restyle(element, { opacity });
  }
}
