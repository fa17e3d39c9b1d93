"""How commands show the service that runs that an operator asks."""

from app.config import Settings

NOT_LET_IN = "the service lets no operator in from here: set OPERATOR_TOKEN to the service's own"


def operator_headers(settings: Settings) -> dict[str, str]:
    """Return what shows that an operator asks."""
    return {"Authorization": f"Bearer {settings.operator_token}"} if settings.operator_token else {}
