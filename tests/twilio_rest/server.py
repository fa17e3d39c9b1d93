"""A fake of Twilio's REST API: its paths, authentication, pages and errors, over an account of our own.

A call that is created here is placed: it rings, asks our webhook, opens our socket and posts status callbacks. A thin
shell; what the account owns and refuses is in `account`, what becomes of a call in `callee`.
"""

import asyncio
import time
from base64 import b64encode
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate

from aiohttp import web

from app.simulator.remote import EndCall, Follow, Order, Redirect
from tests.twilio_rest.account import (
    FINAL,
    NOT_FOUND,
    NOT_IN_PROGRESS,
    UNAUTHORIZED,
    Account,
    Fault,
    Json,
    PlacedCall,
)
from tests.twilio_rest.callee import Callee, Placing

ROOT = "/2010-04-01/Accounts"
PAGE_SIZE = 50
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Held:
    """An answer that waits for its release; `reached` tells that there is one."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)


class FakeRest:
    """The API of one account. `url` is where it listens, `asked` what it was asked, as "POST Calls" and the form.

    `faults` are answered first, by what is asked, in order; the answer to what is `held` waits, though it is carried
    out. `callees` are who answers at a number. Our server is at `dial_url` where that is given.
    """

    def __init__(self, account: Account, dial_url: str | None = None) -> None:
        self.account, self.url = account, ""
        self.callees: dict[str, Callee] = {}
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.asked: list[tuple[str, list[tuple[str, str]]]] = []
        self.held: dict[str, Held] = {}
        self.clock_ahead_s = 0.0
        self.page_size = PAGE_SIZE
        self._dial_url = dial_url
        self._orders: dict[str, Callable[[Order], None]] = {}
        self._placings: set[asyncio.Task[None]] = set()

    def adopt(self, call_sid: str, send: Callable[[Order], None]) -> None:
        """Let REST end and redirect a call that was not placed here, such as an inbound one, by `Remote.send`."""
        self._orders[call_sid] = send

    async def settle(self) -> None:
        """Wait until every call that was placed is over."""
        await asyncio.gather(*self._placings)

    async def stop(self) -> None:
        for placing in self._placings:
            placing.cancel()
        await asyncio.gather(*self._placings, return_exceptions=True)

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._guard])
        root = f"{ROOT}/{self.account.sid}"
        application.add_routes(
            [
                web.get(f"{root}.json", self._fetch_account),
                web.post(f"{root}/Calls.json", self._create_call),
                web.get(f"{root}/Calls.json", self._list_calls),
                web.get(f"{root}/Calls/{{sid}}.json", self._fetch_call),
                web.post(f"{root}/Calls/{{sid}}.json", self._update_call),
                web.get(f"{root}/Calls/{{sid}}/Notifications.json", self._list_notifications),
                web.get(f"{root}/IncomingPhoneNumbers.json", self._list_numbers),
                web.post(f"{root}/IncomingPhoneNumbers/{{sid}}.json", self._update_number),
            ]
        )
        application.on_response_prepare.append(self._set_date)
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Take down what is asked; answer with a fault or a refusal where there is one."""
        asked = f"{request.method} {_resource(request.path)}"
        pairs = [(name, str(value)) for name, value in (await request.post() or request.query).items()]
        self.asked.append((asked, pairs))
        fault = self.faults[asked].popleft() if self.faults[asked] else None
        if fault and not fault.carried_out:
            return _refuse(request, fault)
        known = b64encode(f"{self.account.sid}:{self.account.auth_token}".encode()).decode()
        if request.headers.get("Authorization") != f"Basic {known}":
            return _refuse(request, UNAUTHORIZED)
        try:
            answer = await handler(request)
        except web.HTTPNotFound:
            return _refuse(request, NOT_FOUND)
        if held := self.held.get(asked):
            held.reached.set()
            await held.release.wait()
        return _refuse(request, fault) if fault else answer

    async def _set_date(self, request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Date"] = formatdate(time.time() + self.clock_ahead_s, usegmt=True)

    async def _fetch_account(self, request: web.Request) -> web.Response:
        return web.json_response(self.account.as_json())

    async def _create_call(self, request: web.Request) -> web.Response:
        posted = await request.post()
        form = {name: str(value) for name, value in posted.items()}
        if fault := self.account.refuses(form):
            return _refuse(request, fault)
        events = [str(event) for event in posted.getall("StatusCallbackEvent", ["completed"])]
        call = PlacedCall(form, events, created_s=time.time() + self.clock_ahead_s)
        self.account.calls[call.sid] = call
        self.adopt(call.sid, call.remote.send)
        callee = self.callees.get(form["To"], Callee())
        placing = asyncio.create_task(Placing(self.account, call, callee, self._dial_url).run())
        self._placings.add(placing)
        return web.json_response(call.as_json(self.account.sid), status=201)

    async def _list_calls(self, request: web.Request) -> web.Response:
        calls = [call.as_json(self.account.sid) for call in reversed(self.account.calls.values())]
        for name in ("To", "From"):
            calls = [call for call in calls if request.query.get(name) in (None, call[name.lower()])]
        return self._page(request, "calls", calls)

    async def _fetch_call(self, request: web.Request) -> web.Response:
        return web.json_response(self._call(request).as_json(self.account.sid))

    async def _update_call(self, request: web.Request) -> web.Response:
        """End the call, or send it elsewhere; one that was adopted is in progress as long as it is known."""
        sid, form = request.match_info["sid"], await request.post()
        if sid not in self._orders:
            raise web.HTTPNotFound
        call = self.account.calls.get(sid)
        ends = form.get("Status") == "completed"
        if call and (call.status in FINAL or (call.status != "in-progress" and not ends)):
            return _refuse(request, NOT_IN_PROGRESS)
        follow: Order = Follow(str(form["Twiml"])) if "Twiml" in form else Redirect(str(form.get("Url")))
        self._orders[sid](EndCall() if ends else follow)
        resource: Json = call.as_json(self.account.sid) if call else {"sid": sid, "status": "in-progress"}
        return web.json_response(resource)

    async def _list_notifications(self, request: web.Request) -> web.Response:
        call, wanted = self._call(request), request.query.get("Log")
        notes: list[Json] = [
            {"call_sid": call.sid, "log": level, "error_code": str(code)}
            for level, code in call.notifications
            if wanted in (None, level)
        ]
        return self._page(request, "notifications", notes)

    async def _list_numbers(self, request: web.Request) -> web.Response:
        """List the numbers that hold the digits of `PhoneNumber`: as Twilio's, it is a search."""
        wanted = request.query.get("PhoneNumber", "")
        numbers = [number for number in self.account.numbers if wanted in number.phone_number]
        return self._page(request, "incoming_phone_numbers", [item.as_json(self.account.sid) for item in numbers])

    async def _update_number(self, request: web.Request) -> web.Response:
        number = next((one for one in self.account.numbers if one.sid == request.match_info["sid"]), None)
        if number is None:
            raise web.HTTPNotFound
        number.update({name: str(value) for name, value in (await request.post()).items()})
        return web.json_response(number.as_json(self.account.sid))

    def _call(self, request: web.Request) -> PlacedCall:
        call = self.account.calls.get(request.match_info["sid"])
        if call is None:
            raise web.HTTPNotFound
        return call

    def _page(self, request: web.Request, key: str, items: Sequence[Json]) -> web.Response:
        size, page = int(request.query.get("PageSize", self.page_size)), int(request.query.get("Page", 0))
        more = (page + 1) * size < len(items)
        following = str(request.rel_url.update_query(Page=str(page + 1))) if more else None
        return web.json_response({"next_page_uri": following, key: items[page * size : (page + 1) * size]})


@asynccontextmanager
async def serving_rest(account: Account, dial_url: str | None = None) -> AsyncIterator[FakeRest]:
    """Run a fake on a free port of this machine; calls that are on when the block ends are dropped."""
    fake = FakeRest(account, dial_url)
    runner = web.AppRunner(fake.application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    fake.url = f"http://{host}:{port}"
    try:
        yield fake
    finally:
        await fake.stop()
        await runner.cleanup()


def _resource(path: str) -> str:
    """Return what a path is about: Accounts, Calls, Notifications, IncomingPhoneNumbers."""
    names = [part.removesuffix(".json") for part in path.split("/")]
    return next((name for name in reversed(names) if name.isalpha()), "")


def _refuse(request: web.Request, fault: Fault) -> web.Response:
    if fault.status is None:
        assert request.transport
        request.transport.abort()
        return web.Response()
    headers = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
    if fault.code is None:
        return web.Response(status=fault.status, text=fault.text, headers=headers)
    return web.json_response(fault.body(), status=fault.status, headers=headers)
