// The page: a volume is chosen, its bar is drawn, and a moment on it is explained. Requests that a later one overtakes
// are dropped, and none is sent for every movement of the pointer.
import {addActions} from "./actions.js";
import * as api from "./api.js";
import {byId, make} from "./dom.js";
import * as explain from "./explain.js";
import {draw} from "./heat.js";
import * as keeps from "./kept.js";
import {marksOf, showMarks} from "./marks.js";
import {hideResult} from "./result.js";
import {complain, guarded, say} from "./say.js";
import {Scale} from "./scale.js";
import {Scrub} from "./scrub.js";
import * as text from "./text.js";

const PAUSE_MS = 90;        // what the pointer rests before its moment is asked for
const EXPLAINED_MOST = 500;
const SHORT = ["Moment", "Next record", "Not kept", "Durable"];     // beside the pointer

let volume, overview, scale, activity;
let marks = [];
let keeping = null;         // what the retention policy keeps
let tiers = [];
let gone = [];
let chosen = null;          // an exact record: {seq, ms}; null: the time of the bar
let kept = null;
const explained = new Map();

/** run(work) after a pause, unless it is called again meanwhile; what is under way then is aborted. */
function latest(pause) {
  let timer, running;
  return (work) => {
    clearTimeout(timer);
    running?.abort();
    timer = work && setTimeout(() => {
      running = new AbortController();
      work(running.signal).catch(complain);
    }, pause);
  };
}

const later = {explain: latest(PAUSE_MS), peek: latest(PAUSE_MS), heat: latest(PAUSE_MS)};

const scrub = new Scrub({
  moved: () => {
    chosen = null;
    later.explain((signal) => showMoment(signal));
  },
  peeked: (ms) => {
    if (ms === null) scrub.tip("");
    else scrub.tip([text.time(ms, scale.step), keeps.hint(ms, tiers, gone)].filter(Boolean).join("\n"));
    later.peek(ms !== null && ((signal) => peek(ms, signal)));
  },
  chosen: guarded(async () => {
    later.explain();        // of the same moment: it would come after this
    const found = await showMoment();
    say(explain.sentence(found));
  }),
  zoomed: () => {
    paint();
    later.heat(loadHeat);
    say(`The bar shows ${text.span(scale.length)}`);
  },
  mark: (direction) => {
    const next = direction > 0 ? marks.find((one) => one.ms > scrub.at) : marks.findLast((one) => one.ms < scrub.at);
    if (next) goTo(next);
    else say("There is no mark in that direction");
  },
});

const paint = () => draw(byId("heat"), scale, activity, marks, tiers, gone);
const point = () => (chosen ? `#${chosen.seq}` : pointAt(scrub.at));

/** The ends by number: a time in a number of ms is rounded, and may be outside. */
function pointAt(ms) {
  const {oldest, newest} = overview.window;
  if (ms <= text.ms(oldest)) return `#${oldest.seq}`;
  return ms >= text.ms(newest) ? `#${newest.seq}` : text.point(ms);
}

function goTo(mark) {
  scrub.move(mark.ms);
  chosen = mark.seq === null ? null : {seq: mark.seq};
  byId("scrub").focus();
  say(`${mark.kind} ${mark.label}`);
}

async function explanation(of, signal) {
  if (!explained.has(of)) {
    const got = await volume.get("explain", {point: of}, signal);
    if (explained.size >= EXPLAINED_MOST) explained.clear();
    explained.set(of, got);
  }
  return explained.get(of);
}

/** Find the record of the bar's moment, and say what it is. */
async function showMoment(signal) {
  const got = await explanation(point(), signal);
  chosen = {seq: got.resolved.seq};
  const found = explain.pairs(got);
  const here = marks.filter((one) => one.seq === got.resolved.seq).map((one) => `${one.kind} ${one.label}`);
  if (here.length) found.push(["Marks", here.join(", ")]);
  explain.show(byId("explain"), found);
  return found;
}

