"""Recordings: both sides of a call in stereo, as they were spoken and heard, and the tokens to render it again.

A call never waits for a disk. On the event loop `CallRecorder` gives each sound its place on the recording (`Timeline`)
and puts it into a bounded queue. A thread of `RecordingWriter` writes all queues twice a second, to a `RecordingFile` a
call: a WAV file of mu-law that can be written at any place, because what a stalled line brings late belongs earlier.
When the call is over another thread makes a FLAC of it. The token log is only appended to (`TokenLog`).

Writing FLAC at once does not hold what recordings promise. libsndfile writes blocks of 0.5 s in order and cannot read a
file whose writer was killed, because its length is unknown. And the caller's audio of a stall of 5 s arrives when
Moshi's audio of these 5 s must be on the disk already, or a kill loses more than a second.

A WAV file that no process has locked was left by a run that was killed; the next start makes the FLAC of it. What goes
wrong ends the recording and never the call; the call's record says why.
"""
