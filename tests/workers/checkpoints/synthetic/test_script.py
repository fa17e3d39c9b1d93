"""Conversations predicted by the oracle: the table against what the module says of it, word by word."""

from itertools import groupby

import numpy as np

from tests.workers.checkpoints.synthetic.official import as_heard_late, turns
from workers.checkpoints.synthetic.script import PAUSE_STEPS, Activity, Phase, ScriptState, hearing_at, script
from workers.checkpoints.synthetic.script_oracle import greet, sound, text
from workers.messages import FRAME_SAMPLES

GREETING, REPLY1, REPLY2, REPLY3 = script().phrases
TURN = PAUSE_STEPS + 1
"""Silent frames that end a turn."""


def run(*frames: int) -> list[ScriptState]:
    return [step.state for step in greet(turns(*frames), "") if step.state]


def hearings(caller: Activity) -> list[str]:
    return [hearing_at(caller, step).name for step in range(len(caller))]


def transcript(states: list[ScriptState]) -> str:
    return text(state.token for state in states).strip()


def phases(states: list[ScriptState]) -> list[tuple[str, int]]:
    """Sum the states up: (phase, or name of the phrase spoken; steps)."""
    names = [script().phrases[s.phrase].name if s.phase is Phase.SPEAK else s.phase.value for s in states]
    return [(name, len(list(run))) for name, run in groupby(names)]


def test_a_silent_caller_is_greeted_once() -> None:
    states = run(200)
    assert phases(states) == [("greeting", GREETING.frames), ("wait", 200 - GREETING.frames)]
    assert transcript(states) == GREETING.text
    assert states[-1].token == 3, "Kyutai's padding token"


def test_the_caller_speaks_and_pauses_and_is_answered() -> None:
    assert phases(run(100, 10, 100))[1:5] == [
        ("wait", 101 - GREETING.frames),  # one active frame is not heard
        ("listen", 10),
        ("pause", PAUSE_STEPS - 1),
        ("reply1", REPLY1.frames),
    ]


def test_short_pauses_are_bridged() -> None:
    assert "reply1" not in dict(phases(run(100, 10, TURN - 1, 10, TURN - 1, 10)))
    assert "reply1" in dict(phases(run(100, 10, TURN - 1, 10, TURN, 1)))


def test_replies_come_in_turn_and_round_again() -> None:
    states = run(80, *[5, 120] * 5)
    names = [name for name, _ in phases(states)]
    assert [name for name in names if name.startswith("reply")] == ["reply1", "reply2", "reply3", "reply1", "reply2"]
    replies = " ".join([REPLY1.text, REPLY2.text, REPLY3.text, REPLY1.text, REPLY2.text])
    assert transcript(states) == f"{GREETING.text} {replies}"


def test_two_active_frames_stop_a_phrase_at_once() -> None:
    states = run(20, 2, 30)
    assert phases(states)[:2] == [("greeting", 21), ("listen", 2)]
    assert phases(states)[3][0] == "reply1"
    assert transcript(states[:25]) == "Hello, this is Moshi, standing"


def test_one_active_frame_stops_nothing() -> None:
    assert phases(run(20, 1, 10, 1, 100)) == phases(run(132))


def test_an_answer_cut_short_is_followed_by_the_next() -> None:
    states = run(80, 5, 20, 5, 200)
    names = " ".join(name for name, _ in phases(states))
    assert names == "greeting wait listen pause reply1 listen pause reply2 wait"


def test_one_active_frame_in_a_pause_starts_the_count_again() -> None:
    summed = phases(run(80, 5, 4, 1, 40))
    assert [name for name, _ in summed[2:7]] == ["listen", "pause", "listen", "pause", "reply1"]


def test_a_half_frame_is_heard_with_its_neighbour() -> None:
    halves = np.zeros((6, 2), bool)
    halves[2, 1] = halves[3, 0] = True
    assert hearings(halves) == ["QUIET", "QUIET", "QUIET", "HEARD", "QUIET", "QUIET"]


def test_frame_0_is_heard_by_a_late_engine_only() -> None:
    first = turns(0, 1, 2)
    assert set(hearings(first)) == {"QUIET"}
    assert hearings(as_heard_late(first)) == ["QUIET", "MIXED", "MIXED"]


def test_the_sound_is_the_recording_frame_by_frame() -> None:
    heard = sound(greet(turns(80, 5, 80), ""))
    begin = (80 + 5 + TURN - 1) * FRAME_SAMPLES
    assert heard.shape == (165 * FRAME_SAMPLES,)
    assert np.array_equal(heard[: len(GREETING.pcm)], GREETING.pcm)
    assert not heard[len(GREETING.pcm) : begin].any()
    assert np.array_equal(heard[begin : begin + len(REPLY1.pcm)], REPLY1.pcm)
    assert not sound([]).size


def test_the_recordings_are_speech_below_3_2_khz_with_a_word_a_frame_at_most() -> None:
    assert [phrase.name for phrase in script().phrases] == ["greeting", "reply1", "reply2", "reply3"]
    words = [word for phrase in script().phrases for _, word in phrase.words]
    assert len(words) == len(set(words)), "each is one piece of the tokenizer"
    for phrase in script().phrases:
        frames = [frame for frame, _ in phrase.words]
        assert frames == sorted(set(frames))
        assert frames[-1] < phrase.frames
        assert phrase.pcm.shape == (phrase.frames * FRAME_SAMPLES,)
        assert 0.5 < np.abs(phrase.pcm).max() < 1
        power = np.abs(np.fft.rfft(phrase.pcm)) ** 2
        assert power[int(len(power) * 3_200 / 12_000) :].sum() < 1e-4 * power.sum()
