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

  /** Take all that was said so far; what came meanwhile stays. */
  fill(call_sid, pieces) {
    const kept = this.#kept.get(call_sid);
    const later = kept ? kept.pieces.slice(Math.max(0, pieces.length - kept.first)) : [];
    this.#kept.set(call_sid, { first: 0, pieces: [...pieces, ...later] });
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
