// The state of the page in the fragment of its address, so that a link restores it.

export function writeState(state, names) {
  const { query } = state;
  const values = {
    block: names[state.block], query: [query.frame, query.y.toFixed(1), query.x.toFixed(1)].join(","), frame: state.frame,
    direction: state.mode, links: state.frames, k: state.k, brightness: Math.log2(state.gain), beside: state.beside,
    on: ["heat", "arrows", "smooth"].filter((name) => state[name]).join(","),
  };
  return `#${new URLSearchParams(values)}`;
}

// The parts of a state that an address has; unknown and invalid values are left out.
export function readState(fragment, names, clip) {
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  const found = {};
  const block = names.indexOf(given.get("block"));
  if (block >= 0) found.block = block;
  const query = (given.get("query") || "").split(",").map(Number);
  if (query.length === 3 && query.every(Number.isFinite)) {
    const [frame, y, x] = query.map((value, axis) => Math.min(Math.max(value, axis ? -0.5 : 0), clip[axis] - 1));
    found.selected = { frame: Math.round(frame), y, x };
  }
  const number = (name, low, high) => {
    const value = given.has(name) ? Number(given.get(name)) : NaN;
    return value >= low && value <= high ? value : null;
  };
  const choice = (name, allowed) => (allowed.includes(given.get(name)) ? given.get(name) : null);
  const parts = {
    frame: number("frame", 0, clip[0] - 1), k: number("k", 1, 50), mode: choice("direction", ["out", "in"]),
    frames: choice("links", ["all", "others", "each"]), beside: given.get("beside"),
  };
  for (const [name, value] of Object.entries(parts)) if (value !== null) found[name] = value;
  const brightness = number("brightness", 0, 4);
  if (brightness !== null) found.gain = 2 ** brightness;
  if (given.has("on")) {
    const on = given.get("on").split(",");
    for (const name of ["heat", "arrows", "smooth"]) found[name] = on.includes(name);
  }
  return found;
}
