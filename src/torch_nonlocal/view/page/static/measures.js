// Results from a row or column of weights: the strongest links, statistics and a summary.

import { toIndex, toPoint } from "./data.js";

// The frame nearest to a center in time; halfway between two, the earlier one.
export function nearestFrame(center, frames) {
  return Math.min(Math.max(Math.ceil(center - 0.5), 0), frames - 1);
}

// The index of the center nearest to a coordinate on one axis; halfway between two, the first.
export function nearestIndex(place, centers) {
  let best = 0;
  for (let i = 1; i < centers.length; i++) {
    if (Math.abs(place - centers[i]) < Math.abs(place - centers[best]) - 1e-6) best = i;
  }
  return best;
}

// The number of candidates for links.
export function available(block, mode, frames) {
  const [grid, inGroup] = mode === "out" ? [block.keyGrid, block.keyCount] : [block.grid, block.queryCount];
  if (frames === "all" || block.axes < 3) return inGroup;
  if (!block.groups.spanTime) return 0;
  return frames === "each" ? inGroup / grid[0] : inGroup - inGroup / grid[0];
}

// Indices of the k largest absolute values among indices from..to (exclusive), without those in `skip`. Where queries
// select keys, zeros are no links.
function strongest(block, values, from, to, k, group, skip) {
  const found = [];
  let least = -1;
  for (let n = 0; n < group.offsets.length; n++) {
    const index = group.first + group.offsets[n];
    if (index < from || index >= to || (index >= skip[0] && index < skip[1])) continue;
    const size = Math.abs(values[index]);
    if (block.selects && size === 0) continue;
    if (found.length === k && size <= least) continue;
    let place = found.length === k ? k - 1 : found.length;
    while (place > 0 && Math.abs(values[found[place - 1]]) < size) {
      found[place] = found[place - 1];
      place--;
    }
    found[place] = index;
    least = Math.abs(values[found[found.length - 1]]);
  }
  return found;
}

// The positions of a row, those of keys, or of a column, those of queries.
function groupOf(block, point, outward) {
  return outward ? block.group(point, "keys") : block.group(block.coveringKey(point), "queries");
}

// The strongest links of a row or column, strongest first.
export function strongestLinks(block, values, point, { mode, frames, k }) {
  const outward = mode === "out";
  const grid = outward ? block.keyGrid : block.grid;
  const own = outward ? block.coveringKey(point) : point;
  const group = groupOf(block, point, outward);
  const pixels = grid[1] * grid[2];
  const whole = [0, grid[0] * pixels];
  const ownFrame = [own[0] * pixels, (own[0] + 1) * pixels];
  let chosen = [];
  if (frames === "all" || block.axes < 3) {
    chosen = strongest(block, values, ...whole, k, group, [0, 0]);
  } else if (frames === "others") {
    chosen = strongest(block, values, ...whole, k, group, ownFrame);
  } else {
    for (let t = 0; t < grid[0]; t++) {
      if (t !== own[0]) chosen.push(...strongest(block, values, t * pixels, (t + 1) * pixels, k, group, [0, 0]));
    }
  }
  return chosen.map((index) => {
    const other = toPoint(index, grid);
    const [source, target] = outward ? [point, other] : [other, block.coveringKey(point)];
    return {
      source, target, weight: values[index], other,
      sourcePixel: source.map((i, axis) => block.queryCenters[axis][i]),
      targetPixel: target.map((i, axis) => block.keyCenters[axis][i]),
    };
  });
}

// How positions are written: names of the frames, pixels of the file per pixel of the clip, and the first one shown.
const units = { labels: [], y: 1, x: 1, top: 0, left: 0, of: "clip" };

export function setUnits({ labels, size, origin }, clip) {
  const [top, left] = origin;
  Object.assign(units, { labels, y: size ? size[0] / clip[1] : 1, x: size ? size[1] / clip[2] : 1, top, left, of: size ? "file" : "clip" });
}

export function frameLabel(frame) {
  return units.labels[frame] || `frame ${frame}`;
}

