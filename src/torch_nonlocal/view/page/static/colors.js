// Weights as colors: the color scale, equal to that of view/colors.py.

function table(hex) {
  const colors = new Uint8Array(256 * 3);
  for (let i = 0; i < colors.length; i++) colors[i] = parseInt(hex.substr(2 * i, 2), 16);
  return colors;
}

export class Scale {
  constructor(tables, values, high, signed = false) {
    let largest = 0, lowest = 0;
    for (const value of values) {
      largest = Math.max(largest, Math.abs(value));
      lowest = Math.min(lowest, value);
    }
    this.signed = signed || lowest < -1e-6 * largest;
    this.high = high > 0 ? high : largest || 1;
    this.clipped = largest > this.high * (1 + 1e-6);
    this.table = this.signed ? tables.signed : tables.unsigned;
    this.lines = this.signed ? tables.signed : tables.arrows;
  }

  // Place of the weight in the color table, 0 to 255; colors between two entries are interpolated.
  level(weight) {
    const part = this.signed ? (weight / this.high + 1) / 2 : weight / this.high;
    return 255 * Math.min(Math.max(part, 0), 1);
  }

  strength(weight) {
    return Math.min(Math.abs(weight) / this.high, 1);
  }

  css(level, colors = this.table) {
    return `rgb(${colors[3 * level]} ${colors[3 * level + 1]} ${colors[3 * level + 2]})`;
  }

  // Color of an arrow; without the darkest colors of the map, which are invisible on dark frames.
  lineColor(weight) {
    return this.css(Math.round(this.level(weight)), this.lines);
  }
}

export function readTables({ unsigned, signed, arrows }) {
  return { unsigned: table(unsigned), signed: table(signed), arrows: table(arrows) };
}

// The weight of the last color, as in view/colors.py: the largest in other frames or, if it is more, a fraction of the
// largest in the query's frame. The weight of the query's own cell does not count: it is often much larger.
export function brightest(grid, values, own, ownFrame) {
  const pixels = grid[1] * grid[2];
  const self = (own[0] * grid[1] + own[1]) * grid[2] + own[2];
  let others = 0, rest = 0;
  for (let i = 0; i < values.length; i++) {
    const size = Math.abs(values[i]);
    if (Math.floor(i / pixels) !== own[0]) others = Math.max(others, size);
    if (i !== self) rest = Math.max(rest, size);
  }
  return (others ? Math.max(others, rest / ownFrame) : rest) || Math.abs(values[self]);
}

// Reused by all calls.
const layer = document.createElement("canvas");

// Paints the weights of one frame over a canvas, interpolated between the centers of cells or with sharp edges.
export function paintHeat(context, { values, grid, centers, frame, clip, scale, alpha, faintest, smooth, detail }) {
  const [, clipHeight, clipWidth] = clip;
  const fit = detail / Math.max(clipHeight, clipWidth);
  const height = Math.max(1, Math.round(clipHeight * fit)), width = Math.max(1, Math.round(clipWidth * fit));
  const rows = spreadAxis(height, clipHeight, centers[1], smooth);
  const columns = spreadAxis(width, clipWidth, centers[2], smooth);
  const start = frame * grid[1] * grid[2];
  const least = faintest[scale.signed ? "signed" : "unsigned"];
  const image = new ImageData(width, height);
  const pixels = image.data, colors = scale.table;
  for (let y = 0, out = 0; y < height; y++) {
    const above = start + rows.low[y] * grid[2], below = start + rows.next[y] * grid[2], down = rows.part[y];
    for (let x = 0; x < width; x++, out += 4) {
      const left = columns.low[x], right = columns.next[x], across = columns.part[x];
      const top = values[above + left] * (1 - across) + values[above + right] * across;
      const bottom = values[below + left] * (1 - across) + values[below + right] * across;
      const weight = top * (1 - down) + bottom * down;
      const level = scale.level(weight), entry = Math.min(Math.floor(level), 254), more = level - entry;
      for (let c = 0, i = 3 * entry; c < 3; c++, i++) pixels[out + c] = colors[i] + more * (colors[i + 3] - colors[i]);
      pixels[out + 3] = 255 * alpha * (least + (1 - least) * scale.strength(weight));
    }
  }
  layer.width = width;
  layer.height = height;
  layer.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = smooth;
  context.drawImage(layer, 0, 0, context.canvas.width, context.canvas.height);
}

const axes = new Map();

// For each of `size` painted pixels: the cells before and after it, and its relative position between their centers.
function spreadAxis(size, pixels, centers, smooth) {
  const name = `${size} ${pixels} ${smooth} ${centers.length} ${centers[0]} ${centers[centers.length - 1]}`;
  if (axes.has(name)) return axes.get(name);
  const low = new Int32Array(size), next = new Int32Array(size), part = new Float32Array(size);
  for (let i = 0; i < size; i++) {
    const place = ((i + 0.5) * pixels) / size - 0.5;
    let cell = 0;
    while (cell + 1 < centers.length && centers[cell + 1] <= place) cell++;
    const after = Math.min(cell + 1, centers.length - 1);
    const gap = centers[after] - centers[cell];
    const between = gap > 0 ? Math.min(Math.max((place - centers[cell]) / gap, 0), 1) : 0;
    low[i] = smooth ? cell : between > 0.5 ? after : cell;
    next[i] = smooth ? after : low[i];
    part[i] = smooth ? between : 0;
  }
  axes.set(name, { low, next, part });
  return axes.get(name);
}
