"""Sends texts to one reader of a socket, for as long as he reads them and they last."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect

TAKEN_WITHIN_S = 10.0
"""A reader who takes nothing for so long is gone."""


async def feed(websocket: WebSocket, texts: AsyncIterator[str]) -> None:
    """Accept the socket and send until there is no more or the reader is gone; what he says is not listened to."""
    await websocket.accept()
    sending = asyncio.create_task(_send(websocket, texts))
    hearing = asyncio.create_task(_hear(websocket))
    try:
        await asyncio.wait({sending, hearing}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (sending, hearing):
            task.cancel()
        await asyncio.wait({sending, hearing})
    for task in (sending, hearing):
        if not task.cancelled():
            task.result()


async def _send(websocket: WebSocket, texts: AsyncIterator[str]) -> None:
    try:
        async for text in texts:
            async with asyncio.timeout(TAKEN_WITHIN_S):
                await websocket.send_text(text)
        await websocket.close()
    except (WebSocketDisconnect, RuntimeError, TimeoutError):  # the reader is gone, or has been told so
        return


async def _hear(websocket: WebSocket) -> None:
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass
