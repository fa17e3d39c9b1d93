"""Every test begins with the same settings: nothing of the developer's shell or `.env` reaches them, nor
do their calls reach the developer's call log."""

import logging
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from app.config import NAMES, Settings
from app.setting_sources import PREFIX

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")  # the same examples each time, on any machine


def pytest_configure() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup and background jobs leave both ignored, to children as well
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ours = {name.lower() for name in NAMES}
    for name in [name for name in os.environ if name.lower().removeprefix(PREFIX.lower()) in ours]:
        del os.environ[name]
    os.environ["DATABASE_URL"] = "off"
    Settings.model_config["env_file"] = None


@pytest.fixture(autouse=True)
def logging_stays_as_it_was() -> Iterator[None]:
    """What a test sets up to log goes with it: levels, handlers, filters."""
    before = {one: (one.level, one.handlers[:], one.filters[:], one.propagate) for one in _loggers()}
    yield
    for one in _loggers():
        level, handlers, filters, propagate = before.get(one, (logging.NOTSET, [], [], True))
        one.setLevel(level)
        one.handlers[:], one.filters[:], one.propagate = handlers, filters, propagate


def _loggers() -> list[logging.Logger]:
    known = list(logging.root.manager.loggerDict.values())
    return [logging.root, *(one for one in known if isinstance(one, logging.Logger))]
