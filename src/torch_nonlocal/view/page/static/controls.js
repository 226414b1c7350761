// Controls and text: tabs, switches, sliders, statistics, lists and the theme.

import { drawScale } from "./draw.js";
import {
  count, filePixels, formatPixel, formatShare, formatWeight, framePercentOf, nearestFrame, percentOf, positionUnit, received,
} from "./measures.js";

const MOST_LISTED = 50;

const byId = (id) => document.getElementById(id);

// Accessible tabs: only the selected one is in the tab order, and arrow keys move between them.
export function buildTabs(names, onSelect) {
  const root = byId("tabs");
  const tabs = names.map((name, index) => {
    const tab = document.createElement("button");
    tab.type = "button";
    tab.textContent = name;
    tab.setAttribute("role", "tab");
    tab.addEventListener("click", () => onSelect(index));
    root.append(tab);
    return tab;
  });
  root.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const next = (tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length;
    tabs[next].focus();
    onSelect(next);
  });
  root.hidden = names.length < 2;
  return (selected) => tabs.forEach((tab, index) => {
    tab.setAttribute("aria-selected", index === selected);
    tab.tabIndex = index === selected ? 0 : -1;
  });
}

export function onChoice(name, onChange) {
  byId(name).addEventListener("change", (event) => onChange(event.target.value));
}

export function setChoice(name, value) {
  byId(name).querySelector(`input[value="${value}"]`).checked = true;
}

// The choices of what is shown beside a block: nothing, the evidence for the predicted class, or another block.
export function showBeside(blocks, current, chosen) {
  const block = blocks[current];
  const choices = [["", "Nothing"]];
  if (block.evidence !== null) choices.push(["evidence", evidenceName(block)]);
  for (const other of blocks) if (other !== block) choices.push([other.name, other.name]);
  byId("beside-field").hidden = choices.length < 2;
  byId("beside").replaceChildren(...choices.map(([value, text]) => {
    const option = document.createElement("option");
    option.value = value;
    option.textContent = text;
    option.selected = value === chosen;
    return option;
  }));
}

function evidenceName(block) {
  return block.classes.length ? `Contribution to ${block.classes[0][0]}` : "Contribution to the score";
}

// The titles of the views; a single view has none on the screen, but one in pictures. They name the network and its
// prediction where there are several.
export function showTitles(scene, second, several) {
  const title = ({ block, isEvidence }) => {
    if (isEvidence) return `${evidenceName(block)} (gradient × activation) at the output of ${block.name}`;
    const predicted = several && block.classes.length ? ` · predicted ${score(block.classes[0])}` : "";
    return `Attention of ${block.name}${predicted}`;
  };
  byId("title").textContent = title(scene);
  byId("title").classList.toggle("unseen", second === null);
  byId("title-2").textContent = byId("strip-title-2").textContent = second ? title(second) : "";
}

function score([name, value]) {
  return `${name} (${formatShare(value)})`;
}

// Predicted classes and what they were computed from, a judgment of the block, file and network.
export function showSource(facts, block) {
  byId("source").textContent = [facts.file, block.network && `network ${block.network}`].filter(Boolean).join(" · ");
  const rest = block.classes.slice(1, 4).map(score).join(", ");
  byId("prediction").textContent = block.classes.length
    ? `Predicted class: ${score(block.classes[0])}${rest && `; then ${rest}`}` : "";
  byId("scored").textContent = [block.scored, block.seen].filter(Boolean).join(" ");
  const verdict = byId("verdict");
  verdict.textContent = block.verdict && `${block.isWarning ? "Caution, " : ""}${block.name}: ${block.verdict}.`;
  verdict.title = block.meaning;
  verdict.classList.toggle("is-warning", block.isWarning);
}

