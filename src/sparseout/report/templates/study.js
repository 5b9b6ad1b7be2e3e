"use strict";
// A study: the chosen measure against q, over training and by layer. The chosen setting is highlighted.
const state = { measure: Object.keys(data.measures)[0], setting: 0 };
const title = () => data.measures[state.measure];
const colour = (setting) => (setting.shade === null ? GREY : `hsl(${Math.round(265 - 240 * setting.shade)}, 65%, 52%)`);
const curve = () => (data.curves.length > 1 ? `: ${data.curves[data.settings[state.setting].curve].label}` : "");

const scoreTitle = data.measures[data.score] ?? data.score;
const flats = data.curves.filter((curve) => !curve.axis);
const dash = (i) => (data.curves[i].axis ? "solid" : ["dash", "dot", "dashdot"][flats.indexOf(data.curves[i]) % 3]);
const tint = (i) => (data.curves[i].axis ? PALETTE[i % PALETTE.length] : GREY);

// A line through the means over seeds, and a point for each run that leads to its row.
function againstSparseness() {
  const means = data.curves.map((curve, i) => ({
    x: curve.means.hoyer,
    y: curve.means[data.score],
    text: curve.names,
    textposition: "top center",
    name: plain(curve.label),
    mode: curve.axis ? "lines+markers+text" : "markers",
    line: { color: tint(i), width: 2 },
    marker: { color: tint(i), size: 9 },
    hovertemplate: "%{text} mean: %{x:.4f}, %{y:.4f}<extra></extra>",
  }));
  const runs = data.curves.map((curve, i) => ({
    x: curve.points.map((point) => point.hoyer),
    y: curve.points.map((point) => point.score),
    customdata: curve.points.map((point) => point.run),
    text: curve.points.map((point) => `${point.of}, seed ${point.seed}, run ${plain(point.run)}`),
    name: plain(curve.label),
    showlegend: false,
    type: "scatter",
    mode: "markers",
    marker: { color: tint(i), size: 6, opacity: 0.45 },
    hovertemplate: "%{text}<br>%{x:.4f}, %{y:.4f}<extra></extra>",
  }));
  const pairs = data.settings.map((setting) => [setting.name, setting.values[data.score]]);
  draw("tradeoff", [...means, ...runs], {
    x: { title: "Hoyer sparseness" },
    y: { title: scoreTitle },
    height: 420,
    alt: spread(`${scoreTitle} by Hoyer sparseness`, pairs),
    showlegend: data.curves.length > 1,
    click: ({ customdata }) => customdata && showRun(customdata),
  });
  document.getElementById("tradeoff-title").textContent = `${scoreTitle} against Hoyer sparseness`;
  document.getElementById("tradeoff-note").textContent = "Small points are runs: click one to see its row below. Large points are means over seeds.";
}

// A curve can be drawn only against its own axis.
const drawn = (curve) => !curve.axis || curve.axis === data.axis;
const ends = () => {
  const all = data.curves.filter((curve) => curve.axis === data.axis).flatMap((curve) => curve.x);
  return [Math.min(...all), Math.max(...all)];
};

function scoreAgainstAxis() {
  const traces = data.curves.map((curve, i) => ({
    visible: drawn(curve),
    x: curve.axis ? curve.x : ends(),
    y: curve.axis ? curve.means[data.score] : [curve.means[data.score][0], curve.means[data.score][0]],
    error_y: { type: "data", array: curve.axis ? curve.half : [], thickness: 1.2 },
    name: plain(curve.label),
    mode: curve.axis ? "lines+markers" : "lines",
    line: { color: tint(i), dash: dash(i) },
    hovertemplate: `${data.axis_title} %{x}: %{y:.4f} ± %{error_y.array:.4f}<extra></extra>`,
  }));
  draw("score", traces, {
    x: { title: data.axis_title },
    y: { title: scoreTitle },
    alt: spread(`${scoreTitle} by ${data.axis_title}`, data.settings.map((setting) => [setting.name, setting.values[data.score]])),
    showlegend: traces.length > 1,
  });
  document.getElementById("score-title").textContent = `${scoreTitle} against ${data.axis_title}`;
  document.getElementById("score-note").textContent = "Bars: 95 % confidence intervals of the mean over seeds.";
}

