import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.audio import mulaw
from app.audio.playout import (
    CLEARED_FROM_S,
    PACKET_S,
    STANDING_FRAMES,
    TARGET_S,
    URGENT_S,
    ClearAudio,
    Playout,
    PlayoutCommand,
    SendAudio,
    SendMark,
)
from app.audio.time_stretch import Samples
from app.simulator.playout import PlayoutModel as Buffer

FRAME_S = 0.08
QUIET = np.zeros(640, np.int16)
SPEECH: Samples = (8_000 * np.sin(2 * np.pi * 200 / 8_000 * np.arange(640))).astype(np.int16)


def speech_with_a_pause(packet: int) -> Samples:
    samples: Samples = SPEECH.copy()
    samples[packet * 160 : packet * 160 + 160] = 0
    return samples


@dataclass
class Line:
    """A play-out, and Twilio's buffer at the other end of a line without delay; marks come back as they are played."""

    playout: Playout = field(default_factory=Playout)
    buffer: Buffer = field(default_factory=Buffer)
    sent: list[tuple[float, SendAudio]] = field(default_factory=list)
    cleared_s: list[float] = field(default_factory=list)
    seq: int = 0

    def speak(self, samples: Samples, now: float, ahead: bool = False, filled: bool = False) -> None:
        """One of Moshi's frames is ready; before that all happens that is due."""
        self.pass_time(now)
        self._do(self.playout.push(self.seq, samples, now, ahead, filled), now)
        self._do(self.playout.advance(now), now)
        self.seq += 1

    def pass_time(self, until_s: float) -> None:
        while True:
            dues = [due_s for due_s in (self.playout.get_timer(), self.buffer.next_mark_s()) if due_s is not None]
            if not dues or (due_s := min(dues)) > until_s:
                return
            for name in self.buffer.advance(due_s):
                self.playout.handle_mark(name, due_s)
            self._do(self.playout.advance(due_s), due_s)

    def speak_on(self, count: int, now: float, samples: Samples = SPEECH) -> float:
        """So many frames, one each 80 ms; return when the next one is due."""
        for number in range(count):
            self.speak(samples, now + number * FRAME_S)
        return now + count * FRAME_S

    def grow(self, buffered_s: float, now: float) -> None:
        """Something at Twilio's end makes the buffered audio so long."""
        extra_s = buffered_s - self.playout.buffered_s(now)
        self.buffer.receive(bytes(round(extra_s * 8_000)), now)
        assert self.playout.buffer._end_s is not None
        self.playout.buffer._end_s += extra_s

    def buffered_s(self) -> float:
        """What the newest frame found unplayed."""
        return self.buffer.buffer_levels[-1].buffered_s

    def _do(self, commands: list[PlayoutCommand], now: float) -> None:
        for command in commands:
            if isinstance(command, SendAudio):
                self.sent.append((now, command))
                self.buffer.receive(command.payload, now)
                if command.mark:
                    self.buffer.mark(command.mark, now)
            else:
                self.cleared_s.append(now)
                self.buffer.clear(now)


def times(line: Line) -> list[float]:
    return [at_s for at_s, _ in line.sent]


def standing(buffered_s: float) -> tuple[Line, float]:
    """A steady line on which `buffered_s` of audio has come all at once, after a stall."""
    line = Line()
    now = line.speak_on(20, 1.0)
    line.grow(buffered_s, now)
    return line, now


# A steady line.


def test_the_first_frame_is_held_by_the_target_and_the_others_go_out_at_once() -> None:
    line = Line()
    line.speak_on(10, 1.0)
    first_s = 1.0 + line.playout.target_s
    assert times(line)[0] == pytest.approx(first_s)
    assert times(line)[1:] == pytest.approx([1.0 + number * FRAME_S for number in range(1, 10)])
    assert line.buffer.underruns == []
    assert line.buffered_s() == pytest.approx(line.playout.target_s, abs=0.001)
    assert TARGET_S[0] <= line.playout.target_s <= TARGET_S[1]
    assert [(sent.payload, sent.seq) for _, sent in line.sent] == [(mulaw.encode(SPEECH), seq) for seq in range(10)]