// Statistics of the absolute weights as shares of their sum, as in attention/statistics.py.
export function measure(block, values, point, mode) {
  const outward = mode === "out";
  const grid = outward ? block.keyGrid : block.grid;
  const centers = outward ? block.keyCenters : block.queryCenters;
  const here = point.map((i, axis) => block.queryCenters[axis][i]);
  const own = outward ? block.coveringKey(point) : point;
  const group = groupOf(block, point, outward);
  const perFrame = new Float64Array(grid[0]);
  let total = 0, signedTotal = 0, largest = 0;
  const places = group.offsets.length;
  const count = outward && block.selects ? block.countSeen(point, "keys") : places;
  for (let n = 0; n < places; n++) {
    const weight = values[group.first + group.offsets[n]];
    total += Math.abs(weight);
    largest = Math.max(largest, Math.abs(weight));
    signedTotal += weight;
  }
  let entropy = 0, pixels = 0, frames = 0;
  for (let n = 0; n < places && total > 0; n++) {
    const index = group.first + group.offsets[n];
    const share = Math.abs(values[index]) / total;
    if (share === 0) continue;
    const [t, y, x] = toPoint(index, grid);
    entropy -= share * Math.log(share);
    pixels += share * Math.hypot((centers[1][y] - here[1]) * units.y, (centers[2][x] - here[2]) * units.x);
    frames += share * Math.abs(centers[0][t] - here[0]);
    perFrame[t] += share;
  }
  return {
    entropy: count > 1 ? entropy / Math.log(count) : 1,
    on_itself: total > 0 ? Math.abs(values[toIndex(own, grid)]) / total : 0,
    on_own_frame: perFrame[own[0]],
    reach_pixels: pixels,
    reach_frames: frames,
    perFrame,
    total: signedTotal,
    absolute: total,
    count,
    keys: block.countSeen(point, "keys"),
    queries: block.countSeen(point, "queries"),
    peak: total > 0 ? (largest * count) / total : 1,
  };
}

// The statistics if all positions of the group had the same weight.
export function measureUniform(block, point, mode) {
  const outward = mode === "out";
  const group = groupOf(block, point, outward);
  const grid = outward ? block.keyGrid : block.grid;
  const values = new Float32Array(grid[0] * grid[1] * grid[2]);
  for (let n = 0; n < group.offsets.length; n++) values[group.first + group.offsets[n]] = 1;
  return measure(block, values, point, mode);
}

export function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

export function formatWeight(weight, asShare) {
  if (!asShare) return minus(Math.abs(weight) >= 1e-3 || weight === 0 ? weight.toPrecision(3) : weight.toExponential(1));
  return formatShare(weight);
}

export function formatShare(share) {
  const percent = 100 * share;
  if (percent === 0) return "0 %";
  if (percent < 0.001) return "< 0.001 %";
  return `${percent >= 99.95 ? "100" : percent >= 10 ? percent.toFixed(1) : percent.toPrecision(2)} %`;
}

function minus(text) {
  return text.replace(/-/g, "\u2212");
}

// A pixel of the clip in pixels of the file.
export function filePixel(y, x) {
  return [units.top + (y + 0.5) * units.y - 0.5, units.left + (x + 0.5) * units.x - 0.5];
}

export function formatPixel([frame, y, x], block) {
  const [row, column] = filePixel(y, x).map(Math.round);
  const place = `y ${row}, x ${column}`;
  return block.axes === 3 ? `${frameLabel(frame)}, ${place}` : block.axes === 2 ? place : `position ${Math.round(x)}`;
}

// Whether the weights of each query, rather than those of each key, sum to one.
function sumsOverKeys(block) {
  return block.softmax && block.normalize === "keys";
}

// The weight of every position of the group if all had the same.
export function uniformWeight(block, measures, mode) {
  return mode === "in" && sumsOverKeys(block) ? 1 / measures.keys : measures.absolute / measures.count;
}

// What a key receives in total, relative to an average key; null if the average is not known.
export function received(block, measures, mode) {
  return mode === "in" && sumsOverKeys(block) ? (measures.total * measures.keys) / measures.queries : null;
}

