/* Results, costs, documents x strategies, analyses: one function each. */
/* The chosen table; a page of documents holds one, and the names of the others. */
const tableNumber = () => DATA.tables[+state.table]?.lines ? +state.table
  : DATA.tables.findIndex((one) => one.lines);
const current = () => DATA.tables[tableNumber()];
const hiddenNames = () => new Set(state.hide ? state.hide.split("~") : []);
const hidden = (line) => hiddenNames().has(line.strategy);
const compared = () => named(current().references, state.ref, current().reference);
const verdict = (d) => current().verdicts[d[6]] + (current().verdicts[d[6]] === "cannot tell"
  ? `, could have shown ${fixed(d[7], 1)}` : "");
const against = (d) => `minus ${lineName(current().lines[d[1]])}: ${signed(d[3], 2)} `
  + `[${signed(d[4], 2)}, ${signed(d[5], 2)}], ${verdict(d)}`;

function tableSection() {
  const table = current(), found = new Map();
  for (const d of compared()?.differences || []) found.set(`${d[0]} ${d[2]}`, d);
  const head = node("tr", {}, node("th", {scope: "col"}, "Strategy"),
    table.columns.map((column) => node("th", {scope: "col"}, column.heading)));
  const body = node("tbody"), rows = [];
  for (const group of table.groups) {
    const lines = group.lines.filter((i) => table.lines[i].vanilla || !hidden(table.lines[i]));
    if (!lines.length) continue;
    body.append(node("tr", {class: "group"}, node("td", {colspan: table.columns.length + 1},
      group.heading)));
    for (const i of lines) {
      const line = table.lines[i];
      rows.push([line.label, line.budget, ...line.cells.map((cell) => cell.value)]);
      body.append(node("tr", {}, node("th", {scope: "row",
        ...(line.choice ? tipped(`Our choice: ${line.choice}`) : {})}, icon(line), ` ${line.title}`),
      line.cells.map((cell, c) => node("td", {
        class: cell.best ? "best" : cell.text === "failed" ? "failed" : null,
      }, leads(i, c, cell, found.get(`${i} ${c}`))))));
    }
  }
  return section("Results", "Bold: better than the next of its group beyond chance, not just larger. "
    + "Point at a number for its share of vanilla, n, and whether it differs from the reference"
    + (DATA.documents ? "; press it for the documents whose answer flipped against vanilla." : "."),
  csv("results", ["strategy", "budget", ...table.columns.map((c) => c.title)], rows),
  node("div", {class: "scroll"}, node("table", {class: table.columns.at(-1)?.average ? "results" : null}, node("thead", {}, head), body)),
  node("ul", {}, table.notes.map((note) => node("li", {}, note))));
}
/* A number: what it says, and the way to its flipped documents. */
function leads(i, c, cell, difference) {
  const table = current(), line = table.lines[i], column = table.columns[c];
  const words = difference ? `${cell.words}\n${against(difference)}` : cell.words;
  const inside = [cell.text, cell.spread === null ? null
    : node("small", {}, ` ±${fixed(cell.spread, column.digits)}`)];
  const grid = DATA.documents && (column.average ? table.grids[0]
    : table.grids.find((one) => one.benchmark === column.benchmark));
  const base = table.lines.find((one) => one.vanilla);
  if (!grid || cell.value === null || line.vanilla || !base) return node("span", tipped(words), inside);
  return link({view: "documents", benchmark: column.average ? "" : column.benchmark, doc: "",
    a: base.key, b: line.key, flip: "flipped", kind: "", hard: "", text: ""}, tipped(words), inside);
}
function resultsView() {
  return [tableSection(), ...current().curves.map(chartSection), forest()];
}
function costsView() {
  const made = current().pareto.map(chartSection);
  return made.length ? made : [node("p", {}, "No line has a cost and a number yet.")];
}

