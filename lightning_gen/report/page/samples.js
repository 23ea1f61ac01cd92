// Sample grids of several runs side by side, each the newest at or before one position in training.

const MOST_CARDS = 24;
let playing = 0;

const positions = (runs) => unique(runs.flatMap((run) => run.grids.map(([seen]) => seen))).sort((a, b) => a - b);

function placeOf(all) {
  if (state.at === "") return all.length - 1;
  let place = 0;
  all.forEach((seen, i) => {
    if (seen <= Number(state.at)) place = i;
  });
  return place;
}

function renderSamples() {
  const runs = chosen().slice(0, MOST_CARDS);
  const all = positions(runs);
  if (!all.length) {
    stop();
    show($("sample-tools"));
    const none = RUNS.some((run) => run.grids.length) ? "None of the chosen runs has" : "No run here has";
    show($("cards"), h("p", { class: "quiet" }, `${none} sample grids: \`lightning fit\` writes them at each evaluation, where grid.n is above 0.`));
    delete $("cards").dataset.runs;
    return;
  }
  const place = placeOf(all);
  const said = `${whole(all[place])} images seen`;
  if ($("at") && $("at").max === String(all.length - 1)) {
    $("at").value = place;
  } else {
    const move = (to) => set({ at: Number(to) === all.length - 1 ? "" : String(positions(chosen().slice(0, MOST_CARDS))[to]) });
    show(
      $("sample-tools"),
      h(
        "label",
        { class: "field grow" },
        h("span", {}, "Moment of training"),
        h("input", {
          type: "range",
          id: "at",
          min: 0,
          max: all.length - 1,
          step: 1,
          value: place,
          disabled: all.length === 1,
          oninput: (event) => {
            stop();
            move(event.target.value);
          },
        })
      ),
      h("output", { id: "at-shown", for: "at" }),
      all.length > 1 ? h("button", { type: "button", id: "play", class: "plain", onclick: () => (playing ? stop() : play()) }, "Play") : null
    );
  }
  $("at").setAttribute("aria-valuetext", said);
  $("at-shown").textContent = said;
  const key = runs.map((run) => run.id).join();
  if ($("cards").dataset.runs !== key) {
    $("cards").dataset.runs = key;
    show($("cards"), runs.map(card));
  }
  runs.forEach((run, i) => updateCard($("cards").children[i], run, all[place], i));
}

function card() {
  return h(
    "figure",
    { class: "card sample" },
    h("button", { type: "button", class: "frame" }, h("img", { alt: "" }), h("span", { class: "quiet" })),
    h("figcaption", {})
  );
}

function updateCard(element, run, position, place) {
  const [image, none] = element.querySelectorAll("img, .frame span");
  const shown = run.grids.filter(([seen]) => seen <= position).pop();
  const frame = element.querySelector(".frame");
  image.hidden = !shown;
  none.textContent = shown ? "" : run.grids.length ? "no grid yet" : "no grids";
  frame.disabled = !shown;
  const marks = [swatch(place), h("b", {}, wrappableName(shortName(run)))];
  if (!shown) {
    show(element.querySelector("figcaption"), marks);
    return;
  }
  const [data, width, height] = PICTURES[shown[1]];
  const at = `${whole(shown[0])} images seen`;
  if (image.getAttribute("src") !== data) image.src = data;
  image.width = width;
  image.height = height;
  image.alt = `Samples of ${shortName(run)} at ${at}`;
  image.classList.toggle("coarse", width < 400);
  frame.setAttribute("aria-label", `Enlarge: samples of ${shortName(run)} at ${at}`);
  frame.onclick = () => enlarge(run, at, data, width);
  const left = run.allGrids > run.grids.length ? ` (${run.grids.length} of its ${run.allGrids} grids are on this page)` : "";
  show(element.querySelector("figcaption"), marks, h("span", { class: "quiet" }, at + left));
}

function enlarge(run, at, data, width) {
  show(
    $("details"),
    h(
      "div",
      { class: "dialog-head" },
      h("h2", { id: "details-title" }, run.name, h("small", { class: "quiet" }, ` at ${at}`)),
      h("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => $("details").close() }, "\u00d7")
    ),
    h("img", { class: width < 400 ? "large coarse" : "large", src: data, alt: `Samples of ${shortName(run)} at ${at}` })
  );
  $("details").showModal();
}

function play() {
  const step = () => {
    const all = positions(chosen().slice(0, MOST_CARDS));
    const next = (placeOf(all) + 1) % all.length;
    set({ at: next === all.length - 1 ? "" : String(all[next]) });
  };
  $("play").textContent = "Pause";
  playing = setInterval(step, 700);
  step();
}

function stop() {
  clearInterval(playing);
  playing = 0;
  if ($("play")) $("play").textContent = "Play";
}