// What rings and arrows mean.
export function showLegend(block, mode, frames) {
  const [own, verb, other] = mode === "out" ? ["query", "to a key", "key"] : ["key", "from a query, which has a dot", "query"];
  const sizes = (grid) => grid.slice(3 - block.axes).join(" × ");
  const isCoarser = String(block.keyGrid) !== String(block.grid);
  const end = isCoarser
    ? `; it ends at the center of the key's cell, which is coarser (${sizes(block.keyGrid)} keys, ${sizes(block.grid)} queries)` : "";
  const ring = mode === "in" && isCoarser ? "position in the cell of the key" : own;
  byId("legend-query").textContent = [ring, positionUnit(block)].filter(Boolean).join("; ");
  byId("legend-arrow").textContent =
    `${verb}${end}; wider and brighter: larger weight; no arrow: below 1 % of the largest; dot alone: ${other} at the same place`;
  byId("strip-note").textContent = `Below each frame: percent of ${framePercentOf(mode)}.`;
  byId("legend-dashed").hidden = frames < 2 || block.axes < 3;
}

export function onSlider(name, onInput) {
  byId(name).addEventListener("input", (event) => onInput(Number(event.target.value)));
}

export function setSlider(name, value, text, max) {
  const input = byId(name);
  if (max !== undefined) input.max = max;
  input.value = value;
  input.setAttribute("aria-valuetext", text);
  byId(`${name}-value`).textContent = text;
}

export function onToggle(name, onChange) {
  const button = byId(name);
  button.addEventListener("click", () => onChange(button.getAttribute("aria-pressed") !== "true"));
}

export function setToggle(name, pressed) {
  byId(name).setAttribute("aria-pressed", pressed);
}

export function startTheme() {
  const button = byId("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const current = () => document.documentElement.dataset.theme || (system.matches ? "dark" : "light");
  const other = () => (current() === "dark" ? "light" : "dark");
  const reflect = () => button.setAttribute("aria-label", `Switch to the ${other()} theme`);
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = other();
    reflect();
  });
  system.addEventListener("change", reflect);
  reflect();
}

const MEASURES = [
  { name: "entropy", label: "Entropy", show: (value) => value.toFixed(3) },
  { name: "peak", label: "Largest ÷ uniform", show: (value) => (value >= 100 ? Math.round(value).toLocaleString("en") : value.toPrecision(3)) },
  { name: "on_itself", label: "Self-weight", show: formatShare },
  { name: "on_own_frame", label: "Own frame", show: formatShare, clip: true },
  { name: "reach_pixels", label: "Distance, pixels", show: (value) => value.toFixed(1) },
  { name: "reach_frames", label: "Distance, frames", show: (value) => value.toFixed(2), clip: true },
];

export function showStatistics(block, measures, uniform, mode, clip) {
  const all = { ...block.statistics };
  if ("reach_pixels" in all) all.reach_pixels = filePixels(all.reach_pixels, block.inputSize, clip);
  const rows = MEASURES.filter((entry) => !entry.clip || (block.axes === 3 && block.grid[0] > 1)).map((entry) => [
    entry.label, entry.show(measures[entry.name]),
    entry.name in all && all[entry.name] !== null ? entry.show(all[entry.name]) : "", entry.show(uniform[entry.name]),
  ]);
  if (mode === "in" || !(block.softmax && block.normalize === "keys")) {
    const share = received(block, measures, mode);
    if (share !== null) rows.push(["Received, of average", formatShare(share), "", formatShare(1)]);
    else rows.push([mode === "in" ? "Total received" : "Sum of weights", formatWeight(measures.total, false), "", ""]);
  }
  const withAll = Object.keys(block.statistics).length > 0;
  byId("statistics-all").hidden = !withAll;
  byId("query-title").textContent = mode === "out" ? "Query" : "Key";
  byId("statistics-query").textContent = mode === "out" ? "this query" : "this key";
  byId("statistics").tBodies[0].replaceChildren(...rows.map(([label, value, all, even]) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = label;
    row.append(head, cell(value));
    if (withAll) row.append(cell(all));
    row.append(cell(even));
    return row;
  }));
}

function cell(text) {
  const node = document.createElement("td");
  node.textContent = text;
  return node;
}

export function showScale(id, { block, scale, isEvidence }) {
  drawScale(byId(id).querySelector("canvas"), scale);
  const high = formatWeight(scale.high, block.softmax && !isEvidence);
  byId(`${id}-low`).textContent = scale.signed ? `${scale.clipped ? "≤ " : ""}\u2212${high}` : "0";
  byId(`${id}-high`).textContent = `${scale.clipped ? "≥ " : ""}${high}`;
  byId(`${id}-name`).textContent = isEvidence ? "contribution to the score (logit)" : scale.signed ? "weight, signed" : "weight (heatmap, arrows)";
}

