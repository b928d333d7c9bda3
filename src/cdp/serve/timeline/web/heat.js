// Draws the bar: how much was written when, where on the volume, and the marks. From summaries: its work does not grow
// with the number of records.
import {tick} from "./text.js";

const AXIS = 18;
const MARKS = 18;
const TIERS = 16;

const colour = (style, name) => style.getPropertyValue(name).trim();

/** activity: of the server, or null; marks: [{ms, kind}]; tiers, gone: spans of kept.js. */
export function draw(canvas, scale, activity, marks, tiers, gone) {
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  const dots = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * dots);
  canvas.height = Math.round(height * dots);
  const pen = canvas.getContext("2d");
  pen.scale(dots, dots);
  const style = getComputedStyle(document.documentElement);
  const room = height - AXIS - MARKS - TIERS;
  const box = {width, top: MARKS, bars: room * 0.55, places: room * 0.45};
  if (activity) {
    drawPlaces(pen, style, scale, activity, box);
    drawBars(pen, style, scale, activity, box);
  }
  for (const one of gone) hatch(pen, colour(style, "--soft"), spanOf(scale, one, width), MARKS, room, one.kind === "freed");
  drawTiers(pen, style, scale, tiers, width, height - AXIS - TIERS);
  drawAxis(pen, style, scale, width, height);
  drawMarks(pen, style, scale, marks, width, height - AXIS);
}

function columns(scale, activity, width) {
  const begin = activity.begin_ns / 1e6;
  const by = activity.by_ns / 1e6;
  return activity.written_bytes.map((_, i) => {
    const left = Math.max(0, scale.toX(begin + i * by, width));
    return [left, Math.min(width, scale.toX(begin + (i + 1) * by, width)) - left];
  });
}

function drawBars(pen, style, scale, activity, box) {
  const most = Math.max(1, ...activity.written_bytes);
  const base = box.top + box.bars;
  // The square root: a small write beside a large one is seen.
  const high = (bytes) => (bytes ? Math.max(1.5, Math.sqrt(bytes / most) * (box.bars - 2)) : 0);
  columns(scale, activity, box.width).forEach(([left, width], i) => {
    if (width <= 0 || !activity.written_bytes[i]) return;
    const gap = width > 4 ? 1 : 0;
    pen.fillStyle = colour(style, "--written");
    pen.fillRect(left, base - high(activity.written_bytes[i]), width - gap, high(activity.written_bytes[i]));
    pen.fillStyle = colour(style, "--overwritten");
    const part = high(activity.written_bytes[i]) * activity.overwritten_bytes[i] / activity.written_bytes[i];
    pen.fillRect(left, base - part, width - gap, part);
  });
}

function drawPlaces(pen, style, scale, activity, box) {
  const most = Math.max(1, ...activity.places.flat());
  const rgb = colour(style, "--heat");
  const rows = activity.places[0]?.length ?? 0;
  const top = box.top + box.bars + 4;
  const tall = (box.places - 6) / Math.max(1, rows);
  columns(scale, activity, box.width).forEach(([left, width], i) => {
    if (width <= 0) return;
    activity.places[i].forEach((bytes, row) => {
      if (!bytes) return;
      pen.fillStyle = `rgba(${rgb}, ${0.2 + 0.8 * Math.sqrt(bytes / most)})`;
      pen.fillRect(left, top + row * tall, Math.max(1, width), Math.max(1, tall));
    });
  });
}

/** [left, width] of what is shown of a span. */
function spanOf(scale, {begin, end}, width) {
  const left = Math.max(0, scale.toX(begin, width));
  return [left, Math.min(width, scale.toX(end, width)) - left];
}

