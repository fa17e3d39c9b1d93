"""The call log: a record of each call in a database, with its transcript, events and streams.

1. `CallLogWriter.add` puts a copy of a call's record into a queue; a thread of its own writes it into the database,
   when a slot is reserved and again when the call has ended.
2. While the database accepts nothing, the thread appends records to the spool, a file of this run of the service, and
   tries again every five seconds, the oldest record first.
3. A record may be written twice without harm, because it replaces what the same run has written of the same call.
4. The spool stays locked as long as its run lives: the next start writes what is left in unlocked ones, and closes the
   calls that their runs left open.
5. A record is lost only if neither database nor disk accepts it, with an ERROR that names the call, and is counted.

A call that was forgotten is not written again: `moshi-bridge forget`, another process, leaves its SID in a table. The
thread reads that table every half minute, and the service drops what it has in memory of those calls.
"""
