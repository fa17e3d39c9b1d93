// What the operator does to calls, asked about before it is done.

import { announce, ask, byId, nameOf } from "./format.js";

let questions = 0;

/** Ask whether something is to be done; resolves to true or false. A dialog's "close" can be told after it was opened anew. */
function sure(title, text, yes) {
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
    await sure(wrong, error.message, "Understood");
    return false;
  }
}

/** End a call, if the operator is sure. */
export async function hangUp({ call_sid, number }) {
  const name = nameOf(number);
  if (!(await sure(`Hang up on ${name}?`, "What Moshi is saying is heard to its end, for three seconds at most.", "Hang up"))) return;
  if (await post(`api/calls/${encodeURIComponent(call_sid)}/hangup`, "Not hung up")) announce(`Hanging up on ${name}`);
}

/** Have the service take no more calls, if the operator is sure. */
export async function drain(calls) {
  const on = calls === 1 ? "One call is" : `${calls || "No"} calls are`;
  const text = `${on} on. The service takes no more calls, and stops when they have ended or, if it has DRAIN_SECONDS, when those are over. That cannot be undone here.`;
  if (await sure("Drain the service?", text, "Drain")) await post("api/drain", "Not drained");
}
