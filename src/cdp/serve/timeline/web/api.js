// Requests to the server. The token is in the address's fragment once, and then in this tab's memory only.

const KEY = "cdp-token";
const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  sessionStorage.setItem(KEY, given);
  history.replaceState(null, "", location.pathname);
}
const token = sessionStorage.getItem(KEY);

/** What went wrong, and what to do next. */
export class Refused extends Error {
  constructor({message, hint}) {
    super(hint ? `${message}. ${hint}` : message);
  }
}

async function ask(method, path, {query = {}, body, signal} = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
  const text = given.length ? `?${new URLSearchParams(given)}` : "";
  let answer;
  try {
    answer = await fetch(`/api/${path}${text}`, {
      method, signal, headers: {
        Authorization: `Bearer ${token}`, ...(body && {"Content-Type": "application/json"}),
      }, body: body && JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused({message: "the server does not answer", hint: "see whether 'cdp serve' is running"});
  }
  if (answer.status === 204) return null;
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({message: `the server answered ${answer.status}`}));
    throw new Refused(said);
  }
  return answer.json();
}

export const volumes = () => ask("GET", "volumes");

/** The operations on one volume. */
export class Volume {
  constructor(name) {
    this.name = name;
    this.path = `volumes/${encodeURIComponent(name)}`;
  }
  get = (what, query, signal) => ask("GET", `${this.path}${what && `/${what}`}`, {query, signal});
  post = (what, body) => ask("POST", `${this.path}/${what}`, {body});
  remove = (what, name) => ask("DELETE", `${this.path}/${what}`, {query: {name}});
}