async function peek(ms, signal) {
  const got = await explanation(pointAt(ms), signal);
  const near = marks.filter((one) => Math.abs(one.ms - ms) * 200 < scale.length).map((one) => `${one.kind} ${one.label}`);
  const said = explain.pairs(got).filter(([name]) => SHORT.includes(name)).map((pair) => pair.join(": "));
  scrub.tip([...said, keeps.hint(ms, tiers, gone), ...near.slice(0, 3)].filter(Boolean).join("\n"));
}

/** What is shown, from summaries: at most a few hundred intervals, whatever the history holds. */
async function loadHeat(signal) {
  const inside = (ms) => pointAt(scale.inside(ms));
  activity = await volume.get("activity", {since: inside(scale.begin), until: inside(scale.end)}, signal);
  paint();
  legend();
}

async function loadKept() {
  keeping = await volume.get("kept");
  setKept();
  paint();
  legend();
}

function setKept() {
  tiers = keeping ? keeps.tiersOf(keeping, overview.window) : [];
  gone = keeps.goneOf(overview.window);
  const said = keeps.sentences(keeping, overview.window);
  byId("kept").replaceChildren(...said.map((one) => make("li", {}, one)));
}

function legend() {
  if (!activity) return;
  const key = (kind, what) => make("span", {}, make("i", {class: kind}), what);
  const wrote = activity.written_bytes.reduce((sum, one) => sum + one, 0);
  byId("legend").replaceChildren(
    key("written", `written (${text.size(wrote)}, in steps of ${text.span(activity.by_ns / 1e6)})`),
    key("overwritten", "of it, over data"), key("place", "where on the volume, its begin on top"),
    key("bookmark", "bookmarks"), key("restore", "restores"), key("pin", "pins"), key("suspicious", "suspicious changes"),
    key("kept", "kept"), gone.length ? key("thinned", "thinned or freed") : "",
    activity.missing ? `${activity.missing} log files are not summed up yet` : "");
}

async function reload(toNewest = false) {
  overview = await volume.get("");
  explained.clear();
  const {oldest, newest} = overview.window;
  const last = scale;
  const atEnd = !last || toNewest || scrub.at === last.newest;
  scale = new Scale(text.ms(oldest), Math.max(text.ms(newest), text.ms(oldest)));
  marks = marksOf(overview);
  byId("about").textContent = `${text.size(overview.size_bytes)}; ${newest.seq - oldest.seq} records from ` +
    `${text.time(text.ms(oldest), 1000)} to ${text.time(text.ms(newest), 1000)}`;
  if (atEnd) chosen = {seq: newest.seq};
  scrub.show(scale, atEnd ? scale.newest : scrub.at);
  showMarks(overview, marks, goTo, (kind, name) => guarded(async () => {
    await volume.remove(kind, name);
    await reload();
    say(`${name} is deleted`);
  })());
  setKept();
  paint();
  await Promise.all([loadHeat(), showMoment(), loadKept()]);
  document.body.dataset.ready = "true";
}

async function choose(name) {
  volume = new api.Volume(name);
  page.volume = volume;
  [scale, activity, kept, keeping, scrub.other] = [null, null, null, null, null];
  hideResult();
  await reload();
}

const page = {
  volume, point, reload, overview: () => overview,
  keep: () => {
    kept = point();
    scrub.other = scrub.at;
    scrub.place();
    say("Kept: go to another moment, then compare");
  },
  other: () => {
    if (kept === null) throw new api.Refused({message: "no moment is kept", hint: "go to one, and choose 'Keep to compare'"});
    return kept;
  },
};

byId("in").addEventListener("click", () => scrub.zoom(0.5));
byId("out").addEventListener("click", () => scrub.zoom(2));
byId("all").addEventListener("click", () => scrub.zoom(Infinity));
byId("reload").addEventListener("click", guarded(() => reload()));
byId("volume").addEventListener("change", guarded(() => choose(byId("volume").value)));
const again = () => scale && (paint(), scrub.place());
new ResizeObserver(again).observe(byId("scrub"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
addActions(page);

guarded(async () => {
  const names = await api.volumes();
  byId("volume").replaceChildren(...names.map((name) => make("option", {value: name}, name)));
  if (!names.length) throw new api.Refused({message: "no volume is open yet", hint: "reload the page in a moment"});
  await choose(names[0]);
})();
