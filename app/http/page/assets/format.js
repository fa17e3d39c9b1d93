// Formatting, and helpers for the document.

const PAUSE_S = 1;

/** Seconds as minutes:seconds, with hours if there are any. */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

/** The same with tenths. */
export function fineClock(seconds) {
  const tenths = Math.round(seconds * 10);
  return `${clock(Math.floor(tenths / 10))}.${tenths % 10}`;
}

/** Milliseconds, whole from ten on; a dash for none. */
export function ms(value) {
  if (value === null || value === undefined) return "–";
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}

/** Local date and time, the time alone if it is today. */
export function when(iso) {
  const moment = new Date(iso);
  const time = moment.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  const isToday = moment.toDateString() === new Date().toDateString();
  return isToday ? time : `${moment.toLocaleDateString([], { day: "numeric", month: "short" })}, ${time}`;
}

export function nameOf(number) {
  return number || "number withheld";
}

/** Whom a call of the call log was with. */
export function partyOf({ direction, called_masked, caller_masked }) {
  return nameOf(direction.startsWith("outbound") ? called_masked : caller_masked);
}

export const SPEAKERS = { caller: "Caller", moshi: "Moshi" };

/** The link to a call's page. */
export const pageOf = (sid) => `#/call/${encodeURIComponent(sid)}`;

/** A route of a call. */
export const callPath = (sid, what) => `api/calls/${encodeURIComponent(sid)}/${what}`;

/** The URL of a socket of the service. */
export function socketUrl(path) {
  const url = new URL(path, document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  return url;
}

/** Words [speaker, text, start_s, stop_s] as turns { speaker, words }, by their beginnings; a pause ends a turn. */
export function turnsOf(words) {
  const turns = [], last = {};
  for (const word of words) {
    const [speaker, , start_s] = word, open = last[speaker];
    if (open && start_s - open.words.at(-1)[3] < PAUSE_S) open.words.push(word);
    else turns.push((last[speaker] = { speaker, words: [word] }));
  }
  return turns.sort((one, other) => one.words[0][2] - other.words[0][2]);
}

export const textOf = ({ words }) => words.map(([, text]) => text).join(" ");

export const byId = (id) => document.getElementById(id);

/** Set a text only if it differs, which avoids a layout. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Show a message; an empty one is hidden. */
export function showMessage(element, text) {
  write(element, text);
  element.hidden = !text;
}

/** Show a state; its kind is good, warn, bad or none. */
export function showPill(pill, text, kind) {
  write(pill, text);
  pill.className = `pill ${kind}`;
}

/** Show items as the lines of a list in a box that scrolls; `fill` writes an item into a line, old or new. */
export function showLines(box, items, fill, follows = true) {
  const list = box.firstElementChild, atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  while (list.children.length > items.length) list.lastElementChild.remove();
  items.forEach((item, place) => fill(list.children[place] ?? list.appendChild(make("li")), item));
  if (atEnd && follows) box.scrollTop = box.scrollHeight;
}

/** Make an element with attributes and children. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** Show terms and values in a list that is built once. Values are texts, or [text, class]. */
export function describe(list, facts) {
  const terms = Object.keys(facts);
  if (list.dataset.terms !== terms.join()) {
    const flat = list.classList.contains("facts");
    const pair = (term) => [make("dt", {}, term), make("dd")];
    list.replaceChildren(...terms.flatMap((term) => (flat ? pair(term) : [make("div", {}, ...pair(term))])));
    list.dataset.terms = terms.join();
  }
  const values = list.querySelectorAll("dd");
  terms.forEach((term, place) => {
    const [text, kind] = [facts[term]].flat();
    write(values[place], text);
    values[place].className = kind ?? "";
  });
}

/** Have a screen reader say a text. */
export function announce(text) {
  byId("announce").textContent = text;
}

/** Request JSON from the service; throws an Error with `status` and the reason. */
export async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store", ...options });
  } catch {
    throw Object.assign(new Error("the service does not answer"), { status: 0 });
  }
  if (answer.ok) return answer.json();
  const reason = await answer.json().then((body) => body.detail, () => "");
  throw Object.assign(new Error(typeof reason === "string" && reason ? reason : `status ${answer.status}`), { status: answer.status });
}
