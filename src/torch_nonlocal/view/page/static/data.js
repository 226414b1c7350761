// Theta and phi of a block, and the weights computed from them on demand: rows (weights of a query over all keys) and
// columns (weights of a key for all queries). Positions are row-major indices of a grid [T, H, W]. The formulas are those
// of attention/weights.py.

export function readText(number) {
  const text = atob(document.getElementById(`data-${number}`).textContent.trim());
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

export function readFloats(number) {
  return new Float32Array(readText(number).buffer);
}

// Unpacks a bit stream of codes, highest bit first, to integers around zero.
export function unpack(bytes, bits, count) {
  const zero = 2 ** (bits - 1) - 1;
  const values = bits === 8 ? new Int8Array(count) : new Int16Array(count);
  let waiting = 0, have = 0, next = 0;
  for (let i = 0; i < count; i++) {
    while (have < bits) {
      waiting = (waiting << 8) | bytes[next++];
      have += 8;
    }
    have -= bits;
    values[i] = (waiting >>> have) - zero;
    waiting &= (1 << have) - 1;
  }
  return values;
}

// A matrix (positions, width): value = scales[position] * codes[position * width + column].
function readMatrix(spec, positions) {
  if (spec.bits === 32) return { width: 1, codes: readFloats(spec.codes), scales: null };
  const codes = unpack(readText(spec.codes), spec.bits, positions * spec.width);
  return { width: spec.width, codes, scales: readFloats(spec.scales) };
}

export function volume(grid) {
  return grid[0] * grid[1] * grid[2];
}

export function toIndex([t, y, x], grid) {
  return (t * grid[1] + y) * grid[2] + x;
}

export function toPoint(index, grid) {
  const x = index % grid[2];
  const rest = (index - x) / grid[2];
  const y = rest % grid[1];
  return [(rest - y) / grid[1], y, x];
}

export class Block {
  constructor(spec) {
    Object.assign(this, spec);
    this.spec = spec;
    this.numbers = null;
    this.selects = this.kept !== null || this.regions !== null;
    this.regionKeys = this.regions === null ? null : new Set(this.regions.keys);
    this.offsets = { queries: offsets(this.groups.queries), keys: offsets(this.groups.keys) };
  }

  // Decodes the block when it is first shown, so that a page with many blocks opens quickly.
  load() {
    if (this.numbers) return this.numbers;
    const { query, key, logSums, lowest } = this.spec;
    const theta = readMatrix(query, volume(this.grid));
    const shared = key.codes === query.codes && key.scales === query.scales;
    const phi = shared ? theta : readMatrix(key, volume(this.keyGrid));
    this.numbers = { theta, phi, logSums: logSums === null ? null : readFloats(logSums), lowest: lowest === null ? null : readFloats(lowest) };
    return this.numbers;
  }

  // The positions of a point's group on the grid of the "keys" that a query at the point sees, or on that of the
  // "queries" that see a key at the point: index n is first + offsets[n].
  group(point, side) {
    const first = point.reduce((sum, value, axis) => sum + value * this.groups[side].first[axis], 0);
    let offsets = this.offsets[side];
    if (this.groups.causal) {
      const perFrame = offsets.length / this.grid[0];
      const [from, to] = this.framesOf(point[0], side);
      offsets = offsets.subarray(from * perFrame, to * perFrame);
    }
    const { labels } = this.groups;
    if (labels) {
      const own = labels[side === "keys" ? "queries" : "keys"].map((line, axis) => line[point[axis]]);
      const grid = side === "keys" ? this.keyGrid : this.grid;
      offsets = offsets.filter((offset) => {
        const other = toPoint(first + offset, grid);
        const isEqual = (axis) => labels[side][axis][other[axis]] === own[axis];
        return labels.isCross ? labels.axes.some(isEqual) : labels.axes.every(isEqual);
      });
    }
    return { first, offsets };
  }

  // The frames [from, to) of the keys that a query of a causal block sees, or of the queries that see a key.
  framesOf(frame, side) {
    const window = this.groups.causal.window ?? this.grid[0];
    return side === "keys" ? [Math.max(frame + 1 - window, 0), frame + 1] : [frame, Math.min(frame + window, this.grid[0])];
  }

  // What dot products and concatenations of a query are divided by: the number of keys that it sees, or of the queries
  // that see the same keys.
  divisor(point) {
    const count = this.countSeen(point, this.normalize);
    if (!this.groups.causal) return count;
    const [from, to] = this.framesOf(point[0], "keys");
    return ((to - from) * count) / this.grid[0];
  }

  // The number of "keys" that a query sees, only the selected ones if it selects keys, or of "queries" that see the same
  // keys. In a causal block, keys of all frames count.
  countSeen(point, side) {
    const count = this.regions !== null && side === "keys" ? this.regions.count : this.countVisible(point, side);
    return this.kept !== null && side === "keys" ? Math.min(count, this.kept) : count;
  }

  countVisible(point, side) {
    const { labels } = this.groups;
    if (!labels) return this.offsets[side].length;
    if (labels.isCross) return labels.axes.reduce((sum, axis) => sum + labels[side][axis].length, -1);
    const alike = (axis) => labels[side][axis].filter((label) => label === labels.queries[axis][point[axis]]).length;
    return labels.axes.reduce((product, axis) => product * alike(axis), 1);
  }

  coveringKey(point) {
    return point.map((index, axis) => this.covering[axis][index]);
  }

  // Weights of a query over the grid of keys, zero outside its group.
  row(point) {
    const { theta, phi, logSums } = this.load();
    const keys = this.group(point, "keys"), divisor = this.divisor(point);
    const own = toIndex(point, this.grid);
    const scores = this.scores(theta, own, phi, keys, () => divisor);
    this.select(scores, () => own, (m) => keys.first + keys.offsets[m]);
    if (this.softmax) {
      if (this.normalize === "keys") softmax(scores);
      else for (let m = 0; m < scores.length; m++) scores[m] = Math.exp(scores[m] - logSums[keys.first + keys.offsets[m]]);
    }
    return spread(scores, keys, volume(this.keyGrid));
  }

  // Weights of a key for all queries, over the grid of queries.
  column(point) {
    const { theta, phi, logSums } = this.load();
    const queries = this.group(point, "queries");
    const divisor = (index) => this.divisor(toPoint(index, this.grid));
    const own = toIndex(point, this.keyGrid);
    const scores = this.scores(phi, own, theta, queries, divisor);
    this.select(scores, (n) => queries.first + queries.offsets[n], () => own);
    if (this.softmax) {
      if (this.normalize === "queries") softmax(scores);
      else for (let n = 0; n < scores.length; n++) scores[n] = Math.exp(scores[n] - logSums[queries.first + queries.offsets[n]]);
    }
    return spread(scores, queries, volume(this.grid));
  }

  // Removes the scores of keys that have no weight: those outside the regions of a group, and those with a logit below
  // the lowest that the query selects. The margin is for logits that were rounded to 32 bits.
  select(scores, queryOf, keyOf) {
    if (!this.selects) return;
    const { lowest } = this.load();
    for (let j = 0; j < scores.length; j++) {
      const least = lowest === null ? -Infinity : lowest[queryOf(j)];
      const isHidden = this.regionKeys !== null && !this.regionKeys.has(keyOf(j));
      if (isHidden || scores[j] < least - 1e-5 * Math.max(1, Math.abs(least))) scores[j] = this.softmax ? -Infinity : 0;
    }
  }

  // Logits in the softmax forms, weights in the others; `divisor` gives what they are divided by from an index of others.
  scores(one, index, others, { first, offsets }, divisor) {
    const count = offsets.length;
    const out = new Float64Array(count);
    if (this.pairwise === "concatenation") {
      for (let j = 0; j < count; j++) out[j] = Math.max(0, one.codes[index] + others.codes[first + offsets[j]]) / divisor(first + offsets[j]);
      return out;
    }
    const { width, codes, scales } = others;
    const factor = one.scales[index] * (this.softmax ? this.scale : 1);
    const vector = Float64Array.from(one.codes.subarray(index * width, (index + 1) * width));
    for (let j = 0; j < count; j++) {
      const position = first + offsets[j];
      const start = position * width;
      let sum = 0;
      for (let d = 0; d < width; d++) sum += vector[d] * codes[start + d];
      out[j] = (sum * factor * scales[position]) / (this.softmax ? 1 : divisor(position));
    }
    return out;
  }
}

function softmax(scores) {
  let highest = -Infinity;
  for (const score of scores) if (score > highest) highest = score;
  let sum = 0;
  for (let j = 0; j < scores.length; j++) sum += scores[j] = Math.exp(scores[j] - highest);
  for (let j = 0; j < scores.length; j++) scores[j] /= sum;
}

function spread(values, { first, offsets }, size) {
  const whole = new Float32Array(size);
  for (let j = 0; j < offsets.length; j++) whole[first + offsets[j]] = values[j];
  return whole;
}

// Offsets of a group's positions from its first: all sums of one step per axis, repeated 0 to counts - 1 times.
function offsets({ steps, counts }) {
  let found = [0];
  steps.forEach((step, axis) => {
    const inner = Array.from({ length: counts[axis] }, (_, i) => i * step);
    found = found.flatMap((outer) => inner.map((value) => outer + value));
  });
  return Int32Array.from(found);
}
