// Plotly, unpacked when the first plot is drawn, in the colours of the page.

const DARK = matchMedia("(prefers-color-scheme: dark)");
const LINES = ["solid", "dash", "dot", "dashdot"];
const COLOURS = 10; // --line-0 ... of the style sheet

async function inflate(id) {
  const bytes = Uint8Array.from(atob($(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

let plotly = null;
function loadPlotly() {
  plotly ??= inflate("plotly").then((source) => {
    document.head.append(h("script", {}, source));
    $("plotly").remove();
    return globalThis.Plotly;
  });
  return plotly;
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const lineColour = (place) => colour(`line-${place % COLOURS}`);
const lineDash = (place) => LINES[Math.floor(place / COLOURS) % LINES.length];

// Plotly takes some markup in its texts; a name from somebody's folder is none.
const bare = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function axis(title, log, more = {}) {
  return {
    title: { text: bare(title), standoff: 10, font: { size: 12, color: colour("quiet") } },
    type: log ? "log" : "linear",
    gridcolor: colour("rule"),
    linecolor: colour("edge"),
    zerolinecolor: colour("edge"),
    tickfont: { size: 11, color: colour("quiet") },
    ticks: "outside",
    ticklen: 4,
    tickcolor: colour("edge"),
    automargin: true,
    exponentformat: "power",
    ...(log ? { dtick: null, nticks: 6, minor: { showgrid: false } } : {}),
    ...more,
  };
}

const drawn = new WeakMap();

// Draws unless the same is there already; `what` must say all that the picture depends on.
async function draw(element, what, make) {
  const wanted = JSON.stringify([what, DARK.matches]);
  if (drawn.get(element) === wanted) return;
  drawn.set(element, wanted);
  const [library, picture] = await Promise.all([loadPlotly(), make()]);
  if (drawn.get(element) !== wanted || !element.isConnected) return;
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("ink") },
    margin: { l: 52, r: 14, t: 12, b: 46 },
    hovermode: "closest",
    hoverlabel: {
      bgcolor: colour("card"),
      bordercolor: colour("edge"),
      font: { color: colour("ink"), size: 12 },
      align: "left",
      namelength: 0,
    },
    showlegend: false,
    autosize: true,
    ...picture.layout,
  };
  const options = {
    displaylogo: false,
    responsive: true,
    displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
    toImageButtonOptions: { format: "svg" },
  };
  await library.react(element, picture.traces, layout, options);
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", picture.label);
  if (picture.click && !element.dataset.clicks) {
    element.dataset.clicks = "yes";
    element.on("plotly_click", (event) => picture.click(event.points[0]));
  }
}

// The runs that plots, samples and configs are of: those ticked, else the first of the table.
const FIRST = 8;
function chosen() {
  return state.sel.length ? state.sel.map((id) => RUN.get(id)) : visible().slice(0, FIRST);
}

const swatch = (place) =>
  svg(
    "svg",
    { class: "swatch", viewBox: "0 0 22 10", "aria-hidden": "true" },
    svg("line", {
      x1: 1,
      x2: 21,
      y1: 5,
      y2: 5,
      stroke: `var(--line-${place % COLOURS})`,
      "stroke-width": 3.5,
      "stroke-dasharray": { solid: null, dash: "6 3", dot: "2.5 2.5", dashdot: "7 2.5 2 2.5" }[lineDash(place)],
    })
  );