// The list of links that have arrows, and the number of the others.
export function showLinks({ block, links, shown, mode }, clipFrames, onSelect) {
  const listed = shown.slice(0, MOST_LISTED);
  const largest = Math.max(...listed.map((link) => Math.abs(link.weight)), 1e-30);
  byId("links-title").textContent = mode === "out" ? "Strongest keys" : "Strongest queries";
  byId("links-note").textContent = shown.length && percentOf(block, mode) ? `Percent of ${percentOf(block, mode)}.` : "";
  const weaker = links.length - shown.length, more = shown.length - listed.length;
  const rest = [
    weaker && (shown.length ? `${weaker} of the ${links.length} strongest not listed: below 1 % of the largest` : "None: practically no weight"),
    more && `${more} more have arrows`,
  ];
  byId("links-rest").textContent = rest.filter(Boolean).map((text) => `${text}.`).join(" ");
  byId("links").replaceChildren(...listed.map((link) => {
    const pixel = mode === "out" ? link.targetPixel : link.sourcePixel;
    const frame = nearestFrame(pixel[0], clipFrames);
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Select this position";
    button.style.setProperty("--share", Math.abs(link.weight) / largest);
    const place = document.createElement("span");
    place.textContent = formatPixel([frame, pixel[1], pixel[2]], block);
    const weight = document.createElement("span");
    weight.textContent = formatWeight(link.weight, block.softmax);
    button.append(place, weight);
    button.addEventListener("click", () => onSelect({ frame, y: pixel[1], x: pixel[2] }));
    item.append(button);
    return item;
  }));
}

export function showSubtitle(block, clip) {
  const order = ["frames", "height", "width"].slice(3 - block.axes).join(" × ");
  const sizes = (grid) => grid.slice(3 - block.axes).join(" × ");
  const keys = String(block.keyGrid) === String(block.grid) ? "" : `, keys ${sizes(block.keyGrid)}`;
  const form = block.pairwise.replaceAll("_", " ");
  const over = block.groups.within && `, each position within ${block.groups.within}`;
  const frames = block.axes === 3 ? `${count(clip[0], "frame")} of ` : "";
  const shown = block.seen ? "" : ` · ${frames}${clip[1]} × ${clip[2]} pixels`;
  byId("subtitle").textContent =
    `${block.name}: ${form}${over} · grid ${sizes(block.grid)} (${order}) = ${count(block.queryCount, "position")}${keys}${shown}`;
}

export function showAbout(block) {
  const { error, query } = block;
  const parts = [block.meaning, `The page computes weights from theta and phi of the block when you select a position (${block.shown}).`];
  if (query.bits === 32) {
    parts.push("The scores of the block are stored as 32-bit floats, without rounding.");
  } else {
    parts.push(
      `Theta and phi are rounded to ${query.bits} bits per value, with one scale per position. In ${error.rows} sampled ` +
      `rows, the 20 largest weights have a relative error of at most ${(100 * error.relative).toPrecision(2)} %, and all ` +
      `weights an absolute error of at most ${error.largest.toExponential(1)}.`,
    );
  }
  if (block.coarser > 1) {
    parts.push(
      `Approximation: this page uses a coarser grid. Theta and phi are averaged over ${block.coarser} × ${block.coarser} ` +
      `cells; sampled rows differ from the exact ones by ${(100 * block.distance).toPrecision(2)} % (mean total variation distance).`,
    );
  }
  parts.push(
    "Color scale: at 1× brightness, the last color is the largest weight in other frames or, if that is more, an eighth " +
    "of the largest in the query's frame. For a single image, it is the largest weight. The self-weight does not count: " +
    "it is often much larger than all others.",
  );
  byId("about").replaceChildren(...parts.filter(Boolean).map((text, index) => {
    const paragraph = document.createElement("p");
    paragraph.textContent = text;
    paragraph.classList.toggle("warning", text.startsWith("Approximation") && index > 0);
    return paragraph;
  }));
}