// The best validation score at each value of a tuned setting: a line for each contender, and a large point for the chosen value.
function tuning() {
  data.tuning.forEach((panel, i) => {
    const traces = panel.lines.map((line, j) => ({
      x: line.x,
      y: line.y,
      name: plain(line.name),
      mode: "lines+markers",
      line: { color: PALETTE[j % PALETTE.length] },
      marker: { size: line.x.map((value) => (value === line.chosen ? 13 : 7)) },
      hovertemplate: `${plain(line.name)}<br>${plain(panel.name)} %{x}: %{y:.4f}<extra></extra>`,
    }));
    const pairs = panel.lines.flatMap((line) => line.x.map((value, k) => [`${line.name}, ${value}`, line.y[k]]));
    draw(`tuning-${i}`, traces, {
      x: { title: panel.name },
      y: { title: panel.score },
      alt: spread(`${panel.score} by ${panel.name}`, pairs),
    });
    document.getElementById(`tuning-${i}-note`).textContent = "A large point is the chosen value.";
  });
}

function showRun(run) {
  for (const row of document.querySelectorAll("tr[id][aria-selected]")) row.removeAttribute("aria-selected");
  const row = document.getElementById(`run-${run}`);
  row?.setAttribute("aria-selected", true);
  row?.scrollIntoView({ block: "center" });
}

function againstAxis() {
  let first = 0;
  const traces = data.curves.map((curve, i) => {
    const start = first;
    first += curve.x.length;
    const mean = curve.means[state.measure];
    const flat = !curve.axis;
    return {
      visible: drawn(curve),
      x: flat ? ends() : curve.x,
      y: flat ? [mean[0], mean[0]] : mean,
      customdata: flat ? [start, start] : curve.x.map((_, j) => start + j),
      error_y: { type: "data", array: flat ? [] : curve.spreads[state.measure], thickness: 1.2 },
      name: plain(curve.label),
      mode: flat ? "lines" : "lines+markers",
      line: { color: flat ? GREY : PALETTE[i % PALETTE.length], dash: dash(i) },
      marker: { size: curve.x.map((_, j) => (start + j === state.setting ? 13 : 7)) },
      hovertemplate: `${data.axis_title} %{x}: %{y:.4f}<extra></extra>`,
    };
  });
  const pairs = data.settings.map((setting) => [setting.name, setting.values[state.measure]]);
  draw("against", traces, {
    x: { title: data.axis_title },
    y: { title: title() },
    alt: spread(title(), pairs),
    showlegend: traces.length > 1,
    click: ({ customdata }) => choose({ setting: customdata }),
  });
  document.getElementById("against-title").textContent = `${title()} against ${data.axis_title}`;
  document.getElementById("against-note").textContent = `${spread(title(), pairs)} Bars: one standard deviation over seeds.`;
}

// A line for each setting on the chosen setting's curve, and for settings without q.
function lines(id, x, y, xTitle, yTitle) {
  const near = data.settings.filter((setting) => setting.curve === data.settings[state.setting].curve || setting.shade === null);
  draw(
    id,
    near.map((setting) => ({
      x: x(setting),
      y: y(setting),
      name: plain(setting.short),
      mode: "lines",
      line: { color: colour(setting), width: setting === data.settings[state.setting] ? 4 : 1.6 },
      hovertemplate: `${plain(setting.name)}<br>%{x:.4g}: %{y:.4f}<extra></extra>`,
    })),
    {
      x: { title: xTitle },
      y: { title: yTitle },
      alt: `${yTitle} by ${xTitle}, one line per setting. The table below lists the values.`,
    },
  );
}

function heat() {
  const names = Object.keys(data.measures);
  const columns = names.map((name) => data.settings.map((setting) => setting.values[name]));
  heatmap("heat", columns, {
    names,
    rows: data.settings.map((setting) => shortened(setting.name, 28)),
    text: (i, j) => `${plain(data.settings[j].name)}<br>${plain(data.measures[names[i]])} ${shown(columns[i][j])}`,
    click: ({ x, y }) => choose({ setting: y, measure: names[x] }),
  });
}

function errorBars([below, above]) {
  return { type: "data", symmetric: false, arrayminus: below, array: above, thickness: 1 };
}

