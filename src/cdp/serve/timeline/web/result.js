// The panel below the bar where an answer that is longer than a line is shown.
import {byId} from "./dom.js";

export function showResult(title, ...parts) {
  byId("result-title").textContent = title;
  byId("result-body").replaceChildren(...parts);
  byId("result").hidden = false;
  byId("result").focus();
}

export function hideResult() {
  byId("result").hidden = true;
  byId("result-body").replaceChildren();
}
