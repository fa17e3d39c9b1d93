"""Nodes: services on several machines that answer each other's calls, with NATS between them.

A node is this whole service on one machine, with a host name of its own for media (`NODE_URL`). The voice webhook
(`PUBLIC_URL`) may lead to any of them. Media never crosses NATS; token logs do. Nothing here is imported without
`NATS_URL`. The rules know no I/O and no clock: `messages`, `directory`, `placement`, `failover`, `waiting`, `fallback`,
`token_log`; around them are thin shells: `bus` (NATS), `log_store` (JetStream), `queue`, `node`.

Settings. `NATS_URL` names the servers and what to show them:

    nats://127.0.0.1:4222
    tls://nats-0:4222,tls://nats-1:4222,tls://nats-2:4222?creds=/etc/moshi/node.creds&ca=/etc/moshi/ca.pem
    tls://USER:PASSWORD@nats-0:4222?ca=/etc/moshi/ca.pem

`creds` is a file of a JWT and its NKey, `nkey` one of an NKey's seed alone, `ca` the authority of the servers'
certificates. With `tls=first` TLS begins before the server has said anything; it needs nats-server 2.10.4 or later with
`handshake_first` in its `tls` block. Without, who can change what passes has the connection go on in clear.

`NODE_URL` is http(s)://host[:port][/prefix]; sockets are signed over it, webhooks over `PUBLIC_URL`. All nodes have the
same `PUBLIC_URL`, `TWILIO_ACCOUNT_SID` and `TWILIO_AUTH_TOKEN`. The name of a node is host and port of its `NODE_URL`,
with `-` for each character that is no letter or digit: `https://moshi-0.example.com` is `moshi-0-example-com`,
`http://127.0.0.1:5001` is `127-0-0-1-5001`. A node opens no port beside the service's own; it dials out to NATS (4222).

Subjects. NODE is the name of one node; messages are JSON unless said otherwise.

| subject | published by | subscribed by | what |
|---|---|---|---|
| `hb.NODE` | NODE | all | heartbeat every 0.5 s and at each change: free slots, calls, drain; `bye` at the end |
| `slots.ask` | all | all | who has a slot, or this call? Each answers with an offer |
| `slots.take.NODE` | all | NODE | answer this webhook of a call: its slot is reserved there |
| `drain.NODE` | all | NODE | drain |
| `line.wait`, `line.left` | all | all | a caller waits for a slot; waits no more |
| `status` | all | all | Twilio's status callback, which may reach any node |
| `calls.CALLSID.EPOCH` | all | stream `moshi-calls` | the token log of a call: a JSON header, then steps (binary) |
| `_INBOX.NODE.>` | all (answers) | NODE | answers |

What the credential of NODE must allow (`deploy/nats/`):

    publish:   hb.NODE, slots.ask, slots.take.*, drain.*, line.*, status, calls.*.*, _INBOX.>,
               $JS.API.INFO, $JS.API.STREAM.CREATE.moshi-calls, $JS.API.STREAM.UPDATE.moshi-calls,
               $JS.API.STREAM.INFO.moshi-calls, $JS.API.STREAM.PURGE.moshi-calls, $JS.API.STREAM.MSG.GET.moshi-calls,
               $JS.API.CONSUMER.CREATE.moshi-calls, $JS.API.CONSUMER.CREATE.moshi-calls.>,
               $JS.API.CONSUMER.DELETE.moshi-calls.>, $JS.FC.moshi-calls.>
    subscribe: hb.*, slots.ask, slots.take.NODE, drain.NODE, line.*, status, _INBOX.NODE.>

The command line (`moshi-bridge forget`) uses the node's own credential. The stream is made by the first node that
finds none: memory storage, three replicas where there are three servers, `max_age` an hour more than the longest
`MAX_CALL_SECONDS` of any node so far. JetStream must be on, with memory for two steps of 34 bytes (about 190 with what
NATS keeps of each message) 6.25 times a second and call.
"""
