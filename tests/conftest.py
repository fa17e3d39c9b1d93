"""Every test begins with the same settings: nothing of the developer's shell or `.env` reaches them, nor
do their calls reach the developer's call log."""

import os

from hypothesis import HealthCheck, settings

from app.config import Settings

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")  # the same examples each time, on any machine


def pytest_configure() -> None:
    ours = {name.lower() for name in Settings.model_fields}
    for name in [name for name in os.environ if name.lower() in ours]:
        del os.environ[name]
    os.environ["DATABASE_URL"] = "off"
    Settings.model_config["env_file"] = None
