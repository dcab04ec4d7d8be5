/* Documents: what was kept, what was answered, for two lines side by side. */
const byKey = (key) => current().lines.findIndex((line) => line.key === key);
function sides() {
  const lines = current().lines, plain = lines.findIndex((line) => line.vanilla);
  const known = new Set(DATA.documents.items.filter((item) => item.table === tableNumber())
    .flatMap((item) => Object.keys(item.lines).map(Number)));
  const first = [...known].sort((x, y) => x - y);
  const fallback = lines.findIndex((line, i) => known.has(i) && line.strategy === current().reference);
  const a = byKey(state.a) >= 0 ? byKey(state.a) : plain >= 0 ? plain : first[0];
  const other = fallback >= 0 && fallback !== a ? fallback : first.find((i) => i !== a);
  return [a, byKey(state.b) >= 0 ? byKey(state.b) : other ?? a];
}
const isRight = (said) => said ? said.score >= DATA.right : null;
const FLIPS = {
  all: ["all", () => true],
  flipped: ["flipped (right or wrong)", (a, b) => isRight(a) !== isRight(b)],
  lost: ["right → wrong", (a, b) => isRight(a) && !isRight(b)],
  gained: ["wrong → right", (a, b) => !isRight(a) && isRight(b)],
  both: ["both right", (a, b) => isRight(a) && isRight(b)],
  neither: ["both wrong", (a, b) => !isRight(a) && !isRight(b)],
  differ: ["answers differ", (a, b) => a.answers.join("\n") !== b.answers.join("\n")],
};
const rights = (item) => {
  const marks = Object.values(item.lines);
  return marks.filter(isRight).length / marks.length;
};
const SORTS = {
  document: ["benchmark, document", () => 0],
  erankUp: ["erank, simple first", (item) => item.erank ?? Infinity],
  erankDown: ["erank, complex first", (item) => -(item.erank ?? -Infinity)],
  entropy: ["attention entropy, high first", (item) => -(item.entropy ?? -Infinity)],
  hard: ["fewest lines right", rights],
  easy: ["most lines right", (item) => -rights(item)],
};
/* Hard: vanilla is right and a uniform grid of the same budget is wrong. */
function hard(item, b) {
  const lines = current().lines, plain = lines.findIndex((line) => line.vanilla);
  const uniform = lines.findIndex((line) => line.strategy === DATA.grid
    && line.budget === lines[b].budget);
  return isRight(item.lines[plain]) && uniform >= 0 && isRight(item.lines[uniform]) === false;
}
function filtered() {
  const [a, b] = sides(), words = state.text.trim().toLowerCase();
  const [, fits] = named(FLIPS, state.flip, "all"), [, rank] = named(SORTS, state.sort, "document");
  const found = DATA.documents.items.filter((item) => {
    if (item.table !== tableNumber() || !item.lines[a] || !item.lines[b]) return false;
    if (state.benchmark && item.benchmark !== state.benchmark) return false;
    if (state.kind && item.kind !== state.kind) return false;
    if (state.hard && !hard(item, b)) return false;
    if (!fits(item.lines[a], item.lines[b])) return false;
    const all = [...item.asked.flatMap(([q, refs]) => [q, ...refs]), ...item.lines[a].answers,
      ...item.lines[b].answers];
    return !words || all.some((text) => text.toLowerCase().includes(words));
  });
  return found.map((item, i) => [rank(item), i, item]).sort((x, y) => x[0] - y[0] || x[1] - y[1])
    .map(([, , item]) => item);
}
const nameOf = (item) => `${item.benchmark}.${item.document}`;
function documentBar() {
  const table = current(), [a, b] = sides();
  const own = DATA.documents.items.filter((item) => item.table === tableNumber());
  const benchmarks = grids().filter((one) => own.some((item) => item.benchmark === one.benchmark));
  const kinds = [...new Set(own.map((item) => item.kind))].filter(Boolean).sort();
  const lines = table.lines.map((line, i) => [line.key, lineName(line),
    line.vanilla ? "" : `${line.budget} tokens`, i]).filter(([, , , i]) =>
    own.some((item) => item.lines[i]));
  state = {...state, a: table.lines[a].key, b: table.lines[b].key};
  const search = node("input", {type: "search", id: "search", value: state.text,
    placeholder: "question, answer", "aria-label": "text", oninput: (event) => {
      go({text: event.target.value, doc: ""}, true);
    }});
  return node("div", {class: "bar", role: "search"},
    choice("benchmark", "benchmark", [["", "all"], ...benchmarks.map((one) => [one.benchmark, one.label])],
      {doc: ""}),
    choice("A", "a", lines), choice("B", "b", lines),
    node("button", {onclick: swap, title: "s"}, "⇄ swap"),
    choice("A → B", "flip", Object.entries(FLIPS).map(([key, [text]]) => [key, text]), {doc: ""}),
    kinds.length ? choice("image", "kind", [["", "any"], ...kinds.map((kind) => [kind, kind])], {doc: ""})
      : null,
    table.lines.some((line) => line.strategy === DATA.grid) && table.lines.some((line) => line.vanilla)
      ? choice("subset", "hard", [["", "all"], ["1", "hard: vanilla right, uniform grid wrong"]],
        {doc: ""}) : null,
    choice("sort", "sort", Object.entries(SORTS).map(([key, [text]]) => [key, text])),
    choice("draw", "overlay", OVERLAYS.map((one) => [one, one])),
    own.some((item) => item.tiles > 1) ? choice("tiles", "tiles", [["", "detail"], ["overview", "overview"]])
      : null, search);
}
function swap() {
  const {a, b} = state;
  go({a: b, b: a});
}
const OVERLAYS = ["kept", "attention", "kept and attention", "image"];
function documentsView() {
  if (!DATA.documents) return [node("p", {}, "No documents are drawn on this page.")];
  const bar = documentBar(), found = filtered(), table = current(), [a, b] = sides();
  const at = Math.max(0, found.findIndex((item) => nameOf(item) === state.doc));
  const mark = (item, line) => node("b", {class: isRight(item.lines[line]) ? "right" : "wrong"},
    isRight(item.lines[line]) ? "✓" : "✗");
  const list = node("ol", {class: "list", "aria-label": "Documents"}, found.map((item, i) =>
    node("li", {}, link({doc: nameOf(item)}, i === at ? {"aria-current": "true"} : {},
      node("span", {}, item.asked[0]?.[0].split("\n")[0] || `document ${item.document}`),
      node("span", {class: "what"}, `${label(item)} ${item.document} `,
        item.kind ? `· ${item.kind} ` : "", "A ", mark(item, a), " B ", mark(item, b))))));
  const rows = found.map((item) => [item.benchmark, item.document, item.kind, item.erank, item.entropy,
    item.asked.map(([q]) => q).join(" | "), item.asked.map(([, refs]) => refs.join("; ")).join(" | "),
    ...[a, b].flatMap((line) => [item.lines[line].answers.join(" | "), item.lines[line].score])]);
  const said = `${found.length} of ${DATA.documents.items.filter((item) =>
    item.table === tableNumber()).length} documents on this page. ${table.flips || ""} `;
  return [bar, section("Documents", said + DATA.documents.about
    + " Keys: j or → next, k or ← previous, s swaps A and B, o what is drawn, / text.",
  csv("documents", ["benchmark", "document", "kind", "erank", "entropy", "question", "references",
    ...["A", "B"].flatMap((side) => [`answer ${side}`, `score ${side}`])], rows),
  DATA.pages.length ? node("p", {}, "All documents: ", DATA.pages.filter((one) =>
    one.table === tableNumber() && (!state.benchmark || one.benchmark === state.benchmark))
    .flatMap((one) => [node("a", {href: one.file + address({benchmark: one.benchmark, doc: ""})},
      `${one.benchmark} ${one.first}–${one.last}`), " "])) : null,
  found.length ? node("div", {class: "documents"}, list, detail(found[at], a, b))
    : node("p", {}, nothing(a, b)))];
}
/* Why no document is listed: nothing flipped at all, or none of it is drawn here. */
function nothing(a, b) {
  const lines = current().lines, rows = grids().filter((one) => !state.benchmark
    || one.benchmark === state.benchmark).map((one) => one.rows.find((row) => row.line === b)).filter(Boolean);
  const flipped = rows.reduce((sum, row) => sum + row.lost + row.gained, 0);
  if (lines[a].vanilla && state.flip === "flipped" && rows.length && !flipped) {
    return `${lineName(lines[b])} flips nothing: it is right and wrong on the same units as vanilla.`;
  }
  return "No document on this page fits. Choose fewer filters, or write more documents: "
    + "agilepruner report NAME --documents=all.";
}
const label = (item) => grids().find((one) => one.benchmark === item.benchmark)?.label
  || item.benchmark;
