/* Charts from their specification: scales, axes and marks; nothing is worked out here. */
function ticks(low, high, count = 5) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let t = Math.ceil(low / step) * step; t <= high + 1e-9; t += step) found.push(t);
  return {values: found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9))};
}
function extent(values) {
  const low = Math.min(...values), high = Math.max(...values);
  const pad = (high - low || Math.abs(high) || 1) * 0.09;
  return [low - pad, high + pad];
}
const DASHES = [null, "6 3", "2 3", "8 3 2 3"];
function chart(spec) {
  const table = current();
  const width = spec.wide ? 620 : 320, height = spec.wide ? 340 : 210;
  const left = 46, right = 14, top = 10, bottom = 36;
  const variants = new Map();
  const shown = spec.series.map((points) => {
    const line = table.lines[points[0].line];
    const number = variants.get(line.strategy) || 0;
    if (!line.vanilla) variants.set(line.strategy, number + 1);
    return {line, points, dash: DASHES[number % DASHES.length]};
  }).filter(({line}) => line.vanilla || !hidden(line));
  const all = shown.flatMap((one) => one.points);
  const anchored = spec.base !== null;
  const dashed = anchored && `┄ vanilla ${fixed(spec.base, spec.digits)}`;
  const figure = node("figure", {}, node("figcaption", {}, spec.title + " ",
    node("span", {}, [spec.note, dashed].filter(Boolean).join("; "))));
  if (!all.length) {
    figure.append(node("p", {}, "Nothing to draw."));
    return figure;
  }
  const map = spec.log ? Math.log2 : (value) => value;
  const [x0, x1] = extent(all.map((p) => map(p.x)));
  const ys = all.flatMap((p) => [p.y - (p.spread || 0), p.y + (p.spread || 0)]);
  const [y0, y1] = spec.range || extent(anchored ? [...ys, spec.base] : ys);
  const px = (x) => left + (map(x) - x0) / (x1 - x0) * (width - left - right);
  const py = (y) => height - bottom - (y - y0) / (y1 - y0) * (height - top - bottom);
  const says = shown.map(({line, points}) => `${line.label}: `
    + points.map((p) => `${fixed(p.y, spec.digits)} at ${p.x.toPrecision(3)}`).join(", "));
  const svg = node("svg", {viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `${spec.title}: ${spec.y} against ${spec.x}. ${says.join("; ")}`});
  const yTicks = ticks(y0, y1, spec.wide ? 7 : 4);
  for (const t of yTicks.values) {
    svg.append(node("line", {class: "grid", x1: left, x2: width - right, y1: py(t), y2: py(t)}),
      node("text", {x: left - 6, y: py(t) + 4, "text-anchor": "end"}, t.toFixed(yTicks.digits)));
  }
  const xTicks = spec.ticks ? {values: spec.ticks, digits: 0} : ticks(x0, x1, 6);
  for (const t of xTicks.values) {
    if (map(t) < x0 || map(t) > x1) continue;
    svg.append(node("line", {class: "axis", x1: px(t), x2: px(t), y1: height - bottom,
      y2: height - bottom + 4}),
    node("text", {x: px(t), y: height - bottom + 16, "text-anchor": "middle"},
      t.toFixed(xTicks.digits)));
  }
  svg.append(
    node("line", {class: "axis", x1: left, x2: width - right, y1: height - bottom,
      y2: height - bottom}),
    node("text", {x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle"}, spec.x));
  if (anchored) {
    svg.append(node("line", {class: "vanilla", x1: left, x2: width - right, y1: py(spec.base),
      y2: py(spec.base)}));
  }
  if (spec.front) {
    const points = all.filter((p) => p.front).sort((a, b) => a.x - b.x);
    svg.append(node("path", {class: "front",
      d: points.map((p, i) => `${i ? "L" : "M"}${px(p.x)},${py(p.y)}`).join("")}));
  }
  for (const {line, points, dash} of shown) {
    const group = node("g", {class: "series"});
    const on = () => { group.classList.add("on"); svg.classList.add("focus"); };
    const off = () => { group.classList.remove("on"); svg.classList.remove("focus"); };
    group.addEventListener("pointerenter", on);
    group.addEventListener("pointerleave", off);
    if (points.length > 1) {
      group.append(node("path", {d: points.map((p, i) => `${i ? "L" : "M"}${px(p.x)},${py(p.y)}`)
        .join(""), fill: "none", stroke: line.colour, "stroke-width": spec.front ? 1 : 2,
      "stroke-dasharray": dash, "stroke-linejoin": "round"}));
    }
    for (const p of points) {
      if (p.spread) {
        group.append(node("line", {x1: px(p.x), x2: px(p.x), y1: py(p.y - p.spread),
          y2: py(p.y + p.spread), stroke: line.colour, "stroke-width": 1.5}));
      }
      const one = table.lines[p.line];
      const spread = p.spread ? ` ±${fixed(p.spread, spec.digits)}` : "";
      const words = [lineName(one), `${spec.y}: ${fixed(p.y, spec.digits)}${spread}`, p.words,
        spec.front && p.front ? "on the Pareto front" : ""].filter(Boolean).join("\n");
      group.append(marker(line, px(p.x), py(p.y), spec.front && p.front ? 5 : 4),
        node("circle", {cx: px(p.x), cy: py(p.y), r: 11, fill: "transparent", ...tipped(words)}));
    }
    svg.append(group);
  }
  figure.append(svg);
  return figure;
}
function chartSection(one) {
  const table = current();
  const wide = one.charts.some((spec) => spec.wide);
  const rows = one.charts.flatMap((spec) => spec.series.flat()
    .filter((p) => table.lines[p.line].vanilla || !hidden(table.lines[p.line]))
    .map((p) => [spec.title, table.lines[p.line].label, table.lines[p.line].budget, p.x, p.y,
      p.spread, p.front]));
  return section(one.title, one.text,
    csv(one.title, ["chart", "strategy", "budget", "x", "y", "spread", "front"], rows),
    node("div", {class: wide ? "charts wide" : "charts"}, one.charts.map(chart)));
}
/* Differences of the Average to the chosen reference, a panel per budget. */
function forest() {
  const table = current(), reference = compared();
  if (!reference) return null;
  const found = reference.differences.filter(([line, , column]) => table.columns[column].average
    && !hidden(table.lines[line]));
  if (!found.length) return null;
  const [x0, x1] = extent([0, ...found.flatMap(([, , , , low, high]) => [low, high])]);
  const figures = table.groups.map((group) => {
    const own = found.filter(([line]) => group.lines.includes(line));
    if (!own.length) return null;
    const width = 620, left = 210, right = 80, top = 6, step = 24, bottom = 36;
    const height = top + own.length * step + bottom;
    const px = (x) => left + (x - x0) / (x1 - x0) * (width - left - right);
    const svg = node("svg", {viewBox: `0 0 ${width} ${height}`, role: "img",
      "aria-label": `Differences, ${group.heading}: ` + own.map((d) =>
        `${table.lines[d[0]].label} ${signed(d[3], 2)} ${verdict(d)}`).join("; ")});
    const marks = ticks(x0, x1, 6);
    for (const t of marks.values) {
      svg.append(node("line", {class: t ? "grid" : "vanilla", x1: px(t), x2: px(t), y1: top,
        y2: height - bottom}),
      node("text", {x: px(t), y: height - bottom + 15, "text-anchor": "middle"},
        signed(t, marks.digits)));
    }
    svg.append(node("text", {x: (left + width - right) / 2, y: height - 4,
      "text-anchor": "middle"}, "points of the relative average"));
    own.forEach((d, i) => {
      const line = table.lines[d[0]], y = top + (i + 0.5) * step;
      svg.append(
        node("text", {x: left - 10, y: y + 4, "text-anchor": "end"}, line.label),
        node("line", {x1: px(d[4]), x2: px(d[5]), y1: y, y2: y, stroke: line.colour,
          "stroke-width": 2}),
        marker(line, px(d[3]), y),
        node("text", {x: width - right + 10, y: y + 4}, table.verdicts[d[6]]),
        node("rect", {x: 0, y: y - step / 2, width, height: step, fill: "transparent",
          ...tipped(`${line.label}: ${against(d)}`)}));
    });
    return node("figure", {}, node("figcaption", {}, `${group.heading} `,
      node("span", {}, `minus ${table.lines[own[0][1]].label}`)), svg);
  });
  const rows = found.map((d) => [table.lines[d[0]].label, table.lines[d[0]].budget,
    table.lines[d[1]].label, d[3], d[4], d[5], table.verdicts[d[6]]]);
  return section("Differences of the Average per budget", reference.notes.join(" "),
    csv("differences", ["strategy", "budget", "reference", "difference", "low", "high", "verdict"],
      rows),
    node("div", {class: "charts wide"}, figures));
}
