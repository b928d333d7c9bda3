// Bookmarks, restores, pins and suspicious changes: where they are on the bar, and a list with them and with alerts.
import {byId, make, table} from "./dom.js";
import * as text from "./text.js";

/** [{ms, kind, label, seq}], by time. An alert is of a time: it has no record, and its moment is the time. */
export function marksOf(overview) {
  const found = [
    ...overview.bookmarks.map((one) => ({moment: one.at, kind: "bookmark", label: one.name})),
    ...overview.restores.map((one) => ({moment: one, kind: "restore", label: restoreText(one)})),
    ...overview.pins.filter((one) => one.kind !== "bookmark")
      .map((one) => ({moment: one.at, kind: "pin", label: `${one.kind} ${one.owner}`})),
    ...overview.alerts.filter((one) => one.kind === "suspicious")
      .map((one) => ({moment: {seq: null, ts_ns: Math.min(one.since_ns, overview.window.newest.ts_ns)},
        kind: "suspicious", label: one.what})),
  ];
  return found.map((one) => ({...one, ms: text.ms(one.moment), seq: one.moment.seq})).sort((a, b) => a.ms - b.ms);
}

const nameOf = (moment) => (moment.seq === null ? text.time(text.ms(moment)) : text.name(moment));
const restoreText = (one) => (one.undo_of !== null ? `undo of restore #${one.undo_of}` : `back to #${one.target.seq}`);

/** go: called with a mark that was chosen; remove: with the kind and name of what is to be deleted. */
export function showMarks(overview, marks, go, remove) {
  const parts = [];
  for (const one of overview.alerts) {
    parts.push(make("p", {class: "alert"}, `Alert since ${text.time(one.since_ns / 1e6)}: ${one.what}. ${one.hint}`));
  }
  const rows = marks.toReversed().map((one) => [
    make("button", {type: "button", onclick: () => go(one)}, nameOf(one.moment)), one.kind, one.label,
    one.kind === "bookmark" ? make("button", {type: "button", "aria-label": `Delete the bookmark ${one.label}`,
      onclick: () => remove("bookmarks", one.label)}, "Delete") : ""]);
  if (rows.length) parts.push(make("div", {class: "scroll"}, table("The newest first", ["Moment", "Kind", "What", ""], rows)));
  const images = overview.images.map((one) => [one.name, text.name(one.at), text.size(one.log_bytes),
    make("button", {type: "button", "aria-label": `Close and delete the image ${one.name}`,
      onclick: () => remove("images", one.name)}, "Close")]);
  if (images.length) parts.push(table("Writable images", ["Name", "Of", "Own writes", ""], images, [2]));
  const left = Object.entries(overview.left_off).filter(([, count]) => count);
  for (const [kind, count] of left) parts.push(make("p", {}, `${count} older ${kind} are not listed here.`));
  byId("marks").replaceChildren(...(parts.length ? parts : [make("p", {}, "None yet.")]));
}