/* Documents x strategies */
const grids = () => current().grids;
function level(percent) {
  return percent === 0 ? 0 : percent < 34 ? 1 : percent < 67 ? 2 : percent < 100 ? 3 : 4;
}
const LEVELS = ["wrong", "right on under a third of the stripe", "on up to two thirds", "on more", "right"];
function mapView() {
  const table = current(), all = grids();
  if (!all.length) return [node("p", {}, "No benchmark of this table scores single documents.")];
  const grid = all.find((one) => one.benchmark === state.benchmark) || all[0];
  const shown = grid.rows.filter((row) => table.lines[row.line].vanilla
    || !hidden(table.lines[row.line]));
  const count = grid.stripes.length;
  const body = node("tbody", {}, shown.map((row) => {
    const line = table.lines[row.line], paths = ["", "", "", "", ""];
    row.stripes.forEach((percent, i) => { paths[level(percent)] += `M${i},0h1v1h-1z`; });
    const at = (event) => {
      const box = event.currentTarget.getBoundingClientRect();
      return Math.max(0, Math.min(count - 1, Math.floor((event.clientX - box.left) / box.width * count)));
    };
    const tell = (event, i) => {
      const [document_, size] = grid.stripes[i];
      say(event, `${lineName(line)}: ${row.stripes[i]} % of `
        + (size > 1 ? `${size} units, document ${document_} and like it` : `document ${document_}`));
    };
    let place = 0;  // of the keyboard
    const press = (event) => {
      const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      if (event.key === "Enter") open(grid, grid.stripes[place][0], line);
      else if (step) tell(event, place = Math.max(0, Math.min(count - 1, place + step)));
      if (step) event.preventDefault();
    };
    return node("tr", {}, node("th", {scope: "row"}, icon(line), ` ${lineName(line)}`),
      node("td", {}, fixed(row.right, 1)),
      [row.lost, row.gained, row.only, row.alone].map((count) => node("td", {}, String(count ?? "–"))), node("td", {class: "strip"},
        node("svg", {viewBox: `0 0 ${count} 1`, preserveAspectRatio: "none", role: "img",
          "aria-label": `${lineName(line)}: right on ${fixed(row.right, 1)} % of ${grid.units} units`,
          tabindex: 0, onkeydown: press, onblur: hush,
          onclick: (event) => open(grid, grid.stripes[at(event)][0], line),
          onpointermove: (event) => tell(event, at(event)), onpointerleave: hush},
        paths.map((d, i) => d ? node("path", {d, fill: `var(--level${i})`}) : null))));
  }));
  const head = node("tr", {}, ["Strategy", "right, %", "lost", "won", "only it right", "only it wrong",
    "documents, the hardest on the left"].map((text) => node("th", {scope: "col"}, text)));
  const rows = shown.map((row) => [table.lines[row.line].label, table.lines[row.line].budget,
    row.right, row.lost, row.gained, row.only, row.alone, ...row.stripes]);
  return [
    node("div", {class: "bar"}, choice("benchmark", "benchmark",
      all.map((one) => [one.benchmark, `${one.label} (${one.units})`]))),
    section(`${grid.label}: documents × strategies`, `${grid.units} units, in the order of how many `
      + "of the table's lines are right (half the marks or more); lost and won against vanilla. A stripe is "
      + (count < grid.units ? `about ${Math.round(grid.units / count)} neighbouring units` : "one unit")
      + "; press it for its document (keys: ← → and Enter).",
    csv(`map-${grid.benchmark}`, ["strategy", "budget", "right", "lost", "won", "only right", "only wrong",
      ...grid.stripes.map(([document_]) => `document ${document_}`)], rows),
    node("div", {class: "key", "aria-label": "Right, share of a stripe"}, LEVELS.map((text, i) =>
      node("span", {}, node("i", {style: `background: var(--level${i})`}), text))),
    node("div", {class: "scroll"}, node("table", {class: "stripes"}, node("thead", {}, head), body)),
    node("div", {class: "lists"},
      items(grid, "Nobody gets", `${grid.nobody[0]} of ${grid.units} units; no line, vanilla included.`,
        grid.nobody[1].map((document_) => [document_, ""])),
      items(grid, "Everybody gets", `${grid.everybody[0]} of ${grid.units} units: they tell no two `
        + "lines apart.", grid.everybody[1].map((document_) => [document_, ""])),
      grid.suspects === null ? null : items(grid, "Suspect references", "Nobody gets them, and at "
        + "least half of the lines give one and the same answer: look whether the reference is wrong.",
      grid.suspects.map(([document_, answer, lines]) => [document_, ` “${answer}”, ${lines} lines`])))),
  ];
}
function items(grid, title, words, list) {
  return node("div", {}, node("h3", {}, title), node("p", {}, words), node("ul", {},
    list.map(([document_, more]) => {
      const there = way(grid.benchmark, document_);
      const text = `document ${document_}`;
      return node("li", {}, there ? node("a", {href: there}, text) : text, more);
    })));
}
/* Where a document is drawn: on this page, or on one of the pages of all documents; "": nowhere. */
function way(benchmark, document_, more = {}) {
  const there = address({view: "documents", benchmark, doc: `${benchmark}.${document_}`,
    flip: "all", kind: "", hard: "", text: "", ...more});
  if (sampled(benchmark, document_)) return there;
  const other = DATA.pages.find((one) => one.table === tableNumber() && one.benchmark === benchmark
    && one.first <= document_ && document_ <= one.last);
  return other ? other.file + there : "";
}
const sampled = (benchmark, document_) => Boolean(DATA.documents?.items.some((item) =>
  item.table === tableNumber() && item.benchmark === benchmark && item.document === document_));
function open(grid, document_, line) {
  const there = way(grid.benchmark, document_, line.vanilla ? {} : {b: line.key});
  if (there.startsWith("#")) show(there);
  else if (there) location.href = there;
}

/* Analyses and claims, as they lie beside the page */
function analysesView() {
  return DATA.findings.map((one) => section(one.title, one.text, one.csv ? node("a", {
    href: `data:text/csv;base64,${one.csv}`, download: `${one.name}.csv`}, "CSV") : null,
  one.figure ? node("figure", {}, node("img", {src: one.figure, alt: `Figure of ${one.title}`})) : null,
  one.tables.map(({head, rows, title}) => node("div", {}, title ? node("h3", {}, title) : null,
    node("div", {class: "scroll"}, node("table", {class: "finding"},
      node("thead", {}, node("tr", {}, head.map((text) => node("th", {scope: "col"}, text)))),
      node("tbody", {}, rows.map((row) => node("tr", {class: row.group ? "group" : null},
        row.cells.map((text, i) => node("td", {class: row.bold.includes(i) ? "best" : null}, text)))))))))
  , node("ul", {}, one.notes.map((note) => node("li", {}, note)))));
}
