"""The rules of a call, without I/O: who gets a slot, and what happens from the first ring to the end."""
