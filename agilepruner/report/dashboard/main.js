/* The page: which view, what is chosen for all of them. */
const VIEWS = {
  results: ["Results", resultsView, () => !DATA.home],
  costs: ["Costs", costsView, () => current().pareto.length > 0],
  map: ["Documents × strategies", mapView, () => current().grids.length > 0],
  documents: ["Documents", documentsView, () => DATA.documents !== null],
  analyses: ["Analyses and claims", analysesView, () => DATA.findings.length > 0],
};
function bar() {
  const table = current(), first = new Map();
  for (const line of table.lines) if (!first.has(line.strategy)) first.set(line.strategy, line);
  const names = [...first.keys()].filter((name) => !first.get(name).vanilla);
  const chips = DATA.home || state.view === "documents" || state.view === "analyses" ? [] : names.map((name) => {
    const line = first.get(name), off = hiddenNames();
    return node("button", {class: "chip", "aria-pressed": String(!off.has(name)), onclick: () => {
      off.has(name) ? off.delete(name) : off.add(name);
      go({hide: [...off].join("~")});
    }}, icon(line), line.label.replace(/ \([^)]*=[^)]*\)$/, ""));
  });
  if (chips.length) {
    chips.push(node("button", {onclick: () => go({hide: ""})}, "all"),
      node("button", {onclick: () => go({hide: names.join("~")})}, "none"));
  }
  const references = Object.entries(table.references).map(([name, {label}]) => [name, label]);
  $("bar").replaceChildren(...[
    DATA.tables.length > 1 && !DATA.home ? choice("table", "table", DATA.tables.map((one, i) => [String(i), one.name]),
      {hide: "", ref: "", a: "", b: "", doc: "", benchmark: ""}) : null,
    state.view === "results" && references.length ? choice("reference", "ref", references.map(
      ([name, label]) => [name === table.reference ? "" : name, label])) : null,
    ...chips,
  ].filter(Boolean));
  $("looks").replaceChildren(
    choice("light", "theme", [["", "as the system"], ["light", "light"], ["dark", "dark"]]),
    choice("text", "size", [["", "normal"], ["large", "large"]]));
}
const dark = matchMedia("(prefers-color-scheme: dark)");
function look() {
  const theme = state.theme || (dark.matches ? "dark" : "light");
  document.documentElement.dataset.theme = theme;
  document.documentElement.dataset.size = state.size;
}
dark.addEventListener("change", look);
/* Whoever works with the keyboard goes on where they were, though what was there is drawn anew. */
function keepingFocus(draw) {
  const was = document.activeElement, kept = was.matches(":focus-visible") && !was.matches("body");
  const name = (one) => one.id || one.getAttribute("aria-label") || one.textContent;
  const same = () => [...document.querySelectorAll(was.tagName)].filter((one) => name(one) === name(was));
  const place = kept ? same().indexOf(was) : -1, at = was.selectionStart;
  draw();
  const now = place < 0 || was.isConnected ? null : same()[place];
  now?.focus({preventScroll: true});
  if (now && typeof at === "number") now.setSelectionRange(at, at);
}
function moved() {
  const before = state;
  state = read();
  hush();
  look();
  if (!DATA.tables.length) {
    $("about").textContent = "No rows yet.";
    return;
  }
  const table = current();
  $("about").textContent = table.name + (table.unanchored
    ? " · unanchored: vanilla misses its published numbers" : "");
  $("about").className = table.unanchored ? "warn" : "";
  const there = Object.entries(VIEWS).filter(([, [, , has]]) => has());
  const view = there.some(([name]) => name === state.view) ? state.view : there[0][0];
  const list = document.querySelector(".list")?.scrollTop;
  keepingFocus(() => {
    views(there, view);
    bar();
    $("main").replaceChildren(...VIEWS[view][1]().filter(Boolean));
  });
  const chosen = document.querySelector(".list");
  if (chosen) {
    chosen.scrollTop = before.view === view && list || 0;
    chosen.querySelector("[aria-current]")?.scrollIntoView({block: "nearest"});
  }
  if (before.view !== view) scrollTo(0, 0);
}
function views(there, view) {
  $("views").replaceChildren(...DATA.home ? [node("a", {href: DATA.home + location.hash}, "← the table")]
    : [], ...there.map(([name, [title]]) => link({view: name},
    name === view ? {"aria-current": "page"} : {}, title)));
}
addEventListener("hashchange", moved);
$("title").textContent = document.title = DATA.name;
moved();
