import pytest

from app.simulator.client import dialled


@pytest.mark.parametrize(
    ("url", "dial_url", "expected"),
    [
        ("https://a.b/voice?x=1", None, "https://a.b/voice?x=1"),
        ("https://a.b/voice?x=1", "http://127.0.0.1:5001", "http://127.0.0.1:5001/voice?x=1"),
        ("wss://a.b/media/t", "http://127.0.0.1:5001", "ws://127.0.0.1:5001/media/t"),
        ("ws://a.b:80/media/t", "https://c.d", "wss://c.d/media/t"),
    ],
)
def test_a_url_is_dialled_elsewhere_with_its_path(url: str, dial_url: str | None, expected: str) -> None:
    assert dialled(url, dial_url) == expected
