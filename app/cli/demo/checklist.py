"""The twelve points of a full-duplex call, checked on one call to the synthetic script checkpoint."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from app.audio.mulaw import PACKET_SAMPLES
from app.audio.resample import Decimator
from app.cli.bench.figures import SETTLED_S, underruns_from
from app.cli.demo.expectation import Expectation, ExpectedUtterance
from app.simulator.measure import QUIET_DBFS, level_dbfs, mouth_to_ear_ms, window_snr_db
from app.simulator.report import CallReport, Outcome
from app.simulator.wav import Samples
from app.twilio.events import RATE_HZ

SNR_DB = 20.0
WINDOW_PACKETS = 20
"""Longest window, in packets of 20 ms."""
CLEAR = 0.95
"""Share of an utterance that must be above `SNR_DB`; the playout may spoil a window or two by adapting."""
UNDISTURBED = "no errors: the caller hangs up, nothing dropped"
REACTION_S = 0.3
SILENT_DBFS = -60.0
WORD_PACKETS = 3
"""A shorter stretch of sound, in packets of 20 ms, is not measured."""
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
    """An utterance as the caller heard it, on the call's clock; `snr_db` of each of its packets that is not quiet."""

    utterance: ExpectedUtterance
    start_s: float
    end_s: float
    snr_db: tuple[float, ...]


def check_call(report: CallReport, record: dict[str, Any], expected: Expectation) -> list[Point]:
    """Return the twelve points. `expected` is the oracle's answer for this caller.

    In a call in which frames were dropped or a stage took more than 80 ms, all that this spoils is `timed`.
    """
    heard = [find_utterance(utterance, report.heard) for utterance in expected.utterances]
    greeting, replies = heard[0], heard[1:]
    starts = [reply.start_s - reply.utterance.decided_s for reply in replies if reply.utterance.decided_s is not None]
    yields = [one.end_s - one.utterance.yielded_s for one in heard if one.utterance.yielded_s is not None]
    gaps = underruns_from([report], SETTLED_S)
    echoes = len(mouth_to_ear_ms(report.said, report.heard).windows)
    quiet_dbfs = _level_between(heard, report.heard)
    dropped = record["counts"].get("frames_dropped", 0)
    busy = is_busy(record)
    orderly = report.outcome is Outcome.CALLER_HUNG_UP and record["end"] == "caller hung up"
    words = f"{len(str(record['transcript']).split())} of {len(expected.transcript.split())} words"
    greeted = 0 <= greeting.start_s <= REACTION_S
    return [
        Point(report.streams != (), "answered with a stream, no spoken TwiML", f"{len(report.streams)} stream"),
        Point(greeted, "the greeting comes first", f"{greeting.start_s * 1000:.0f} ms", timed=True),
        _clear("the greeting is Moshi's, word for word", [greeting], busy),
        Point(len(replies) >= 3, "Moshi answers each time", f"{len(replies)} replies"),
        _clear("the replies are Moshi's, word for word", replies, busy),
        _in_time("a reply starts within 300 ms of the decision", starts),
        _in_time("interrupted, Moshi stops within 300 ms", yields),
        Point(
            quiet_dbfs < SILENT_DBFS, "Moshi listens in silence", f"{quiet_dbfs:.0f} dB outside the utterances", busy
        ),
        Point(not echoes, "the caller hears no echo", f"{echoes} seconds with an echo"),
        Point(not gaps, "no gap after the first second", f"{gaps} gaps", timed=True),
        Point(record["transcript"] == expected.transcript, "the transcript has the words, in order, once", words, busy),
        Point(orderly and not dropped, UNDISTURBED, f"{record['end']}, {dropped} dropped", timed=orderly and busy),
    ]


def is_busy(record: dict[str, Any]) -> bool:
    """Tell whether frames were dropped, or a stage took longer than a frame lasts."""
    return any(record["counts"].get(name) for name in ("frames_dropped", "overruns"))


def find_utterance(utterance: ExpectedUtterance, heard: Samples) -> HeardUtterance:
    """Find an utterance in what the caller heard, from `SEARCH_S` / 4 before its decision on.

    Each word is searched for by itself: the playout may drop or repeat quiet packets between words.
    """
    wanted = Decimator().push_int16(utterance.pcm)
    margin = round(SEARCH_S / 4 * RATE_HZ)
    first = round((utterance.decided_s or 0.0) * RATE_HZ) - margin
    stretch = np.pad(heard, (margin, 0))[first + margin :][: len(wanted) + round(SEARCH_S * RATE_HZ)]
    latencies_ms: list[float] = []
    snr_db: list[float] = []
    for window in _windows(wanted):
        word, length_s = wanted[window], (window.stop - window.start) / RATE_HZ
        around = stretch[window.start : window.stop + round(SEARCH_S * RATE_HZ)]
        latency = mouth_to_ear_ms(word, around, length_s, SEARCH_S, min_match=0.0)
        latencies_ms += [one.latency_ms for one in latency.windows]
        snr_db += [*window_snr_db(word, around, latency, length_s)] * (len(word) // PACKET_SAMPLES)
    if not latencies_ms:
        return HeardUtterance(utterance, first / RATE_HZ, first / RATE_HZ, (0.0,))
    start_s, end_s = (first / RATE_HZ + latency_ms / 1000 for latency_ms in (latencies_ms[0], latencies_ms[-1]))
    return HeardUtterance(utterance, start_s, end_s + len(wanted) / RATE_HZ, tuple(snr_db))


def _windows(wanted: Samples) -> Iterator[slice]:
    """Cut speech at its quiet packets, and what is longer than a window into equal parts."""
    packets = len(wanted) // PACKET_SAMPLES
    quiet = [packet for packet in range(packets) if level_dbfs(wanted[_samples(packet, packet + 1)]) < QUIET_DBFS]
    for before, end in pairwise([-1, *quiet, packets]):
        if (length := end - before - 1) >= WORD_PACKETS:
            cuts = np.linspace(before + 1, end, -(-length // WINDOW_PACKETS) + 1).round().astype(int)
            yield from (_samples(start, stop) for start, stop in pairwise(cuts.tolist()))


def _samples(start: int, stop: int) -> slice:
    return slice(start * PACKET_SAMPLES, stop * PACKET_SAMPLES)


def _clear(title: str, heard: list[HeardUtterance], busy: bool) -> Point:
    packets = [snr for one in heard for snr in one.snr_db] or [0.0]
    clear = sum(snr >= SNR_DB for snr in packets) / len(packets)
    detail = f"{np.median(packets):.0f} dB, {clear:.0%} of it over {SNR_DB:.0f} dB"
    return Point(clear >= CLEAR, title, detail, timed=busy or bool(np.median(packets) >= SNR_DB))


def _in_time(title: str, reactions_s: list[float]) -> Point:
    slowest = max(reactions_s, default=float("inf"))
    return Point(bool(reactions_s) and slowest <= REACTION_S, title, f"{slowest * 1000:.0f} ms at most", timed=True)


def _level_between(heard: list[HeardUtterance], samples: Samples) -> float:
    rest = samples.copy()
    for one in heard:
        rest[max(0, round((one.start_s - 0.01) * RATE_HZ)) : round((one.end_s + 0.01) * RATE_HZ)] = 0
    return level_dbfs(rest)
