// The state of the page, and its updates after user input.

import { Block, toIndex } from "./data.js";
import { available, formatPixel, formatWeight, measure, nearestIndex, sentence, strongestLinks } from "./measures.js";
import { Scale, brightest, readTables } from "./colors.js";
import { loadFrames } from "./draw.js";
import { Stage, Strip } from "./stage.js";
import { Player } from "./player.js";
import {
  buildTabs, onChoice, onSlider, onToggle, setChoice, setSlider, setToggle, showAbout, showLinks, showScale,
  showStatistics, showSubtitle, startTheme,
} from "./controls.js";

const MOST_ARROWS = 50;

async function start() {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const clip = page.clip;
  const tables = readTables(page.colors);
  const blocks = page.blocks.map((spec) => {
    const block = new Block(spec);
    block.queryCount = block.offsets.queries.length;
    block.keyCount = block.offsets.keys.length;
    return block;
  });
  const [frame, y, x] = page.start;
  const state = {
    block: 0, mode: "out", frames: "all", k: 20, gain: 1, heat: true, arrows: true, smooth: !page.pixelated,
    follow: true, selected: { frame, y, x },
  };
  const api = { ready: false, blocks: blocks.map((block) => block.name), lastPaintMs: null, lastComputeMs: null };
  let scene = null;
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
    onHover: (pixel, event) => {
      if (state.follow) hover(pixel, event.timeStamp);
      else showHint(pixel, event);
    },
    onLeave: hideHint,
  };
  const stage = new Stage(document.getElementById("stage"), clip, handlers);
  const strip = new Strip(document.getElementById("strip"), clip, handlers);
  document.querySelector(".strip-card").hidden = clip[0] < 2;
  const player = new Player(document.getElementById("player"), clip[0], (shown) => {
    if (!scene) return;
    stage.draw(scene, shown);
    strip.mark(shown);
  });
  const markTab = buildTabs(api.blocks, (index) => {
    state.block = index;
    changeBlock();
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
    const channel = new MessageChannel();
    channel.port1.onmessage = () => (api.lastPaintMs = performance.now() - since);
    requestAnimationFrame(() => channel.port2.postMessage(0)); // the message arrives after the screen is painted
  }

  // Computes and draws everything for the selected position.
  function update() {
    const began = performance.now();
    const block = blocks[state.block];
    const selected = [state.selected.frame, state.selected.y, state.selected.x];
    const point = selected.map((place, axis) => nearestIndex(place, block.queryCenters[axis]));
    const pixel = point.map((index, axis) => block.queryCenters[axis][index]);
    const query = { frame: state.selected.frame, point, pixel };
    const outward = state.mode === "out";
    const grid = outward ? block.keyGrid : block.grid;
    const values = outward ? block.row(point) : block.column(block.coveringKey(point));
    const most = Math.min(available(block, state.mode, state.frames), MOST_ARROWS);
    const k = Math.min(state.k, most);
    const links = most > 0 ? strongestLinks(block, values, point, { ...state, k }) : [];
    const scale = new Scale(tables, values, brightest(block, values, point, state.mode) / state.gain);
    const strongest = Math.max(...links.map((link) => Math.abs(link.weight)), 1e-30);
    const measures = measure(block, values, point, state.mode);
    scene = {
      ...state, block, query, values, links, scale, strongest, measures, pictures, clip,
      alpha: page.alpha, pixelated: page.pixelated,
    };
    draw();
    const summary = sentence(block, query, links, { ...state, clipFrames: clip[0] });
    document.getElementById("summary").textContent = summary;
    clearTimeout(announcement);
    announcement = setTimeout(() => (document.getElementById("live").textContent = summary), 300);
    setSlider("k", Math.max(k, 1), String(k), Math.max(most, 1));
    document.getElementById("k").disabled = most < 2;
    setToggle("follow", state.follow);
    showStatistics(block, measures, state.mode);
    showScale(block, scale);
    showLinks(block, links, { mode: state.mode, clipFrames: clip[0] }, (target) => {
      state.follow = false;
      player.pause();
      select(target);
      player.show(target.frame);
    });
    Object.assign(api, {
      block: block.name, mode: state.mode, frames: state.frames, k, row: values, grid, links, statistics: measures,
      query: { frame: query.frame, t: point[0], y: point[1], x: point[2], pixel }, summary,
      lastComputeMs: performance.now() - began,
    });
  }

  function draw() {
    stage.draw(scene, player.frame);
    strip.draw(scene, player.frame);
  }

  function changeBlock() {
    const block = blocks[state.block];
    markTab(state.block);
    document.getElementById("frames").hidden = block.axes < 3 || block.grid[0] < 2 || !block.groups.spanTime;
    state.frames = document.getElementById("frames").hidden ? "all" : "others";
    setChoice("frames", state.frames);
    showSubtitle(block, clip);
    showAbout(block);
    update();
  }

  function showHint(pixel, event) {
    const { block, values, mode } = scene;
    const centers = mode === "out" ? block.keyCenters : block.queryCenters;
    const grid = mode === "out" ? block.keyGrid : block.grid;
    const at = [pixel.frame, pixel.y, pixel.x].map((place, axis) => nearestIndex(place, centers[axis]));
    const hint = document.getElementById("hint");
    hint.textContent = `${formatWeight(values[toIndex(at, grid)], block.softmax)} · ${formatPixel([pixel.frame, pixel.y, pixel.x], block)}`;
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

  const setMode = (mode) => {
    state.mode = mode;
    setChoice("mode", mode);
    update();
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
  });
  onSlider("k", (k) => {
    state.k = k;
    update();
  });
  onSlider("gain", (power) => {
    state.gain = 2 ** power;
    setSlider("gain", power, `${Number(state.gain.toPrecision(2))}×`);
    update();
  });
  for (const name of ["heat", "arrows", "smooth", "follow"]) {
    setToggle(name, state[name]);
    onToggle(name, (on) => {
      state[name] = on;
      setToggle(name, on);
      update();
    });
  }
  const places = [document.querySelector("#stage .frame"), document.getElementById("strip")];
  let room = "";
  const layOut = () => {
    const now = places.map((place) => `${place.clientWidth} ${place.clientHeight}`).join(" ");
    if (now === room) return;
    room = now;
    strip.layOut();
    stage.layOut();
    if (scene) draw();
  };
  const observer = new ResizeObserver(layOut);
  for (const place of places) observer.observe(place);

  layOut();
  player.show(frame);
  changeBlock();
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
