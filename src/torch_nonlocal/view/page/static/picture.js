// Saves what the page shows as a PNG file: text, frames with weights and arrows, and color scales.

import { drawScale } from "./draw.js";

const MARGIN = 14, LINE = 18, BAR = 180;
const FONT = '13px system-ui, "DejaVu Sans", sans-serif';

// Draws parts below each other: each has a title, the element of its frames, and the colors and texts of its scale.
export async function savePicture(name, lines, parts) {
  const sizes = parts.map(({ root }) => root.getBoundingClientRect());
  const width = Math.max(...sizes.map((size) => size.width), 420) + 2 * MARGIN;
  const ruler = document.createElement("canvas").getContext("2d");
  ruler.font = `bold ${FONT}`;
  const text = lines.flatMap((line) => wrapped(ruler, line, width - 2 * MARGIN));
  const heights = sizes.map((size) => 2 * LINE + size.height + 2 * LINE);
  const height = 2 * MARGIN + text.length * LINE + heights.reduce((sum, value) => sum + value, 0);
  const sharp = Math.min(2, 8192 / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(width * sharp);
  canvas.height = Math.round(height * sharp);
  const context = canvas.getContext("2d");
  context.scale(sharp, sharp);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  let top = MARGIN;
  text.forEach((line, number) => write(context, line, MARGIN, (top += LINE) - 5, number === 0));
  for (const [index, part] of parts.entries()) {
    write(context, part.title, MARGIN, top + LINE + 4, true);
    await drawPart(context, part, MARGIN, top + 2 * LINE);
    drawBar(context, part, MARGIN, top + 2 * LINE + sizes[index].height + 8);
    top += heights[index];
  }
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function write(context, text, left, baseline, bold = false) {
  context.fillStyle = "#1b1a19";
  context.font = bold ? `bold ${FONT}` : FONT;
  context.fillText(text, left, baseline);
}

function wrapped(context, text, room) {
  const lines = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line && context.measureText(`${line} ${word}`).width > room) {
      lines.push(line);
      line = word;
    } else {
      line = line ? `${line} ${word}` : word;
    }
  }
  return [...lines, line];
}

async function drawPart(context, { root }, left, top) {
  const outer = root.getBoundingClientRect();
  for (const canvas of root.querySelectorAll("canvas")) {
    const box = canvas.getBoundingClientRect();
    context.drawImage(canvas, left + box.left - outer.left, top + box.top - outer.top, box.width, box.height);
  }
  const svg = root.querySelector("svg").cloneNode(true);
  svg.querySelectorAll(".cursor").forEach((node) => node.remove());
  svg.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  svg.setAttribute("width", outer.width);
  svg.setAttribute("height", outer.height);
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(new XMLSerializer().serializeToString(svg))}`;
  await image.decode();
  context.drawImage(image, left, top, outer.width, outer.height);
  for (const text of root.querySelectorAll("figcaption .name, figcaption .share")) {
    const figure = text.closest("figure").getBoundingClientRect();
    const shown = elided(context, text.title || text.textContent, figure.width);
    const [x, y] = [left + figure.left - outer.left, top + text.getBoundingClientRect().top - outer.top];
    context.fillStyle = "#fff";
    context.fillRect(x, y, context.measureText(shown).width, 15);
    write(context, shown, x, y + 12);
  }
}

// The text, without its end if it is wider than the room.
function elided(context, text, room) {
  context.font = FONT;
  let kept = text;
  while (kept && context.measureText(kept === text ? text : `${kept}…`).width > room) kept = kept.slice(0, -1);
  return kept === text ? text : `${kept}…`;
}

function drawBar(context, { scale, low, name, high }, left, top) {
  const bar = document.createElement("canvas");
  drawScale(bar, scale);
  context.drawImage(bar, left, top, BAR, 10);
  write(context, `${low} to ${high}: ${name}`, left + BAR + 10, top + 10);
}
