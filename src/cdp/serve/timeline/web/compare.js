// What differs between two moments: ranges of the volume, and files where they can be read.
import {make, table} from "./dom.js";
import {showResult} from "./result.js";
import {Refused} from "./api.js";
import {say} from "./say.js";
import * as text from "./text.js";

const SHOWN = 200;

/** Tables of what differs from a to b, and a sentence. */
export async function difference(volume, a, b) {
  const got = await volume.get("diff", {a, b});
  const more = got.next_offset === null ? "" : " and more";
  const sentence = `${got.ranges.length} ranges, ${text.size(got.bytes)}${more} differ`;
  const parts = [make("p", {}, `${sentence} between ${text.name(got.a)} and ${text.name(got.b)}.`)];
  parts.push(await files(volume, got));
  if (got.ranges.length) {
    const rows = got.ranges.slice(0, SHOWN).map((one) => [one.offset, text.size(one.length), one.kind]);
    parts.push(make("details", {}, make("summary", {}, "Ranges"), make("div", {class: "scroll"},
      table(rows.length < got.ranges.length ? `The first ${SHOWN}` : "All", ["Offset", "Length", "Kind"], rows, [0, 1]))));
  }
  return {sentence, parts, any: got.ranges.length > 0};
}

async function files(volume, got) {
  let found;
  try {
    found = await volume.get("changes", {a: `#${got.a.seq}`, b: `#${got.b.seq}`});
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return make("p", {}, `Files cannot be compared: ${error.message}`);
  }
  if (!found.changes.length) return make("p", {}, "No file differs.");
  const rows = found.changes.map((one) => [one.change, one.path, one.what.join(", ")]);
  return make("div", {class: "scroll"}, table(
    `${found.more ? "The first " : ""}${rows.length} files that differ`, ["Change", "File", "In"], rows));
}

export async function compare(volume, a, b) {
  const {sentence, parts} = await difference(volume, a, b);
  showResult("Compare", ...parts);
  say(sentence);
}
