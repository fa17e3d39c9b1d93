"""The telephone's 8 kHz mu-law to Moshi's 24 kHz PCM and back, without a clock and without I/O."""
