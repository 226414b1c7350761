// The two views of the frames: one large frame, and all frames side by side. Both handle clicks and pointer moves.

import { drawCursor, drawFrame, drawMarks } from "./draw.js";
import { formatShare, frameLabel, nearestFrame, nearestIndex } from "./measures.js";

const GAP = 8; // pixels between frames of the strip
const HIGHEST = 230; // of a frame of the strip, in pixels
const DETAIL = { stage: [640, 256], strip: [224, 112] }; // longer side of painted weights, with edges and smooth

// A canvas that shows one frame at the resolution of the screen.
class Tile {
  constructor(canvas, frame, clip, root) {
    Object.assign(this, { canvas, frame, clip, root });
  }

  // Caches size and position; reading them at every draw would force a layout of the page.
  fit() {
    const inner = this.canvas.getBoundingClientRect(), outer = this.root.getBoundingClientRect();
    this.box = { left: inner.left - outer.left, top: inner.top - outer.top, width: inner.width, height: inner.height };
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(inner.width * ratio));
    const height = Math.max(1, Math.round(inner.height * ratio));
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
  }

  // The pixel of the clip under the pointer.
  pixelAt(event) {
    const box = this.canvas.getBoundingClientRect();
    const inside = (value, size) => Math.min(Math.max(value, 0), 1) * size - 0.5;
    return {
      frame: this.frame,
      y: inside((event.clientY - box.top) / box.height, this.clip[1]),
      x: inside((event.clientX - box.left) / box.width, this.clip[2]),
    };
  }

  // Coordinates of a pixel of the clip in the overlay.
  place(y, x) {
    const inside = (value, size) => Math.min(Math.max((value + 0.5) / size, 0), 1);
    return {
      x: this.box.left + inside(x, this.clip[2]) * this.box.width,
      y: this.box.top + inside(y, this.clip[1]) * this.box.height,
    };
  }

  listen({ onPick, onHover, onLeave }) {
    this.canvas.addEventListener("click", (event) => onPick(this.pixelAt(event), event));
    this.canvas.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "touch") onHover(this.pixelAt(event), event);
    });
    this.canvas.addEventListener("pointerleave", onLeave);
  }
}

// The values shown on a frame: those of its temporal cell, or `outside` if the frame is not in the query's group.
function heatOf(scene, frame, detail) {
  if (!scene.heat) return null;
  const { values, grid, centers, ownFrameOnly } = scene.layer;
  const cell = nearestIndex(frame, centers[0]);
  const outside = ownFrameOnly && cell !== scene.query.point[0];
  const { scale, clip, alpha, faintest, smooth } = scene;
  const fine = detail[smooth ? 1 : 0];
  return { values, grid, centers, frame: cell, clip, scale, alpha, faintest, smooth, detail: fine, outside };
}

function ends(scene, link) {
  const at = (pixel, own) => ({
    frame: own ? scene.query.frame : nearestFrame(pixel[0], scene.clip[0]), y: pixel[1], x: pixel[2],
  });
  return [at(link.sourcePixel, scene.mode === "out"), at(link.targetPixel, scene.mode === "in")];
}

function arrow(scene, link, rank, from, to, size) {
  const strength = scene.scale.strength(link.weight);
  const color = scene.scale.lineColor(link.weight);
  return { from, to, strength, color, rank, weight: link.weight, size, dotted: scene.mode === "in" };
}

function sharesCell(scene, frame) {
  const centers = scene.block.queryCenters[0];
  return nearestIndex(frame, centers) === scene.query.point[0];
}

// One large frame. On the query's frame it shows all links, on another frame those to it; they are dashed if their
// other end is in another frame.
export class Stage {
  constructor(root, clip, handlers) {
    this.tile = new Tile(root.querySelector("canvas"), 0, clip, root.querySelector(".frame"));
    this.svg = root.querySelector("svg");
    this.tile.listen(handlers);
  }

  layOut() {
    this.tile.fit();
  }

  draw(scene, frame) {
    const { tile } = this;
    tile.frame = frame;
    drawFrame(tile.canvas, scene.pictures[frame], heatOf(scene, frame, DETAIL.stage), scene);
    const here = tile.place(scene.query.pixel[1], scene.query.pixel[2]);
    const onFrame = frame === scene.query.frame;
    const arrows = [];
    scene.shown.forEach((link, rank) => {
      const [source, target] = ends(scene, link);
      if (!onFrame && (scene.mode === "out" ? target : source).frame !== frame) return;
      const drawn = arrow(scene, link, rank, tile.place(source.y, source.x), tile.place(target.y, target.x), 1.35);
      arrows.push({ ...drawn, dashed: source.frame !== target.frame });
    });
    const faint = !onFrame;
    const rings = onFrame || arrows.length || sharesCell(scene, frame) ? [{ ...here, faint, radius: 8 }] : [];
    drawMarks(this.svg, { arrows: scene.arrows ? arrows : [], rings });
  }

