"""Plots of calls over time, as PNG files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from app.simulator.playout import BufferLevel
from app.simulator.report import CallReport
from app.simulator.trouble import Scenario
from app.simulator.virtual import VirtualReport
from app.simulator.wav import Samples
from app.twilio.events import RATE_HZ
from workers.messages import FRAME_S, Stage

CALLER, MOSHI = "#3b6ea8", "#c2552d"
STAGE_COLOURS = {Stage.ENCODE: CALLER, Stage.STEP: "#6a994e", Stage.DECODE: MOSHI}
PIXELS_A_TRACK = 2400
STAGE_TICKS_MS = (1, 2, 5, 10, 20, 40, 80)


def draw_buffers(reports: Sequence[CallReport], line: Scenario, path: Path) -> None:
    """Draw the playout buffer of each call, with gaps and the line's troubles."""
    with _rows(len(reports), path) as rows:
        for report, axes in zip(reports, rows, strict=True):
            _draw_buffer(axes, report.buffer_levels)
            for gap in report.underruns:
                axes.axvspan(gap.start_s, gap.start_s + gap.length_s, color="black", alpha=0.6)
            _shade_troubles(axes, line)
            axes.set_title(f"{report.call_sid}: {report.sentence}", fontsize=8, loc="left")
            axes.set_ylabel("buffered, ms", fontsize=8)
        rows[-1].set_xlabel("seconds after the stream's start; gaps black, trouble red")


def draw_virtual(reports: Sequence[VirtualReport], path: Path) -> None:
    with _rows(len(reports), path) as rows:
        for report, axes in zip(reports, rows, strict=True):
            axes.plot([one.spoken_s for one in report.heard], [one.latency_s * 1000 for one in report.heard], lw=0.9)
            _draw_buffer(axes, report.buffer_levels)
            _shade_troubles(axes, report.scenario)
            axes.set(ylim=(0, 400), xlim=(0, report.scenario.seconds))
            axes.set_title(report.scenario.name, fontsize=8, loc="left")
        rows[0].legend(["mouth to ear, ms", "buffered, ms"], fontsize=7, ncols=2, loc="upper right")


def draw_call(report: CallReport, record: dict[str, Any], title: str, path: Path) -> None:
    """Draw one call: both voices with the greeting shaded, playout buffer, and the time of each stage."""
    heights = {"height_ratios": [2, 2, 1.3, 1.8]}
    figure, axes = plt.subplots(4, 1, figsize=(14, 9), sharex=True, gridspec_kw=heights, layout="constrained")
    figure.suptitle(title, fontsize=13)
    _draw_voice(axes[0], report.said, CALLER, "caller")
    _draw_voice(axes[1], report.heard, MOSHI, "Moshi, as heard")
    _shade_greeting(axes[:2], greeting_end_s(record))
    for underrun in report.underruns:
        axes[1].axvline(underrun.start_s, color="red", linewidth=0.8)
    gaps = f"{len(report.underruns)} gaps, {report.underrun_s * 1000:.1f} ms in all"
    axes[1].set_title(gaps, fontsize=8, loc="right")
    _draw_buffer(axes[2], report.buffer_levels, MOSHI)
    axes[2].set(ylabel="buffered, ms", ylim=(0, None))
    _draw_stages(axes[3], record)
    axes[3].set(xlabel="seconds after the stream's start", xlim=(0, report.ended_s))
    for lower in axes[2:]:
        lower.grid(alpha=0.3)
    figure.savefig(path, dpi=80)
    plt.close(figure)


@contextmanager
def _rows(count: int, path: Path) -> Iterator[list[Axes]]:
    figure, rows = plt.subplots(count, 1, figsize=(12, 1.5 * count + 1), squeeze=False, layout="constrained")
    yield list(rows[:, 0])
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _draw_buffer(axes: Axes, levels: Sequence[BufferLevel], colour: str | None = None) -> None:
    at_s, buffered_s = np.array(levels).reshape(-1, 2).T
    axes.step(at_s, buffered_s * 1000, linewidth=0.8, color=colour)


def _shade_troubles(axes: Axes, line: Scenario) -> None:
    for trouble in line.troubles:
        axes.axvspan(trouble.at_s, trouble.end_s, color="red", alpha=0.15, linewidth=0)


def _draw_voice(axes: Axes, samples: Samples, colour: str, label: str) -> None:
    block = max(1, len(samples) // PIXELS_A_TRACK)
    whole = samples[: len(samples) // block * block].reshape(-1, block) / 32768
    time_s = np.arange(len(whole)) * block / RATE_HZ
    axes.fill_between(time_s, whole.min(axis=1), whole.max(axis=1), color=colour, linewidth=0)
    axes.set(ylim=(-1, 1), yticks=[], ylabel=label)


def greeting_end_s(record: dict[str, Any]) -> float:
    """Return until when Moshi does not listen, on the caller's clock: the last word of a greeting that has words."""
    said_s = (record["greeting_said_s"] or 0.0) - (record["started_s"] or 0.0)
    return max(float(record["takeover_s"]), said_s)


def _shade_greeting(voices: "np.ndarray[Any, Any]", greeting_s: float) -> None:
    if greeting_s > 0:
        for axes in voices:
            axes.axvspan(0, greeting_s, color="#f2c14e", alpha=0.3, linewidth=0)
        voices[0].text(greeting_s, 0.8, " ← the greeting: Moshi does not listen yet", fontsize=8)


def _draw_stages(axes: Axes, record: dict[str, Any]) -> None:
    started_s = record["started_s"] or 0.0
    for stage in Stage:
        spans = [span for spans in record["spans"] for span in spans if span[0] == stage]
        began_s = [began - started_s for _, began, _ in spans]
        took_ms = [(ended - began) * 1000 for _, began, ended in spans]
        axes.plot(began_s, took_ms, ".", markersize=3, color=STAGE_COLOURS[stage], label=stage)
    axes.axhline(FRAME_S * 1000, color="red", linewidth=0.8, linestyle="--")
    axes.set(ylabel="ms a frame", yscale="log", ylim=(1, 120))
    axes.set_yticks(STAGE_TICKS_MS, map(str, STAGE_TICKS_MS))
    axes.minorticks_off()
    axes.legend(loc="lower right", fontsize=8, ncols=3, markerscale=3)
