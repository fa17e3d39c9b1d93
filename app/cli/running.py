"""How commands show the service that runs that an operator asks."""

import aiohttp

from app.config import Settings

NOT_LET_IN = "the service lets no operator in from here: set OPERATOR_TOKEN to the service's own"

NOT_OURS = "what answers there is not moshi-bridge, or another version of it"
UNLIKE_OURS = (aiohttp.ContentTypeError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""What reading the JSON of an answer raises that has another shape than ours."""


def operator_headers(settings: Settings) -> dict[str, str]:
    """Return what shows that an operator asks."""
    return {"Authorization": f"Bearer {settings.operator_token}"} if settings.operator_token else {}
