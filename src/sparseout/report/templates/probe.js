"use strict";
// One summary, or two side by side. Every plot shows the chosen measure, layer and mode.
const state = { measure: data.measure, layer: 0, mode: data.modes[data.modes.length - 1], relative: false };
const pair = data.sides.length > 1;
const title = () => data.measures[state.measure];
const rows = () => data.layers.filter((layer) => layer.mode === state.mode);
const record = (layer, side) => data.sides[side].records[layer.index];
const value = (layer, side, measure = state.measure) => record(layer, side)?.values[measure] ?? null;
const change = (layer, measure = state.measure) => {
  const [before, after] = [value(layer, 0, measure), value(layer, 1, measure)];
  return isNumber(before) && isNumber(after) ? after - before : null;
};
const hover = (layer, side) =>
  `${plain(layer.name)}<br>${plain(layer.type)}, ${layer.units ?? "varying"} units<br>` +
  `${plain(title())} ${shown(value(layer, side))}`;

function byDepth() {
  const traces = [];
  const types = [...new Set(rows().map((layer) => layer.type))];
  data.sides.forEach((side, s) =>
    types.forEach((type, t) => {
      const layers = rows().filter((layer) => layer.type === type);
      traces.push({
        x: layers.map((layer) => layer.depth),
        y: layers.map((layer) => value(layer, s)),
        customdata: layers.map((layer) => layer.index),
        text: layers.map((layer) => hover(layer, s)),
        hovertemplate: "%{text}<extra></extra>",
        name: [plain(type), plain(side.label)].filter(Boolean).join(", "),
        mode: "lines+markers",
        line: { color: PALETTE[t % PALETTE.length], dash: pair && !s ? "dot" : "solid", width: 2 },
        marker: {
          size: layers.map((layer) => (layer.index === state.layer ? 13 : 7)),
          symbol: pair && !s ? "circle-open" : "circle",
        },
      });
    }),
  );
  const pairs = data.sides.flatMap((side, s) => rows().map((layer) => [layer.name, value(layer, s)]));
  const depths = rows().map((layer) => layer.depth);
  draw("depth", traces, {
    x: { title: "layer, in model order", range: [Math.min(...depths) - 0.6, Math.max(...depths) + 0.6] },
    y: { title: title(), rangemode: "tozero" },
    alt: spread(`${title()} by depth`, pairs),
    showlegend: traces.length > 1,
  });
  document.getElementById("depth-title").textContent = `${title()} by depth`;
  document.getElementById("depth-note").textContent = spread(title(), pairs);
}

function byChange() {
  const layers = rows();
  const changes = layers.map((layer) => change(layer));
  draw(
    "change",
    [
      {
        type: "bar",
        x: layers.map((layer) => layer.depth),
        y: changes,
        customdata: layers.map((layer) => layer.index),
        text: layers.map(
          (layer, i) => `${plain(layer.name)}<br>${shown(value(layer, 0))} → ${shown(value(layer, 1))}, ${shown(changes[i])}`,
        ),
        textposition: "none",
        hovertemplate: "%{text}<extra></extra>",
        marker: {
          color: changes.map((by) => (by < 0 ? PALETTE[1] : PALETTE[0])),
          opacity: layers.map((l) => (l.index === state.layer ? 1 : 0.7)),
        },
      },
    ],
    {
      x: { title: "layer, in model order" },
      y: { title: `change of ${title()}` },
      height: 260,
      alt: spread(
        `Change of ${title()}`,
        layers.map((layer, i) => [layer.name, changes[i]]),
      ),
    },
  );
  document.getElementById("change-title").textContent = `Change of ${title()}, after - before`;
  document.getElementById("change-note").textContent = spread(
    "Change",
    layers.map((layer, i) => [layer.name, changes[i]]),
  );
}

function heat() {
  const layers = rows();
  const names = Object.keys(data.measures);
  const columns = names.map((name) => layers.map((layer) => (pair ? change(layer, name) : value(layer, 0, name))));
  heatmap("heat", columns, {
    names,
    rows: layers.map((layer) => `${layer.depth} ${shortened(layer.name, narrow() ? 14 : 44)}`),
    text: (i, j) =>
      `${plain(layers[j].name)}<br>${plain(data.measures[names[i]])} ${pair ? "changes by " : ""}${shown(columns[i][j])}`,
    changes: pair,
  });
}

