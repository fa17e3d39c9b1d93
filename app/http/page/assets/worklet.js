// Audio of a chat, in the audio thread: the device's rate to 24 kHz and back, a playback buffer, levels.

export const RATE_HZ = 24000;
const MS = RATE_HZ / 1000;
const FRAME = 80 * MS, FIRST_MARGIN = 10 * MS, FIRST_SLACK = 10 * MS, INCREMENT = 5 * MS, MOST = 80 * MS;
const SENT = 20 * MS; // samples a message
const AUDIO = 1; // the kind of message
const REPORT_EVERY_S = 0.1;
const SILENT_DBFS = -60;
const ZERO_CROSSINGS = 16, STEPS = 256;

function concat(one, other) {
  const whole = new Float32Array(one.length + other.length);
  whole.set(one);
  whole.set(other, one.length);
  return whole;
}

/** Changes the sample rate by a windowed sinc (Hann, 16 zero crossings a side); it delays by its half length. */
export class Resampler {
  constructor(fromHz, toHz) {
    this.ratio = fromHz / toHz;
    const cutoff = 0.92 * Math.min(1, toHz / fromHz);
    this.half = Math.ceil(ZERO_CROSSINGS / cutoff);
    this.kernel = Float32Array.from({ length: this.half * STEPS + 2 }, (_, step) => {
      const x = step / STEPS, phase = Math.PI * cutoff * x;
      if (x >= this.half) return 0;
      return cutoff * (x ? Math.sin(phase) / phase : 1) * Math.cos((Math.PI * x) / (2 * this.half)) ** 2;
    });
    this.kept = new Float32Array(2 * this.half);
    this.place = this.half; // of the next output, in samples of `kept`
  }

  /** How many samples `count` outputs need. */
  needed(count) {
    return Math.max(0, Math.floor(this.place + (count - 1) * this.ratio) + this.half + 1 - this.kept.length);
  }

  /** Add samples; return the outputs that they allow, or `count` for which there are as many as needed. */
  process(samples, count) {
    const known = concat(this.kept, samples);
    const length = count ?? Math.max(0, Math.ceil((known.length - this.half - this.place) / this.ratio));
    const outputs = Float32Array.from({ length }, (_, index) => this.at(known, this.place + index * this.ratio));
    const place = this.place + outputs.length * this.ratio, dropped = Math.max(0, Math.floor(place) - this.half);
    this.kept = known.slice(dropped);
    this.place = place - dropped;
    return outputs;
  }

  at(known, place) {
    const middle = Math.floor(place), last = Math.min(known.length - 1, middle + this.half);
    let sum = 0;
    for (let index = Math.max(0, middle - this.half + 1); index <= last; index++) {
      const step = Math.abs(place - index) * STEPS, whole = Math.floor(step), part = step - whole;
      sum += known[index] * (this.kernel[whole] * (1 - part) + this.kernel[whole + 1] * part);
    }
    return sum;
  }
}

/** What has been received and is still to be played; its rules are those of app/audio/playback_buffer.py. */
export class PlaybackBuffer {
  constructor() {
    this.chunks = [];
    this.buffered = this.underruns = this.dropped = this.wait = 0;
    this.margin = FIRST_MARGIN;
    this.slack = FIRST_SLACK;
    this.started = this.fadeIn = false;
  }

  push(samples) {
    this.chunks.push(samples);
    this.buffered += samples.length;
    if (!this.started && this.buffered >= FRAME) {
      this.started = this.fadeIn = true;
      this.wait = this.margin;
    }
    const target = FRAME + this.margin;
    if (this.buffered > target + this.slack) {
      this.dropped += this.take(this.buffered - target).length;
      this.slack = Math.min(this.slack + INCREMENT, MOST);
    }
  }

