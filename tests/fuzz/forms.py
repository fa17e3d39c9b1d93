"""Requests of all kinds to the routes, in process: forms right and wrong, signed and not, and upgrades.

What must hold of each: nothing is raised, the status is one that the routes know, nobody gets in without a signature,
and no two calls are ever told the same secret address.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

import httpx
from hypothesis import strategies as st

from app.calls.end_reason import EndReason
from app.twilio import twiml
from app.twilio.events import CallSid
from app.twilio.signature import sign
from tests.fuzz.clock import VirtualLoop
from tests.service.front import SOCKET_BASE, Front, front_settings
from tests.service.phone import ACCOUNT, PUBLIC, SECONDARY, TOKEN

STATUSES = {200, 204, 400, 403, 404, 405, 413, 429}
SLOTS = 2
FORM_TYPE = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Post:
    """A request with a form; signed with `token` over what it says itself, or with `signature`, or not at all."""

    method: str
    path: str
    query: str
    fields: tuple[tuple[str, str], ...]
    token: str | None
    signature: bytes | None = None
    body: bytes | None = None
    content_type: str = FORM_TYPE


@dataclass(frozen=True, slots=True)
class Dial:
    """An upgrade to the socket of that path; `rightly` the one that the last call was told."""

    path: str
    rightly: bool
    token: str | None
    says: tuple[str | bytes, ...]


Asked = Post | Dial


@dataclass
class Asking:
    """One front for all that is tried; `counts` what was tried and what came of it."""

    loop: VirtualLoop = field(default_factory=VirtualLoop)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.front = Front(front_settings(refusals_per_minute=100_000))
        self.secrets: dict[str, CallSid] = {}

    def run(self, asked: list[Asked]) -> None:
        """Ask all this. Raises what should never be."""
        self.loop.run_until_complete(self._run(asked))
        assert self.loop.errors == []

    def close(self) -> None:
        self.loop.run_until_complete(self.front.http.aclose())
        self.loop.close()

    async def _run(self, asked: list[Asked]) -> None:
        for one in asked:
            self.counts["forms"] += 1
            if isinstance(one, Post):
                await self._post(one)
            else:
                await self._dial(one)
        manager = self.front.manager
        for call in list(manager._calls.values()):
            call.end(EndReason.SHUTDOWN)
        assert manager.free_slots == SLOTS
        self.front.sent.clear()
        self.secrets.clear()

    async def _post(self, post: Post) -> None:
        url = quote(post.path, safe="/%") + (f"?{quote(post.query, safe='=&%')}" if post.query else "")
        headers = {b"content-type": post.content_type.encode()}
        if post.signature is not None:
            headers[b"x-twilio-signature"] = post.signature
        elif post.token is not None:
            headers[b"x-twilio-signature"] = sign(post.token, PUBLIC + url, post.fields).encode()
        body = str(httpx.QueryParams(list(post.fields))).encode() if post.body is None else post.body
        free = self.front.manager.free_slots
        answer = await self.front.http.request(post.method, url, content=body, headers=headers)
        self.counts[f"status {answer.status_code}"] += 1
        assert answer.status_code in STATUSES
        if "twilio" in post.path and (post.token not in (TOKEN, SECONDARY) or post.signature is not None):
            assert answer.status_code not in (200, 204), "let in without a signature"
        if answer.status_code != 200:
            assert self.front.manager.free_slots == free, "a refusal took a slot"
        elif post.path == "/twilio/voice":
            self._note_secret(answer.text, dict(post.fields))

    def _note_secret(self, text: str, fields: Mapping[str, str]) -> None:
        for verb in twiml.parse(text):
            if isinstance(verb, twiml.Connect):
                assert self.secrets.setdefault(verb.url, CallSid(fields["CallSid"])) == fields["CallSid"]

    async def _dial(self, dial: Dial) -> None:
        known = [url.removeprefix(SOCKET_BASE) for url in self.secrets]
        path = known[-1] if dial.rightly and known else quote(dial.path, safe="/%")
        signature = None if dial.token is None else sign(dial.token, SOCKET_BASE + path)
        dialled = await self.front.dial(path, signature, dial.says)
        self.counts["sockets"] += dialled.accepted
        if dial.token not in (TOKEN, SECONDARY) or path not in known:
            assert not dialled.accepted, "let in without a signature or token"


TEXT = st.text(max_size=30)
CALL_SIDS = st.sampled_from(["CAann", "CAbob", "CAeve"]) | st.text(max_size=80)
FIELDS = st.lists(
    st.one_of(
        st.tuples(st.just("CallSid"), CALL_SIDS),
        st.tuples(st.just("AccountSid"), st.sampled_from([ACCOUNT, ACCOUNT, ACCOUNT, "ACtheirs", ""])),
        st.tuples(st.sampled_from(["From", "To", "CallStatus", "StreamEvent", "StreamError", "ErrorCode"]), TEXT),
        st.tuples(TEXT, TEXT),
    ),
    max_size=12,
)
BEGUN = st.sampled_from(
    [(), (("CallSid", "CAann"), ("AccountSid", ACCOUNT)), (("CallSid", "CAbob"), ("AccountSid", ACCOUNT))]
)
PATHS = st.sampled_from(["/twilio/voice"] * 4 + ["/twilio/after-stream", "/twilio/status"]) | TEXT.map(
    lambda text: f"/{text.strip('/')}"
)
TOKENS = st.sampled_from([TOKEN, TOKEN, TOKEN, SECONDARY, "another token", None])
POSTS = st.builds(
    Post,
    method=st.sampled_from(["POST"] * 6 + ["GET", "PUT", "DELETE"]),
    path=PATHS,
    query=st.just("") | TEXT,
    fields=st.builds(lambda more, begun: (*more, *begun), FIELDS, BEGUN),
    token=TOKENS,
    signature=st.none() | st.none() | st.binary(max_size=40).filter(lambda value: not set(value) & set(b"\r\n\0")),
    body=st.none() | st.none() | st.none() | st.binary(max_size=200),
    content_type=st.just(FORM_TYPE) | st.sampled_from(["multipart/form-data; boundary=x", "application/json", ""]),
)
DIALS = st.builds(
    Dial,
    path=TEXT.map(lambda text: f"/twilio/media/{text}") | TEXT.map(lambda text: f"/{text}"),
    rightly=st.booleans(),
    token=TOKENS,
    says=st.lists(TEXT | st.binary(max_size=20), max_size=2).map(tuple),
)
ASKED: st.SearchStrategy[list[Asked]] = st.lists(st.one_of(POSTS, POSTS, DIALS), min_size=1, max_size=12)
