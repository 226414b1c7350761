// Draws frames, arrows and rings.

import { paintHeat } from "./colors.js";

// Decodes each frame in color, and in grayscale for use under the weights, so that colors show weights alone.
export async function loadFrames(uris) {
  return Promise.all(uris.map(async (uri) => {
    const image = new Image();
    image.src = uri;
    await image.decode();
    const color = blank(image.naturalWidth, image.naturalHeight);
    color.getContext("2d").drawImage(image, 0, 0);
    return { color, gray: toGray(color) };
  }));
}

function blank(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

function toGray(color) {
  const gray = blank(color.width, color.height);
  const image = color.getContext("2d").getImageData(0, 0, color.width, color.height);
  const pixels = image.data;
  for (let i = 0; i < pixels.length; i += 4) {
    pixels[i] = pixels[i + 1] = pixels[i + 2] = 0.299 * pixels[i] + 0.587 * pixels[i + 1] + 0.114 * pixels[i + 2];
  }
  gray.getContext("2d").putImageData(image, 0, 0);
  return gray;
}

// Draws one frame of the clip on a canvas, with its weights if there are any.
export function drawFrame(canvas, picture, heat, { pixelated }) {
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = !pixelated;
  context.imageSmoothingQuality = "high";
  context.globalAlpha = 1;
  context.drawImage(heat ? picture.gray : picture.color, 0, 0, canvas.width, canvas.height);
  if (!heat) return;
  if (heat.outside) {
    context.globalAlpha = 0.55;
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.globalAlpha = 1;
    return;
  }
  paintHeat(context, heat);
}

const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

// Draws arrows and rings over frames. The first arrow is the strongest and is drawn last, on top.
export function drawMarks(svg, { arrows, rings }) {
  const shapes = [];
  for (const arrow of [...arrows].reverse()) shapes.push(arrowShape(arrow));
  for (const ring of rings) shapes.push(ringShape(ring));
  svg.replaceChildren(...shapes);
}

// Marks the pixel under the pointer in every view.
export function drawCursor(svg, places) {
  svg.querySelectorAll(".cursor").forEach((node) => node.remove());
  for (const { x, y } of places) {
    const line = `M${x - 7} ${y}h14M${x} ${y - 7}v14`;
    const group = element("g", { class: "cursor", opacity: 0.9 });
    group.append(
      element("path", { d: line, fill: "none", stroke: "#000", "stroke-width": 3 }),
      element("path", { d: line, fill: "none", stroke: "#fff", "stroke-width": 1.2 }),
    );
    svg.append(group);
  }
}

// An arrow from x_i to x_j, with a dot at its start if `dotted`, dashed if one end is in another frame; a short arrow is
// a dot.
function arrowShape({ from, to, strength, color, rank, weight, size = 1, dotted = false, dashed = false }) {
  const group = element("g", { class: dashed ? "link elsewhere" : "link", "data-rank": rank, "data-weight": weight });
  const length = Math.hypot(to.x - from.x, to.y - from.y);
  const stroke = size * (1.1 + 1.9 * strength);
  if (length < 7) {
    group.append(element("circle", {
      cx: to.x, cy: to.y, r: size * (2.2 + 1.8 * strength), fill: color, stroke: "#000", "stroke-opacity": 0.8,
    }));
    return group;
  }
  const bend = Math.min(0.12 * length, 24) * (to.x < from.x ? -1 : 1); // upward, away from the captions
  const middle = {
    x: (from.x + to.x) / 2 + (bend * (to.y - from.y)) / length,
    y: (from.y + to.y) / 2 - (bend * (to.x - from.x)) / length,
  };
  const along = Math.hypot(to.x - middle.x, to.y - middle.y) || 1;
  const direction = { x: (to.x - middle.x) / along, y: (to.y - middle.y) / along };
  const head = Math.min(size * (6 + 5 * strength), 0.6 * length);
  const neck = { x: to.x - 0.85 * head * direction.x, y: to.y - 0.85 * head * direction.y };
  const wing = 0.42 * head;
  const line = `M${point(from)}Q${point(middle)} ${point(neck)}`;
  const tip = [
    to,
    { x: to.x - head * direction.x + wing * direction.y, y: to.y - head * direction.y - wing * direction.x },
    { x: to.x - head * direction.x - wing * direction.y, y: to.y - head * direction.y + wing * direction.x },
  ].map(point).join(" ");
  const dashes = dashed ? { "stroke-dasharray": `${(3 * stroke).toFixed(1)} ${(2 * stroke).toFixed(1)}` } : {};
  const outline = { fill: "none", stroke: "#000", "stroke-opacity": 0.7, "stroke-linejoin": "round" };
  if (dotted) group.append(element("circle", { cx: from.x, cy: from.y, r: stroke + 1, fill: color, stroke: "#000", "stroke-opacity": 0.7 }));
  group.append(
    element("path", { d: line, ...outline, "stroke-width": stroke + 1.6 }),
    element("polygon", { points: tip, ...outline, "stroke-width": 1.8 }),
    element("path", { d: line, fill: "none", stroke: color, "stroke-width": stroke, ...dashes }),
    element("polygon", { points: tip, fill: color }),
  );
  return group;
}

function point({ x, y }) {
  return `${x.toFixed(1)},${y.toFixed(1)}`;
}

// A ring around the query, visible on light and dark frames; faint on other frames of its temporal cell.
function ringShape({ x, y, faint, radius = 6 }) {
  const group = element("g", { class: "ring", opacity: faint ? 0.55 : 1 });
  const shape = { cx: x, cy: y, fill: "none" };
  group.append(
    element("circle", { ...shape, r: radius, stroke: "#000", "stroke-width": faint ? 2.6 : 4.4 }),
    element("circle", { ...shape, r: radius, stroke: "#fff", "stroke-width": faint ? 1.2 : 2.2 }),
  );
  return group;
}

// Draws the color scale: the colors of the heatmap above those of arrows.
export function drawScale(canvas, scale) {
  canvas.width = 256;
  canvas.height = 12;
  const context = canvas.getContext("2d");
  for (let level = 0; level < 256; level++) {
    context.fillStyle = scale.css(level);
    context.fillRect(level, 0, 1, 6);
    context.fillStyle = scale.css(level, scale.lines);
    context.fillRect(level, 6, 1, 6);
  }
}
