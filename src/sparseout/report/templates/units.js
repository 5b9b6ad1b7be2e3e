// Which units of the chosen layer fire, and the samples that excite the chosen unit most.
const node = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

function ofUnits() {
  const layer = data.layers[state.layer];
  const { activity } = record(layer, data.sides.length - 1);
  document.getElementById("units-title").textContent = `${layer.name}: how often each unit fires`;
  const note = document.getElementById("units-note");
  const groups = document.getElementById("unit-groups");
  note.textContent = activity ? inWords(layer, activity) : "Not counted for this layer: its vectors differ in length, or have NaN or Inf.";
  drawRates(layer, activity);
  const listed = activity ? [...activity.quietest, ...activity.loudest].filter(([, fired]) => fired) : [];
  if (!listed.some(([unit]) => unit === state.unit)) state.unit = listed.length ? listed[0][0] : null;
  const button = ([unit, fired]) =>
    node("button", { type: "button", ariaPressed: unit === state.unit, onclick: () => choose({ unit }) }, `${unit}: ${percent(fired / layer.vectors)}`);
  const group = (title, ...items) => (items.length ? [node("div", { className: "units" }, node("span", {}, title), ...items)] : []);
  const dead = activity ? activity.quietest.filter(([, fired]) => !fired).map(([unit]) => unit) : [];
  const more = activity && activity.dead > dead.length ? ` and ${activity.dead - dead.length} more` : "";
  groups.replaceChildren(
    ...(dead.length ? group("Units that never fired:", `${dead.join(", ")}${more}`) : []),
    ...group("Units that fired least:", ...(activity ? activity.quietest.filter(([, fired]) => fired).map(button) : [])),
    ...group("Units that fired most:", ...(activity ? activity.loudest.map(button) : [])),
  );
  showSamples(listed.find(([unit]) => unit === state.unit));
}

const inWords = ({ units, vectors }, { dead, almost }) =>
  `${dead} of ${units} units never fired in ${vectors} vectors, and ${almost} more fired in less than 1 % of them. ` +
  "A unit fires in a vector if it is not zero there; NaN and Inf count as firing.";

function drawRates(layer, activity) {
  const rates = activity?.rates.some((rate) => rate > 0) ? activity.rates : [];
  draw(
    "units",
    [
      {
        x: rates.map((_, i) => (100 * i) / Math.max(1, rates.length - 1)),
        y: rates.map((rate) => 100 * rate),
        mode: "lines",
        fill: "tozeroy",
        line: { color: PALETTE[0], width: 2, shape: "hv" },
        hovertemplate: "%{x:.0f} % of the units fire in at most %{y:.3g} % of the vectors<extra></extra>",
      },
    ],
    {
      x: { title: "units, least active first (%)", range: [0, 100] },
      y: { title: "fires in (% of vectors)", range: [0, 102] },
      height: 220,
      alt: `How often the units of ${layer.name} fire, from the least to the most active.`,
    },
  );
}

function showSamples(unit) {
  const title = document.getElementById("samples-title");
  const cards = document.getElementById("samples");
  cards.replaceChildren();
  title.textContent = "";
  if (!unit) return;
  const [index, , samples] = unit;
  if (!samples.length) {
    title.textContent = data.recorded
      ? `No sample of known index has a finite value of unit ${index} other than zero.`
      : "The samples that excite a unit were not recorded: Probe(model, samples=3) records them.";
    return;
  }
  title.textContent = `The samples that excite unit ${index} most:`;
  for (const [key, value] of samples) {
    const [rank, sample, position, positions] = key.split("/").map(Number);
    const where = (rank ? `rank ${rank}, ` : "") + `sample ${sample}` + (positions > 1 ? `, position ${position}` : "");
    const found = data.samples[key];
    const head = node("small", {}, `${where}: |x| = ${shown(value)}`);
    cards.append(node("div", {}, head, ...(found ? [node("div", {}, ...content(found, sample))] : [])));
  }
}

const content = (found, sample) =>
  found.image ? [node("img", { src: found.image, alt: `sample ${sample}` })] : [found.before, node("mark", {}, found.token), found.after];
