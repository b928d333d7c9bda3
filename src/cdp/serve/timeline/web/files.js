// Browse the files of a moment.
import {make, table} from "./dom.js";
import {showResult} from "./result.js";
import {guarded, say} from "./say.js";
import * as text from "./text.js";

const join = (folder, name) => (folder === "/" ? `/${name}` : `${folder}/${name}`);
const parent = (path) => path.slice(0, path.lastIndexOf("/")) || "/";

export async function browse(volume, point, path = "/") {
  const got = await volume.get("files", {at: point, path});
  const go = (to) => guarded(() => browse(volume, `#${got.at.seq}`, to));
  const rows = got.entries.map((one) => [
    one.kind === "directory" ? make("button", {type: "button", onclick: go(join(path, one.name))}, `${one.name}/`)
      : one.target === null ? one.name : `${one.name} -> ${one.target}`,
    one.kind, one.mode, text.size(one.size_bytes), text.time(one.mtime_ns / 1e6, 1000)]);
  const parts = [];
  if (path !== "/") parts.push(make("p", {}, make("button", {type: "button", onclick: go(parent(path))}, "Up")));
  if (got.note) parts.push(make("p", {}, got.note));
  parts.push(make("div", {class: "scroll"},
    table(`${path} on ${got.file_system}`, ["Name", "Kind", "Mode", "Size", "Changed"], rows, [3])));
  if (got.left_off) parts.push(make("p", {}, `${got.left_off} more are not listed here: 'cdp files' lists all.`));
  showResult(`Files at ${text.name(got.at)}`, ...parts);
  say(`${got.entries.length} files in ${path}`);
}
