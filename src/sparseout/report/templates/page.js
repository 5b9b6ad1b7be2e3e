"use strict";
// Shared by all pages: the data, plots, escaping of names, and sortable tables.
const data = JSON.parse(document.getElementById("data").textContent);
const PALETTE = ["#2183b3", "#d1495b", "#66a182", "#8d6a9f", "#c98b1a", "#5f7aa8"];
const GREY = "#808080";
const NEUTRAL = "rgba(128,128,128,0.25)";
const MOST_LABELS = 100; // of rows in a heat map
const CHANGES = [
  [0, PALETTE[1]],
  [0.5, "rgba(128,128,128,0.12)"],
  [1, PALETTE[0]],
];

// Plotly interprets some HTML in its texts, so escape it.
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const shortened = (name, length) => plain(name.length > length ? "…" + name.slice(1 - length) : name);
const isNumber = (value) => typeof value === "number";
const shown = (value) => (isNumber(value) ? Number(value.toPrecision(3)).toString() : "-");
const percent = (fraction) => (isNumber(fraction) ? `${shown(100 * fraction)} %` : "-");
const narrow = () => window.innerWidth < 640;

// Leave out the parts at the start and at the end that all names have in common.
function distinct(names) {
  const parts = names.map((name) => name.split("."));
  const shortest = Math.min(...parts.map((part) => part.length)) - 1;
  const common = (at) => {
    let count = 0;
    while (count < shortest && parts.every((part) => part.at(at(count)) === parts[0].at(at(count)))) count++;
    return count;
  };
  const first = common((i) => i);
  const last = Math.min(shortest - first, common((i) => -1 - i));
  return parts.map((part) => part.slice(first, part.length - last).join("."));
}

// Plots near the screen are drawn first, so a page of many layers opens at once. The others follow a second later, one by one.
const undrawn = new Map(); // of each waiting plot: what draws it
const watcher = new IntersectionObserver(
  (entries) => entries.filter(({ isIntersecting }) => isIntersecting).forEach(({ target }) => drawNow(target)),
  { rootMargin: "200px" },
);
let timer;
function wait(div, plot) {
  undrawn.set(div, plot);
  watcher.unobserve(div);
  watcher.observe(div); // tells at once whether it is near
  clearTimeout(timer);
  timer = setTimeout(drawRest, 1000);
}
function drawNow(div) {
  watcher.unobserve(div);
  undrawn.get(div)?.();
  undrawn.delete(div);
}
function drawRest() {
  const [div] = undrawn.keys();
  if (!div) return;
  drawNow(div);
  timer = setTimeout(drawRest, 50);
}
const drawAll = () => [...undrawn.keys()].forEach(drawNow);

function draw(id, traces, { x = {}, y = {}, height = 340, alt = "", click, ...layout } = {}) {
  const div = document.getElementById(id);
  div.setAttribute("aria-label", alt);
  div.hidden = !traces.some(({ y = [], z }) => (z ? z.flat() : [...y]).some(isNumber)); // the note below says why
  div.style.height = `${height}px`; // also before it is drawn: the page does not jump
  // Margins grow with the labels, so Plotly need not measure each label to hide those that overflow.
  const grid = { gridcolor: "rgba(128,128,128,0.22)", zeroline: false, automargin: true, ticklabeloverflow: "allow" };
  const axis = ({ title, ...rest }) => ({ ...grid, ...rest, ...(title && { title: { text: plain(title), standoff: 8 } }) });
  wait(div, () => {
    Plotly.react(
      div,
      traces,
      {
        xaxis: axis(x),
        yaxis: axis(y),
        height,
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: GREY, family: "system-ui, sans-serif", size: narrow() ? 11 : 12 },
        margin: { l: 50, r: 15, t: 10, b: 45 },
        hovermode: "closest",
        legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
        ...layout,
      },
      { displayModeBar: false, responsive: true },
    );
    if (click && !div.dataset.click) div.on("plotly_click", ({ points: [point] }) => click(point));
    if (click) div.dataset.click = "true";
  });
}

