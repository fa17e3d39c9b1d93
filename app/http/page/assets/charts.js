// Charts on canvas; the caller writes the text alternatives.

const GAP_S = 0.5;
const TICK_FONT = "11px system-ui, sans-serif";

/** Return a context in CSS pixels, cleared, with the page's colours; null while the canvas is not shown. */
function begin(canvas) {
  const width = canvas.clientWidth, ratio = window.devicePixelRatio || 1;
  if (!width) return null;
  const height = (canvas.dataset.height ??= canvas.getAttribute("height")) * 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = `${height}px`;
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = TICK_FONT;
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`);
  return { pen, width, height, colour };
}

function level({ pen, width, colour }, y, text, name, dashed) {
  pen.strokeStyle = colour(name);
  pen.setLineDash(dashed ? [4, 4] : []);
  pen.beginPath();
  pen.moveTo(0, y);
  pen.lineTo(width, y);
  pen.stroke();
  pen.setLineDash([]);
  pen.fillStyle = colour(name === "line" ? "quiet" : name);
  pen.fillText(text, 2, y - 3);
}

/** Split steps where none started for a while. */
function runs(steps) {
  const found = [];
  for (const step of steps) {
    const run = found[found.length - 1];
    if (run && step[0] - run[run.length - 1][0] < GAP_S) run.push(step);
    else found.push([step]);
  }
  return found;
}

/** Draw steps [at_s, ms] of the last `span_s` seconds up to `now_s` against a limit. */
export function drawSteps(canvas, steps, now_s, span_s, limit_ms) {
  const chart = begin(canvas);
  if (!chart) return;
  const { pen, width, height, colour } = chart;
  const top = Math.max(limit_ms * 1.25, ...steps.map(([, took]) => took)) * 1.05;
  const y = (took) => height - 2 - (height - 14) * (took / top);
  level(chart, y(limit_ms), `${limit_ms} ms`, "warn", true);
  level(chart, height - 1, "", "line", false);
  pen.lineWidth = 1.25;
  for (const run of runs(steps)) {
    const points = run.map(([at, took]) => [width - ((now_s - at) / span_s) * width, y(took)]);
    pen.fillStyle = pen.strokeStyle = colour("moshi");
    pen.beginPath();
    for (const [px, py] of points) pen.lineTo(px, py);
    pen.stroke();
    pen.lineTo(points[points.length - 1][0], height - 1);
    pen.lineTo(points[0][0], height - 1);
    pen.globalAlpha = 0.15;
    pen.fill();
    pen.globalAlpha = 1;
    pen.fillStyle = colour("bad");
    run.forEach(([, took], place) => took > limit_ms && pen.fillRect(points[place][0] - 1.5, points[place][1] - 1.5, 3, 3));
  }
  pen.lineWidth = 1;
}

/** Draw values as a line from left to right, with the top of the scale. */
export function drawLine(canvas, values) {
  const chart = begin(canvas);
  if (!chart) return;
  const { pen, width, height, colour } = chart;
  if (!values.length) return;
  const top = Math.max(100, Math.ceil(Math.max(...values) / 100) * 100);
  const y = (value) => height - 3 - (height - 18) * (value / top);
  level(chart, y(top), `${top} ms`, "line", true);
  level(chart, height - 1, "", "line", false);
  pen.strokeStyle = colour("moshi");
  pen.lineWidth = 1.5;
  pen.beginPath();
  values.forEach((value, place) => pen.lineTo(values.length > 1 ? (place / (values.length - 1)) * width : 0, y(value)));
  pen.stroke();
  pen.lineWidth = 1;
}

/** Draw a waveform, caller above and Moshi below; the part that was played, 0 to 1, is in full colour. */
export function drawWaveform(canvas, { caller, moshi }, played) {
  const chart = begin(canvas);
  if (!chart) return;
  const { pen, width, height, colour } = chart;
  const half = height / 2;
  [[caller, half / 2, "caller"], [moshi, half * 1.5, "moshi"]].forEach(([waveform, middle, name]) => {
    pen.fillStyle = colour(name);
    waveform.forEach(([low, high], place) => {
      const x = (place / waveform.length) * width;
      pen.globalAlpha = place / waveform.length <= played ? 1 : 0.5;
      pen.fillRect(x, middle - high * (half / 2 - 4), Math.max(1, width / waveform.length - 0.5), Math.max(1, (high - low) * (half / 2 - 4)));
    });
    pen.globalAlpha = 1;
    pen.fillText(name === "caller" ? "Caller" : "Moshi", 6, middle - half / 2 + 14);
  });
  pen.fillStyle = colour("ink");
  pen.fillRect(Math.min(width - 1, played * width), 0, 1, height);
}