def test_a_greeting_computed_ahead_begins_at_once_and_is_played_in_real_time() -> None:
    line = Line()
    for _ in range(25):
        line.speak(SPEECH, 1.0, ahead=True)
    line.pass_time(2.9)
    assert times(line)[:1] == [1.0]
    assert times(line)[1:] == pytest.approx(
        [1.0 + number * FRAME_S - line.playout.target_s - PACKET_S for number in range(1, 25)]
    )
    assert max(level.buffered_s for level in line.buffer.buffer_levels) <= line.playout.target_s + PACKET_S + 0.001
    before_s = line.playout.target_s
    line.speak_on(30, 1.0 + 25 * FRAME_S - before_s)
    assert line.playout.target_s <= before_s, "a greeting says nothing of the line"
    assert (line.playout.counts.total(), line.buffer.underruns) == (0, [])


def test_marks_are_few_while_they_come_back_as_predicted_and_many_while_they_do_not() -> None:
    line = Line()
    now = line.speak_on(40, 1.0)
    steady = [sent.mark for _, sent in line.sent[10:] if sent.mark]
    assert len(steady) == len(set(steady)) <= 8
    line.buffer.receive(bytes(1_600), now)  # what Twilio has yet to play is 0.2 s more than we know
    line.speak_on(12, now)
    assert sum(bool(sent.mark) for _, sent in line.sent[-12:]) >= 6


def test_at_the_end_each_piece_of_audio_has_a_mark() -> None:
    line = Line()
    now = line.speak_on(40, 1.0)
    (last,) = line.playout.finish(now)
    assert isinstance(last, SendMark)
    line.speak_on(3, now)
    assert all(sent.mark for _, sent in line.sent[-3:])


def test_nothing_is_sent_twice_and_without_anything_to_send_no_timer_runs() -> None:
    playout = Playout()
    assert playout.get_timer() == math.inf
    assert playout.advance(1.0) == []
    assert playout.push(0, SPEECH, 1.0) == []
    due_s = playout.get_timer()
    assert playout.advance(due_s - 0.001) == []
    assert len(playout.advance(due_s)) == 1
    assert playout.get_timer() == math.inf
    assert playout.advance(due_s + 1.0) == []


# Jitter.


def test_jitter_raises_the_target_and_a_steady_line_does_not() -> None:
    steady, varying, stalling = Line(), Line(), Line()
    for number in range(100):
        for line, late_s in ((steady, 0.0), (varying, 0.02), (stalling, 0.2)):
            line.speak(SPEECH, 1.0 + number * FRAME_S + late_s * (number % 20 == 10))
    assert steady.playout.target_s < 0.01
    assert 0.02 <= varying.playout.target_s <= 0.03
    assert stalling.playout.target_s == TARGET_S[1], "the target has a limit"


def test_the_answer_to_a_filled_frame_does_not_count_as_jitter() -> None:
    late, filled = Line(), Line()
    for number in range(100):
        missing = number % 20 == 10
        late.speak(SPEECH, 1.0 + number * FRAME_S + 0.03 * missing)
        filled.speak(SPEECH, 1.0 + number * FRAME_S + 0.03 * missing, filled=missing)
    assert filled.playout.target_s < 0.015 < late.playout.target_s


# Too much buffered.


def test_audio_that_is_buffered_for_a_moment_only_is_not_shortened() -> None:
    line, now = standing(0.2)
    line.speak_on(STANDING_FRAMES - 1, now)
    assert line.playout.counts["packets_dropped"] == line.playout.counts["packets_shortened"] == 0


