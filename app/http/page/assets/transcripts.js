// The transcripts of active calls, joined from snapshots.

export class Transcripts {
  #kept = new Map();

  /** Add the pieces of a snapshot's call that are new. */
  add({ call_sid, text }) {
    let kept = this.#kept.get(call_sid);
    if (!kept || text.first > kept.first + kept.pieces.length) kept = { first: text.first, pieces: [] };
    for (const piece of text.pieces.slice(Math.max(0, kept.first + kept.pieces.length - text.first))) kept.pieces.push(piece);
    this.#kept.set(call_sid, kept);
  }

  /** Add the transcript from its beginning; later pieces stay. */
  fill(call_sid, { first, pieces }) {
    const kept = this.#kept.get(call_sid);
    if (first > 0 || kept?.first === 0) return;
    const later = kept ? kept.pieces.slice(Math.max(0, pieces.length - kept.first)) : [];
    this.#kept.set(call_sid, { first: 0, pieces: [...pieces, ...later] });
  }

  /** The number of pieces, 0 if the beginning is missing. */
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

  /** Delete the other calls. */
  keepOnly(call_sids) {
    for (const sid of this.#kept.keys()) if (!call_sids.has(sid)) this.#kept.delete(sid);
  }
}
