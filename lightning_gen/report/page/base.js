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

// Lines of a command break between its words; of a long one inside its value, never inside `--`.
const commandWord = (word) => {
  const key = word.length < 40 ? word : (/^--?[^=]{1,40}=?/.exec(word) || [""])[0];
  return [h("span", { class: "word" }, key), word.slice(key.length)];
};
const commandBox = (text) =>
  h(
    "div",
    { class: "command" },
    h("code", {}, text.split(/(?<= )/).map(commandWord)),
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

// Values as one speaks of them: a class by its name, a file without its folder, a mapping by its entries, a list of
// such things by its items.
function brief(text, whole = false) {
  const path = /^(?:lightning_gen|torch)\.[\w.]*?(\w+)$/.exec(text);
  if (path) return path[1];
  if (/^[\w.-]+(\/[\w.-]+)+\.yaml$/.test(text)) return text.split("/").pop().replace(/\.yaml$/, "");
  const parts = partsOf(text);
  if (!parts) return text;
  const said = parts.map(({ name, entries }) => {
    const all = entries.map(([key, value]) => `${key} ${brief(value, true)}`).join(", ");
    if (!name) return all;
    return all && whole ? `${name} (${all})` : name;
  });
  return said.join(" + ") || text;
}
const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value));

// A mapping, or each item of a list of mappings and classes, as the name of its class and its entries; else null.
function partsOf(text) {
  if (!/^[{[]/.test(text)) return null;
  try {
    const given = JSON.parse(text);
    const list = Array.isArray(given) ? given : [given];
    const plain = (item) => typeof item !== "object" && !/^(?:lightning_gen|torch)\./.test(item);
    if (list.some((item) => item === null || Array.isArray(item)) || (Array.isArray(given) && list.every(plain))) return null;
    return list.map((item) => {
      if (typeof item !== "object") return { name: brief(String(item)), entries: [] };
      const { class_path: name, init_args: own = {}, ...others } = item;
      return { name: name && name.split(".").pop(), entries: Object.entries({ ...own, ...others }).map(([key, value]) => [key, asText(value)]) };
    });
  } catch {
    return null;
  }
}

// The same for all choices of a parameter, which must stay apart: those of one name also by the entries that differ.
function briefChoices(choices) {
  const short = choices.map((choice) => brief(choice));
  const parts = choices.map(partsOf);
  // Entries by item and name, over all choices that have such an item: two lists may share their first items alone.
  const values = new Map();
  for (const one of parts) {
    (one || []).forEach(({ name, entries }, place) => {
      for (const [key, value] of entries) {
        const where = JSON.stringify([place, name, key]);
        values.set(where, (values.get(where) || new Set()).add(value));
      }
    });
  }
  const tell = (keyed) => choices.map((choice, i) => {
    if (!parts[i] || !parts[i].some((part) => part.name)) return short[i];
    const said = parts[i].map(({ name, entries }, place) => {
      const own = entries.filter(([key]) => values.get(JSON.stringify([place, name, key])).size > 1);
      return { name, own: own.map(([key, value]) => (keyed ? `${key} ` : "") + brief(value, true)).join(" ") };
    });
    const shared = said.length > 1 && said.every(({ own }) => own === said[0].own); // said once
    return [said.map(({ name, own }) => (shared || !own ? name : `${name} ${own}`)).join(" + "), shared ? said[0].own : ""].filter(Boolean).join(" ");
  });
  const named = tell(true);
  const apart = named.every((text) => text.length <= 32) ? named : tell(false);
  return choices.map((choice, i) => {
    if (short.filter((one) => one === short[i]).length === 1) return short[i];
    if (apart.filter((one) => one === apart[i]).length === 1) return apart[i];
    const file = choice.split("/").slice(-2).join("/").replace(/\.yaml$/, ""); // of files of one name, with their folders
    return short[i] !== choice && choices.filter((one) => one.includes(`${file}.yaml`)).length === 1 ? file : choice;
  });
}

// What is left out shows when pointed at.
const briefly = (text, shown = brief(text)) => (shown === text ? wrappable(text) : h("span", { title: text }, wrappable(shown)));
