// What a moment is, in words, as `cdp explain` says it.
import {make} from "./dom.js";
import * as text from "./text.js";

export function pairs(got) {
  const found = [["Moment", text.name(got.resolved)]];
  if (got.resolved.seq === 0) found.push(["", "the volume as it was made"]);
  for (const other of got.other_readings) found.push(["Less likely", `${text.name(other)}: the clock was set back`]);
  found.push(["Next record", got.next
    ? `#${got.next.seq}, ${text.span((got.next.ts_ns - got.resolved.ts_ns) / 1e6)} later`
    : "none: this is the newest state"]);
  const between = got.next ? got.next.seq - got.resolved.seq - 1 : 0;
  if (between > 0) found.push(["Not kept", `${between === 1 ? "the moment" : `${between} moments`} between these two`]);
  found.push(["Durable", durable(got)]);
  for (const rule of got.kept_by) found.push(["Kept by", rule]);
  if (got.note) found.push(["Note", got.note]);
  return found;
}

function durable(got) {
  if (got.flush_durable) return "yes: all of it had been flushed";
  const since = got.last_flush ? `since #${got.last_flush.seq}` : "by then";
  return got.durability === "memory" ? `not yet: only in memory; the client had not flushed ${since}`
    : `yes: on disk, though the client had not flushed ${since}`;
}

export const show = (list, found) => list.replaceChildren(
  ...found.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
export const sentence = (found) => found.map(([name, value]) => (name ? `${name}: ${value}` : value)).join(". ");
