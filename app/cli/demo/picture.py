"""The picture of a call: who spoke when, Twilio's playout buffer, and the time that each stage took."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from app.simulator.report import CallReport
from app.simulator.wav import Samples
from app.twilio.events import RATE_HZ
from workers.messages import FRAME_S, Stage

CALLER, MOSHI = "#3b6ea8", "#c2552d"
STAGE_COLOURS = {Stage.ENCODE: "#3b6ea8", Stage.STEP: "#6a994e", Stage.DECODE: "#c2552d"}
PIXELS_A_TRACK = 2400
STAGE_TICKS_MS = (1, 2, 5, 10, 20, 40, 80)


def draw_call(report: CallReport, record: dict[str, Any], title: str, path: Path) -> None:
    """Write one call as a PNG: both voices with the greeting shaded, playout buffer, and the time of each stage."""
    rows = {"height_ratios": [2, 2, 1.3, 1.8]}
    figure, axes = plt.subplots(4, 1, figsize=(14, 9), sharex=True, gridspec_kw=rows, layout="constrained")
    figure.suptitle(title, fontsize=13)
    _draw_voice(axes[0], report.said, CALLER, "caller")
    _draw_voice(axes[1], report.heard, MOSHI, "Moshi, as heard")
    _shade_greeting(axes[:2], max(0.0, record["takeover_s"]))
    _mark_underruns(axes[1], report)
    _draw_buffer(axes[2], report)
    _draw_stages(axes[3], record)
    axes[3].set_xlabel("seconds after the stream's start")
    axes[3].set_xlim(0, report.ended_s)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _draw_voice(axes: Axes, samples: Samples, colour: str, label: str) -> None:
    block = max(1, len(samples) // PIXELS_A_TRACK)
    whole = samples[: len(samples) // block * block].reshape(-1, block) / 32768
    time_s = np.arange(len(whole)) * block / RATE_HZ
    axes.fill_between(time_s, whole.min(axis=1), whole.max(axis=1), color=colour, linewidth=0)
    axes.set_ylim(-1, 1)
    axes.set_yticks([])
    axes.set_ylabel(label)


def _shade_greeting(voices: "np.ndarray[Any, Any]", greeting_s: float) -> None:
    if greeting_s <= 0:
        return
    for axes in voices:
        axes.axvspan(0, greeting_s, color="#f2c14e", alpha=0.3, linewidth=0)
    voices[0].text(greeting_s, 0.8, " ← the greeting: Moshi does not listen yet", fontsize=8)


def _mark_underruns(axes: Axes, report: CallReport) -> None:
    for underrun in report.underruns:
        axes.axvline(underrun.start_s, color="red", linewidth=0.8)
    gaps = f"{len(report.underruns)} gaps, {report.underrun_s * 1000:.1f} ms in all"
    axes.set_title(gaps, fontsize=8, loc="right")


def _draw_buffer(axes: Axes, report: CallReport) -> None:
    axes.step(
        [level.at_s for level in report.buffer_levels],
        [level.buffered_s * 1000 for level in report.buffer_levels],
        color=MOSHI,
    )
    axes.set_ylabel("buffered, ms")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def _draw_stages(axes: Axes, record: dict[str, Any]) -> None:
    started_s = record["started_s"] or 0.0
    for stage in Stage:
        spans = [span for spans in record["spans"] for span in spans if span[0] == stage]
        began_s = [began - started_s for _, began, _ in spans]
        took_ms = [(ended - began) * 1000 for _, began, ended in spans]
        axes.plot(began_s, took_ms, ".", markersize=3, color=STAGE_COLOURS[stage], label=stage)
    axes.axhline(FRAME_S * 1000, color="red", linewidth=0.8, linestyle="--")
    axes.set_ylabel("ms a frame")
    axes.set_yscale("log")
    axes.set_ylim(1, 120)
    axes.set_yticks(STAGE_TICKS_MS, map(str, STAGE_TICKS_MS))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8, ncols=3, markerscale=3)
