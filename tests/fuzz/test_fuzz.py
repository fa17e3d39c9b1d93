"""Some messages and forms each time, 200,000 with `make test-slow`; `python -m tests.fuzz COUNT` tries any number."""

import gc
import logging
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.calls.registry import RECORDS_KEPT
from app.calls.speech_backend import BackendMessage
from tests.fuzz.__main__ import fuzz, memory_mib
from tests.fuzz.chats import ChatServer, Client
from tests.fuzz.forms import ASKED, Asked, Asking
from tests.fuzz.sockets import CALLS, DEEDS, Deed, Echo, Exchange, Speak, Wait
from tests.scale import scaled

TALK: list[Deed] = [deed for _ in range(5) for deed in (Speak(0, 4), Speak(1, 4), Wait(0.08), Echo(2))]


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    with closing(Exchange()) as made:
        yield made


@pytest.fixture(scope="module")
def routes() -> Iterator[Asking]:
    with closing(Asking()) as made:
        yield made


@pytest.fixture(scope="module")
def chats() -> Iterator[ChatServer]:
    with closing(ChatServer()) as made:
        yield made


@given(deeds=DEEDS)
@settings(max_examples=100)
def test_whatever_two_peers_send_no_call_receives_another(exchange: Exchange, deeds: list[Deed]) -> None:
    exchange.run(deeds, begin=True)


@given(deeds=DEEDS)
@settings(max_examples=30)
def test_a_socket_that_need_not_begin_well_does_no_harm_either(exchange: Exchange, deeds: list[Deed]) -> None:
    exchange.run(deeds, begin=False)


def test_the_callers_of_the_fuzz_hear_their_echo() -> None:
    """Or it would find no sound of another call because there is none at all."""
    exchange = Exchange()
    exchange.run(TALK * 4, begin=True)
    assert exchange.counts["packets_heard_loud"] >= 20
    exchange.close()


@given(asked=ASKED)
@settings(max_examples=100)
def test_whatever_is_asked_nobody_gets_in_unsigned_and_nothing_is_raised(routes: Asking, asked: list[Asked]) -> None:
    routes.run(asked)


@pytest.mark.slow
def test_of_many_messages_none_does_harm(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # pytest would keep every warning
    assert "nothing raised" in fuzz(scaled(200_000))


@pytest.mark.slow
def test_memory_is_flat_over_many_calls(caplog: pytest.LogCaptureFixture) -> None:
    """A session that is kept would be thousands of bytes a call. The records of the last calls must be full first."""
    caplog.set_level(logging.CRITICAL)  # pytest would keep every warning
    exchange, kept = Exchange(), []
    tracemalloc.start()
    for calls in (RECORDS_KEPT, 100):
        for _ in range(calls // CALLS):
            exchange.run(TALK[:4], begin=True)
        gc.collect()
        kept.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    exchange.close()
    assert (kept[1] - kept[0]) / 100 < 500


def test_sound_that_crosses_over_would_be_noticed() -> None:
    """The same with workers that mix the two calls up."""
    exchange = Exchange()
    right = exchange.manager.handle_message

    def wrong(message: BackendMessage) -> None:
        other = next((call for slot, call in exchange.manager._calls.items() if slot != message.slot), None)
        right(replace(message, slot=other.reservation.slot, epoch=other.reservation.epoch) if other else message)

    exchange.manager.handle_message = wrong  # type: ignore[method-assign]
    with pytest.raises(ExceptionGroup) as told:
        exchange.run(TALK, begin=True)
    assert told.group_contains(AssertionError, match="sound of another call")
    exchange.close()


@given(seed=st.integers(0, 2**32))
@settings(max_examples=50)
def test_whatever_a_client_sends_its_chat_goes_on_and_ends_in_order(chats: ChatServer, seed: int) -> None:
    chats.run(seed)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=50)
def test_whatever_a_server_sends_our_client_goes_on(seed: int) -> None:
    Client().run(seed)


@pytest.mark.slow
@pytest.mark.parametrize("side", [ChatServer, Client])
def test_of_many_messages_of_chats_none_does_harm_and_memory_is_flat(
    side: type[ChatServer | Client], caplog: pytest.LogCaptureFixture, record_property: Callable[[str, object], None]
) -> None:
    """Memory is looked at from the middle on: at first caches fill, and the records of the last calls."""
    caplog.set_level(logging.CRITICAL)  # pytest would keep every warning
    one, held_mib, total = side(), list[float](), scaled(200_000, 4_000)
    seed = 0
    for share in (0.5, 1.0):
        while one.counts["messages"] < share * total:
            one.run(seed)
            seed += 1
        held_mib.append(memory_mib())
    one.close()
    record_property("counts", dict(one.counts))
    record_property("MiB in the middle and at the end", held_mib)
    assert held_mib[1] - held_mib[0] < 16.0
