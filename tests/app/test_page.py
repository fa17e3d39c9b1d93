"""The page's routes, without a browser: who gets what, and with which headers."""

import re
from collections.abc import Mapping

import httpx
import pytest
from fastapi import FastAPI

from app.http.headers import SafeHeaders
from app.http.operator_auth import COOKIE, OperatorAuth
from app.http.page.routes import ASSETS, build_page_router
from app.http.rate_limit import RateLimiter

TOKEN = "a-long-operator-token"
ELSEWHERE = "https://phone.example.com"


def browser(token: str = "", base_url: str = "http://127.0.0.1", refusals: int = 9) -> httpx.AsyncClient:
    """Return a client at this machine, or behind a tunnel if the name is public."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(build_page_router(OperatorAuth(token, RateLimiter(refusals))))
    return httpx.AsyncClient(transport=httpx.ASGITransport(SafeHeaders(app)), base_url=base_url)


async def test_at_this_machine_the_page_opens_and_loads_only_its_own_files() -> None:
    async with browser() as http:
        page = await http.get("/")
    assert page.status_code == 200
    (policies,) = page.headers.get_list("content-security-policy")
    policy = dict(part.strip().split(" ", 1) for part in policies.split(";"))
    assert policy["default-src"] == "'none'"
    assert set(policy.values()) == {"'none'", "'self'"}
    assert 'class="signed-in"' not in page.text


@pytest.mark.parametrize("name", sorted(path.name for path in ASSETS.iterdir()))
def test_assets_name_no_other_host_and_keep_to_the_content_policy(name: str) -> None:
    text = (ASSETS / name).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|\bstyle=|\bon[a-z]+=\"|<script(?! type=\"module\" src=)|innerHTML|eval\(", text)


async def test_every_file_that_is_named_is_served() -> None:
    async with browser() as http:
        texts = [(await http.get("/")).text, (ASSETS / "login.html").read_text(), (ASSETS / "talk.html").read_text()]
        texts += [path.read_text() for path in ASSETS.glob("*.js")]
        named = {name for text in texts for name in re.findall(r"(?:page/|from \"\./)([a-z]+\.(?:js|css|svg))", text)}
        answers = {name: await http.get(f"/page/{name}") for name in named}
    assert len(named) > 10
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(named, 200)
    assert answers["main.js"].headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize("name", ["login.html", "nothing.js", "..%2froutes.py", "%2e%2e/routes.py"])
async def test_no_other_file_is_served(name: str) -> None:
    async with browser() as http:
        assert (await http.get(f"/page/{name}")).status_code == 404


async def test_without_a_token_the_page_is_for_this_machine_alone_and_without_a_login() -> None:
    async with browser(base_url=ELSEWHERE) as http:
        assert [(await http.get(path)).status_code for path in ("/", "/login", "/page/main.js")] == [403] * 3
        assert (await http.post("/login", data={"token": ""})).status_code == 403
    async with browser() as http:
        assert redirect(await http.get("/login")) == "./"


def redirect(answer: httpx.Response) -> str:
    assert answer.status_code == 303
    return answer.headers["location"]


async def test_an_operator_signs_in_with_the_token_and_out_but_no_other_site_does_that() -> None:
    async with browser(TOKEN, ELSEWHERE) as http:
        assert redirect(await http.get("/")) == "login"
        assert "Operator token" in (await http.get("/login")).text
        assert redirect(await http.post("/login", data={"token": f" {TOKEN} "})) == "./"
        assert 'class="signed-in"' in (await http.get("/")).text
        assert (await http.get("/page/main.js")).status_code == 200
        assert (await http.post("/logout", headers={"origin": "https://evil.example.com"})).status_code == 403
        assert (await http.get("/")).status_code == 200
        assert redirect(await http.post("/logout", headers={"origin": ELSEWHERE})) == "login"
        assert redirect(await http.get("/")) == "login"


@pytest.mark.parametrize(("base_url", "is_secure"), [(ELSEWHERE, True), ("http://192.0.2.7:5001", False)])
async def test_the_cookie_is_for_this_site_alone_and_not_for_scripts(base_url: str, is_secure: bool) -> None:
    async with browser(TOKEN, base_url) as http:
        answer = await http.post("/login", data={"token": TOKEN})
    (cookie,) = answer.headers.get_list("set-cookie")
    name_value, *attributes = [part.strip().lower() for part in cookie.split(";")]
    assert name_value.startswith(COOKIE)
    assert TOKEN not in cookie
    assert {"httponly", "samesite=strict", "path=/"} <= set(attributes)
    assert ("secure" in attributes) == is_secure
    assert not any(attribute.startswith("domain") for attribute in attributes)


@pytest.mark.parametrize("fields", [{"token": TOKEN[:-1]}, {"token": ""}, {}, {"other": TOKEN}, {"token": "…é\0"}])
async def test_anything_but_the_token_is_refused_and_counted(fields: Mapping[str, str]) -> None:
    async with browser(TOKEN, ELSEWHERE, refusals=2) as http:
        answers = [await http.post("/login", data=dict(fields)) for _ in range(3)]
        after = await http.get("/page/main.js")
    assert [answer.status_code for answer in answers] == [403, 403, 429]
    assert 'role="alert"' in answers[0].text
    assert "set-cookie" not in answers[0].headers
    assert after.status_code == 429


async def test_a_form_that_never_ends_is_not_read_to_its_end() -> None:
    async with browser(TOKEN, ELSEWHERE) as http:
        assert (await http.post("/login", content=b"token=" + b"x" * 5_000)).status_code == 413
