// Sizes and times as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function size(bytes) {
  let unit = 0;
  while (bytes >= 1024 && unit < UNITS.length - 1) {
    bytes /= 1024;
    unit += 1;
  }
  return `${unit && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)} ${UNITS[unit]}`;
}

const two = (number) => String(number).padStart(2, "0");
const day = (date) => `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
const clock = (date) => `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;

/** Local time, as precise as `step` ms needs. */
export function time(ms, step = 1) {
  const date = new Date(ms);
  const fraction = step < 1000 ? `.${String(date.getMilliseconds()).padStart(3, "0")}` : "";
  return `${day(date)} ${clock(date)}${fraction}`;
}

/** For a tick of the axis: the day where the step is days, else the time of day. */
export function tick(ms, step) {
  const date = new Date(ms);
  if (step >= 86400000) return day(date);
  return step >= 1000 ? clock(date).slice(0, step >= 60000 ? 5 : 8) : time(ms, step).slice(11);
}

export function span(ms) {
  for (const [unit, length] of [["d", 86400000], ["h", 3600000], ["min", 60000], ["s", 1000]]) {
    if (Math.abs(ms) >= length) return `${(ms / length).toFixed(1)} ${unit}`;
  }
  return `${ms.toFixed(ms < 10 ? 3 : 0)} ms`;
}

/** A point for the server: UTC, to the microsecond, which is what a number of milliseconds holds. */
export function point(ms) {
  const whole = Math.floor(ms);
  const micro = Math.min(999, Math.floor((ms - whole) * 1000));
  return new Date(whole).toISOString().replace("Z", `${String(micro).padStart(3, "0")}Z`);
}

/** A moment of the server, in ms. */
export const ms = (moment) => moment.ts_ns / 1e6;
export const name = (moment) => `#${moment.seq}, ${time(ms(moment))}`;
