// The keys of the configs whose values are not the same in all chosen runs, and nothing else.

function renderConfigs() {
  const { keys, texts, runs: values } = DATA.configs;
  const runs = chosen().filter((run) => values[run.id]);
  const table = $("differences");
  const without = chosen().length - runs.length;
  const left = without ? ` ${plural(without, "run")} without a readable config.yaml ${without === 1 ? "is" : "are"} left out.` : "";
  if (runs.length < 2) {
    $("configs-note").textContent = `Two runs or more are needed to compare configs.${left}`;
    table.hidden = true;
    return;
  }
  const rows = keys.map((key, i) => [key, runs.map((run) => values[run.id][i])]).filter(([, row]) => unique(row).length > 1);
  $("configs-note").textContent = rows.length
    ? `${plural(rows.length, "key")} differ${rows.length === 1 ? "s" : ""} between the ${runs.length} runs; all others are the same. Tinted is what most of them do not have.${left}`
    : `The configs of the ${runs.length} runs are the same.${left}`;
  table.hidden = !rows.length;
  const places = new Map(chosen().map((run, place) => [run.id, place]));
  show(
    table,
    h(
      "table",
      { class: "differences" },
      h("caption", { class: "unseen" }, "Keys of the configs that differ, by run"),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", { scope: "col", class: "stuck" }, "Key"),
          runs.map((run) => h("th", { scope: "col" }, h("div", { class: "title" }, swatch(places.get(run.id)), h("span", {}, wrappableName(shortName(run))))))
        )
      ),
      h(
        "tbody",
        {},
        rows.map(([key, row]) => {
          const usual = commonest(row);
          return h(
            "tr",
            {},
            h("th", { scope: "row", class: "stuck" }, wrappable(key)),
            row.map((one) =>
              one === undefined
                ? h("td", { class: "none" }, "not there")
                : h("td", { class: one === usual ? "" : "odd" }, briefly(texts[one]))
            )
          );
        })
      )
    )
  );
}

// The value that most of three or more runs share, if there is one; the others are marked.
function commonest(row) {
  const counts = new Map();
  for (const one of row) counts.set(one, (counts.get(one) || 0) + 1);
  const [top, second] = [...counts].sort((a, b) => b[1] - a[1]);
  return second && top[1] > second[1] && top[1] > 1 ? top[0] : null;
}
