import asyncio
from pathlib import Path

import aiohttp
import pytest

from app.bench.onlookers import collector, looking_on
from app.bench.watched import ALL, NOTHING, WAYS, costs_of, watch_of

ENDPOINT = "http://127.0.0.1:4318/v1/traces"


def test_each_way_is_compared_with_the_bare_service_of_its_own_round() -> None:
    cpu = {NOTHING: [0.010, 0.020, 0.010], "log": [0.011, 0.020, 0.010], ALL: [0.012, 0.030, 0.011]}
    bare, log, everything = costs_of(cpu, dict.fromkeys(cpu, 1.5), dict.fromkeys(cpu, 0))
    assert (bare.ratio, bare.ratios) == (1.0, (1.0, 1.0))
    assert log.ratio == 1.0
    assert everything.ratio == pytest.approx(1.2)
    assert everything.ratios == pytest.approx((1.1, 1.5))


def test_all_is_every_way_that_is_asked_for_and_nothing_is_none() -> None:
    ways = [watch_of(way, WAYS, Path("/x"), ENDPOINT) for way in WAYS]
    everything = watch_of(ALL, WAYS, Path("/x"), ENDPOINT)
    assert everything.settings == {name: value for way in ways for name, value in way.settings.items()}
    assert set(everything.settings) == {"DATABASE_URL", "RECORDINGS_DIR", "RECORD_CALLS", "TRACES_ENDPOINT"}
    assert len(everything.onlookers) == 3
    assert all(way.settings or way.onlookers for way in ways)
    assert watch_of(NOTHING, WAYS, Path("/x"), ENDPOINT) == watch_of(ALL, (), Path("/x"), ENDPOINT)


async def test_somebody_who_cannot_look_on_spoils_the_figure() -> None:
    async def fall(client: aiohttp.ClientSession) -> None:
        raise ConnectionError("refused")

    with pytest.raises(ConnectionError):
        async with looking_on("http://127.0.0.1:9", (fall,)):
            await asyncio.sleep(0)


async def test_the_collector_takes_traces() -> None:
    async with collector() as endpoint, aiohttp.ClientSession() as client, client.post(endpoint, data=b"x") as answer:
        assert answer.status == 200
