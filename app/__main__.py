"""`python -m app` is `moshi-bridge`."""

from app.cli import main

main()
