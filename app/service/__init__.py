"""The calls of this machine: who is put through, what happens in each, how they come to an end."""