// The links that are drawn and listed: those of at least a fraction of the strongest one or, if that is practically
// nothing, of a uniform weight.
export function shownLinks(block, links, measures, { mode, strongest, negligible }) {
  const share = received(block, measures, mode);
  if (share !== null && share < negligible) return [];
  const least = negligible * uniformWeight(block, measures, mode);
  const enough = strongest > least ? (weight) => weight >= negligible * strongest : (weight) => weight > least;
  return links.filter((link) => enough(Math.abs(link.weight)));
}

// What the percentages of single weights are percent of; "" for forms without percentages.
export function percentOf(block, mode) {
  if (!block.softmax) return "";
  if (block.normalize === "keys") return mode === "out" ? "this query's weight" : "the weight of each query";
  return mode === "out" ? "what each key receives" : "what this key receives";
}

// What the percentages below frames are percent of.
export function framePercentOf(mode) {
  return mode === "out" ? "this query's weight" : "what this key receives from all queries";
}

// Says that there is practically nothing to show, and what the reason is.
export function nothing({ block, measures, mode, frames }, negligible) {
  const where = block.axes < 3 || frames === "all" ? "" : " in other frames";
  const share = received(block, measures, mode);
  if (share !== null && share < negligible) {
    return `practically nothing attends here: this key receives ${formatShare(share)} of what an average key receives`;
  }
  const what = mode === "out" ? `practically no weight${where}` : `practically nothing${where} attends here`;
  return `${what}: each weight is at most ${formatShare(negligible)} of a uniform one`;
}

// Says that a frame shows no weights, and where the largest are; "" for a frame that shows some.
export function frameNote(scene, frame, negligible, clipFrames) {
  const { block, layer, values, scale, measures, links, shown } = scene;
  if (links.length && !shown.length) return `${capital(nothing(scene, negligible))}.`;
  const [cells, rows, columns] = layer.grid;
  if (cells < 2 || layer.ownFrameOnly) return "";
  const cell = nearestIndex(frame, layer.centers[0]);
  for (let i = cell * rows * columns; i < (cell + 1) * rows * columns; i++) {
    if (Math.abs(values[i]) >= negligible * scale.high) return "";
  }
  const { perFrame } = measures;
  const best = perFrame.indexOf(Math.max(...perFrame));
  const place = frameLabel(nearestFrame(layer.centers[0][best], clipFrames));
  const none = perFrame[cell] === 0 ? "No weight" : "Practically no weight";
  return `${none} in this frame (${formatShare(perFrame[cell])}); strongest in ${place} (${formatShare(perFrame[best])}).`;
}

// A summary of the selected position, shown above the statistics and announced to screen readers.
export function sentence(scene, negligible, clipFrames) {
  const { block, query, links, shown, mode, frames } = scene;
  const here = formatPixel([query.frame, query.pixel[1], query.pixel[2]], block);
  if (!links.length) return `${capital(here)}: no links, because this block attends within single frames.`;
  if (!shown.length) return `${capital(here)}: ${nothing(scene, negligible)}.`;
  const where = block.axes < 3 || frames === "all" ? "" : " in other frames";
  const parts = shown.slice(0, 3).map((link) => {
    const pixel = mode === "out" ? link.targetPixel : link.sourcePixel;
    const place = formatPixel([nearestFrame(pixel[0], clipFrames), pixel[1], pixel[2]], block);
    return `${place} (${formatWeight(link.weight, block.softmax)})`;
  });
  const verb = mode === "out" ? "attends most to" : "receives most from";
  const unit = percentOf(block, mode) && ` (percent of ${percentOf(block, mode)})`;
  return `${capital(here)} ${verb} these positions${where}${unit}: ${parts.join("; ")}.`;
}

// Unit and origin of positions.
export function positionUnit(block) {
  return block.axes < 2 ? "" : `positions are in pixels of the ${units.of}, from 0 at its top left`;
}

// The mean distance of all queries, which the record has in pixels of the network's input, in pixels of the file; null
// if the two axes differ in scale.
export function filePixels(distance, inputSize, clip) {
  const [y, x] = inputSize.length < 2 ? [1, 1] : [
    (clip[1] * units.y) / inputSize[inputSize.length - 2], (clip[2] * units.x) / inputSize[inputSize.length - 1],
  ];
  return Math.abs(y / x - 1) < 0.02 ? distance * Math.sqrt(y * x) : null;
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}
