"""The compose file beside a `.env` that was written for a service without a container."""

import pytest

from app.config import read_settings
from app.setting_sources import PREFIX
from tests.deploy.test_deploy import compose


def test_what_compose_sets_wins_over_either_name_in_the_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which the prefixed one goes before a plain one of the container's."""
    for name, value in {"HOST": "127.0.0.1", "PORT": "8000", "TUNNEL": "true"}.items():
        monkeypatch.setenv(PREFIX + name, value)
    for name, value in compose()["services"]["bridge-cpu"]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = read_settings()
    assert (settings.server.host, settings.server.port, settings.tunnel.start) == ("0.0.0.0", 5001, False)
