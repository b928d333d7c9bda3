// Elements, without HTML: text from names goes in as text, whatever it holds.

export const byId = (id) => document.getElementById(id);

/** make("a", {href: "..."}, "text", child, ...): properties that start with "on" are listeners, "class" is one too. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (typeof value === "boolean") element.toggleAttribute(name, value);
    else element.setAttribute(name, value);
  }
  element.append(...children.map((child) => (child instanceof Node ? child : readable(child))));
  return element;
}

/** What a name holds that is not shown, or that turns the text's direction, as an escape. */
export const readable = (text) => String(text).replace(
  /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
  (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** A table with a caption; rows: arrays of text or elements; numbers: columns to align at the right. */
export function table(caption, head, rows, numbers = []) {
  const kind = (index) => (numbers.includes(index) ? {class: "number"} : {});
  return make("table", {}, make("caption", {}, caption),
    make("thead", {}, make("tr", {}, ...head.map((text, i) => make("th", {scope: "col", ...kind(i)}, text)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell, i) => make("td", kind(i), cell))))));
}
