"""Every test begins with the same settings: nothing of the developer's shell or `.env` reaches them."""

import os

from app.config import Settings


def pytest_configure() -> None:
    ours = {name.lower() for name in Settings.model_fields}
    for name in [name for name in os.environ if name.lower() in ours]:
        del os.environ[name]
    Settings.model_config["env_file"] = None