  showCursor(pixel) {
    drawCursor(this.svg, pixel && pixel.frame === this.tile.frame ? [this.tile.place(pixel.y, pixel.x)] : []);
  }
}

// All frames side by side, with arrows between them, as in figure 3 of the paper.
export class Strip {
  constructor(root, clip, handlers) {
    this.root = root;
    this.clip = clip;
    this.svg = root.querySelector("svg");
    this.tiles = [];
    this.captions = [];
    for (let frame = 0; frame < clip[0]; frame++) {
      const figure = document.createElement("figure");
      const canvas = document.createElement("canvas");
      const caption = document.createElement("figcaption");
      canvas.setAttribute("role", "button");
      canvas.tabIndex = 0;
      figure.append(canvas, caption);
      root.insertBefore(figure, this.svg);
      const tile = new Tile(canvas, frame, clip, root);
      tile.listen(handlers);
      canvas.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        event.stopPropagation();
        handlers.onFrame(frame);
      });
      this.tiles.push(tile);
      this.captions.push(caption);
    }
  }

  // Chooses the fewest lines in which frames are large enough to see and to click.
  layOut() {
    const room = this.root.clientWidth;
    const aspect = this.clip[2] / this.clip[1];
    const least = Math.min(Math.max(78, 66 * aspect), room);
    let columns = 1;
    for (let lines = 1; lines <= this.tiles.length; lines++) {
      columns = Math.ceil(this.tiles.length / lines);
      if ((room - (columns - 1) * GAP) / columns >= least) break;
    }
    const width = Math.min((room - (columns - 1) * GAP) / columns, Math.max(HIGHEST * aspect, 60));
    this.root.style.setProperty("--columns", columns);
    this.root.style.setProperty("--frame-width", `${Math.floor(width * 10) / 10}px`);
    for (const tile of this.tiles) tile.fit();
  }

  draw(scene, shown) {
    this.tiles.forEach((tile, frame) => {
      drawFrame(tile.canvas, scene.pictures[frame], heatOf(scene, frame, DETAIL.strip), scene);
      const figure = tile.canvas.parentElement;
      figure.classList.toggle("has-query", frame === scene.query.frame);
      const share = scene.measures ? scene.measures.perFrame[nearestIndex(frame, scene.layer.centers[0])] : null;
      this.captions[frame].replaceChildren(...captionOf(frame, share));
      const text = share === null ? "" : `, ${formatShare(share)} of the weight`;
      tile.canvas.setAttribute("aria-label", `${frameLabel(frame)}${text}. Move the query to this frame`);
    });
    this.mark(shown);
    const arrows = scene.shown.map((link, rank) => {
      const [source, target] = ends(scene, link);
      const from = this.tiles[source.frame].place(source.y, source.x);
      const to = this.tiles[target.frame].place(target.y, target.x);
      return arrow(scene, link, rank, from, to, 1);
    });
    const rings = this.tiles
      .filter((tile) => tile.frame === scene.query.frame || sharesCell(scene, tile.frame))
      .map((tile) => ({
        ...tile.place(scene.query.pixel[1], scene.query.pixel[2]), faint: tile.frame !== scene.query.frame, radius: 5,
      }));
    drawMarks(this.svg, { arrows: scene.arrows ? arrows : [], rings });
  }

  // Marks the frame that the stage shows.
  mark(shown) {
    this.tiles.forEach((tile) => tile.canvas.parentElement.classList.toggle("is-shown", tile.frame === shown));
  }

  showCursor(pixel) {
    drawCursor(this.svg, pixel ? [this.tiles[pixel.frame].place(pixel.y, pixel.x)] : []);
  }
}

function captionOf(frame, share) {
  const number = document.createElement("span");
  number.className = "name";
  const text = frameLabel(frame);
  const word = document.createElement("span");
  word.className = "word";
  word.textContent = text.startsWith("frame ") ? "frame " : "";
  number.append(word, text.startsWith("frame ") ? text.slice(6) : text);
  number.title = text;
  if (share === null) return [number];
  const shown = document.createElement("span");
  shown.className = "share";
  shown.textContent = formatShare(share);
  const bar = document.createElement("span");
  bar.className = "bar";
  bar.style.setProperty("--share", share);
  return [number, shown, bar];
}
