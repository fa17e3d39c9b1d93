// The operator's actions, each confirmed in a dialog first.

import { announce, ask, byId, callPath, nameOf } from "./format.js";

let questions = 0;

/** Confirm an action; resolves to true or false. A dialog's "close" event may come after it was opened again. */
function confirmed(title, text, yes) {
  const dialog = byId("sure"), mine = ++questions;
  byId("sure-title").textContent = title;
  byId("sure-text").textContent = text;
  byId("sure-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    const closed = () => {
      const askedAnew = mine !== questions;
      if (dialog.open && !askedAnew) return;
      dialog.removeEventListener("close", closed);
      resolve(!askedAnew && dialog.returnValue === "yes");
    };
    dialog.addEventListener("close", closed);
  });
}

async function post(path, wrong) {
  try {
    await ask(path, { method: "POST" });
    return true;
  } catch (error) {
    announce(`${wrong}: ${error.message}`);
    await confirmed(wrong, error.message, "Close");
    return false;
  }
}

/** Hang up on a caller. */
export async function hangUp({ call_sid, number }) {
  const name = nameOf(number);
  if (!(await confirmed(`Hang up on ${name}?`, "What Moshi is saying is played to its end, for three seconds at most.", "Hang up"))) return;
  if (await post(callPath(call_sid, "hangup"), "Not hung up")) announce(`Hanging up on ${name}`);
}

/** Drain the service. */
export async function drain(calls) {
  const on = calls === 1 ? "One call is" : `${calls || "No"} calls are`;
  const text = `${on} on. The service accepts no more calls and stops when these have ended, or after DRAIN_SECONDS if set. That cannot be undone here.`;
  if (await confirmed("Drain the service?", text, "Drain")) await post("api/drain", "Not drained");
}
