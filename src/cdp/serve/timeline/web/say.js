// What a screen reader is told, and errors.
import {byId, readable} from "./dom.js";

export function say(text) {
  byId("error").textContent = "";
  byId("live").textContent = readable(text);
}

export function complain(error) {
  if (error.name === "AbortError") return;
  byId("error").textContent = readable(error.message);
}

/** A listener that shows what goes wrong in `work`, and that the page is busy meanwhile. */
export const guarded = (work) => async (event) => {
  document.body.setAttribute("aria-busy", "true");
  try {
    await work(event);
  } catch (error) {
    complain(error);
  } finally {
    document.body.removeAttribute("aria-busy");
  }
};
