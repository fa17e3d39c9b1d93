"""Measurements that anyone can repeat: a table on the terminal, the same figures in a file."""
