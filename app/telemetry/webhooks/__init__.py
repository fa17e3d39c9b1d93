"""Events of calls, sent to a program of the operator's: `queue` decides, `sender` posts, `observer` makes the events.

They follow https://www.standardwebhooks.com, whose libraries check the signature. The receiver can have Moshi act: see
`actions`.
"""
