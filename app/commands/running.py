"""Where commands find the service that runs, and how they show that an operator asks."""

from app.config import Settings

ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - what HOST may say
NOT_LET_IN = "the service lets no operator in from here: set OPERATOR_TOKEN to the service's own"


def local_url(settings: Settings) -> str:
    """Return where this machine reaches the service."""
    host = ANY_ADDRESS.get(settings.host) or (f"[{settings.host}]" if ":" in settings.host else settings.host)
    return f"http://{host}:{settings.port}"


def operator_headers(settings: Settings) -> dict[str, str]:
    """Return what shows that an operator asks."""
    return {"Authorization": f"Bearer {settings.operator_token}"} if settings.operator_token else {}
