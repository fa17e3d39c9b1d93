"""Whole calls in virtual time, recorded: both sides lie where they were spoken and heard, whatever the line does.

The line takes 10 ms each way: what the caller says at one moment of their clock, and what they hear then, are both on
the recording 10 ms later.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import correlate

from app.audio import mulaw
from app.calls.record import Recording
from app.calls.session import CallSession
from app.simulator.trouble import KNOWN, Scenario
from app.simulator.virtual import VirtualReport, run_virtual
from app.telemetry.recording.recorder import CallRecorder
from app.telemetry.recording.timeline import Channel, Piece
from app.twilio.events import Event, Media

RATE_HZ, PACKET = 8_000, 160
TRAVEL = 80
"""Samples in 10 ms."""
WITHIN = 40
"""Samples in 5 ms."""
AUDIBLE = 500
SETTLED_S = 2.0
SEARCHED = 400

Samples = NDArray[np.int16]


class PacketRecorder(CallRecorder):
    """Also remembers where each of the caller's packets lies, by its number."""

    def __init__(self, session: CallSession) -> None:
        super().__init__(session, Recording(), limit=1_000_000)
        self.packets: dict[int, Piece] = {}

    def on_event(self, event: Event, now: float) -> None:
        before = len(self.queue)
        super().on_event(event, now)
        if isinstance(event, Media) and len(self.queue) > before:
            position, piece = self.session.leg.position(event.timestamp_ms), self.queue[-1]
            assert isinstance(piece, Piece)
            self.packets[position // PACKET] = piece


def recorded(scenario: Scenario) -> tuple[VirtualReport, list[Piece], dict[int, Piece]]:
    """Run a call; return what came of it, what is on its recording, and of that the caller's packets by number."""
    recorders: list[PacketRecorder] = []

    def observe(session: CallSession) -> PacketRecorder:
        recorders.append(PacketRecorder(session))
        return recorders[0]

    report, (recorder,) = run_virtual(scenario, observe=observe), recorders
    return report, [piece for piece in recorder.queue if isinstance(piece, Piece)], recorder.packets


def side_of(pieces: list[Piece], side: Channel) -> Samples:
    """Return one side as it is on the recording, int16."""
    line = np.full(max(piece.end for piece in pieces), mulaw.SILENCE, np.uint8)
    for piece in pieces:
        if piece.channel is side:
            line[piece.begin : piece.end] = np.frombuffer(piece.payload, np.uint8)
    return mulaw.decode(line.tobytes())


def lags(recording: Samples, truth: Samples) -> Iterator[tuple[float, int]]:
    """Yield for each audible second by how many samples the recording is behind."""
    for begin in range(SEARCHED, min(len(recording), len(truth)) - RATE_HZ - SEARCHED, RATE_HZ):
        window = truth[begin : begin + RATE_HZ].astype(float)
        around = recording[begin - SEARCHED : begin + RATE_HZ + SEARCHED].astype(float)
        if np.abs(window).max() > AUDIBLE:
            energy = np.convolve(around**2, np.ones(RATE_HZ), "valid")
            difference = energy - 2 * correlate(around, window, "valid")
            yield begin / RATE_HZ, int(np.argmin(difference)) - SEARCHED


SCENARIOS = {name: replace(one, seconds=min(one.seconds, 60.0)) for name, one in KNOWN.items() if not one.cut_s}
SCENARIOS["fast for ten minutes"] = replace(KNOWN["fast-clock"], seconds=600.0)
MARKS_BACK_S = 0.1
"""So long after a stall of the line the marks that it held back are still coming."""
FAST = ("steady", "stall-2.0", "loop-held", "jitter", "suppressed", "no-marks")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in SCENARIOS]
)
def test_both_sides_lie_where_they_were_spoken_and_heard(name: str) -> None:
    """Without marks nobody knows the round trip, and Moshi is early by that; while they are held up it is a guess."""
    scenario = SCENARIOS[name]
    report, pieces, packets = recorded(scenario)
    came = report.record.counts["packets_in"]
    assert came - 5 <= len(packets) <= came, "some at the start may lie before it"
    off = {
        number: piece.end - (number + 1) * scenario.packet_s * RATE_HZ - TRAVEL
        for number, piece in packets.items()
        if number * scenario.packet_s > SETTLED_S
    }
    assert not {number: samples for number, samples in off.items() if abs(samples) > WITHIN}
    if name != "no-marks":
        check_moshi(report, pieces)


def check_moshi(report: VirtualReport, pieces: list[Piece]) -> None:
    found = dict(lags(side_of(pieces, Channel.MOSHI), mulaw.decode(report.sound)))
    held_up = (*report.scenario.unread, *report.scenario.stalls)
    guessed = {at_s for at_s in found for one in held_up if at_s < one.end_s + MARKS_BACK_S and at_s + 1 > one.at_s}
    assert len(found) > report.scenario.seconds / 2
    assert not {at_s: lag for at_s, lag in found.items() if abs(lag - TRAVEL) > WITHIN and at_s not in guessed}
