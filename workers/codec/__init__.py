"""Mimi's two directions as stations of the ring. `mimi` alone imports rustymimi; `loopback` is its twin."""
