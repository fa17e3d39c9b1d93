"""The command line and environment of cloudflared.

A tunnel's token is passed in the environment: every user of the machine can read command lines. cloudflared reads its
options from `TUNNEL_…` variables too, so those of the shell are removed, and so are our settings, which hold Twilio's
token. It reads the first configuration file in any of five folders, and one with an ingress takes over a quick tunnel:
so a quick tunnel is given an empty file. A named tunnel uses the operator's.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from app.config import Settings, SettingsError, is_loopback
from app.setting_sources import PREFIX

PROGRAM = "cloudflared"
CREDENTIALS = Path("~/.cloudflared")
NO_CONFIG = "/dev/null"
HOW_TO_INSTALL = (
    "brew install cloudflared (Mac), or the package for your system from "
    "https://developers.cloudflare.com/cloudflare-one/networks/connectors/cloudflare-tunnel/downloads/"
)
MAX_PORT = 65_535
_HOSTNAME = re.compile(r"(?P<host>[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)(?::(?P<port>[0-9]{1,5}))?")


def find_cloudflared() -> str:
    """Return the path of cloudflared. Raises SettingsError that says how to install it."""
    if found := shutil.which(PROGRAM):
        return found
    raise SettingsError(f"cloudflared is not installed, and --tunnel needs it: {HOW_TO_INSTALL}")


def tunnel_command(settings: Settings, program: str, metrics_port: int) -> list[str]:
    """Return the command line of a tunnel to HOST and PORT."""
    common = ["--no-autoupdate", "--metrics", f"127.0.0.1:{metrics_port}"]
    if settings.tunnel_token:
        return [program, "tunnel", *common, "run"]
    if settings.tunnel_name:
        return [program, "tunnel", *common, "run", "--url", settings.local_url, settings.tunnel_name]
    return [program, "tunnel", "--config", NO_CONFIG, "--url", settings.local_url, *common]


def tunnel_environment(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """Return `environment` without our settings, with the tunnel's token."""
    ours = {name.upper() for name in Settings.model_fields}
    kept = {
        name: value
        for name, value in environment.items()
        if name.upper() not in ours and not name.upper().startswith((PREFIX, "TUNNEL_"))
    }
    return {**kept, "TUNNEL_TOKEN": settings.tunnel_token} if settings.tunnel_token else kept


def url_of(hostname: object) -> str | None:
    """Return the public URL of a tunnel's host name, None if it is no host name. A loopback host has no TLS."""
    if not isinstance(hostname, str) or not (parts := _HOSTNAME.fullmatch(hostname)):
        return None
    if int(parts["port"] or 0) > MAX_PORT:
        return None
    return f"{'http' if is_loopback(parts['host']) else 'https'}://{hostname}"
