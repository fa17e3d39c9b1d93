"""Recordings: what was said in a call and when it was heard, in stereo, and the tokens from which it can be made again.

Theory of operation. A call must never wait for a disk, so that a recording takes four steps. The event loop appends
what happens to a bounded queue of the call (`CallRecorder`), which costs it next to nothing. One thread for all calls
(`RecordingWriter`) looks into the queues twice a second. It finds the place of each sound (`Timeline`), which is
decided without I/O, and writes it to a `RecordingFile`: a WAV file of mu-law, as it was on the line, that can be
written at any place, so that what a stalled line brings late is still put where it was spoken. When the call is over
another thread turns the tape into FLAC and deletes it (`finish`). The token log grows at its end alone (`TokenLog`).

A tape can be played at any time. Every run of the service holds a lock on the tapes that it writes; a tape that nobody
holds was left by a run that was killed, and is finished by the next one.

What goes wrong ends the recording and never the call; the call's record says why.
"""
