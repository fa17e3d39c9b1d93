"""The call log: one record a call in a database, with what Moshi said and what happened.

Theory of operation. The manager hands a copy of a record over with one call that cannot block
(`CallLogWriter.keep`), and a thread of its own writes it into the database. While the database does not take records
they are appended to one bounded file, the spool, and the thread tries again every few seconds. When the database is
back, or at the next start, what waits is written first, oldest first, and the file is emptied. To write a record twice
is the same as to write it once, so that a crash at any moment needs no care. What neither database nor disk takes is
lost with one ERROR that names the call, and is counted.

A record is written when a slot is reserved and again when the call has ended, into a row of this run of the service;
`merge` makes one call of several rows. Every run locks a file of its own (`runs`), so that the next one can close the
calls that a killed run has left open.
"""
