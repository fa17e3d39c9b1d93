"""The call log: one record a call in a database, with what Moshi said and what happened.

Theory of operation. A call must never wait for a database, so a record takes three steps. The switchboard hands it over
with one call that cannot block (`CallLogWriter.keep`). A thread of its own appends it to a file, the spool. The same
thread brings what is in the spool into the database, oldest first, and empties the spool once all has arrived. While
the database is slow or gone the spool grows; when it is back, or at the next start, it is emptied. To write a record
twice is the same as to write it once, so that a crash between the two needs no care.

A record is written when its slot is reserved and again when the call has ended. Every run of the service holds a lock
on a spool of its own. A spool that nobody holds was left by a run that was killed: the next run brings its records in
and closes the calls that are still open in the database under that spool's name.
"""
