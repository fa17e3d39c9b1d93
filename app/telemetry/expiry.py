"""When old calls and recordings are deleted: a clock that is wrong at a start must not delete all of them at once."""

from datetime import datetime, timedelta

WAIT = timedelta(days=1)


def may_expire(old: int, total: int, put_off_at: datetime | None, now: datetime) -> bool:
    """Whether `old` of `total` may be deleted now.

    More than half of what is kept is deleted only a day after that was put off for the first time, at `put_off_at`.
    """
    return 2 * old <= total or (put_off_at is not None and now - put_off_at >= WAIT)


def put_off_since(put_off_at: datetime | None, now: datetime) -> datetime:
    """Return since when an expiry that may not happen yet is put off; a moment in the future is a wrong clock's."""
    return put_off_at if put_off_at is not None and put_off_at <= now else now