function ofLayer() {
  const layer = data.layers[state.layer];
  const sides = data.sides
    .map((side, s) => ({ label: side.label, record: record(layer, s) }))
    .filter((side) => side.record?.histogram);
  const total = ({ counts, below, above }) => counts.reduce((sum, count) => sum + count, below + above);
  const style = (s) => ({ color: PALETTE[s], dash: pair && !s ? "dot" : "solid", width: 2 });
  draw(
    "histogram",
    sides.map(({ label, record: { histogram } }, s) => ({
      x: histogram.edges,
      y: [
        ...histogram.counts.map((count, i) => count / total(histogram) / Math.log2(histogram.edges[i + 1] / histogram.edges[i])),
        0,
      ],
      name: plain(label),
      mode: "lines",
      line: { ...style(s), shape: "hv" },
      fill: "tozeroy",
      hovertemplate: "|x| from %{x:.3g}: %{y:.3f} per octave<extra></extra>",
    })),
    {
      x: { type: "log", title: "magnitude |x|", exponentformat: "power", dtick: narrow() ? 2 : 1 },
      y: { title: "share of values per octave", rangemode: "tozero" },
      showlegend: pair,
      shapes: sides
        .filter(({ record: { values } }) => values.rms > 0)
        .map(({ record: { values } }, s) => ({
          type: "line",
          yref: "paper",
          y0: 0,
          y1: 1,
          x0: values.rms,
          x1: values.rms,
          line: { ...style(s), width: 1 },
        })),
      alt: `Histogram of the magnitudes of ${layer.name}. The vertical line is the RMS.`,
    },
  );
  const zeros = sides.map(
    ({ label, record: { values } }) =>
      `${label ? label + ": " : ""}RMS ${shown(values.rms)}, ${shown(100 * values.zeros)} % exact zeros`,
  );
  document.getElementById("histogram-title").textContent = `${layer.name}: magnitudes`;
  document.getElementById("histogram-note").textContent = `${zeros.join("; ")}. The vertical line is the RMS.`;
  const unit = (s) => (state.relative ? sides[s].record.values.rms || 1 : 1);
  const traces = sides.flatMap(({ label, record: { histogram } }, s) => {
    let sum = histogram.below;
    const y = histogram.edges.map((_, i) => (sum += i ? histogram.counts[i - 1] : 0) / total(histogram));
    const marks = Object.entries(sides[s].record[state.relative ? "near_zero_rms" : "near_zero"]);
    return [
      {
        x: histogram.edges.map((edge) => edge / unit(s)),
        y,
        name: plain(label || "below"),
        mode: "lines",
        line: style(s),
        hovertemplate: "%{y:.3f} below %{x:.3g}<extra></extra>",
      },
      {
        x: marks.map(([t]) => Number(t)),
        y: marks.map(([, part]) => part),
        name: "thresholds",
        mode: "markers",
        marker: { color: PALETTE[s], size: 9 },
        showlegend: false,
        hovertemplate: "%{y:.4f} below %{x}<extra></extra>",
      },
    ];
  });
  draw("curve", traces, {
    x: {
      type: "log",
      title: state.relative ? "threshold t / RMS" : "threshold t",
      exponentformat: "power",
      dtick: narrow() ? 2 : 1,
    },
    y: { title: "fraction of |x| < t", range: [0, 1.02] },
    showlegend: pair,
    alt: `Fraction of the values of ${layer.name} below each threshold.`,
  });
  document.getElementById("curve-title").textContent = `${layer.name}: fraction of values below a threshold`;
}

function overTime() {
  const names = [...new Set(data.history.flatMap((line) => Object.keys(line.layers)))];
  const traces = names.map((name, i) => ({
    x: data.history.map((line) => line.step),
    y: data.history.map((line) => line.layers[name]?.[state.measure] ?? null),
    name: shortened(name, 40),
    mode: "lines+markers",
    line: { color: PALETTE[i % PALETTE.length], width: 2 },
    marker: { size: 5 },
    hovertemplate: `${plain(name)}<br>step %{x}: %{y:.4f}<extra></extra>`,
  }));
  const known = traces.some((trace) => trace.y.some(isNumber));
  draw("time", traces, {
    x: { title: data.step },
    y: { title: title(), rangemode: "tozero" },
    showlegend: names.length > 1,
    alt: spread(
      `${title()} over training`,
      traces.flatMap((trace) => trace.x.map((step, i) => [`${data.step} ${step}`, trace.y[i]])),
    ),
  });
  document.getElementById("time-title").textContent = `${title()} over training`;
  document.getElementById("time-note").textContent = known ? "" : "This measure was not recorded over training.";
}

const has = (id) => document.getElementById(id) !== null;
function update() {
  byDepth();
  if (has("change")) byChange();
  if (has("histogram")) ofLayer();
  if (has("time")) overTime();
  heat();
  document.getElementById("measure").value = state.measure;
  document.getElementById("layer").value = state.layer;
  for (const row of document.querySelectorAll("tr[data-layer]"))
    row.setAttribute("aria-selected", Number(row.dataset.layer) === state.layer);
}
function choose(changes) {
  Object.assign(state, changes);
  const layer = data.layers[state.layer];
  if ("mode" in changes && layer.mode !== state.mode)
    state.layer = (rows().find((other) => other.name === layer.name) ?? rows()[0]).index;
  state.mode = data.layers[state.layer].mode;
  if (has("mode")) document.getElementById("mode").value = state.mode;
  update();
}

state.layer = rows()[0].index;
choices("measure", Object.entries(data.measures), state.measure, (measure) => choose({ measure }));
choices(
  "layer",
  data.layers.map((layer) => [layer.index, data.modes.length > 1 ? `${layer.name} (${layer.mode})` : layer.name]),
  state.layer,
  (layer) => choose({ layer: Number(layer) }),
);
if (has("mode"))
  choices(
    "mode",
    data.modes.map((mode) => [mode, mode]),
    state.mode,
    (mode) => choose({ mode }),
  );
if (has("curve")) {
  const label = document.createElement("label");
  const box = Object.assign(document.createElement("input"), { type: "checkbox", id: "relative" });
  label.append(box, " thresholds as multiples of the layer's RMS");
  box.addEventListener("change", () => choose({ relative: box.checked }));
  document.getElementById("curve-note").replaceWith(label);
}
update();
for (const id of ["depth", "change"].filter(has)) {
  document.getElementById(id).on("plotly_click", ({ points: [{ customdata }] }) => choose({ layer: customdata }));
}
document
  .getElementById("heat")
  .on("plotly_click", ({ points: [{ x, y }] }) => choose({ layer: rows()[y].index, measure: Object.keys(data.measures)[x] }));
for (const row of document.querySelectorAll("tr[data-layer]"))
  row.addEventListener("click", () => choose({ layer: Number(row.dataset.layer) }));
