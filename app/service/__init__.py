"""The running service: its calls, its workers, what runs beside them."""
