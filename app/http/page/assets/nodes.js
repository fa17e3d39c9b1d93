// All nodes of the cluster, and the calls that went on at another one. Hidden where one machine serves alone.

import { byId, make, when, write } from "./format.js";

const MOVES_SHOWN = 5;
const endOf = (sid) => `…${sid.slice(-6)}`;
let shown = "";

/** Show the nodes as this one sees them; null hides them. */
export function showNodes(cluster) {
  byId("nodes-section").hidden = !cluster;
  if (!cluster) return;
  const { nodes, moves, cut_off, free_slots, slots, waiting } = cluster;
  const away = cut_off ? " NATS is away: what is shown of other nodes was last heard." : "";
  write(byId("nodes-text"), `${free_slots} of ${slots} slots free, ${waiting} waiting.${away}`);
  const now = JSON.stringify([nodes.map((node) => ({ ...node, heard_s_ago: 0, clock_ahead_s: 0 })), moves]);
  if (now === shown) return;
  shown = now;
  byId("nodes").tBodies[0].replaceChildren(...nodes.map((node) => row(node, cluster.node)));
  byId("moves").replaceChildren(...moves.slice(-MOVES_SHOWN).reverse().map(moveOf));
}

function row({ node, state, version, free_slots, slots, calls }, here) {
  return make("tr", {},
    make("td", {}, node === here ? `${node} (here)` : node),
    make("td", {}, state),
    make("td", {}, version),
    make("td", { class: "number" }, `${free_slots} of ${slots}`),
    make("td", {}, calls.map(endOf).join(" ")));
}

function moveOf({ call_sid, from, to, moved_s, steps }) {
  const at = when(new Date(moved_s * 1000).toISOString());
  return make("li", {}, `${at}: ${endOf(call_sid)} from ${from || "a node that is gone"} to ${to}, ${steps} steps remembered`);
}