  /** Return the next `count` samples; silence where there are none. */
  pull(count) {
    const played = new Float32Array(count);
    if (!this.started) return played;
    if (this.wait > 0) {
      this.wait -= count;
      return played;
    }
    const taken = this.take(Math.min(count, this.buffered)), ends = taken.length < count;
    if (this.fadeIn) taken.forEach((sample, place) => (taken[place] = (sample * place) / Math.max(1, taken.length - 1)));
    if (ends) taken.forEach((sample, place) => (taken[place] = sample * (1 - place / Math.max(1, taken.length - 1))));
    this.fadeIn = false;
    if (ends) {
      this.underruns += 1;
      this.started = false;
      this.margin = Math.min(this.margin + INCREMENT, MOST);
    }
    played.set(taken);
    return played;
  }

  take(count) {
    const taken = new Float32Array(count);
    this.buffered -= count;
    for (let filled = 0; filled < count; ) {
      const chunk = this.chunks[0], part = chunk.subarray(0, count - filled);
      taken.set(part, filled);
      filled += part.length;
      if (part.length < chunk.length) this.chunks[0] = chunk.subarray(part.length);
      else this.chunks.shift();
    }
    return taken;
  }
}

/** The level of what was heard since the last report. */
class Level {
  constructor() {
    this.sum = this.count = 0;
  }

  add(samples) {
    for (const sample of samples) this.sum += sample * sample;
    this.count += samples.length;
  }

  report() {
    const dbfs = this.sum ? 10 * Math.log10(this.sum / this.count) : SILENT_DBFS;
    this.sum = this.count = 0;
    return Math.max(SILENT_DBFS, dbfs);
  }
}

/** The message of 20 ms: its kind, then int16. */
function messageOf(samples) {
  const message = new DataView(new ArrayBuffer(1 + 2 * samples.length));
  message.setUint8(0, AUDIO);
  samples.forEach((sample, place) => message.setInt16(1 + 2 * place, Math.max(-1, Math.min(1, sample)) * 32767, true));
  return message.buffer;
}

function samplesOf(message) {
  const view = new DataView(message, 1);
  return Float32Array.from({ length: view.byteLength >> 1 }, (_, place) => view.getInt16(2 * place, true) / 32768);
}

/** Posts messages for the service and reports for the page; is posted messages of the service, null for a new chat. */
class ChatAudio extends (globalThis.AudioWorkletProcessor ?? Object) {
  constructor() {
    super();
    this.toService = new Resampler(sampleRate, RATE_HZ);
    this.toDevice = new Resampler(RATE_HZ, sampleRate);
    this.unsent = new Float32Array(0);
    this.caller = new Level();
    this.moshi = new Level();
    this.reported_s = currentTime;
    this.begin();
    this.port.onmessage = ({ data }) => (data ? this.receive(data) : this.begin());
  }

  begin() {
    this.buffer = new PlaybackBuffer();
    this.waits = [];
  }

  receive(message) {
    const samples = samplesOf(message);
    this.buffer.push(samples);
    this.waits.push((this.buffer.buffered - samples.length + Math.max(0, this.buffer.wait)) / MS);
  }

  process([[microphone]], [[loudspeaker]]) {
    if (microphone) this.send(this.toService.process(microphone));
    const played = this.buffer.pull(this.toDevice.needed(loudspeaker.length));
    this.moshi.add(played);
    loudspeaker.set(this.toDevice.process(played, loudspeaker.length));
    if (currentTime - this.reported_s >= REPORT_EVERY_S) this.report();
    return true;
  }

  send(samples) {
    this.caller.add(samples);
    this.unsent = concat(this.unsent, samples);
    for (; this.unsent.length >= SENT; this.unsent = this.unsent.slice(SENT)) {
      const message = messageOf(this.unsent.subarray(0, SENT));
      this.port.postMessage(message, [message]);
    }
  }

  report() {
    const { underruns, dropped } = this.buffer;
    const buffer_ms = this.waits.length ? this.waits.reduce((sum, wait) => sum + wait) / this.waits.length : null;
    this.port.postMessage({ caller_dbfs: this.caller.report(), moshi_dbfs: this.moshi.report(), buffer_ms, underruns, dropped_ms: dropped / MS });
    this.waits = [];
    this.reported_s = currentTime;
  }
}

globalThis.registerProcessor?.("chat-audio", ChatAudio);
