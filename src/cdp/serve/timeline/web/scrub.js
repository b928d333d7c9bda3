// The bar as a slider: pointer and keys. It tells where the reader is; it asks the server nothing.
import {byId} from "./dom.js";
import * as text from "./text.js";

export class Scrub {
  /** on: {moved(ms), peeked(ms or null), chosen(), zoomed(), mark(direction)} */
  constructor(on) {
    this.on = on;
    this.bar = byId("scrub");
    this.scale = null;
    this.at = 0;
    this.other = null;
    this.bar.addEventListener("keydown", (event) => this.#key(event));
    this.bar.addEventListener("pointermove", (event) => this.#peek(event));
    this.bar.addEventListener("pointerleave", () => this.#leave());
    this.bar.addEventListener("pointerdown", (event) => {
      if (this.scale && event.button === 0) this.move(this.#ms(event));
    });
    this.bar.addEventListener("wheel", (event) => {
      if (!this.scale || !event.ctrlKey && !event.altKey) return;    // a plain wheel scrolls the page
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? 0.8 : 1.25, this.#ms(event));
    }, {passive: false});
  }

  show(scale, at) {
    this.scale = scale;
    this.at = scale.inside(at);
    this.place();
  }

  move(ms) {
    this.at = this.scale.inside(ms);
    const {begin} = this.scale;
    this.scale.reveal(this.at);
    this.place();
    if (begin !== this.scale.begin) this.on.zoomed();
    this.on.moved(this.at);
  }

  zoom(factor, around = this.at) {
    this.scale.zoom(factor, around);
    this.place();
    this.on.zoomed();
  }

  /** Put lines and values where they belong. */
  place() {
    const put = (id, ms) => {
      const line = byId(id);
      line.hidden = ms === null || !this.scale.shows(ms);
      if (!line.hidden) line.style.left = `${this.scale.toX(ms, this.bar.clientWidth)}px`;
    };
    put("cursor", this.at);
    put("other", this.other);
    this.bar.setAttribute("aria-valuemin", Math.floor(this.scale.oldest));
    this.bar.setAttribute("aria-valuemax", Math.ceil(this.scale.newest));
    this.bar.setAttribute("aria-valuenow", Math.round(this.at));
    this.bar.setAttribute("aria-valuetext", text.time(this.at, this.scale.step));
  }

  /** What is said beside the pointer, line by line; "": nothing. */
  tip(said) {
    const tip = byId("peek");
    tip.hidden = !said;
    tip.textContent = said;
    const x = parseFloat(byId("hover").style.left) || 0;
    const right = x > this.bar.clientWidth / 2;
    tip.style.left = right ? "auto" : `${x + 10}px`;
    tip.style.right = right ? `${this.bar.clientWidth - x + 10}px` : "auto";
  }

  #ms(event) {
    const box = this.bar.getBoundingClientRect();
    return this.scale.toMs(event.clientX - box.left, box.width);
  }

  #peek(event) {
    if (!this.scale) return;
    const ms = this.#ms(event);
    byId("hover").hidden = false;
    byId("hover").style.left = `${this.scale.toX(ms, this.bar.clientWidth)}px`;
    if (event.buttons & 1) this.move(ms);
    else this.on.peeked(ms);
  }

  #leave() {
    byId("hover").hidden = true;
    this.on.peeked(null);
  }

  #key(event) {
    if (!this.scale || event.ctrlKey || event.altKey || event.metaKey) return;
    const step = this.scale.step * (event.shiftKey ? 10 : 1);
    const does = {
      ArrowLeft: () => this.move(this.at - step), ArrowDown: () => this.move(this.at - step),
      ArrowRight: () => this.move(this.at + step), ArrowUp: () => this.move(this.at + step),
      Home: () => this.move(this.scale.oldest), End: () => this.move(this.scale.newest),
      PageUp: () => this.on.mark(-1), PageDown: () => this.on.mark(1),
      "+": () => this.zoom(0.5), "=": () => this.zoom(0.5), "-": () => this.zoom(2), Enter: () => this.on.chosen(),
    }[event.key];
    if (!does) return;
    event.preventDefault();
    does();
  }
}
