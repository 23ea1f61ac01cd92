// What the reader has chosen. It lives in the address, so that a link, a reload and a rebuilt page show the same.

const NOTHING = {
  sort: "",
  q: "",
  family: "",
  data: "",
  status: "",
  sweep: "",
  mode: "last",
  cols: null,
  sel: [],
  x: "images_seen",
  xlog: "",
  ylog: "",
  smooth: "0",
  plots: null,
  at: "",
  fdata: "",
  fig: "",
  cost: "seconds",
  study: "",
  scost: "",
};
const LISTS = ["cols", "sel", "plots"];
const watchers = [];
let state = readState();

function readState() {
  const found = { ...NOTHING };
  for (const [key, value] of new URLSearchParams(location.hash.slice(1))) {
    if (!(key in NOTHING)) continue;
    found[key] = LISTS.includes(key) ? (value ? value.split(",").map(decodeURIComponent) : []) : value;
  }
  found.sel = found.sel.filter((id) => RUN.has(id));
  return found;
}

function writeState() {
  const parts = new URLSearchParams();
  for (const [key, value] of Object.entries(state)) {
    const same = LISTS.includes(key) ? JSON.stringify(value) === JSON.stringify(NOTHING[key]) : value === NOTHING[key];
    if (!same) parts.set(key, LISTS.includes(key) ? value.map(encodeURIComponent).join(",") : value);
  }
  const text = parts.toString();
  if (text !== location.hash.slice(1)) history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

let writing = 0;
function set(changes) {
  Object.assign(state, changes);
  clearTimeout(writing); // browsers allow only so many changes of the address a second
  writing = setTimeout(writeState, 200);
  for (const watcher of watchers) watcher();
}

addEventListener("pagehide", writeState);
addEventListener("hashchange", () => {
  if (document.getElementById(location.hash.slice(1))) return; // a link to a section, not a state
  state = readState();
  for (const watcher of watchers) watcher();
});
