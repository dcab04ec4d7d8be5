/* What every view uses: nodes, state in the address, tooltips, markers, CSV. */
const SVG = "http://www.w3.org/2000/svg";
const DRAWN = ["svg", "g", "path", "line", "text", "circle", "rect", "image", "title"];
const $ = (id) => document.getElementById(id);
function node(name, attributes = {}, ...children) {
  const made = DRAWN.includes(name) ? document.createElementNS(SVG, name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}
const fixed = (value, digits) => value === null || value === undefined ? "–"
  : value.toFixed(digits);
const signed = (value, digits) => (value > 0 ? "+" : "") + value.toFixed(digits).replace("-", "−");

/* State: what the address says, over these. */
const INITIAL = {
  view: "results", table: "0", ref: "", hide: "", theme: "", size: "",
  benchmark: "", a: "", b: "", flip: "all", kind: "", hard: "", text: "", sort: "document",
  doc: "", overlay: "kept", tiles: "",
};
function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  const known = [...given].filter(([key]) => Object.hasOwn(INITIAL, key));
  return {...INITIAL, ...Object.fromEntries(known)};
}
let state = read();
/* What an address names, which anybody may have typed; else the other. */
const named = (all, name, other) => all[Object.hasOwn(all, name) ? name : other];
function address(changes) {
  const whole = {...state, ...changes};
  const said = Object.entries(whole).filter(([key, value]) => value !== INITIAL[key]);
  return "#" + new URLSearchParams(said).toString();
}
/* Go there; a small change (typing) makes no step of its own in the browser's history. */
function go(changes, small = false) {
  const there = address(changes);
  show(there, small);
}
function show(there, small = false) {
  if (small) history.replaceState(null, "", there);
  else if (there !== (location.hash || "#")) history.pushState(null, "", there);
  moved();
}
document.addEventListener("click", (event) => {
  const there = event.target.closest("a")?.getAttribute("href");
  if (!there?.startsWith("#") || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(there);
});
function link(changes, attributes, ...children) {
  return node("a", {href: address(changes), ...attributes}, ...children);
}
function choice(label, key, options, other = {}) {
  const select = node("select", {"aria-label": label, onchange: (event) =>
    go({[key]: event.target.value, ...other})});
  for (const [value, text, group] of options) {
    let parent = select;
    if (group) {
      parent = [...select.children].find((one) => one.label === group);
      if (!parent) select.append(parent = node("optgroup", {label: group}));
    }
    parent.append(node("option", {value, ...(state[key] === value ? {selected: ""} : {})}, text));
  }
  return node("label", {}, label, select);
}

/* Tooltip */
function say(event, words) {
  const tip = $("tip");
  tip.textContent = words;
  tip.style.display = "block";
  const box = event.target.getBoundingClientRect();
  const px = event.clientX ?? box.left, py = event.clientY ?? box.bottom;
  const x = Math.min(px + 14, innerWidth - tip.offsetWidth - 8);
  const y = py + 16 + tip.offsetHeight > innerHeight ? py - tip.offsetHeight - 10 : py + 16;
  tip.style.left = `${Math.max(4, x)}px`;
  tip.style.top = `${Math.max(4, y)}px`;
}
const hush = () => { $("tip").style.display = "none"; };
function tipped(words) {
  const show = (event) => say(event, typeof words === "function" ? words() : words);
  return {onpointermove: show, onpointerleave: hush, onfocus: show, onblur: hush};
}

/* Markers: one shape per strategy, drawn around (0, 0). */
const SHAPES = {
  circle: (r) => `M${r},0A${r},${r} 0 1 1 ${-r},0A${r},${r} 0 1 1 ${r},0Z`,
  square: (r) => `M${-r},${-r}H${r}V${r}H${-r}Z`,
  diamond: (r) => `M0,${-1.3 * r}L${1.3 * r},0L0,${1.3 * r}L${-1.3 * r},0Z`,
  triangle: (r) => `M0,${-1.25 * r}L${1.2 * r},${r}H${-1.2 * r}Z`,
  cross: (r) => `M${-r},${-r}L${r},${r}M${r},${-r}L${-r},${r}`,
  wedge: (r) => `M0,${1.25 * r}L${1.2 * r},${-r}H${-1.2 * r}Z`,
  flag: (r) => `M${-1.4 * r},${-0.6 * r}H${1.4 * r}V${0.6 * r}H${-1.4 * r}Z`,
  pillar: (r) => `M${-0.6 * r},${-1.4 * r}H${0.6 * r}V${1.4 * r}H${-0.6 * r}Z`,
  plus: (r) => `M${-1.3 * r},0H${1.3 * r}M0,${-1.3 * r}V${1.3 * r}`,
};
const OPEN = ["cross", "plus"];
function marker(line, x, y, r = 4) {
  const open = OPEN.includes(line.marker);
  // Light colours on white, dark ones on black: an edge towards the ink tells them from the paper.
  const edge = `color-mix(in srgb, ${line.colour} 55%, var(--ink))`;
  return node("path", {
    d: SHAPES[line.marker](r), transform: `translate(${x},${y})`, fill: open ? "none" : line.colour,
    stroke: open ? line.colour : edge, "stroke-width": open ? 2 : 1,
  });
}
function icon(line) {
  return node("svg", {width: 14, height: 12, viewBox: "-7 -6 14 12", "aria-hidden": "true"},
    marker(line, 0, 0));
}
const lineName = (line) => line.vanilla ? line.label : `${line.label} @ ${line.budget}`;

/* CSV of what is shown */
function csv(name, head, rows) {
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const text = [head, ...rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
  return node("button", {onclick: () => {
    const url = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
    const anchor = node("a", {href: url, download: `${name}.csv`});
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }, "aria-label": `CSV of ${name}`}, "CSV");
}
function section(title, words, download, ...children) {
  return node("section", {"aria-label": title}, node("h2", {}, title, download),
    words ? node("p", {}, words) : null, ...children);
}
