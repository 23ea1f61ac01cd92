// Everything about one run, in a dialog.

function openDetails(run) {
  const box = $("details");
  const own = new Set([...Object.keys(run.last), ...Object.values(run.scored).flatMap(Object.keys)]);
  const names = Object.keys(FIGURES).filter((name) => own.has(name));
  const scored = Object.keys(run.scored);
  const cell = (value) => h("td", { class: "number" }, number(value));
  const facts = [
    ["Status", badge(run)],
    ["Family", run.family],
    ["Data", run.data],
    ["Config", run.config],
    ["Sweep", sweepName(run) && `${sweepName(run)}, trial ${run.trial}`],
    ["Seed", run.seed ?? ""],
    ["Images seen", run.images_seen === null ? "" : whole(run.images_seen)],
    ["Training time", run.seconds === null ? "" : duration(run.seconds)],
    [
      "Parameters",
      run.parameters === null
        ? ""
        : `${whole(run.parameters)} (${Object.entries(run.parts)
            .map(([name, count]) => `${name} ${whole(count)}`)
            .join(", ")})`,
    ],
    ...Object.entries(run.facts)
      .filter(([, one]) => one.kind)
      .map(([where, one]) => [`Likelihood (${where})`, factsText(one, one.kind)]),
    ...Object.entries(run.about).map(([name, value]) => [name[0].toUpperCase() + name.slice(1).replace(/_/g, " "), value]),
    ["Folder", run.folder],
  ];
  show(
    box,
    h(
      "div",
      { class: "dialog-head" },
      h("h2", { id: "details-title" }, run.name),
      h("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => box.close() }, "\u00d7")
    ),
    run.problems.length ? h("ul", { class: "problems" }, run.problems.map((problem) => h("li", {}, problem))) : null,
    h(
      "dl",
      { class: "facts" },
      facts.filter(([, value]) => value !== "" && value !== undefined).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])
    ),
    run.command ? commandBox(run.command) : null,
    names.length
      ? h(
          "div",
          { class: "scroll", tabindex: "0", role: "region", "aria-label": "Figures of this run" },
          h(
            "table",
            { class: "plain-table" },
            h(
              "thead",
              {},
              h(
                "tr",
                {},
                h("th", { scope: "col" }, "Figure"),
                h("th", { scope: "col", class: "number" }, "last"),
                h("th", { scope: "col", class: "number" }, "best"),
                scored.map((verb) => h("th", { scope: "col", class: "number" }, verb))
              )
            ),
            h(
              "tbody",
              {},
              names.map((name) =>
                h(
                  "tr",
                  {},
                  h("th", { scope: "row" }, name),
                  cell(run.last[name]),
                  cell(run.best[name]),
                  scored.map((verb) => cell(run.scored[verb][name]))
                )
              )
            )
          )
        )
      : h("p", { class: "quiet" }, "This run has logged no figure yet."),
    run.others.map(([name, seen, key]) => otherPicture(run, name, seen, key))
  );
  box.showModal();
  box.scrollTop = 0;
}

// Pictures beside the sample grids, such as samples with their nearest neighbours in the training data.
const CAPTIONS = {
  neighbours: "Samples, each beside the training images nearest to it",
  reconstructions: "Held-out images, and below each what was decoded from its latent",
  interpolations: "Held-out images at the ends of each row, and between them what was decoded",
};

function otherPicture(run, name, seen, key) {
  const title = name[0].toUpperCase() + name.slice(1).replace(/[-_]/g, " ");
  const caption = h("figcaption", {}, h("h3", {}, title), h("span", { class: "quiet" }, `${CAPTIONS[name] ? `${CAPTIONS[name]}, at` : "At"} ${whole(seen)} images seen`));
  if (!key) return h("figure", { class: "other" }, caption, h("p", { class: "quiet" }, "There was no room for it on this page: see samples/ in the folder of the run."));
  const [data, width, height] = PICTURES[key];
  const alt = `${title} of ${shortName(run)} at ${whole(seen)} images seen`;
  return h("figure", { class: "other" }, caption, h("img", { class: width < 400 ? "coarse" : "", src: data, width, height, alt }));
}

$("details").addEventListener("click", (event) => {
  if (event.target === $("details")) $("details").close(); // a click beside it
});