def test_standing_latency_is_removed_by_dropping_quiet_packets_first() -> None:
    line, now = standing(0.12)
    line.speak_on(40, now, speech_with_a_pause(2))
    assert line.playout.counts["packets_dropped"] == 5
    assert line.playout.counts["packets_shortened"] == 0
    assert line.playout.buffered_s(now + 40 * FRAME_S) <= line.playout.target_s + PACKET_S
    assert line.buffer.underruns == []


def test_shortening_does_not_count_as_jitter() -> None:
    line, now = standing(0.12)
    for _ in range(4):
        now = line.speak_on(40, now, speech_with_a_pause(2))
        line.grow(0.12, now)
    assert line.playout.counts["packets_dropped"] > 15
    assert line.playout.target_s < 0.01


def test_without_a_pause_speech_is_shortened_while_standing_latency_is_urgent() -> None:
    line, now = standing(0.2)
    now = line.speak_on(40, now)
    assert line.playout.counts["packets_dropped"] == 0
    spliced = line.playout.counts["packets_shortened"]
    assert spliced > 0
    assert line.playout.buffered_s(now) == pytest.approx(0.2 - spliced * PACKET_S, abs=0.001)
    assert (
        line.playout.target_s + URGENT_S - PACKET_S <= line.playout.buffered_s(now) < line.playout.target_s + URGENT_S
    )
    assert line.buffer.underruns == []


def test_the_rest_of_a_speech_is_a_single_packet_and_is_not_shortened() -> None:
    line, now = standing(0.2)
    now = line.speak_on(STANDING_FRAMES, now)
    shortened = line.playout.counts["packets_shortened"]
    line.speak(SPEECH[:160], now)
    line.speak(SPEECH[:320], now + PACKET_S)
    line.pass_time(now + 1.0)
    assert [len(sent.payload) for _, sent in line.sent[-2:]] == [160, 160]
    assert line.playout.counts["packets_shortened"] == shortened + 1 > 1, "two packets are enough to shorten"


def test_much_standing_latency_is_cleared() -> None:
    line, now = standing(CLEARED_FROM_S + 0.1)
    line.speak_on(STANDING_FRAMES, now)
    assert line.playout.counts["clears"] == len(line.cleared_s) == 1
    assert line.sent[-1][0] == line.cleared_s[0], "and the frame that is ready goes out"
    assert line.playout.counts["packets_dropped"] + line.playout.counts["packets_shortened"] == 0
    line.speak_on(20, now + STANDING_FRAMES * FRAME_S)
    assert line.playout.counts["clears"] == 1
    assert line.playout.buffered_s(now + (STANDING_FRAMES + 20) * FRAME_S) <= TARGET_S[1]


def test_marks_of_audio_that_was_cleared_say_nothing() -> None:
    line = Line()
    now = line.speak_on(20, 1.0)
    old = line.sent[-1][1].mark
    for _ in range(18):
        line.speak(SPEECH, now)
    assert line.playout.counts["clears"] == len(line.cleared_s) == 1
    buffered_s = line.playout.buffered_s(now)
    line.playout.handle_mark(old, now - 5.0)
    assert line.playout.buffered_s(now) == buffered_s
    new = line.sent[-1][1].mark
    assert new.partition(":")[0] != old.partition(":")[0]
    line.pass_time(now + 2.0)
    assert 0 < line.playout.counts["frames_cleared"] == 38 - len(line.sent), "what waits here is dropped as well"


@pytest.mark.parametrize(
    "name", ["", "hello", "0", "0:", ":1", "0:-1", "0:1.5", "0:²", "0:99", "1:1", "00:1", "0:" + "9" * 60_000]
)
def test_a_mark_that_is_not_ours_says_nothing(name: str) -> None:
    line = Line()
    line.speak_on(5, 1.0)
    buffered_s = line.playout.buffered_s(1.4)
    line.playout.handle_mark(name, 0.5)
    assert line.playout.buffered_s(1.4) == buffered_s


# Too little buffered.


