"""What the demo's caller must hear, with the greeting of a persona and without."""

from pathlib import Path

import numpy as np

from app.calls.personas import parse_persona
from app.cli.demo.expectation import expect
from app.cli.demo.run import GREETING, write_persona
from app.simulator.conversation import conversation
from workers.checkpoints.synthetic.phrases import phrases, recorded_words
from workers.messages import FRAME_SAMPLES

RECORD = {"greeting_frames": 2, "takeover_s": 0.2}
ADA = "Hello! I'm Ada from Northside Dental, how can I help you?"
EXAMPLES = Path(__file__).parents[4] / "deploy" / "personas"


def test_the_persona_greets_and_the_conversation_takes_its_course() -> None:
    expected, script = expect(conversation(), RECORD, ADA), expect(conversation(), RECORD)
    assert [one.name for one in expected.utterances] == ["greeting", "reply1", "reply2", "reply3", "reply1"]
    assert [one.name for one in script.utterances] == [one.name for one in expected.utterances]
    own = phrases()[0].text
    assert script.transcript.startswith(own)
    assert expected.transcript.split() == ADA.split() + script.transcript.removeprefix(own).split()


def test_the_greeting_is_the_recorded_words_and_no_frame_of_the_caller_began_it() -> None:
    greeting = expect(conversation(), RECORD, ADA).utterances[0]
    frames = greeting.pcm.reshape(-1, FRAME_SAMPLES)
    recorded = [recorded_words()[word.strip("!,?")] for word in ADA.split()]
    assert np.array_equal(frames[frames.any(axis=1)].reshape(-1), np.concatenate(recorded))
    assert (greeting.decided_s, greeting.yielded_s) == (None, None)


def test_the_demos_ada_greets_as_the_example_does(tmp_path: Path) -> None:
    environment = write_persona(tmp_path)
    name = f"{environment['PERSONA']}.toml"
    written = parse_persona(name, (Path(environment["PERSONAS_DIR"]) / name).read_text())
    assert written.greeting == parse_persona(name, (EXAMPLES / name).read_text()).greeting == GREETING == ADA