// Scale each column by itself: from its lowest to its highest value or, for changes, symmetrically around zero. A column of one
// value has no scale.
function scaled(column, changes) {
  const known = column.filter(isNumber);
  const [low, high, most] = [Math.min(...known), Math.max(...known), Math.max(...known.map(Math.abs))];
  const scale = (value) => (changes ? (most ? value / most : 0) : high > low ? (value - low) / (high - low) : null);
  return column.map((value) => (isNumber(value) ? scale(value) : null));
}

// `columns[i][j]` is the value of the measure `names[i]` in the row `rows[j]`.
function heatmap(id, columns, { names, rows, text, changes = false, click }) {
  const colours = columns.map((column) => scaled(column, changes));
  const trace = {
    type: "heatmap",
    x: names.map((_, i) => i),
    y: rows.map((_, j) => j),
    z: rows.map((_, j) => colours.map((column) => column[j])),
    text: rows.map((_, j) => names.map((_, i) => text(i, j))),
    hovertemplate: "%{text}<extra></extra>",
    colorscale: changes ? CHANGES : "Viridis",
    zmin: changes ? -1 : 0,
    zmax: 1,
    xgap: 1,
    ygap: 1,
    showscale: false,
    hoverongaps: false,
  };
  const constant = columns.map((column, i) => column.map((value, j) => (isNumber(value) && colours[i][j] === null ? 0 : null)));
  const neutral = {
    ...trace,
    z: rows.map((_, j) => constant.map((column) => column[j])),
    colorscale: [
      [0, NEUTRAL],
      [1, NEUTRAL],
    ],
  };
  const tickfont = { size: narrow() ? 9 : 12 };
  const longest = Math.max(...names.map((name) => name.length));
  const top = 15 + longest * 5.5;
  const step = Math.ceil(rows.length / MOST_LABELS);
  draw(id, constant.flat().some(isNumber) ? [trace, neutral] : [trace], {
    x: { tickvals: trace.x, ticktext: names.map(plain), tickangle: narrow() ? -90 : -50, side: "top", showgrid: false, tickfont },
    y: { tickvals: trace.y.filter((j) => j % step === 0), ticktext: rows.filter((_, j) => j % step === 0), autorange: "reversed", showgrid: false },
    height: top + 60 + rows.length * (rows.length > 100 ? 8 : rows.length > 60 ? 14 : 20),
    margin: { l: 50, r: 45, t: top, b: 15 },
    click,
    alt: `Heat map of ${rows.length} rows and ${names.length} measures. The table below lists the values.`,
  });
  document.getElementById(`${id}-note`).textContent = changes
    ? "Blue is an increase and red a decrease from before to after, relative to the largest change of each measure."
    : "Dark is the lowest value of each measure, and bright the highest. Grey measures are equal in all rows.";
}

// Describe (name, value) pairs in a sentence.
function spread(title, pairs) {
  const known = pairs.filter(([, value]) => isNumber(value)).sort((a, b) => a[1] - b[1]);
  if (!known.length) return `${title}: not measured.`;
  const [low, high] = [known[0], known[known.length - 1]];
  return `${title}: ${known.length} values from ${shown(low[1])} (${low[0]}) to ${shown(high[1])} (${high[0]}).`;
}

function choices(id, options, value, change) {
  const select = document.getElementById(id);
  for (const [name, title] of options) select.add(new Option(title, name));
  select.value = value;
  select.addEventListener("change", () => change(select.value));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) =>
    header.querySelector("button").addEventListener("click", () => {
      const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of headers) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      const key = (row) => {
        const text = row.cells[column].dataset.value;
        const number = text === "" ? NaN : Number(text);
        return header.classList.contains("text") ? text : number;
      };
      const order = (a, b) => {
        const [first, second] = [key(a), key(b)];
        if (typeof first === "string") return direction * first.localeCompare(second, "en", { numeric: true });
        if (Number.isNaN(first) || Number.isNaN(second)) return Number.isNaN(first) - Number.isNaN(second);
        return direction * (first - second);
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
    }),
  );
}

// In print, the style sheet scales each plot from its size on the screen.
window.addEventListener("beforeprint", () => {
  drawAll();
  for (const plot of document.querySelectorAll(".js-plotly-plot")) {
    const { width, height } = plot.getBoundingClientRect();
    plot.querySelector(".svg-container").style.aspectRatio = `${width} / ${height}`;
    for (const svg of plot.querySelectorAll(".main-svg")) svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  }
});
