// What of the history can be opened, and for how long: the tiers of the retention policy, and what is gone. As spans of
// the bar, and in words.
import * as text from "./text.js";

/** [{kind, begin, end, label}] in ms, the oldest first: "all" has every moment, "tier" some that a rule keeps, "going" is
 * older than any rule asks for. keeping: of the server, or null. */
export function tiersOf(keeping, {oldest, newest}) {
  const [first, last] = [text.ms(oldest), text.ms(newest)];
  if (!keeping?.kept.length) return [{kind: "all", begin: first, end: last, label: "everything"}];
  const found = [];
  let end = last;
  keeping.kept.forEach((one, i) => {      // each keeps what the ones before it do, and reaches back further
    const begin = Math.max(first, text.ms(one.oldest));
    if (begin < end) found.unshift({kind: i ? "tier" : "all", begin, end, label: one.rule});
    end = Math.min(end, begin);
  });
  const needed = Math.max(first, text.ms(keeping.needed));
  if (needed < end) found.unshift({kind: "tier", begin: needed, end, label: "pinned"});
  if (first < needed) found.unshift({kind: "going", begin: first, end: needed, label: "may go"});
  return found;
}

/** [{kind, begin, end}] in ms: "thinned": some moments of it are left; "freed": none. */
export function goneOf({gaps, thinned}) {
  const span = (kind, one) => ({kind, begin: text.ms(one.first), end: text.ms(one.last)});
  return [...gaps.map((one) => span("freed", one)), ...(thinned ? [span("thinned", thinned)] : [])];
}

export function sentences(keeping, {gaps, thinned, oldest}) {
  const found = [];
  const span = (one) => `from ${text.name(one.first)}, to ${text.name(one.last)}`;
  if (!keeping) return found;
  if (!keeping.kept.length) found.push("No retention policy: everything is kept.");
  for (const one of keeping.kept) {
    const count = one.points === 1 ? "1 moment" : `${one.points} moments`;
    found.push(`Kept by \u201c${one.rule}\u201d: ${count} from ${text.time(text.ms(one.oldest), 1000)} on.`);
  }
  if (keeping.needed && keeping.needed.seq > oldest.seq) {
    found.push(`What is before ${text.name(keeping.needed)}, may go with the next run.`);
  }
  if (thinned) found.push(`Thinned ${span(thinned)}: ${thinned.points} of these moments are left.`);
  for (const one of gaps) found.push(`Freed by a destructive restore: ${span(one)}.`);
  return found;
}

/** What the bar has at a time, for who points there. */
export function hint(ms, tiers, gone) {
  const at = (spans) => spans.find((one) => one.begin <= ms && ms <= one.end);
  const was = at(gone);
  if (was) return was.kind === "freed" ? "Freed: nothing is left of this time" : "Thinned: only some moments of it are left";
  const tier = at(tiers);
  return tier?.kind === "going" ? "May go with the next run of the policy" : "";
}
