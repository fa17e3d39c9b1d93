"""A whole call with words of both sides: the service as a process, real workers, the real transcriber, the demo's talk.

What is written down is compared with the recordings that the caller plays.
"""

import json
from difflib import SequenceMatcher
from pathlib import Path
from statistics import median

import pytest

from app.cli.demo.persona import GREETING, write_persona
from app.cli.service_process import ACCOUNT_SID, AUTH_TOKEN, start_service
from app.simulator.call import simulate
from app.simulator.conversation import CONVERSATION, FOLDER, conversation
from app.simulator.options import CallOptions
from app.simulator.report import Outcome
from app.telemetry.call_log.database import Database
from tests.app.telemetry.call_log.records import address_of
from tests.synthetic import synthetic_cache

SHARE = 0.7
"""Of the words that are exact at least: on a busy machine packets come late, and what was said in them is not heard."""
NEAR_S = 0.3


def said_by_caller() -> list[tuple[str, float]]:
    return [
        (word, CONVERSATION[entry["name"]] + onset_ms / 1000)
        for entry in json.loads((FOLDER / "caller.json").read_text())
        for word, onset_ms in zip(entry["text"].split(), entry["onsets_ms"], strict=True)
    ]


@pytest.mark.slow
async def test_what_both_said_is_in_the_call_log_and_found(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    url = f"sqlite:///{tmp_path}/calls.db"
    environment = {
        "MOSHI_CHECKPOINT": "synthetic:script",
        "TRANSCRIBE": "synthetic:stt",
        "CACHE_DIR": str(synthetic_cache(tmp_path_factory)),
        "DATABASE_URL": url,
        **write_persona(tmp_path),
    }
    async with start_service(environment, tmp_path / "log") as service:
        options = CallOptions(service.base_url, AUTH_TOKEN, ACCOUNT_SID, audio=conversation())
        report = await simulate(options)
    assert report.outcome is Outcome.CALLER_HUNG_UP
    database = Database(address_of(url, tmp_path))
    call = database.find(report.call_sid)
    heard = [word for word in call.words if word.speaker == "caller"]
    said = said_by_caller()
    blocks = SequenceMatcher(None, [word.text for word in heard], [word for word, _ in said]).get_matching_blocks()
    same = [(heard[block.a + at], said[block.b + at][1]) for block in blocks for at in range(block.size)]
    assert len(same) >= SHARE * len(said)
    assert call.started_at
    zero_s = (call.started_at - call.reserved_at).total_seconds()
    assert abs(median(word.start_s - zero_s - at_s for word, at_s in same)) < NEAR_S
    turns = call.turns
    assert turns[0].text.startswith(GREETING.split()[0])
    assert turns == sorted(turns, key=lambda turn: turn.start_s)
    word = same[0][0].text
    assert "caller" in {turn.speaker for turn in database.search(word, 9)}