// The levels of each method with their intervals, and the time of each run.
function methods() {
  const { methods, machines } = data.comparison;
  for (const measure of ["hoyer", "zeros"]) {
    if (!methods.some(({ means }) => means[measure].some((value) => value > 0))) {
      document.getElementById(`methods-${measure}`).closest("figure").hidden = true;
      continue;
    }
    const traces = methods.map(({ label, colour, dash, names, means, bars }) => ({
      x: means[measure],
      y: means[data.score],
      error_x: errorBars(bars[measure]),
      error_y: errorBars(bars[data.score]),
      text: names,
      name: plain(label),
      mode: "lines+markers",
      line: { color: colour, dash },
      marker: { size: 8 },
      hovertemplate: `${plain(label)} %{text}<br>%{x:.4f}, %{y:.4f} ± %{error_y.array:.4f}<extra></extra>`,
    }));
    const pairs = methods.flatMap(({ label, names, means }) => names.map((name, i) => [`${label} ${name}`, means[data.score][i]]));
    draw(`methods-${measure}`, traces, {
      x: { title: data.measures[measure] ?? measure },
      y: { title: scoreTitle },
      height: 420,
      alt: spread(`${scoreTitle} by ${data.measures[measure] ?? measure}`, pairs),
    });
    document.getElementById(`methods-${measure}-note`).textContent = "Bars: 95 % confidence intervals of the means over seeds.";
  }
  const timed = methods.filter(({ seconds }) => seconds.length);
  const traces = timed.map(({ label, colour, seconds }) => ({
    x: seconds,
    y: seconds.map(() => plain(label)),
    name: plain(label),
    mode: "markers",
    marker: { color: colour, size: 8, opacity: 0.6 },
    hovertemplate: `${plain(label)}: %{x:.2f}<extra></extra>`,
  }));
  const pairs = timed.flatMap(({ label, seconds }) => seconds.map((value) => [label, value]));
  draw("methods-seconds", traces, {
    x: { title: "seconds of a run relative to no noise" },
    y: { autorange: "reversed" },
    alt: spread("Seconds relative to no noise", pairs),
    showlegend: false,
  });
  const own = machines > 1 ? ` Each run is compared on its own of ${machines} machines.` : "";
  document.getElementById("methods-seconds-note").textContent = timed.length
    ? `Training, evaluation and, with a target, its control.${own}`
    : "There are no runs without noise to compare with.";
}

function update() {
  againstAxis();
  lines(
    "time",
    (setting) => setting.history.map((epoch) => epoch.epoch),
    (setting) => setting.history.map((epoch) => epoch[state.measure] ?? null),
    "epoch",
    title(),
  );
  document.getElementById("time-title").textContent = `${title()} over training${curve()}, first seed`;
  lines(
    "profile",
    (setting) => setting.profile[0],
    (setting) => setting.profile[1],
    "rank of the unit, most active first (%)",
    "magnitude relative to the largest",
  );
  document.getElementById("profile-title").textContent = `Activity by rank of the unit${curve()}`;
  heat();
  if (document.getElementById("depth")) {
    const measured = data.settings.some((setting) => state.measure in Object.values(setting.layers)[0]);
    lines(
      "depth",
      () => data.layers.map(plain),
      (setting) => data.layers.map((layer) => setting.layers[layer][state.measure] ?? null),
      "layer",
      title(),
    );
    document.getElementById("depth-title").textContent = `${title()} by depth${curve()}`;
    document.getElementById("depth-note").textContent = measured ? "" : "This measure is not available by layer.";
  }
  for (const row of document.querySelectorAll("tr[data-layer]"))
    row.setAttribute("aria-selected", Number(row.dataset.layer) === state.setting);
  document.getElementById("measure").value = state.measure;
  document.getElementById("setting").value = state.setting;
}
const choose = (changes) => {
  Object.assign(state, changes);
  update();
};

tuning();
if (data.settings.length) {
  choices("measure", Object.entries(data.measures), state.measure, (measure) => choose({ measure }));
  choices(
    "setting",
    data.settings.map((setting, i) => [i, setting.name]),
    0,
    (setting) => choose({ setting: Number(setting) }),
  );
  againstSparseness();
  scoreAgainstAxis();
  if (document.getElementById("methods-hoyer")) methods();
  update();
  for (const row of document.querySelectorAll("tr[data-layer]"))
    row.addEventListener("click", () => choose({ setting: Number(row.dataset.layer) }));
}
