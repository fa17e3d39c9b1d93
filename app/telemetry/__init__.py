"""What watches calls: metrics, traces, call log, recordings, live view."""
