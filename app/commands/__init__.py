"""What talks to a running service from outside."""
