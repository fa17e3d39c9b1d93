// Search in what was said.

import { ask, byId, clock, make, pageOf, partyOf, SPEAKERS, when } from "./format.js";

const AT_MOST = 50;
const form = byId("search"), field = byId("search-text"), list = byId("found"), text = byId("found-text");
let asked = 0;

async function search(query) {
  const mine = ++asked;
  list.replaceChildren();
  text.textContent = "";
  if (!query) return;
  try {
    const found = await ask(`api/history/search?limit=${AT_MOST}&q=${encodeURIComponent(query)}`);
    if (mine !== asked) return;
    list.replaceChildren(...found.map(row));
    text.textContent = found.length === AT_MOST ? `The last ${AT_MOST} turns.` : found.length ? `${found.length} found.` : "Nothing found.";
  } catch (error) {
    if (mine === asked) text.textContent = `Cannot search: ${error.message}.`;
  }
}

function row(turn) {
  const href = `${pageOf(turn.call_sid)}/${turn.at_s}`;
  const where = make("a", { href }, `${partyOf(turn)}, ${when(turn.reserved_at)}, ${clock(turn.at_s)}`);
  return make("li", { class: turn.speaker }, where, make("b", {}, SPEAKERS[turn.speaker]), make("p", {}, turn.text));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  search(field.value.trim());
});
field.addEventListener("input", () => field.value || search(""));
