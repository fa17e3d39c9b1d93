"""`python -m tests.tunnel.hasty` is `moshi-bridge`, but probes a tunnel at once: the name of the fake is known."""

from dataclasses import dataclass

from app.cli.main import main
from app.server import tunnel_state


@dataclass(frozen=True, slots=True)
class Hasty(tunnel_state.TunnelTimeouts):
    first_probe_s: float = 0.0


if __name__ == "__main__":
    tunnel_state.TunnelTimeouts = Hasty  # type: ignore[misc]
    main()
