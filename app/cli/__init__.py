"""Every command, one thin module each."""
