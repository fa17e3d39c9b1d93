"""The calls that are on: who gets a slot, the rules of one call, and what is kept of it."""
