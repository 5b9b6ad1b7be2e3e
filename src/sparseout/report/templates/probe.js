"use strict";
// One summary, or two side by side. Every plot shows the chosen measure, layer and mode.
const state = { measure: data.measure, layer: 0, mode: data.modes[data.modes.length - 1], relative: false };
const pair = data.sides.length > 1;
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x"];
const PROBLEMS = ["NaN or Inf", "dead layer"]; // by urgency
const title = () => data.measures[state.measure] ?? "no measure";
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

// Layers are joined by a line only if they have the same role and type. Types tell layers without a known role apart.
function series() {
  const groups = new Map();
  for (const layer of rows()) {
    const key = `${layer.role}\n${layer.type}`;
    groups.set(key, [...(groups.get(key) ?? []), layer]);
  }
  const found = [...groups.values()];
  const roles = [...new Set(found.map(([{ role, type }]) => (role === "other" ? type : role)))];
  const types = (role) => found.filter(([layer]) => layer.role === role).map(([layer]) => layer.type);
  return found.map((layers) => {
    const { role, type } = layers[0];
    const label = role === "other" ? type : types(role).length > 1 ? `${role} (${type})` : role;
    const colour = PALETTE[roles.indexOf(role === "other" ? type : role) % PALETTE.length];
    const symbol = SYMBOLS[Math.max(0, role === "other" ? 0 : types(role).indexOf(type)) % SYMBOLS.length];
    return { layers, label, colour, symbol };
  });
}

function byDepth() {
  const traces = [];
  const size = rows().length > 100 ? 4 : 7;
  data.sides.forEach((side, s) =>
    series().forEach(({ layers, label, colour, symbol }) => {
      traces.push({
        x: layers.map((layer) => layer.depth),
        y: layers.map((layer) => value(layer, s)),
        customdata: layers.map((layer) => layer.index),
        text: layers.map((layer) => hover(layer, s)),
        hovertemplate: "%{text}<extra></extra>",
        name: [plain(label), plain(side.label)].filter(Boolean).join(", "),
        mode: "lines+markers",
        line: { color: colour, dash: pair && !s ? "dot" : "solid", width: 1.5 },
        marker: {
          size: layers.map((layer) => (layer.index === state.layer ? 13 : size)),
          symbol: pair && !s ? `${symbol}-open` : symbol,
        },
      });
    }),
  );
  const pairs = data.sides.flatMap((side, s) => rows().map((layer) => [layer.name, value(layer, s)]));
  PROBLEMS.forEach((problem, urgency) => {
    const layers = rows().filter((layer) => layer.urgency === urgency);
    if (!layers.length) return;
    traces.push({
      x: layers.map((layer) => layer.depth),
      y: layers.map(() => 0),
      customdata: layers.map((layer) => layer.index),
      text: layers.map((layer) => `${plain(layer.name)}<br>${problem}`),
      hovertemplate: "%{text}<extra></extra>",
      name: problem,
      mode: "markers",
      cliponaxis: false,
      marker: { color: PALETTE[1], size: 11, symbol: urgency ? "cross" : "x" },
    });
  });
  draw("depth", traces, {
    x: depthAxis(),
    y: { title: title(), rangemode: "tozero" },
    alt: spread(`${title()} by depth`, pairs),
    showlegend: traces.length > 1,
    click: chooseLayer,
  });
  document.getElementById("depth-title").textContent = `${title()} by depth`;
  document.getElementById("depth-note").textContent = spread(title(), pairs);
}

// Few layers have their names at the axis, many their numbers.
function depthAxis() {
  const depths = rows().map((layer) => layer.depth);
  const range = [Math.min(...depths) - 0.6, Math.max(...depths) + 0.6];
  const names = distinct(rows().map((layer) => layer.name));
  const named = names.length <= (narrow() ? 6 : Math.max(...names.map((name) => name.length)) > 14 ? 12 : 24);
  if (!named) return { title: "layer, in model order", range, tickformat: "d" };
  return { range, tickvals: depths, ticktext: names.map((name) => shortened(name, narrow() ? 14 : 28)), tickangle: -35 };
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
      x: depthAxis(),
      click: chooseLayer,
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
    rows: distinct(layers.map((layer) => layer.name)).map((name) => shortened(name, narrow() ? 14 : 44)),
    text: (i, j) =>
      `${plain(layers[j].name)}<br>${plain(data.measures[names[i]])} ${pair ? "changes by " : ""}${shown(columns[i][j])}`,
    changes: pair,
    click: ({ x, y }) => choose({ layer: layers[y].index, measure: names[x] }),
  });
}

// Each octave has eight bins of equal width. The histogram has the index of its first edge, and index 0 is magnitude 1.
function edges({ first, counts }) {
  const edge = (index) => 2 ** Math.floor(index / 8) * (1 + (((index % 8) + 8) % 8) / 8);
  return [...counts, 0].map((_, i) => edge(first + i));
}
const octaves = (histogram) => edges(histogram).map((edge, i, all) => Math.log2(all[i + 1] / edge));

function ofLayer() {
  const layer = data.layers[state.layer];
  const sides = data.sides
    .map((side, s) => ({ label: side.label, record: record(layer, s) }))
    .filter((side) => side.record?.histogram);
  const total = ({ counts, below, above }) => counts.reduce((sum, count) => sum + count, below + above);
  const style = (s) => ({ color: PALETTE[s], dash: pair && !s ? "dot" : "solid", width: 2 });
  const inBins = ({ record: { histogram } }) => histogram.counts.some((count) => count > 0);
  const marked = sides.filter((side) => inBins(side) && side.record.values.rms > 0);
  draw(
    "histogram",
    sides.filter(inBins).map(({ label, record: { histogram } }, s) => ({
      x: edges(histogram),
      y: [
        ...histogram.counts.map((count, i) => count / total(histogram) / octaves(histogram)[i]),
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
      shapes: marked.map(({ record: { values } }, s) => ({
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
      `${label ? label + ": " : ""}RMS ${shown(values.rms)}, ${percent(values.zeros)} exact zeros`,
  );
  document.getElementById("histogram-title").textContent = `${layer.name}: magnitudes`;
  document.getElementById("histogram-note").textContent = 
    `${zeros.join("; ")}. ` +
    (!sides.some(inBins) ? "No value is finite and other than zero." : marked.length ? "The vertical line is the RMS." : "");
  const unit = (s) => (state.relative ? sides[s].record.values.rms || 1 : 1);
  const traces = sides.filter(inBins).flatMap(({ label, record: { histogram } }, s) => {
    let sum = histogram.below;
    const y = edges(histogram).map((_, i) => (sum += i ? histogram.counts[i - 1] : 0) / total(histogram));
    const marks = Object.entries(sides[s].record[state.relative ? "near_zero_rms" : "near_zero"]);
    return [
      {
        x: edges(histogram).map((edge) => edge / unit(s)),
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
  document.getElementById("curve").closest("figure").hidden = !traces.length; // the note of the histogram says why
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

const chooseLayer = ({ customdata }) => choose({ layer: customdata });
const has = (id) => document.getElementById(id) !== null;
function update() {
  if (has("depth")) byDepth();
  if (has("change")) byChange();
  if (has("units")) ofUnits();
  if (has("histogram")) ofLayer();
  if (has("time")) overTime();
  if (has("heat")) heat();
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

function start() {
  state.layer = [...rows()].sort((a, b) => a.urgency - b.urgency)[0].index;
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
  for (const row of document.querySelectorAll("tr[data-layer]"))
    row.addEventListener("click", () => choose({ layer: Number(row.dataset.layer) }));
}
