"""A worker dies or hangs under calls of a real service: each goes on, and with all that it knew.

What it knew is proved by its token log, as the recording has it: each step is computed anew from the first one on by an
engine that was never interrupted, from the codes that were really read, and must give the same tokens.
"""

import asyncio
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app.calls.end_reason import EndReason
from app.server.assembly import worker_config
from app.simulator.call import simulate
from app.simulator.options import CallOptions
from app.simulator.remote import EndCall, Remote
from app.simulator.report import Outcome
from app.simulator.trouble import Scenario
from app.telemetry.recording.tokens import read_tokens
from app.twilio.events import RATE_HZ, CallSid
from tests.processes.faults import KILLED, LOOK_S, STOPPED, Fault, Running, line_test, serving
from tests.scale import scaled
from tests.service.phone import ACCOUNT, TOKEN
from tests.synthetic import synthetic_cache
from workers.checkpoints.files import report_nothing
from workers.checkpoints.locate import locate
from workers.engine.loopback import HASH_CHECKPOINT
from workers.engine.start import start_engine
from workers.messages import CODEBOOKS, Slot, Stage

HASHED = 1 + CODEBOOKS
"""What is sampled of the tokens of a step; the caller's codes follow."""
BEFORE, AFTER = 25, 15
"""Steps of each call before the fault, and after its gap."""
ARGMAX = {"text_temperature": 0, "audio_temperature": 0}
WITHIN_S = 300.0
"""A guard against a run that would wait for ever; nothing is measured by it."""
LONG_S = 120
"""The time for a restart is not what is tested here."""
MANY = 8


async def until_stepped(running: Running, calls: int, steps: int) -> None:
    """Wait until each call has made so many steps, those of its greeting included."""
    manager = running.service.manager
    while len(manager.calls) < calls or any(call.session.conversation.steps < steps for call in manager.calls):  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)


async def steps_after(running: Running, steps: int) -> None:
    """Wait until each call has made so many more steps."""
    before = {call: call.session.conversation.steps for call in running.service.manager.calls}
    while any(call.session.conversation.steps < begun + steps for call, begun in before.items()):  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)


def token_logs(folder: Path) -> list[NDArray[np.int16]]:
    """Return the token logs of all recordings, shape (steps, 17), in the order of their streams."""
    return [read_tokens(path)[1] for path in sorted(folder.rglob("*.tokens"))]


def recomputed(checkpoint: str, cache: Path, read: NDArray[np.int16]) -> NDArray[np.int64]:
    """Return the tokens that an engine samples which reads the caller's codes of these steps, one after the other."""
    settings = line_test(engine="mlx", codec="numpy", moshi_checkpoint=checkpoint, cache_dir=cache, **ARGMAX)
    files = locate(checkpoint, cache, report_nothing)
    engine, _, _ = start_engine(files, worker_config(settings), report_nothing)
    engine.open(Slot(0))
    steps = [engine.step({Slot(0): codes.astype(np.int32)})[Slot(0)].log for codes in read[:, HASHED:]]
    return np.stack(steps).astype(np.int64)


CASES = [
    ("synthetic:script", MANY, Stage.STEP, KILLED),
    ("synthetic:script", MANY, Stage.ENCODE, KILLED),
    ("synthetic:script", MANY, Stage.DECODE, KILLED),
    ("synthetic:parrot", 1, Stage.STEP, KILLED),
    ("synthetic:random:tiny", 1, Stage.STEP, KILLED),
    ("synthetic:script", 1, Stage.STEP, STOPPED),
    ("synthetic:random:tiny", 1, Stage.ENCODE, KILLED),
    ("synthetic:parrot", 1, Stage.DECODE, KILLED),
    ("synthetic:script", 1, Stage.ENCODE, STOPPED),
    ("synthetic:parrot", MANY, Stage.STEP, KILLED),
]


@pytest.mark.slow
@pytest.mark.parametrize(("checkpoint", "calls", "stage", "fault"), CASES[: scaled(len(CASES), 3)])
async def test_no_call_is_lost_and_its_tokens_are_those_of_one_that_nothing_has_happened_to(
    checkpoint: str, calls: int, stage: Stage, fault: Fault, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = synthetic_cache(tmp_path_factory)
    model = {"engine": "mlx", "codec": "numpy", "moshi_checkpoint": checkpoint, "cache_dir": cache, **ARGMAX}
    settings = line_test(**model, recordings_dir=str(tmp_path), resume_seconds=LONG_S, max_calls=calls)
    async with serving(settings) as running, asyncio.timeout(WITHIN_S):
        manager = running.service.manager
        await running.service.self_tested.wait()
        remotes = [Remote() for _ in range(calls)]
        talking = [asyncio.create_task(running.call(WITHIN_S, remote)) for remote in remotes]
        await until_stepped(running, calls, BEFORE)
        processes = running.service.supervisor.process_ids
        await fault.strike(processes[stage])
        await running.until_resumed(calls)
        await steps_after(running, AFTER)
        engine_lived_on = running.service.supervisor.process_ids[Stage.STEP] == processes[Stage.STEP]
        records = [call.session.record for call in manager.calls]
        known = [gap.steps for record in records for gap in record.gaps]
        for remote in remotes:
            remote.send(EndCall())
        await asyncio.gather(*talking)
        await manager.no_calls.wait()
    assert engine_lived_on == (stage is not Stage.STEP)
    assert len(records) == calls, "none is lost"
    assert [gap.left_out for record in records for gap in record.gaps] == [0] * calls, "nothing is forgotten"
    logs = token_logs(tmp_path)
    assert len(logs) == calls
    assert min(known) >= BEFORE
    for log in logs:
        read = log[(log >= 0).all(axis=1)]
        assert len(read) >= BEFORE + AFTER
        np.testing.assert_array_equal(recomputed(checkpoint, cache, read), read)


@pytest.mark.slow
async def test_a_lost_socket_is_brought_back_by_the_action_with_the_memory_of_the_call(tmp_path: Path) -> None:
    """Each token of this engine is a hash of all that the call had before."""
    settings = line_test(moshi_checkpoint=HASH_CHECKPOINT, recordings_dir=str(tmp_path))
    said = np.random.default_rng(2).normal(0, 3_000, 6 * RATE_HZ).astype(np.int16)
    async with serving(settings) as running:
        await running.service.self_tested.wait()
        cut = {"line": Scenario(cut_s=3.0), "asks_after_cut": True}
        report = await simulate(CallOptions(running.base_url, TOKEN, ACCOUNT, said, **cut))  # type: ignore[arg-type]
        record = running.service.manager.record(CallSid(report.call_sid))
        await running.service.manager.no_calls.wait()
    assert record
    assert (report.outcome, len(report.streams)) == (Outcome.CALLER_HUNG_UP, 2)
    assert [stream.end for stream in record.streams][1:] == [EndReason.CALLER_HUNG_UP]
    first, second = token_logs(tmp_path)
    (gap,) = record.gaps
    assert (gap.steps, gap.left_out) == ((first >= 0).all(axis=1).sum(), 0)
    steps = np.concatenate([first, second])
    steps = steps[(steps >= 0).all(axis=1)]
    assert len(steps) >= 40
    for number in range(len(steps)):
        before = blake2b(steps[:number].astype("<i2").tobytes()).digest()
        assert [*steps[number, :HASHED]] == [*(np.frombuffer(before, "<u2")[:HASHED] & 2_047)], number
