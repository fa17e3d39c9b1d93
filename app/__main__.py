"""`python -m app` is `moshi-bridge`."""

from app.cli.main import main

main()
