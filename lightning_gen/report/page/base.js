// What all parts use: the data, making elements, and how numbers are written.

const DATA = JSON.parse(document.getElementById("data").textContent);
const PICTURES = JSON.parse(document.getElementById("pictures").textContent);
const RUNS = DATA.runs;
const RUN = new Map(RUNS.map((run) => [run.id, run]));
const MINUS = "\u2212";

const $ = (id) => document.getElementById(id);

// All text of the page goes through here, as text: nothing is ever parsed as markup.
function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else if (name === "checked" || name === "value" || name === "selected") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const h = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);
const svg = (tag, properties, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);

// Replaces what an element holds; the focus stays on the element with the same id, if there is one again.
function show(element, ...children) {
  const focused = element.contains(document.activeElement) ? document.activeElement.id : "";
  element.replaceChildren(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  if (focused && $(focused)) $(focused).focus({ preventScroll: true });
}

const hidden = (text) => h("span", { class: "unseen" }, text);

function number(value) {
  if (value === null || value === undefined) return "\u2013";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) {
    const [digits, power] = value.toExponential(2).split("e");
    return `${digits.replace("-", MINUS)}e${power.replace("+", "").replace("-", MINUS)}`;
  }
  const digits = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : 3;
  return value.toFixed(digits).replace("-", MINUS);
}

// A number that a person chose, such as a learning rate: no more digits than it has.
function plain(value, digits = 4) {
  if (value === null || value === undefined) return "\u2013";
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(digits - 1) : Number(value.toPrecision(digits)).toString();
  return text.replace(/(\.\d*?)0+(?=e|$)/, "$1").replace(/\.(?=e|$)/, "").replace("e+", "e").replace(/-/g, MINUS);
}

const whole = (value) => (value === null || value === undefined ? "\u2013" : Math.round(value).toLocaleString("en"));

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "\u2013";
  if (seconds < 100) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 5970) return `${(seconds / 60).toFixed(1)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

const COSTS = {
  seconds: { label: "training time", unit: "seconds", shown: duration },
  parameters: { label: "parameters", unit: "parameters", shown: whole },
  images_seen: { label: "images seen", unit: "images seen", shown: whole },
};

const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;
const unique = (list) => [...new Set(list)];
const spreads = (values, ratio) => {
  const low = Math.min(...values);
  return low > 0 && Math.max(...values) / low >= ratio;
};

function select(id, label, options, value, change, visible = true) {
  const groups = new Map();
  for (const option of options) {
    const own = h("option", { value: option.value }, option.label);
    if (!groups.has(option.group)) groups.set(option.group, []);
    groups.get(option.group).push(own);
  }
  const box = h("select", { id, onchange: (event) => change(event.target.value) });
  for (const [group, own] of groups) box.append(...(group ? [h("optgroup", { label: group }, own)] : own));
  box.value = value;
  return h("label", { class: "field" }, visible ? h("span", {}, label) : hidden(label), box);
}

const check = (id, label, checked, change) =>
  h(
    "label",
    { class: "check" },
    h("input", { type: "checkbox", id, checked, onchange: (event) => change(event.target.checked) }),
    h("span", {}, label)
  );

function copyButton(text) {
  const said = h("span", { role: "status" });
  const button = h(
    "button",
    {
      type: "button",
      class: "plain",
      onclick: async () => {
        try {
          await navigator.clipboard.writeText(text);
        } catch {
          const field = h("textarea", { class: "unseen" });
          field.value = text;
          button.after(field);
          field.select();
          document.execCommand("copy");
          field.remove();
        }
        said.textContent = " copied";
        setTimeout(() => (said.textContent = ""), 2000);
      },
    },
    "Copy"
  );
  return [button, said];
}

// Lines of a command break between its words, not inside `--`.
const commandBox = (text) =>
  h(
    "div",
    { class: "command" },
    h("code", {}, text.split(/(?<= )/).map((word) => h("span", { class: word.length < 40 ? "word" : "" }, word))),
    h("div", {}, copyButton(text))
  );

// Where long texts may break: keys after a dot, a slash or an underscore, names of runs after a slash.
const breaking = (at) => (text) => text.split(at).flatMap((piece, i) => (i ? [h("wbr"), piece] : [piece]));
const wrappable = breaking(/(?<=[._/,])/);
const wrappableName = breaking(/(?<=\/)/);

// Experiment and version name a run, where no other has the same two; else its whole path does.
const tail = (run) => run.name.split("/").slice(-2).join("/");
const tails = new Map();
for (const run of RUNS) tails.set(tail(run), (tails.get(tail(run)) || 0) + 1);
const shortName = (run) => (tails.get(tail(run)) === 1 ? tail(run) : run.name);

// Values as one speaks of them: a class by its name, a file without its folder, a mapping by its entries.
function brief(text, whole = false) {
  const path = /^(?:lightning_gen|torch)\.[\w.]*?(\w+)$/.exec(text);
  if (path) return path[1];
  if (/^[\w.-]+(\/[\w.-]+)+\.yaml$/.test(text)) return text.split("/").pop().replace(/\.yaml$/, "");
  if (!text.startsWith("{")) return text;
  try {
    const { class_path: name, init_args: given = {}, ...others } = JSON.parse(text);
    const entries = Object.entries({ ...given, ...others }).map(([key, value]) => `${key} ${brief(asText(value), true)}`);
    if (!name) return entries.join(", ");
    return entries.length && whole ? `${name.split(".").pop()} (${entries.join(", ")})` : name.split(".").pop();
  } catch {
    return text;
  }
}
const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value));

// The same for all choices of a parameter, which must stay apart: those of one name also by the entries that differ.
function briefChoices(choices) {
  const short = choices.map((choice) => brief(choice));
  return choices.map((choice, i) => {
    const alike = choices.filter((_, k) => short[k] === short[i]);
    if (alike.length === 1) return short[i];
    const entries = (text) => {
      const { init_args: given = {}, ...others } = JSON.parse(text);
      return Object.entries({ ...given, ...others }).map(([key, value]) => [key, brief(asText(value), true)]);
    };
    try {
      const differs = ([key, value]) => alike.some((other) => new Map(entries(other)).get(key) !== value);
      return `${short[i]} ${entries(choice).filter(differs).map(([, value]) => value).join(" ")}`;
    } catch {
      return choice;
    }
  });
}

// What is left out shows when pointed at.
const briefly = (text, shown = brief(text)) => (shown === text ? wrappable(text) : h("span", { title: text }, wrappable(shown)));
