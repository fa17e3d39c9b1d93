"""Messages of servers that break the protocol in every way: none raises, and no memory is kept."""

import gc
import random
import tracemalloc
from collections.abc import Iterator

import pytest

from app.server.remote.client import ChatClient
from tests.app.cli.talk.tones import pages
from tests.scale import scaled

MESSAGES = scaled(200_000)
GROWTH_BYTES = 1 << 20


def messages(rng: random.Random, count: int) -> Iterator[bytes | str]:
    """Yield messages of all kinds, most of them audio that was cut, spliced, or had bytes changed."""
    whole = pages(0.4)
    for _ in range(count):
        match rng.randrange(8):
            case 0:
                yield rng.randbytes(rng.randrange(80))
            case 1:
                yield bytes([rng.randrange(256)]) + rng.choice(whole)
            case 2:
                yield "\x01" + "OggS" * rng.randrange(3)
            case 3:
                yield b"\x02" + rng.randbytes(rng.randrange(12))
            case 4:
                yield b"\x01" + rng.choice(whole)
            case 5:
                changed = bytearray(rng.choice(whole))
                changed[rng.randrange(len(changed))] = rng.randrange(256)
                yield b"\x01" + bytes(changed)
            case 6:
                page = rng.choice(whole)
                yield b"\x01" + page[rng.randrange(len(page)) :] + page[: rng.randrange(len(page))]
            case _:
                yield rng.choice([b"", b"\x00", b"\x05" + rng.randbytes(5), b"\x06payload", b"\x07x", b"\x04{"])


def feed(client: ChatClient, rng: random.Random, count: int) -> int:
    """Return how many samples were heard."""
    heard = 0
    for number, message in enumerate(messages(rng, count)):
        event = client.receive(message, number * 0.01)
        heard += len(getattr(event, "samples", ()))
    return heard


@pytest.mark.slow
def test_fuzzed_messages_raise_nothing_and_keep_no_memory() -> None:
    client, rng = ChatClient(0.0, live=True), random.Random(14)
    client.receive(b"\x00", 0.0)
    assert feed(client, rng, MESSAGES // 10) > 0
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        feed(client, rng, MESSAGES * 9 // 10)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < GROWTH_BYTES
    tone = [client.receive(b"\x01" + page, 0.0) for page in pages(2.0)]
    assert sum(len(getattr(event, "samples", ())) for event in tone) > 24_000, "it still decodes"
