import httpx
import pytest
from fastapi import FastAPI, Response

from app.http.headers import SAFE, SafeHeaders


def application() -> SafeHeaders:
    app = FastAPI()

    @app.get("/page")
    async def page() -> Response:
        return Response("page", headers={"Content-Security-Policy": "default-src 'self'"})

    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError

    return SafeHeaders(app)


@pytest.mark.parametrize(("path", "status"), [("/page", 200), ("/nowhere", 404), ("/broken", 500)])
async def test_every_answer_has_the_headers_errors_too(path: str, status: int) -> None:
    transport = httpx.ASGITransport(application(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://here") as http:
        answer = await http.get(path)
    assert answer.status_code == status
    assert all(answer.headers[name] == SAFE[name] for name in set(SAFE) - {"Content-Security-Policy"})
    assert "content-security-policy" in answer.headers


async def test_what_a_page_says_itself_stays() -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application()), base_url="http://here") as http:
        answer = await http.get("/page")
    assert answer.headers.get_list("content-security-policy") == ["default-src 'self'"]
    assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == ("no-store", "nosniff")
