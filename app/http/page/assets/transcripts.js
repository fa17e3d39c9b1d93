// The transcripts of active calls, joined from snapshots.

export class Transcripts {
  #kept = new Map();

  /** Add the words of a snapshot's call that are new. */
  add({ call_sid, transcript: text }) {
    let kept = this.#kept.get(call_sid);
    if (!kept || text.first > kept.first + kept.words.length) kept = { first: text.first, words: [] };
    for (const word of text.words.slice(Math.max(0, kept.first + kept.words.length - text.first))) kept.words.push(word);
    this.#kept.set(call_sid, kept);
  }

  /** Add the transcript from its beginning; later words stay. */
  fill(call_sid, { first, words }) {
    const kept = this.#kept.get(call_sid);
    if (first > 0 || kept?.first === 0) return;
    const later = kept ? kept.words.slice(Math.max(0, words.length - kept.first)) : [];
    this.#kept.set(call_sid, { first: 0, words: [...words, ...later] });
  }

  /** The number of words, 0 if the beginning is missing. */
  known(call_sid) {
    return this.isTorn(call_sid) ? 0 : this.words(call_sid).length;
  }

  words(call_sid) {
    return this.#kept.get(call_sid)?.words ?? [];
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
