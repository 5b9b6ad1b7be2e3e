"use strict";
// A study: the chosen measure against q, over training and by layer; the chosen setting stands out.
const state = { measure: Object.keys(data.measures)[0], setting: 0 };
const title = () => data.measures[state.measure];
const colour = (setting) => (setting.shade === null ? GREY : `hsl(${Math.round(265 - 240 * setting.shade)}, 65%, 52%)`);
const curve = () => (data.curves.length > 1 ? `: ${data.curves[data.settings[state.setting].curve].label}` : "");

function againstQ() {
  let first = 0;
  const traces = data.curves.map((curve, i) => {
    const start = first;
    first += curve.q.length;
    const mean = curve.means[state.measure];
    const all = data.curves.filter((other) => other.has_q).flatMap((other) => other.q);
    const flat = !curve.has_q;
    return {
      x: flat ? [Math.min(...all), Math.max(...all)] : curve.q,
      y: flat ? [mean[0], mean[0]] : mean,
      customdata: flat ? [start, start] : curve.q.map((_, place) => start + place),
      error_y: { type: "data", array: flat ? [] : curve.spreads[state.measure], thickness: 1.2 },
      name: plain(curve.label),
      mode: flat ? "lines" : "lines+markers",
      line: { color: flat ? GREY : PALETTE[i % PALETTE.length], dash: flat ? "dot" : "solid" },
      marker: { size: curve.q.map((_, place) => (start + place === state.setting ? 13 : 7)) },
      hovertemplate: "q %{x}: %{y:.4f}<extra></extra>",
    };
  });
  const pairs = data.settings.map((setting) => [setting.name, setting.values[state.measure]]);
  draw("against", traces, {
    x: { title: "q" },
    y: { title: title() },
    alt: spread(title(), pairs),
    showlegend: traces.length > 1,
  });
  document.getElementById("against-title").textContent = `${title()} against q`;
  document.getElementById("against-note").textContent = `${spread(title(), pairs)} Bars: one standard deviation over the seeds.`;
}

// A line for each setting of the chosen one's curve, and for those without q.
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
      alt: `${yTitle} by ${xTitle}, a line each setting; the values are in the table below.`,
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
  });
}

function update() {
  againstQ();
  lines(
    "time",
    (setting) => setting.history.map((epoch) => epoch.epoch),
    (setting) => setting.history.map((epoch) => epoch[state.measure] ?? null),
    "epoch",
    title(),
  );
  document.getElementById("time-title").textContent = `${title()} over training${curve()}, the first seed`;
  lines(
    "profile",
    (setting) => setting.profile[0],
    (setting) => setting.profile[1],
    "units, most active first (%)",
    "magnitude / largest",
  );
  document.getElementById("profile-title").textContent = `Activity of a sample's units, by rank${curve()}`;
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
    document.getElementById("depth-note").textContent = measured ? "" : "This is no measure of a layer.";
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

if (data.settings.length) {
  choices("measure", Object.entries(data.measures), state.measure, (measure) => choose({ measure }));
  choices(
    "setting",
    data.settings.map((setting, i) => [i, setting.name]),
    0,
    (setting) => choose({ setting: Number(setting) }),
  );
  update();
  document.getElementById("against").on("plotly_click", ({ points: [{ customdata }] }) => choose({ setting: customdata }));
  document
    .getElementById("heat")
    .on("plotly_click", ({ points: [{ x, y }] }) => choose({ setting: y, measure: Object.keys(data.measures)[x] }));
  for (const row of document.querySelectorAll("tr[data-layer]"))
    row.addEventListener("click", () => choose({ setting: Number(row.dataset.layer) }));
}
