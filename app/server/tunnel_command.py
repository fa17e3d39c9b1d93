"""What to run for which kind of tunnel.

The token of a tunnel goes by the environment, never by the command line, which every user of the machine can read.
cloudflared takes each of its own options from `TUNNEL_…` variables too, so those of the operator's shell are kept from
it, and ours, which hold Twilio's token, with them. It also reads the first configuration file that it finds in any of
five folders, and one with an ingress takes over a quick tunnel: so a quick tunnel gets an empty file. A named tunnel
keeps the operator's.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from app.config import NAMES, Settings, SettingsError, is_loopback
from app.setting_sources import PREFIX

PROGRAM = "cloudflared"
CREDENTIALS = Path("~/.cloudflared")
NO_CONFIG = "/dev/null"
HOW_TO_INSTALL = (
    "brew install cloudflared (Mac), or the package for your system from "
    "https://developers.cloudflare.com/cloudflare-one/networks/connectors/cloudflare-tunnel/downloads/"
)
MOST_PORTS = 65_535
_HOSTNAME = re.compile(r"(?P<host>[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)(?::(?P<port>[0-9]{1,5}))?")


def find_cloudflared() -> str:
    """Return the path of cloudflared. Raises SettingsError that says how to install it."""
    if found := shutil.which(PROGRAM):
        return found
    raise SettingsError(f"cloudflared is not installed, and --tunnel needs it: {HOW_TO_INSTALL}")


def tunnel_command(settings: Settings, program: str, metrics_port: int) -> list[str]:
    """Return the command line that leads the tunnel of these settings to HOST and PORT."""
    common = ["--no-autoupdate", "--metrics", f"127.0.0.1:{metrics_port}"]
    if settings.tunnel.token:
        return [program, "tunnel", *common, "run"]
    if settings.tunnel.name:
        return [program, "tunnel", *common, "run", "--url", settings.server.local_url, settings.tunnel.name]
    return [program, "tunnel", "--config", NO_CONFIG, "--url", settings.server.local_url, *common]


def tunnel_environment(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """Return what cloudflared may know of `environment`: nothing of our settings, but its own token."""
    kept = {
        name: value
        for name, value in environment.items()
        if name.upper() not in NAMES and not name.upper().startswith((PREFIX, "TUNNEL_"))
    }
    return {**kept, "TUNNEL_TOKEN": settings.tunnel.token} if settings.tunnel.token else kept


def url_of(hostname: object) -> str | None:
    """Return the public URL of a tunnel's host name; None when there is none yet, or it is no host name.

    A loopback host stands for a tunnel that never leaves the machine, and is reached without TLS.
    """
    if not isinstance(hostname, str) or not (parts := _HOSTNAME.fullmatch(hostname)):
        return None
    if int(parts["port"] or 0) > MOST_PORTS:
        return None
    return f"{'http' if is_loopback(parts['host']) else 'https'}://{hostname}"