function detail(item, a, b) {
  const references = item.asked.map(([, refs]) => [...new Set(refs)].join("; ")).filter(Boolean);
  return node("article", {id: "detail", "aria-label": `${label(item)} ${item.document}`},
    item.asked.length ? item.asked.map(([q]) => node("p", {class: "question"}, q))
      : node("p", {class: "warn"}, DATA.documents.missing),
    node("dl", {}, references.length ? [node("dt", {}, "reference"), node("dd", {}, references.join(" | "))]
      : null, node("dt", {}, "image"), node("dd", {}, [item.kind, item.erank === null ? ""
      : `effective rank ${fixed(item.erank, 1)}`, item.entropy === null ? ""
      : `attention entropy ${fixed(item.entropy, 2)}`, item.grid
      ? `${item.tiles > 1 ? `${item.tiles} × ` : ""}${item.grid.join(" × ")} tokens` : "", item.note]
      .filter(Boolean).join(" · "))),
    node("div", {class: "pair"}, [a, b].map((line, side) => seen(item, line, "AB"[side]))));
}
function seen(item, index, side) {
  const line = current().lines[index], said = item.lines[index], right = isRight(said);
  const kept = unpack(item, said);
  return node("div", {class: "seen", "data-line": line.key}, node("h3", {}, `${side}`, icon(line), lineName(line)),
    said.answers.map((answer) => node("p", {class: "answer"}, answer || "(nothing)")),
    node("p", {class: right ? "right" : "wrong"}, `${right ? "✓ right" : "✗ wrong"}`,
      said.score > 0 && said.score < 1 ? ` (${fixed(said.score, 2)} of 1)` : ""),
    picture(item, kept, `${lineName(line)}: ${kept ? `${kept.size} of ${item.tiles * item.grid[0]
      * item.grid[1]} tokens kept` : said.visual === undefined ? "its journal is not here"
      : "all tokens kept"}`), phases(kept),
    node("dl", {}, Object.entries({
      "visual tokens": said.layers || (said.visual === undefined ? "" : String(said.visual)),
      "erank of the kept": said.erank === undefined ? "" : fixed(said.erank, 1),
      "FLOPs": said.flops || "",
    }).filter(([, value]) => value).flatMap(([key, value]) => [node("dt", {}, key), node("dd", {}, value)])));
}
/* The picture: every tile's grid where it lies on the image. */
function picture(item, kept, says) {
  const image = DATA.documents.images[item.image];
  const [width, height] = image ? image.size : [336, 336];
  const boxes = item.boxes || [[0, 0, 1, 1]], [rows, columns] = item.grid || [0, 0];
  const drawing = state.overlay, count = rows * columns;
  const x0 = Math.min(0, ...boxes.map((box) => box[0])), y0 = Math.min(0, ...boxes.map((box) => box[1]));
  const x1 = Math.max(1, ...boxes.map((box) => box[2])), y1 = Math.max(1, ...boxes.map((box) => box[3]));
  const svg = node("svg", {viewBox: `${x0 * width} ${y0 * height} ${(x1 - x0) * width} ${(y1 - y0) * height}`,
    role: "img", "aria-label": says});
  if (image) svg.append(node("image", {href: image.data, width, height, preserveAspectRatio: "none"}));
  const overview = (tile) => tile === item.overview, every = [...boxes.keys()];
  const tiles = every.length > 1 ? every.filter((tile) => overview(tile) === (state.tiles === "overview")) : every;
  const attention = item.attention && drawing.includes("attention") ? bytes(item.attention) : null;
  const levels = Array.from({length: 8}, () => "");
  let dropped = "", merged = "";
  const groups = new Map(), shades = new Map();
  const outlines = new Map();
  for (const tile of tiles) {
    const [left, top, right, bottom] = boxes[tile];
    const w = (right - left) * width / columns, h = (bottom - top) * height / rows;
    for (let i = 0; i < count; i++) {
      const x = left * width + (i % columns) * w, y = top * height + Math.floor(i / columns) * h;
      const square = `M${x.toFixed(2)},${y.toFixed(2)}h${w.toFixed(2)}v${h.toFixed(2)}h${(-w).toFixed(2)}z`;
      if (attention) levels[attention[tile * count + i] >> 5] += square;
      if (!kept || !drawing.includes("kept")) continue;
      const phase = kept.get(tile * count + i), into = kept.joined?.[tile * count + i];
      if (phase < kept.stages) shades.set(phase, (shades.get(phase) || "") + square);
      else if (phase !== undefined) outlines.set(phase, (outlines.get(phase) || "") + square);
      else if (into) merged += square;
      else dropped += square;
      if (into) groups.set(into, (groups.get(into) || "") + square);
    }
  }
  levels.forEach((d, i) => {
    if (d) svg.append(node("path", {d, fill: "#ff7f0e", "fill-opacity": (i / 7 * 0.75).toFixed(2)}));
  });
  if (dropped && !attention) svg.append(node("path", {class: "dropped", d: dropped, fill: "#000", "fill-opacity": 0.72}));
  if (merged && !attention) svg.append(node("path", {class: "merged", d: merged, fill: "#000", "fill-opacity": 0.4}));
  for (const [stage, d] of attention ? [] : shades) {
    svg.append(node("path", {class: "shade", d, fill: "#000", "fill-opacity": shade(stage, kept)}));
  }
  for (const [phase, d] of outlines) {
    svg.append(node("path", {class: "kept", d, fill: "none", stroke: phaseColour(kept.stages ? 0 : phase),
      "stroke-width": Math.max(0.6, Math.min(width, height) / 260)}));
  }
  if (groups.size) {
    const group = node("path", {class: "group", fill: "#F0E442", "fill-opacity": 0.45, d: ""});
    svg.append(group, ...[...groups.values()].map((d) => node("path", {d, fill: "transparent",
      onpointerenter: () => group.setAttribute("d", d), onpointerleave: () => group.setAttribute("d", "")})));
  }
  return svg;
}
const PHASE_COLOURS = ["#ffffff", "#56B4E9", "#E69F00", "#F0E442", "#CC79A7", "#009E73"];
const phaseColour = (phase) => PHASE_COLOURS[phase % PHASE_COLOURS.length];
/* What an early stage inside the model dropped is darker than what a later one did. */
const shade = (stage, kept) => 0.72 - 0.5 * stage / kept.stages;
function phases(kept) {
  if (!kept) return null;
  const counts = kept.names.map((name, i) => [name, i,
    [...kept.values(), ...kept.loose].filter((p) => p === i).length]);
  return node("p", {class: "phases"}, counts.map(([name, i, count]) =>
    node("span", {}, node("i", {style: i < kept.stages ? `background: #000; opacity: ${shade(i, kept)}`
      : `background: ${phaseColour(kept.stages ? 0 : i)}`}), `${name}: ${count}`)),
  kept.joined ? "Half dark: merged into a token. Point at a patch to see which share its token." : null);
}
function bytes(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}
/* Token of the grid -> phase (0 where the strategy has none); a digit per kept token, in base 36. */
function unpack(item, said) {
  if (!said.kept) return null;
  const found = new Map(), bits = bytes(said.kept);
  let order = 0;
  for (let i = 0; i < bits.length * 8; i++) {
    if (bits[i >> 3] >> (7 - i % 8) & 1) {
      found.set(i, said.phases ? parseInt(said.phases[order], 36) : 0);
      order += 1;
    }
  }
  found.names = said.phases ? DATA.documents.phases[said.names] : [];
  found.stages = said.stages || 0;
  found.loose = [...said.loose || ""].map((digit) => parseInt(digit, 36));
  if (said.joined) {
    const raw = bytes(said.joined), total = item.tiles * item.grid[0] * item.grid[1];
    found.joined = raw.length === total ? raw : new Uint16Array(raw.buffer);
  }
  return found;
}
document.addEventListener("keydown", (event) => {
  if (state.view !== "documents" || !DATA.documents || event.ctrlKey || event.metaKey || event.altKey) return;
  if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const found = filtered(), at = Math.max(0, found.findIndex((item) => nameOf(item) === state.doc));
  const step = {j: 1, ArrowRight: 1, ArrowDown: 1, k: -1, ArrowLeft: -1, ArrowUp: -1}[event.key];
  if (step && found.length) {
    event.preventDefault();
    go({doc: nameOf(found[(at + step + found.length) % found.length])});
  } else if (event.key === "s") swap();
  else if (event.key === "o") {
    go({overlay: OVERLAYS[(OVERLAYS.indexOf(state.overlay) + 1) % OVERLAYS.length]});
  } else if (event.key === "/") {
    event.preventDefault();
    $("search").focus();
  }
});