def test_an_underrun_is_counted_and_what_follows_it_is_faded_in() -> None:
    line = Line()
    now = line.speak_on(5, 1.0)
    loud = np.full(640, 10_000, np.int16)
    line.speak(loud, now + 0.1)
    assert line.playout.counts["underruns"] == len(line.buffer.underruns) == 1
    samples = mulaw.decode(line.sent[-1][1].payload)
    assert abs(int(samples[0])) < 300
    assert np.abs(np.diff(samples.astype(int))).max() < 1_000
    assert samples[100] == pytest.approx(10_000, rel=0.05)


def test_a_buffer_that_is_low_for_long_is_filled_by_repeating_a_quiet_packet() -> None:
    line = Line()
    late_s, now = 0.0, 1.0
    for number in range(200):
        late_s += 0.0004  # the caller's clock is slow: each frame comes a little later than the last
        now = 1.0 + number * FRAME_S + late_s
        line.speak(speech_with_a_pause(1), now)
    assert line.playout.counts["packets_repeated"] == pytest.approx(late_s / PACKET_S, abs=1)
    assert line.playout.counts["packets_dropped"] == 0
    assert 0.0 <= line.playout.buffered_s(now + FRAME_S) <= TARGET_S[1]
    speaking = Line()
    for number in range(100):
        speaking.speak(SPEECH, 1.0 + number * FRAME_S + 0.001 * number)
    assert {len(sent.payload) for _, sent in speaking.sent} == {640}, "speech is never lengthened"


# Whatever happens.

WAITS = st.sampled_from([0.0, 0.01, 0.06, 0.08, 0.08, 0.08, 0.08, 0.1, 0.5])
SOUNDS = st.sampled_from([SPEECH, SPEECH[:160], QUIET, speech_with_a_pause(0), speech_with_a_pause(3)])


@given(st.lists(st.tuples(WAITS, SOUNDS, st.booleans(), st.booleans()), max_size=80), st.integers(0, 12))
@settings(deadline=None)
def test_all_lost_audio_is_counted_and_the_order_is_kept(
    frames: list[tuple[float, Samples, bool, bool]], greeting: int
) -> None:
    line, now = Line(), 1.0
    for _ in range(greeting):
        line.speak(SPEECH, now, ahead=True)
    for wait_s, samples, filled, returns in frames:
        now += wait_s
        if not returns:
            line.buffer._marks.clear()  # these marks never come back
        line.speak(samples, now, filled=filled)
    line.pass_time(now + 60.0)
    assert line.playout.get_timer() == math.inf
    seqs = [sent.seq for _, sent in line.sent]
    assert seqs == sorted(set(seqs))
    assert times(line) == sorted(times(line))
    assert all(len(sent.payload) % 160 == 0 and sent.payload for _, sent in line.sent)
    counts = line.playout.counts
    pushed = 4 * greeting + sum(len(samples) // 160 for _, samples, _, _ in frames) + counts["packets_repeated"]
    sent = sum(len(sent.payload) for _, sent in line.sent) // 160
    cut = counts["packets_dropped"] + counts["packets_shortened"]
    assert pushed - cut - 4 * counts["frames_cleared"] <= sent <= pushed - cut - counts["frames_cleared"]
    assert counts["clears"] == len(line.cleared_s)


@given(st.lists(st.tuples(WAITS, st.lists(st.floats(0, 0.2), max_size=3)), max_size=60))
@settings(deadline=None)
def test_advance_may_be_called_at_any_time(story: list[tuple[float, list[float]]]) -> None:
    playout, now, sent = Playout(), 1.0, list[PlayoutCommand]()
    for seq, (wait_s, asked_s) in enumerate(story):
        now += wait_s
        sent += playout.push(seq, SPEECH, now, ahead=True)
        for later_s in sorted(asked_s):
            sent += playout.advance(now + later_s)
    while (due_s := playout.get_timer()) < math.inf:
        sent += playout.advance(max(now, due_s))
    assert [command.seq for command in sent if isinstance(command, SendAudio)] == list(range(len(story)))
    assert not any(isinstance(command, ClearAudio) for command in sent)
