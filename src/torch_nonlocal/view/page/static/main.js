// The state of the page, and its updates after user input.

import { Block, toIndex, readFloats } from "./data.js";
import {
  available, formatPixel, formatWeight, frameNote, measure, measureUniform, nearestIndex, sentence, setUnits, shownLinks, strongestLinks,
  uniformWeight,
} from "./measures.js";
import { Scale, brightest, readTables } from "./colors.js";
import { loadFrames } from "./draw.js";
import { Stage, Strip } from "./stage.js";
import { Player } from "./player.js";
import { readState, writeState } from "./address.js";
import { savePicture } from "./picture.js";
import {
  buildTabs, onChoice, onSlider, onToggle, setChoice, setSlider, setToggle, showAbout, showBeside, showLegend, showLinks, showScale,
  showSource, showStatistics, showSubtitle, showTitles, startTheme,
} from "./controls.js";

const MOST_ARROWS = 50;
const LAYERS = ["heat", "arrows", "smooth"];
const EVIDENCE = "evidence"; // as a choice of what is shown beside a block

function spansFrames(block) {
  return block.axes === 3 && block.grid[0] > 1 && block.groups.spanTime;
}

async function start() {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const { clip, facts } = page;
  setUnits(facts, clip);
  const tables = readTables(page.colors);
  const blocks = page.blocks.map((spec) => {
    const block = new Block(spec);
    block.queryCount = block.offsets.queries.length;
    block.keyCount = block.offsets.keys.length;
    return block;
  });
  const names = blocks.map((block) => block.name);
  const several = new Set(blocks.map((block) => block.network)).size > 1;
  const [frame, y, x] = page.start;
  const state = {
    block: 0, mode: "out", frames: "others", k: 20, gain: 1, heat: true, arrows: true, smooth: false, follow: true,
    selected: { frame, y, x }, beside: facts.beside || (blocks[0].evidence === null ? "" : EVIDENCE),
  };
  const api = { ready: false, blocks: names, lastPaintMs: null, lastComputeMs: null };
  let scene = null, second = null;
  let announcement = 0;

  document.documentElement.style.setProperty("--aspect", clip[2] / clip[1]);
  document.documentElement.classList.toggle("wide", clip[2] / clip[1] > 1.25);
  startTheme();
  const pictures = await loadFrames(page.frames);

  const handlers = {
    onPick: (pixel, event) => {
      state.follow = false;
      hideHint();
      select(pixel, event.timeStamp);
      player.pause();
      player.show(pixel.frame);
      document.getElementById("stage").focus({ preventScroll: true });
    },
    onFrame: (inFrame) => {
      state.follow = false;
      player.pause();
      select({ ...state.selected, frame: inFrame });
      player.show(inFrame);
    },
    onHover: (pixel, event) => {
      for (const view of views) view.showCursor(state.follow ? null : pixel);
      if (state.follow) hover(pixel, event.timeStamp);
      else showHint(pixel, event);
    },
    onLeave: () => {
      for (const view of views) view.showCursor(null);
      hideHint();
    },
  };
  const pair = (suffix) => ({
    stage: new Stage(document.getElementById(`stage${suffix}`), clip, handlers),
    strip: new Strip(document.getElementById(`strip${suffix}`), clip, handlers),
  });
  const main = pair(""), beside = pair("-2");
  const views = [main.stage, main.strip, beside.stage, beside.strip];
  document.getElementById("strip-card").hidden = clip[0] < 2;
  const player = new Player(document.getElementById("player"), clip[0], facts.labels, (shown) => {
    if (!scene) return;
    main.stage.draw(scene, shown);
    main.strip.mark(shown);
    if (second) {
      beside.stage.draw(second, shown);
      beside.strip.mark(shown);
    }
    showNotes(shown);
    remember();
  });
  const markTab = buildTabs(names, (index) => {
    state.block = index;
    changeBlock();
    remember();
  });

  // Handles at most one pointer move per animation frame.
  let hovered = null;
  function hover(pixel, since) {
    if (!hovered) {
      requestAnimationFrame(() => {
        const [latest, moment] = hovered;
        hovered = null;
        if (state.follow) select(latest, moment);
      });
    }
    hovered = [pixel, since];
  }

  function select(pixel, since = performance.now()) {
    state.selected = pixel;
    update();
    remember();
    const channel = new MessageChannel();
    channel.port1.onmessage = () => (api.lastPaintMs = performance.now() - since);
    requestAnimationFrame(() => channel.port2.postMessage(0)); // the message arrives after the screen is painted
  }

  // The query of a block, and what all its scenes have in common.
  function common(block) {
    const selected = [state.selected.frame, state.selected.y, state.selected.x];
    const point = selected.map((place, axis) => nearestIndex(place, block.queryCenters[axis]));
    const pixel = point.map((index, axis) => block.queryCenters[axis][index]);
    const query = { frame: state.selected.frame, point, pixel };
    return { ...state, block, query, pictures, clip, alpha: page.alpha, faintest: page.faintest, pixelated: page.pixelated };
  }

  // The weights of a block at the selected position, and its links.
  function attentionOf(block) {
    const base = common(block);
    const { point } = base.query;
    const outward = state.mode === "out";
    const grid = outward ? block.keyGrid : block.grid;
    const centers = outward ? block.keyCenters : block.queryCenters;
    const own = outward ? block.coveringKey(point) : point;
    const values = outward ? block.row(point) : block.column(block.coveringKey(point));
    const frames = spansFrames(block) ? state.frames : "all";
    const most = Math.min(available(block, state.mode, frames), MOST_ARROWS);
    const k = Math.min(state.k, most);
    const links = most > 0 ? strongestLinks(block, values, point, { mode: state.mode, frames, k }) : [];
    const others = links.filter((link) => toIndex(link.other, grid) !== toIndex(own, grid));
    const measures = measure(block, values, point, state.mode);
    const strongest = Math.max(...(others.length ? others : links).map((link) => Math.abs(link.weight)), 0);
    const high = Math.max(brightest(grid, values, own, page.ownFrame), page.negligible * uniformWeight(block, measures, state.mode));
    return {
      ...base, values, links, most, k, frames, measures,
      layer: { values, grid, centers, ownFrameOnly: !block.groups.spanTime },
      shown: shownLinks(block, links, measures, { mode: state.mode, strongest, negligible: page.negligible }),
      scale: new Scale(tables, values, high / state.gain),
    };
  }

  // The contribution of each position of a block to the score of the predicted class.
  function evidenceOf(block) {
    if (!block.evidenceValues) block.evidenceValues = readFloats(block.evidence);
    const values = block.evidenceValues;
    const high = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;
    return {
      ...common(block), values, links: [], shown: [], measures: null, isEvidence: true,
      layer: { values, grid: block.grid, centers: block.queryCenters, ownFrameOnly: false },
      scale: new Scale(tables, values, high / state.gain, true),
    };
  }

  function besideOf() {
    if (state.beside === EVIDENCE) return blocks[state.block].evidence === null ? null : evidenceOf(blocks[state.block]);
    const index = names.indexOf(state.beside);
    return index < 0 || index === state.block ? null : attentionOf(blocks[index]);
  }

  // Computes and draws everything for the selected position.
  function update() {
    const began = performance.now();
    const block = blocks[state.block];
    scene = attentionOf(block);
    second = besideOf();
    const { values, links, measures, query, k, most, layer } = scene;
    showSecond(second !== null);
    draw();
    const summary = sentence(scene, page.negligible, clip[0]);
    document.getElementById("summary").textContent = summary;
    const atStart = state.selected.frame === frame && state.selected.y === y && state.selected.x === x;
    const chosen = state.follow ? "Under the pointer; a click keeps it." : "Chosen by you.";
    document.getElementById("why").textContent = atStart ? facts.why : chosen;
    document.getElementById("back").hidden = atStart;
    clearTimeout(announcement);
    announcement = setTimeout(() => (document.getElementById("live").textContent = summary), 300);
    setSlider("k", Math.max(k, 1), String(k), Math.max(most, 1));
    document.getElementById("k").disabled = most < 2;
    setToggle("follow", state.follow);
    showStatistics(block, measures, measureUniform(block, query.point, state.mode), state.mode, clip);
    showLegend(block, state.mode, clip[0]);
    showScale("scale", scene);
    if (second) showScale("scale-2", second);
    showLinks(scene, clip[0], (target) => {
      state.follow = false;
      player.pause();
      select(target);
      player.show(target.frame);
    });
    Object.assign(api, {
      block: block.name, mode: state.mode, frames: scene.frames, k, row: values, grid: layer.grid, links,
      statistics: measures, query: { frame: query.frame, t: query.point[0], y: query.point[1], x: query.point[2], pixel: query.pixel },
      summary, high: scene.scale.high, beside: second && (second.isEvidence ? EVIDENCE : second.block.name),
      besideRow: second && second.values, lastComputeMs: performance.now() - began,
    });
  }

  // The notes below the large frames.
  function showNotes(shown) {
    const note = (drawn) => (drawn.isEvidence ? drawn.block.contribution : frameNote(drawn, shown, page.negligible, clip[0]));
    document.getElementById("note").textContent = note(scene);
    document.getElementById("note-2").textContent = second ? note(second) : "";
  }

  function draw() {
    showNotes(player.frame);
    main.stage.draw(scene, player.frame);
    main.strip.draw(scene, player.frame);
    if (!second) return;
    beside.stage.draw(second, player.frame);
    beside.strip.draw(second, player.frame);
  }

  function showSecond(on) {
    const hidden = document.getElementById("view-2").hidden;
    showTitles(scene, second, several);
    if (hidden === !on) return;
    document.getElementById("view-2").hidden = !on;
    document.getElementById("strip-card-2").hidden = !on || clip[0] < 2;
    document.documentElement.classList.toggle("two", on);
    layOut();
  }

  function changeBlock() {
    const block = blocks[state.block];
    markTab(state.block);
    const choices = document.getElementById("frames");
    choices.hidden = !spansFrames(block);
    setChoice("frames", state.frames);
    showSubtitle(block, clip);
    showSource(facts, block);
    showBeside(blocks, state.block, state.beside);
    showAbout(block);
    update();
  }

  function showHint(pixel, event) {
    const inSecond = second && event.target.closest("#stage-2, #strip-2");
    const { block, values, layer, isEvidence } = inSecond ? second : scene;
    const at = [pixel.frame, pixel.y, pixel.x].map((place, axis) => nearestIndex(place, layer.centers[axis]));
    const value = formatWeight(values[toIndex(at, layer.grid)], block.softmax && !isEvidence);
    const hint = document.getElementById("hint");
    hint.textContent = `${value} · ${formatPixel([pixel.frame, pixel.y, pixel.x], block)}`;
    hint.hidden = false;
    const left = Math.min(event.clientX + 14, window.innerWidth - hint.offsetWidth - 8);
    hint.style.transform = `translate(${left}px, ${event.clientY + 16}px)`;
  }

  function hideHint() {
    document.getElementById("hint").hidden = true;
  }

  // Moves the query by cells of the grid, and shows its frame.
  function move(byFrame, byY, byX) {
    const { block, query } = scene;
    const by = [byFrame, byY, byX];
    const point = query.point.map((i, axis) => Math.min(Math.max(i + by[axis], 0), block.grid[axis] - 1));
    const pixel = point.map((index, axis) => block.queryCenters[axis][index]);
    const inFrame = byFrame === 0 ? query.frame : Math.min(Math.max(Math.ceil(pixel[0] - 0.5), 0), clip[0] - 1);
    state.follow = false;
    select({ frame: inFrame, y: pixel[1], x: pixel[2] });
    if (player.frame !== inFrame && !player.playing) player.show(inFrame);
  }

  // Writes the state to the address, a moment after the last change.
  let waiting = 0;
  const fragment = () => writeState({ ...state, query: state.selected, frame: player.frame }, names);
  function remember() {
    if (!api.ready) return;
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      if (player.playing || state.follow) return;
      try {
        history.replaceState(null, "", fragment());
      } catch {
        // a page inside another document, such as a notebook, has no address of its own
      }
    }, 200);
  }

  function restore() {
    const found = readState(location.hash, names, clip);
    const { frame: shown, ...parts } = found;
    if (!Object.keys(found).length) return;
    Object.assign(state, parts, { follow: false });
    for (const name of LAYERS) setToggle(name, state[name]);
    setChoice("mode", state.mode);
    showGain();
    changeBlock();
    player.show(shown === undefined ? state.selected.frame : shown);
  }

  const setMode = (mode) => {
    state.mode = mode;
    setChoice("mode", mode);
    update();
    remember();
  };
  const KEYS = {
    ArrowLeft: () => move(0, 0, -1), ArrowRight: () => move(0, 0, 1), ArrowUp: () => move(0, -1, 0),
    ArrowDown: () => move(0, 1, 0), "[": () => move(-1, 0, 0), "]": () => move(1, 0, 0),
    ",": () => player.step(-1), ".": () => player.step(1), PageUp: () => player.step(-1), PageDown: () => player.step(1),
    " ": () => player.toggle(),
    w: () => setMode(state.mode === "out" ? "in" : "out"),
    Escape: () => {
      state.follow = true;
      setToggle("follow", true);
    },
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const element = event.target;
    if (element.closest("input, select, textarea")) return;
    if (event.key === " " && element.closest("button, a")) return;
    if (clip[0] < 2 && [",", ".", "PageUp", "PageDown", " "].includes(event.key)) return; // they scroll the page of an image
    const action = KEYS[event.key] || KEYS[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    action();
  });

  onChoice("mode", setMode);
  onChoice("frames", (frames) => {
    state.frames = frames;
    update();
    remember();
  });
  onChoice("beside", (choice) => {
    state.beside = choice;
    update();
    remember();
  });
  onSlider("k", (k) => {
    state.k = k;
    update();
    remember();
  });
  const showGain = () => setSlider("gain", Math.log2(state.gain), `${Number(state.gain.toPrecision(2))}×`);
  onSlider("gain", (power) => {
    state.gain = 2 ** power;
    showGain();
    update();
    remember();
  });
  for (const name of [...LAYERS, "follow"]) {
    setToggle(name, state[name]);
    onToggle(name, (on) => {
      state[name] = on;
      setToggle(name, on);
      update();
      remember();
    });
  }
  const back = document.getElementById("back");
  back.title = facts.why;
  back.addEventListener("click", () => {
    state.follow = false;
    player.pause();
    select({ frame, y, x });
    player.show(frame);
    document.getElementById("stage").focus({ preventScroll: true });
  });
  document.getElementById("copy-link").addEventListener("click", async (event) => {
    const link = location.href.replace(/#.*/, "") + fragment();
    let done = "The link is in the address bar";
    try {
      history.replaceState(null, "", fragment());
      await navigator.clipboard.writeText(link);
      done = "Link copied";
    } catch {
      // no clipboard: the address bar holds the link
    }
    document.getElementById("live").textContent = done;
    event.target.textContent = done;
    setTimeout(() => (event.target.textContent = "Copy link"), 2000);
  });
  document.getElementById("save-picture").addEventListener("click", () => {
    const texts = (id) => ["low", "name", "high"].map((part) => document.getElementById(`${id}-${part}`).textContent);
    const part = (view, suffix, drawn) => {
      const [low, name, high] = texts(`scale${suffix}`);
      const title = document.getElementById(`title${suffix}`).textContent;
      return { root: clip[0] > 1 ? view.strip.root : view.stage.tile.root, title, scale: drawn.scale, low, name, high };
    };
    const text = (id) => document.getElementById(id).textContent;
    const lines = ["prediction", "scored", "verdict", "source", "summary"].map(text);
    lines.push(`${text("query-title")}: ${text("why")}`, second && second.isEvidence ? text("note-2") : "");
    lines.push(`Ring: ${text("legend-query")}.`);
    if (state.arrows && scene.shown.length) lines.push(`Arrow: ${text("legend-arrow")}.`);
    if (clip[0] > 1) lines.push(text("strip-note"));
    const stem = `${(facts.file || page.title).replace(/\.\w{1,5}$/, "")}-${names[state.block]}`;
    savePicture(
      `${stem.replace(/[^\w.-]+/g, "_")}.png`, [page.title, ...lines].filter(Boolean),
      second ? [part(main, "", scene), part(beside, "-2", second)] : [part(main, "", scene)],
    );
  });
  window.addEventListener("hashchange", restore);

  const places = [...document.querySelectorAll(".stage .frame, .strip")];
  let room = "";
  const layOut = () => {
    const now = places.map((place) => `${place.clientWidth} ${place.clientHeight}`).join(" ");
    if (now === room) return;
    room = now;
    for (const view of [main, beside]) {
      view.strip.layOut();
      view.stage.layOut();
    }
    if (scene) draw();
  };
  const observer = new ResizeObserver(layOut);
  for (const place of places) observer.observe(place);

  layOut();
  player.show(frame);
  changeBlock();
  restore();
  // Runs a few updates, so that the browser has compiled the code before the first click.
  for (let i = 0; i < 4; i++) update();
  window.nonlocalPage = Object.assign(api, {
    ready: true,
    select: (point) => {
      state.follow = false;
      select(point);
    },
  });
}

start();
