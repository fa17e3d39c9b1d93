"""A call's log as records and back: in any order, twice, with holes, over several epochs."""

import random

import numpy as np
import pytest

from app.calls.conversation import STEP_BYTES, Conversation, ConversationHeader
from app.cluster.token_log import MOST_BATCHED, LogCursor, LogReader
from workers.messages import FRAME_SAMPLES, CallPersona, PreparePrompt

ADA = CallPersona("Hello.", True, "key", (("text_top_k", 5.0),))
HEADER = ConversationHeader("digest", "ada", ADA, 7, None, 1.8e9, True)


def tokens(first: int, count: int, seed: int = 0) -> bytes:
    """Return steps that tell their number and what they belong to."""
    return np.array([[number % 30_000] + [seed] * 16 for number in range(first, first + count)], "<i2").tobytes()


def records(cursor: LogCursor) -> list[bytes]:
    return list(iter(cursor.next_record, None))


def read(*epochs: tuple[int, list[bytes]]) -> Conversation:
    reader = LogReader()
    for epoch, log in epochs:
        for record in log:
            reader.add(epoch, record)
    conversation = reader.conversation()
    assert conversation
    return conversation


def test_a_log_comes_back_as_it_was_whatever_the_order_and_the_repeats() -> None:
    conversation = Conversation(HEADER)
    cursor, log = LogCursor(conversation), []
    for number in range(500):
        conversation.add_step(tokens(number, 1))
        if number % 3 == 0:
            log += records(cursor)
    log += records(cursor)
    log += log[5:50]
    random.Random(1).shuffle(log)
    back = read((1, log))
    assert (back.header, back.log, back.skipped) == (HEADER, conversation.log, 0)
    assert back.log == tokens(0, 500)


def test_a_long_log_is_published_in_records_that_nats_takes() -> None:
    conversation = Conversation(HEADER, bytearray(tokens(0, 2 * MOST_BATCHED + 1)))
    log = records(LogCursor(conversation))
    assert [len(record) for record in log[1:]] == [5 + n * STEP_BYTES for n in (MOST_BATCHED, MOST_BATCHED, 1)]
    assert read((1, log)).log == conversation.log


@pytest.mark.parametrize("is_empty", [False, True])
def test_holes_after_a_reconnect_are_filled_from_memory(is_empty: bool) -> None:
    conversation = Conversation(HEADER, bytearray(tokens(0, 10)))
    cursor = LogCursor(conversation)
    kept = records(cursor)
    cursor.on_confirmed()
    conversation.log += tokens(10, 20)
    records(cursor)  # lost with the connection
    conversation.log += tokens(30, 5)
    after = records(cursor)
    hole = read((1, kept + after))
    assert (hole.skipped, bytes(hole.log)) == (30, tokens(30, 5))
    cursor.rewind(is_empty)
    filled = records(cursor) if is_empty else kept + after + records(cursor)
    assert read((1, filled)).log == tokens(0, 35)


def test_a_header_that_was_lost_alone_is_published_again() -> None:
    cursor = LogCursor(Conversation(HEADER, bytearray(tokens(0, 10))))
    _, *arrived = records(cursor)
    cursor.rewind(is_empty=False)
    assert read((1, [*arrived, *records(cursor)])).log == tokens(0, 10)


def test_a_node_that_takes_a_call_begins_an_epoch_with_all_that_it_knows() -> None:
    first = Conversation(HEADER, bytearray(tokens(0, 50)))
    log_1 = records(LogCursor(first))
    second = read((1, log_1))
    cursor = LogCursor(second, resumed=50)
    second.log += tokens(50, 10, seed=2)
    log_2 = records(cursor)
    late = [*log_1, *records(LogCursor(Conversation(HEADER, bytearray(tokens(0, 80, seed=9)))))[1:]]
    assert read((1, late), (2, log_2)).log == tokens(0, 50) + tokens(50, 10, seed=2)


def test_an_epoch_that_is_not_published_whole_goes_on_from_the_one_before() -> None:
    long = Conversation(HEADER, bytearray(tokens(0, MOST_BATCHED + 100)))
    log_1 = records(LogCursor(long))
    log_2 = records(LogCursor(read((1, log_1)), resumed=MOST_BATCHED + 100))
    for cut in range(1, len(log_2)):
        assert read((1, log_1), (2, log_2[:cut])).log == long.log, cut
    assert read((1, [*log_1, *log_2[1:]])).log == long.log


def test_a_one_time_prompt_comes_along_with_its_voice_and_without_it_if_it_is_too_long() -> None:
    pcm = np.linspace(-1, 1, 3 * FRAME_SAMPLES, dtype=np.float32).reshape(3, -1)
    prompt = PreparePrompt("key", "You are Ada.", "", pcm)
    back = read((1, records(LogCursor(Conversation(ConversationHeader("d", "", CallPersona(), None, prompt)))))).header
    assert back.prompt
    assert back.prompt.pcm is not None
    np.testing.assert_allclose(back.prompt.pcm, pcm, atol=1 / 32_767)
    huge = PreparePrompt("key", "t", "", np.zeros((500, FRAME_SAMPLES), np.float32))
    cursor = LogCursor(Conversation(ConversationHeader("d", "", CallPersona(), None, huge)))
    assert read((1, records(cursor))).header.prompt is None


def test_no_record_is_no_call() -> None:
    reader = LogReader()
    assert (reader.epoch, reader.conversation()) == (0, None)
    for record in (b"", b"\x01", b"{}", b"[" * 100_000, b"\x01" + bytes(11), b"\xff" * 40):
        reader.add(1, record)
    assert reader.conversation() is None
