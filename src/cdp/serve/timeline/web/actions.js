// What can be done with a moment. Everything that changes the volume is asked for in words first.
import {compare, difference} from "./compare.js";
import {byId, make} from "./dom.js";
import {browse} from "./files.js";
import {hideResult, showResult} from "./result.js";
import {guarded, say} from "./say.js";
import * as text from "./text.js";

/** page: {volume, point(), other(), keep(), reload(), overview()} of main.js. */
export function addActions(page) {
  const button = (label, work) => make("button", {type: "button", onclick: guarded(work)}, label);
  byId("actions").replaceChildren(
    button("Bookmark here", () => ask("Bookmark", "Name of the bookmark", "Bookmark", (name) => bookmark(page, name))),
    button("Open as an image", () => ask("Open as an image", "Name of the image", "Open", (name) => open(page, name))),
    button("Browse files", () => browse(page.volume, page.point())),
    button("Keep to compare", () => page.keep()),
    button("Compare with the kept one", () => compare(page.volume, page.other(), page.point())),
    button("Restore to here", () => preview(page)),
    button("Undo the last restore", () => previewUndo(page)));
}

/** A form with one line; then `work` with what it says. */
function ask(title, label, verb, work) {
  const input = make("input", {id: "answer", required: true, maxlength: "200", autocomplete: "off"});
  const form = make("form", {class: "line", onsubmit: (event) => {
    event.preventDefault();
    guarded(() => work(input.value))();
  }}, make("label", {for: "answer"}, label), input, make("button", {class: "main"}, verb), cancel());
  showResult(title, form);
  input.focus();
}

const cancel = () => make("button", {type: "button", onclick: () => {
  hideResult();
  byId("scrub").focus();
}}, "Cancel");

async function bookmark(page, name) {
  const made = await page.volume.post("bookmarks", {name, at: page.point()});
  hideResult();
  byId("scrub").focus();
  await page.reload();
  say(`Bookmark ${made.name} names ${text.name(made.at)}`);
}

async function open(page, name) {
  const made = await page.volume.post("images", {name, at: page.point()});
  await page.reload();
  showResult(`Image ${made.name} of ${text.name(made.at)}`,
    make("p", {}, "It can be written, and the volume does not change. Clients of NBD open it at:"),
    ...made.uris.map((uri) => make("p", {}, make("code", {}, uri))),
    make("p", {}, "'Close' in the list of images deletes it."));
  say(`Image ${made.name} is open`);
}

async function preview(page) {
  const point = page.point();
  const planned = await page.volume.post("restores", {point, dry_run: true});
  const change = await difference(page.volume, "now", `#${planned.target.seq}`);
  const writers = page.overview().writers;
  const force = make("input", {type: "checkbox", id: "force"});
  const parts = [make("p", {}, `The volume would go back to ${text.name(planned.target)}. Nothing is lost: what is there ` +
    "now stays in the history, and 'Undo the last restore' brings it back."), ...change.parts];
  if (writers) {
    parts.push(make("p", {class: "alert"}, `${writers} clients are connected that may write. A file system that is ` +
      "mounted would be damaged: unmount it first."), make("p", {}, force, " ", make("label", {for: "force"}, "Restore under them")));
  }
  parts.push(make("div", {class: "scroll"}, make("button", {type: "button", class: "main", onclick: guarded(async () => {
    const done = await page.volume.post("restores", {point: `#${planned.target.seq}`, force: force.checked});
    await finish(page, `Restored to ${text.name(done.target)}`);
  })}, "Restore"), " ", cancel()));
  showResult("Restore: a preview", ...parts);
  say(`Preview: ${change.sentence}`);
}

async function previewUndo(page) {
  const planned = await page.volume.post("undo", {dry_run: true});
  const what = `Restore #${planned.undo_of} would be taken back: the volume shows ${text.name(planned.target)} again.`;
  const force = make("input", {type: "checkbox", id: "force"});
  showResult("Undo: a preview", make("p", {}, what),
    page.overview().writers ? make("p", {class: "alert"}, force, " ", make("label", {for: "force"},
      "Undo under the clients that are connected and may write")) : "",
    make("div", {}, make("button", {type: "button", class: "main", onclick: guarded(async () => {
      const done = await page.volume.post("undo", {force: force.checked});
      await finish(page, `Undone: the volume shows ${text.name(done.target)} again`);
    })}, "Undo"), " ", cancel()));
  say(what);
}

async function finish(page, said) {
  hideResult();
  await page.reload(true);
  byId("scrub").focus();
  say(said);
}
