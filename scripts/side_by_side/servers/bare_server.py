"""The floor of the method: a WebSocket server that returns every packet the moment it arrives.

    python bare_server.py PORT

The webhook is on that port, the socket on one of its own. It runs until it is killed.
"""

import asyncio
import json
import sys

from websockets.asyncio.server import ServerConnection, serve

HOST = "127.0.0.1"


async def echo(socket: ServerConnection) -> None:
    """Return the payload of every packet, in the message that Twilio wants."""
    async for text in socket:
        message = json.loads(text)
        if message["event"] == "media":
            payload = message["media"]["payload"]
            await socket.send(
                json.dumps({"event": "media", "streamSid": message["streamSid"], "media": {"payload": payload}})
            )


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, socket_port: int) -> None:
    try:
        await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:  # somebody has only looked whether we listen
        writer.close()
        return
    body = f'<Response><Connect><Stream url="ws://{HOST}:{socket_port}/"/></Connect></Response>'.encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    writer.close()


async def main(port: int) -> None:
    async with serve(echo, HOST, 0, compression=None, ping_interval=None) as sockets:
        socket_port = next(iter(sockets.sockets)).getsockname()[1]
        webhook = await asyncio.start_server(lambda reader, writer: answer(reader, writer, socket_port), HOST, port)
        await webhook.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