/** Lines across a span; crossed: both ways, as over what is gone altogether. */
function hatch(pen, stroke, [left, width], top, tall, crossed, step = 8) {
  if (width <= 0) return;
  pen.save();
  pen.beginPath();
  pen.rect(left, top, width, tall);
  pen.clip();
  pen.beginPath();
  for (let x = Math.floor((left - tall) / step) * step; x < left + width + tall; x += step) {
    pen.moveTo(x, top + tall);
    pen.lineTo(x + tall, top);
    if (crossed) {
      pen.moveTo(x, top);
      pen.lineTo(x + tall, top + tall);
    }
  }
  pen.strokeStyle = stroke;
  pen.globalAlpha = 0.4;
  pen.stroke();
  pen.restore();
}

/** A row of what is kept: full where every moment is, lower and striped the fewer a rule keeps; with its words. */
function drawTiers(pen, style, scale, tiers, width, top) {
  const levels = tiers.filter((one) => one.kind === "tier").length;
  let level = 0;
  pen.font = "11px system-ui, sans-serif";
  pen.textBaseline = "middle";
  pen.textAlign = "center";
  for (const one of tiers) {
    const [left, wide] = spanOf(scale, one, width);
    level += one.kind === "tier";
    if (wide <= 0) continue;
    const tall = one.kind === "all" ? TIERS - 3 : (TIERS - 3) * (0.35 + 0.4 * level / (levels + 1));
    const box = [left, top + TIERS - 1 - tall, Math.max(1, wide - 1), tall];
    if (one.kind === "going") {
      hatch(pen, colour(style, "--soft"), [left, wide - 1], top + 2, TIERS - 3, false, 5);
    } else {
      pen.fillStyle = colour(style, "--kept");
      pen.fillRect(...box);
    }
    if (pen.measureText(one.label).width + 12 > wide) continue;
    const half = pen.measureText(one.label).width / 2 + 4;
    pen.fillStyle = colour(style, "--panel");
    pen.fillRect(left + wide / 2 - half, top + 1, 2 * half, TIERS - 1);
    pen.fillStyle = colour(style, "--text");
    pen.fillText(one.label, left + wide / 2, top + TIERS / 2 + 1);
  }
}

function drawAxis(pen, style, scale, width, height) {
  pen.font = "12px system-ui, sans-serif";
  pen.textBaseline = "bottom";
  pen.textAlign = "center";
  pen.strokeStyle = colour(style, "--line");
  pen.fillStyle = colour(style, "--soft");
  pen.beginPath();
  pen.moveTo(0, height - AXIS + 0.5);
  pen.lineTo(width, height - AXIS + 0.5);
  const {step, at} = scale.ticks(width / 90);
  for (const ms of at) {
    const x = scale.toX(ms, width);
    pen.moveTo(x, height - AXIS);
    pen.lineTo(x, height - AXIS + 4);
    if (x > 36 && x < width - 36) pen.fillText(tick(ms, step), x, height);
  }
  pen.stroke();
}

function drawMarks(pen, style, scale, marks, width, bottom) {
  const names = {bookmark: "--mark", restore: "--restore", pin: "--pin", suspicious: "--alert"};
  for (const {ms, kind} of marks) {
    if (!scale.shows(ms)) continue;
    const x = scale.toX(ms, width);
    pen.fillStyle = colour(style, names[kind]);
    pen.globalAlpha = 0.45;
    pen.fillRect(x - 0.5, 6, 1, bottom - 6);
    pen.globalAlpha = 1;
    pen.beginPath();        // a shape of its own for each kind: colour is not all that tells them apart
    if (kind === "bookmark") pen.rect(x - 4, 2, 8, 11);
    else if (kind === "restore") { pen.moveTo(x - 6, 7.5); pen.lineTo(x + 5, 1.5); pen.lineTo(x + 5, 13.5); }
    else if (kind === "suspicious") { pen.moveTo(x, 0.5); pen.lineTo(x + 7, 14); pen.lineTo(x - 7, 14); }
    else pen.arc(x, 7, 4.5, 0, 2 * Math.PI);
    pen.fill();
  }
}
