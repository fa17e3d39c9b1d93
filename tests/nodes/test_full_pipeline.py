"""A node of two with the whole pipeline is killed: its calls go on at the other one, and with all that they knew.

What they knew is proved by their token logs, each of which is computed anew from its first step on, by an engine that
was never interrupted, from the codes that were really read.
"""

import signal
from pathlib import Path

import numpy as np
import pytest

from app.calls.conversation import STEP_BYTES
from app.twilio.events import RATE_HZ
from tests.nodes.cluster import cluster
from tests.nodes.nats_servers import needs_nats
from tests.nodes.test_nodes import check_none_lost
from tests.processes.test_calls_go_on import AFTER, BEFORE, recomputed
from tests.synthetic import synthetic_cache
from workers.checkpoints.files import report_nothing
from workers.checkpoints.locate import locate

CHECKPOINT = "synthetic:script"
CALLS = range(4)
TALKS_S = 60
WITHIN_S = 300.0
"""A guard against a run that would wait for ever; nothing is measured by it."""
MODEL = {
    "ENGINE": "mlx",
    "CODEC": "numpy",
    "MOSHI_CHECKPOINT": CHECKPOINT,
    "TEXT_TEMPERATURE": "0",
    "AUDIO_TEMPERATURE": "0",
    "RESUME_SECONDS": "120",
    "MAX_CALLS": "4",
}


@pytest.mark.slow
@needs_nats
async def test_calls_of_the_full_pipeline_go_on_at_the_other_node_with_all_that_they_knew(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = synthetic_cache(tmp_path_factory)
    locate(CHECKPOINT, cache, report_nothing)  # two nodes would make it at once
    said = np.random.default_rng(1).normal(0, 3_000, TALKS_S * RATE_HZ).astype(np.int16)
    async with cluster(tmp_path, nodes=2, CACHE_DIR=str(cache), **MODEL) as nodes:  # type: ignore[arg-type]
        for number in CALLS:  # one after another, so that they spread
            nodes.start_calls([number], audio=said)
            await nodes.until_logged({number: 1}, WITHIN_S)
        await nodes.until_logged(dict.fromkeys(CALLS, BEFORE), WITHIN_S)
        victim, on = await nodes.busiest()
        assert len(on) >= 2, "on a quiet machine two"
        victim.signal(signal.SIGKILL)
        await nodes.remove(victim)
        await nodes.until_moved(on, victim)
        steps = await nodes.last_steps(*CALLS)
        logs = await nodes.until_logged({number: steps[number] + AFTER for number in CALLS}, WITHIN_S)
        await check_none_lost(nodes, 4)
    for conversation in logs.values():
        log = np.frombuffer(bytes(conversation.log), "<i2").reshape(-1, STEP_BYTES // 2)
        read = log[(log >= 0).all(axis=1)]
        assert len(read) >= BEFORE + AFTER
        np.testing.assert_array_equal(recomputed(CHECKPOINT, cache, read), read)
