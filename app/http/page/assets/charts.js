// Charts on canvas. Each has its text alternative beside it, written by whoever draws.

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

/** Draw steps [at_s, ms] of the last `span_s` seconds up to `now_s` against a limit. */
export function drawSteps(canvas, steps, now_s, span_s, limit_ms) {
  const chart = begin(canvas);
  if (!chart) return;
  const { pen, width, height, colour } = chart;
  const top = Math.max(limit_ms * 1.25, ...steps.map(([, took]) => took)) * 1.05;
  const y = (took) => height - 2 - (height - 14) * (took / top);
  level(chart, y(limit_ms), `${limit_ms} ms`, "warn", true);
  level(chart, height - 1, "", "line", false);
  for (const [at, took] of steps) {
    const x = width - ((now_s - at) / span_s) * width;
    pen.fillStyle = colour(took > limit_ms ? "bad" : "moshi");
    pen.fillRect(x - 1, y(took), 1.5, height - 1 - y(took));
  }
}

/** Draw values as a line from left to right, with the lowest and highest level written down. */
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

/** Draw both sides, caller above and Moshi below; what has been played (a share of all) is in full colour. */
export function drawWave(canvas, { caller, moshi }, played) {
  const chart = begin(canvas);
  if (!chart) return;
  const { pen, width, height, colour } = chart;
  const half = height / 2;
  [[caller, half / 2, "caller"], [moshi, half * 1.5, "moshi"]].forEach(([peaks, middle, name]) => {
    pen.fillStyle = colour(name);
    peaks.forEach(([low, high], place) => {
      const x = (place / peaks.length) * width;
      pen.globalAlpha = place / peaks.length <= played ? 1 : 0.5;
      pen.fillRect(x, middle - high * (half / 2 - 4), Math.max(1, width / peaks.length - 0.5), Math.max(1, (high - low) * (half / 2 - 4)));
    });
    pen.globalAlpha = 1;
    pen.fillText(name === "caller" ? "Caller" : "Moshi", 6, middle - half / 2 + 14);
  });
  pen.fillStyle = colour("ink");
  pen.fillRect(Math.min(width - 1, played * width), 0, 1, height);
}
