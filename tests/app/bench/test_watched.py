import asyncio
from pathlib import Path

import aiohttp
import pytest

from app.bench.onlookers import collector, looking_on
from app.bench.watched import ALL, NOTHING, WAYS, Course, Turn, cost_of, watch_of

ENDPOINT = "http://127.0.0.1:4318/v1/traces"
COSTS = [(0.012, 0.010, 1.0), (0.030, 0.020, 3.0), (0.011, 0.010, 2.0)]


def test_a_service_is_compared_with_the_bare_one_beside_it() -> None:
    pairs = [(Turn(cpu, lag_ms, 1), Turn(bare, 9.0, 7)) for cpu, bare, lag_ms in COSTS]
    cost = cost_of(ALL, pairs)
    assert (cost.cpu, cost.bare) == ((0.012, 0.030, 0.011), (0.010, 0.020, 0.010))
    assert cost.ratio == pytest.approx(1.2)
    assert cost.ratios == pytest.approx((1.1, 1.5))
    assert (cost.lag_p99_ms, cost.gaps) == (3.0, 3)


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


def test_each_is_measured_by_itself_unless_only_all_is_wanted() -> None:
    assert Course(8, 20.0, 3).turns == (NOTHING, *WAYS, ALL)
    assert Course(8, 20.0, 3, each=False).turns == (NOTHING, ALL)
