// The field with which Moshi says a sentence in a call.

import { ask, byId, callPath, showMessage, write } from "./format.js";

const form = byId("say"), field = byId("say-text"), button = byId("say-send"), wrong = byId("say-wrong");
let sid = "";

export function openSay(wanted) {
  sid = wanted;
}

export function closeSay() {
  sid = field.value = "";
  button.disabled = wrong.hidden = true;
  write(byId("say-state"), "");
}

/** Show what is queued and said in a call that is on. */
export function showSay({ state, sentences }) {
  button.disabled = state !== "active";
  const counts = [[sentences.queued, "queued"], [sentences.said, "said"], [sentences.cut, "not said, or not whole"]];
  write(byId("say-state"), counts.filter(([count]) => count).map(([count, what]) => `${count} ${what}`).join(", "));
}

async function say(text) {
  const asked = sid, body = JSON.stringify({ text });
  wrong.hidden = true;
  field.value = "";
  try {
    await ask(callPath(sid, "say"), { method: "POST", headers: { "Content-Type": "application/json" }, body });
  } catch (error) {
    if (asked !== sid) return;
    field.value ||= text;
    showMessage(wrong, `Not queued: ${error.message}`);
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!button.disabled) say(field.value);
});
