"""The token logs of the calls that are on, in JetStream: written while they are on, read by the node where one goes on.

Nothing here is on a call's path: what the calls have added to their conversations is published every two frames. A
record that is lost with a connection is published again from memory; now and then a record is acknowledged, so that
this need not begin at the first step.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from zlib import crc32

from nats.errors import NoRespondersError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, BadRequestError, NoStreamResponseError, NotFoundError

from app.calls.active_call import ActiveCall
from app.calls.conversation import Conversation
from app.cluster.bus import NATS_ERRORS, Bus
from app.cluster.token_log import LogCursor, LogReader
from app.twilio.events import CallSid
from workers.messages import FRAME_S

log = logging.getLogger(__name__)

STREAM = "moshi-calls"
SUBJECTS = "calls.*.*"
SPARE_S = 3_600.0
"""How long a log may outlive the longest call, if nobody has purged it."""
REPLICAS = 3
PREPARE_TIMES, PREPARE_EVERY_S = 20, 0.5
PUBLISH_EVERY_S = 2 * FRAME_S
"""Two steps a record need half the processor time of one; what is not yet published is lost with a node."""
CONFIRM_EVERY = 25
"""One record in so many is acknowledged: every four seconds."""
MOST_RECORDS = 2_000
"""After so many, up to half as many more, a log is published anew in long records, to be read back in a moment."""
MOST_PENDING = 8
"""Records of a call that are published at once while it catches up."""
ANSWER_WITHIN_S = 2.0
READ_WITHIN_S = 2.0
ASK_WITHIN_S = 0.3
LEADER_WITHIN_S = 10.0
"""Servers that have lost the leader of a stream are silent until they have elected another, for up to nine seconds."""


def subject_of(call: CallSid, epoch: int | str) -> str:
    return f"calls.{call}.{epoch}"


@dataclass
class _Log:
    """What is published of one call."""

    call: ActiveCall
    cursor: LogCursor
    subject: str
    records: int = 0
    confirmed: int = 1
    """How many records NATS must have, if it has lost none of those that had arrived."""
    replaces: str = ""
    """The subject of the same log in short records, purged once this one is whole."""
    is_lost: bool = False
    """Whether records may be lost: the connection was."""
    is_checking: bool = False
    """Whether NATS is being asked what has arrived; nothing is published meanwhile, so that the answer is exact."""


class LogStore:
    """`max_call_s` is how long a call may last."""

    def __init__(self, bus: Bus, max_call_s: float) -> None:
        self._bus, self._max_age_s = bus, max_call_s + SPARE_S
        self._logs: dict[CallSid, _Log] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.published = 0

    @property
    def _stream(self) -> JetStreamContext:
        return JetStreamContext(self._bus.nats, timeout=ANSWER_WITHIN_S)

    async def prepare(self) -> None:
        """Make the stream, with three replicas where there are three servers, once these are ready."""
        config = StreamConfig(
            name=STREAM,
            subjects=[SUBJECTS],
            storage=StorageType.MEMORY,
            num_replicas=REPLICAS if len(self._bus.nats.servers) >= REPLICAS else 1,
            max_age=self._max_age_s,
            discard=DiscardPolicy.OLD,
            allow_direct=False,
        )
        reason: Exception | None = None
        for _ in range(PREPARE_TIMES):
            try:
                await self._add_stream(config)
                return
            except (APIError, *NATS_ERRORS) as error:
                reason = error
            await asyncio.sleep(PREPARE_EVERY_S)
        log.warning("the stream of token logs is not ready, calls that move may forget all: %r", reason)

    async def _add_stream(self, config: StreamConfig) -> None:
        """Make the stream; one that was made for shorter calls keeps records for longer from now on."""
        try:
            await self._stream.add_stream(config)
        except BadRequestError:  # there is one with other settings
            known = (await self._stream.stream_info(STREAM)).config
            if (known.max_age or 0) < self._max_age_s:
                await self._stream.update_stream(known.evolve(max_age=self._max_age_s))

    def open(self, call: ActiveCall, epoch: int) -> None:
        """Publish the log of a call from now on; one that comes back goes on."""
        call_sid, conversation = call.session.record.call_sid, call.session.conversation
        known = self._logs.get(call_sid)
        if known and known.cursor.conversation is conversation and known.subject == subject_of(call_sid, epoch):
            known.call = call
            return
        cursor, subject = LogCursor(conversation, conversation.steps), subject_of(call_sid, epoch)
        is_same = known is not None and known.cursor.conversation is conversation and known.subject != subject
        self._logs[call_sid] = _Log(call, cursor, subject, replaces=known.subject if known and is_same else "")

    def close(self, call_sid: CallSid) -> None:
        """Publish no more of a call."""
        self._logs.pop(call_sid, None)

    def on_reconnect(self) -> None:
        for one in self._logs.values():
            one.is_lost = True

    async def run(self, next_epoch: Callable[[CallSid], int]) -> None:
        """Publish until cancelled; `next_epoch` begins a new one for a call that begins anew."""
        while True:
            await asyncio.sleep(PUBLISH_EVERY_S)
            if self._bus.is_connected:
                await self.publish_pending(next_epoch)

    async def publish_pending(self, next_epoch: Callable[[CallSid], int]) -> None:
        for call_sid, one in [*self._logs.items()]:
            if one.is_checking:
                continue
            is_other = one.call.session.conversation is not one.cursor.conversation
            if is_other or one.records >= MOST_RECORDS + crc32(call_sid.encode()) % (MOST_RECORDS // 2):
                self.open(one.call, next_epoch(call_sid))
            elif one.is_lost:
                one.is_lost = False
                self._start(one, self._check(one))
            else:
                await self._publish(one)

    async def _publish(self, one: _Log) -> None:
        for _ in range(MOST_PENDING):
            record = one.cursor.next_record()
            if record is None:
                return
            one.records += 1
            self.published += 1
            is_whole = bool(one.replaces) and one.cursor.published >= one.cursor.resumed
            if is_whole or one.records % CONFIRM_EVERY == 1:
                self._start(one, self._confirm(one, record))
                return
            await self._bus.send(one.subject, record)

    async def _confirm(self, one: _Log, record: bytes) -> None:
        """Publish a record, wait for its acknowledgement, and see whether all records so far have arrived.

        While servers elect a leader records are lost though the connection stays.
        """
        try:
            await self._stream.publish(one.subject, self._bus.seal.close(one.subject, record), stream=STREAM)
            published, one.records = one.records, await self._count(one.subject)
            one.is_lost |= one.records < published
            if one.is_lost:
                return
            one.cursor.on_confirmed()
            one.confirmed = one.records
            if one.replaces and one.cursor.confirmed >= one.cursor.resumed:
                old, one.replaces = one.replaces, ""
                await self._stream.purge_stream(STREAM, subject=old)
        except NoStreamResponseError:
            await self.prepare()
            one.is_lost = True
        except (APIError, *NATS_ERRORS) as error:
            log.debug("not confirmed: %s", error)
            one.is_lost = True

    async def _count(self, subject: str) -> int:
        """Return how many records of a log there are."""
        info = await self._stream.stream_info(STREAM, subjects_filter=subject)
        return (info.state.subjects or {}).get(subject, 0)

    async def _check(self, one: _Log) -> None:
        """Publish again what may be lost; all of it if NATS has lost what it had confirmed."""
        try:
            is_lost = await self._count(one.subject) < one.confirmed
        except NotFoundError:
            is_lost = True
        except (APIError, *NATS_ERRORS):
            one.is_lost = True
            return
        if is_lost:
            await self.prepare()
            one.confirmed = 1
        one.records = 0  # the next one is acknowledged
        one.cursor.rewind(is_lost)

    async def has(self, call_sid: CallSid) -> bool:
        """Return whether there is a log of a call; False if NATS does not say."""
        return await self._last(call_sid) is not None

    async def read(self, call_sid: CallSid) -> tuple[int, Conversation | None]:
        """Return the newest epoch of a call and its conversation; 0 and None if there is none, or NATS does not say."""
        until_s = time.monotonic() + LEADER_WITHIN_S
        reader, last = LogReader(), await self._last(call_sid)
        while last is not None:
            try:
                async with asyncio.timeout(READ_WITHIN_S):
                    await self._read(call_sid, reader, last)
                break
            except (APIError, *NATS_ERRORS) as error:  # a consumer needs another leader than the stream
                if time.monotonic() >= until_s:
                    log.warning("the log of a call was not read to its end: %r", error)
                    break
        return reader.epoch, reader.conversation()

    async def _read(self, call_sid: CallSid, reader: LogReader, last: int) -> None:
        subscription = await self._stream.subscribe(subject_of(call_sid, "*"), stream=STREAM, ordered_consumer=True)
        try:
            async for message in subscription.messages:
                record, epoch = self._bus.seal.open(message.subject, message.data), message.subject.rpartition(".")[2]
                if record is not None and epoch.isdecimal():
                    reader.add(int(epoch), record)
                if message.metadata.sequence.stream >= last:
                    return
        finally:
            await subscription.unsubscribe()

    async def _last(self, call_sid: CallSid) -> int | None:
        """Return the sequence number of the last record of a call; servers that elect a leader answer late."""
        until_s = time.monotonic() + LEADER_WITHIN_S
        while time.monotonic() < until_s:
            try:
                async with asyncio.timeout(ASK_WITHIN_S):
                    return (await self._stream.get_last_msg(STREAM, subject_of(call_sid, "*"))).seq
            except NotFoundError:
                return None
            except NoRespondersError:  # no server keeps streams
                break
            except (APIError, *NATS_ERRORS):
                await asyncio.sleep(FRAME_S)
        log.warning("NATS does not say whether there is a log of %s", call_sid)
        return None

    async def purge(self, call_sid: CallSid) -> bool:
        """Delete the log of a call that is over: it decodes to both voices. Return False if NATS does not say so."""
        self.close(call_sid)
        if not self._bus.is_connected:
            return False
        try:
            await self._stream.purge_stream(STREAM, subject=subject_of(call_sid, "*"))
        except (NotFoundError, NoRespondersError):  # there are none
            return True
        except (APIError, *NATS_ERRORS) as error:
            log.warning("the token log of a call is not purged: %r", error)
            return False
        return True

    def _start(self, one: _Log, work: Coroutine[object, object, None]) -> None:
        async def check() -> None:
            try:
                await work
            finally:
                one.is_checking = False

        one.is_checking = True
        task = asyncio.create_task(check())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
