// What Moshi has said in the calls that are on, put together from snapshots.

export class Transcripts {
  #kept = new Map();

  /** Take a call of a snapshot; pieces that are known already change nothing. */
  take({ call_sid, text }) {
    let kept = this.#kept.get(call_sid);
    if (!kept || text.first > kept.first + kept.pieces.length) kept = { first: text.first, pieces: [] };
    for (const piece of text.pieces.slice(Math.max(0, kept.first + kept.pieces.length - text.first))) kept.pieces.push(piece);
    this.#kept.set(call_sid, kept);
  }

  /** Take what was said so far, from its beginning; what came meanwhile stays. */
  fill(call_sid, { first, pieces }) {
    const kept = this.#kept.get(call_sid);
    if (first > 0 || kept?.first === 0) return;
    const later = kept ? kept.pieces.slice(Math.max(0, pieces.length - kept.first)) : [];
    this.#kept.set(call_sid, { first: 0, pieces: [...pieces, ...later] });
  }

  /** How many pieces are known from the beginning on; none if the beginning is missing. */
  known(call_sid) {
    return this.isTorn(call_sid) ? 0 : this.pieces(call_sid).length;
  }

  pieces(call_sid) {
    return this.#kept.get(call_sid)?.pieces ?? [];
  }

  /** Whether the beginning is missing. */
  isTorn(call_sid) {
    return (this.#kept.get(call_sid)?.first ?? 1) > 0;
  }

  /** Forget the calls that are over. */
  keepOnly(call_sids) {
    for (const sid of this.#kept.keys()) if (!call_sids.has(sid)) this.#kept.delete(sid);
  }
}
