"""The twelve points of a full-duplex call, checked on one call to the synthetic script checkpoint."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from app.audio.resample import Decimator
from app.cli.bench.figures import SETTLED_S, underruns_from
from app.cli.demo.expectation import Expectation, Utterance
from app.simulator.measure import level_dbfs, mouth_to_ear_ms, window_snr_db
from app.simulator.report import CallReport, Outcome
from app.simulator.wav import Samples
from app.twilio.events import RATE_HZ

SNR_DB = 20.0
WINDOW_S = 0.4
CLEAR = 0.95
"""Share of an utterance that must be above `SNR_DB`; the playout may spoil a window or two by adapting."""
REACTION_S = 0.3
SILENT_DBFS = -60.0
SEARCH_S = 1.5
"""How far from its expected time an utterance is searched for."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the checklist; a `timed` one can fail because the machine is busy."""

    passed: bool
    title: str
    detail: str
    timed: bool = False


@dataclass(frozen=True, slots=True)
class HeardUtterance:
    """An utterance as the caller heard it, on the call's clock; `snr_db` of each of its windows."""

    utterance: Utterance
    start_s: float
    end_s: float
    snr_db: tuple[float, ...]


def check_call(report: CallReport, record: dict[str, Any], expected: Expectation) -> list[Point]:
    """Return the twelve points. `expected` is the oracle's answer for this caller."""
    heard = [find_utterance(utterance, report.heard) for utterance in expected.utterances]
    greeting, replies = heard[0], heard[1:]
    starts = [reply.start_s - reply.utterance.decided_s for reply in replies if reply.utterance.decided_s is not None]
    yields = [one.end_s - one.utterance.yielded_s for one in heard if one.utterance.yielded_s is not None]
    gaps = underruns_from([report], SETTLED_S)
    echoes = len(mouth_to_ear_ms(report.said, report.heard).windows)
    quiet_dbfs = _level_between(heard, report.heard)
    dropped = record["counts"].get("frames_dropped", 0)
    orderly = report.outcome is Outcome.CALLER_HUNG_UP and record["end"] == "caller hung up" and not dropped
    words = f"{len(str(record['transcript']).split())} of {len(expected.transcript.split())} words"
    greeted = 0 <= greeting.start_s <= REACTION_S
    return [
        Point(report.streams != (), "answered with a stream, no spoken TwiML", f"{len(report.streams)} stream"),
        Point(greeted, "the greeting comes first", f"{greeting.start_s * 1000:.0f} ms", timed=True),
        _clear("the greeting is Moshi's, word for word", [greeting]),
        Point(len(replies) >= 3, "Moshi answers each time", f"{len(replies)} replies"),
        _clear("the replies are Moshi's, word for word", replies),
        _in_time("a reply starts within 300 ms of the decision", starts),
        _in_time("interrupted, Moshi stops within 300 ms", yields),
        Point(quiet_dbfs < SILENT_DBFS, "Moshi listens in silence", f"{quiet_dbfs:.0f} dB outside the utterances"),
        Point(not echoes, "the caller hears no echo", f"{echoes} seconds with an echo"),
        Point(not gaps, "no gap after the first second", f"{gaps} gaps", timed=True),
        Point(record["transcript"] == expected.transcript, "the transcript has the words, in order, once", words),
        Point(orderly, "no errors: the caller hangs up, nothing dropped", f"{record['end']}, {dropped} dropped"),
    ]


def find_utterance(utterance: Utterance, heard: Samples) -> HeardUtterance:
    """Find an utterance in what the caller heard, from `SEARCH_S` / 4 before its decision on."""
    wanted = np.rint(np.clip(Decimator().push(utterance.pcm) * 32768, -32768, 32767)).astype(np.int16)
    margin = round(SEARCH_S / 4 * RATE_HZ)
    first = round((utterance.decided_s or 0.0) * RATE_HZ) - margin
    stretch = np.pad(heard, (margin, 0))[first + margin :][: len(wanted) + round(SEARCH_S * RATE_HZ)]
    latency = mouth_to_ear_ms(wanted, stretch, WINDOW_S, SEARCH_S, min_match=0.0)
    if not latency.windows:
        return HeardUtterance(utterance, first / RATE_HZ, first / RATE_HZ, (0.0,))
    start_s, end_s = (
        first / RATE_HZ + window.latency_ms / 1000 for window in (latency.windows[0], latency.windows[-1])
    )
    snr_db = window_snr_db(wanted, stretch, latency, WINDOW_S)
    return HeardUtterance(utterance, start_s, end_s + len(wanted) / RATE_HZ, snr_db)


def _clear(title: str, heard: list[HeardUtterance]) -> Point:
    windows = [snr for one in heard for snr in one.snr_db] or [0.0]
    clear = sum(snr >= SNR_DB for snr in windows) / len(windows)
    detail = f"{np.median(windows):.0f} dB, {clear:.0%} of it over {SNR_DB:.0f} dB"
    return Point(clear >= CLEAR, title, detail, timed=bool(np.median(windows) >= SNR_DB))


def _in_time(title: str, reactions_s: list[float]) -> Point:
    slowest = max(reactions_s, default=float("inf"))
    return Point(bool(reactions_s) and slowest <= REACTION_S, title, f"{slowest * 1000:.0f} ms at most", timed=True)


def _level_between(heard: list[HeardUtterance], samples: Samples) -> float:
    rest = samples.copy()
    for one in heard:
        rest[max(0, round((one.start_s - 0.01) * RATE_HZ)) : round((one.end_s + 0.01) * RATE_HZ)] = 0
    return level_dbfs(rest)
