# mypy: ignore-errors
# Reason: it is run by an interpreter of its own, whose packages are not installed where the project is checked.
"""Pipecat behind a Twilio webhook, echoing the caller in frames of 80 ms at 24 kHz: an application for uvicorn.

The transport and the serializer are as they come; what a pipeline adds and an echo has no use for is off: turn
tracking, RTVI, the idle timer, debug messages.
"""

import sys

from fastapi import FastAPI, Request, Response, WebSocket
from loguru import logger
from pipecat.frames.frames import InputAudioRawFrame, OutputAudioRawFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.runner.utils import parse_telephony_websocket
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.workers.runner import WorkerRunner

RATE_HZ = 24_000
FRAME_BYTES = 2 * RATE_HZ * 80 // 1000

logger.remove()
logger.add(sys.stderr, level="WARNING")
app = FastAPI()


class Echo(FrameProcessor):
    """What stands in for Moshi: 80 ms of the caller, once they are complete."""

    def __init__(self):
        super().__init__()
        self._waiting = bytearray()

    async def process_frame(self, frame, direction):
        """Keep the caller's audio; let everything else pass."""
        await super().process_frame(frame, direction)
        if not isinstance(frame, InputAudioRawFrame):
            await self.push_frame(frame, direction)
            return
        self._waiting += frame.audio
        while len(self._waiting) >= FRAME_BYTES:
            pcm = bytes(self._waiting[:FRAME_BYTES])
            del self._waiting[:FRAME_BYTES]
            await self.push_frame(OutputAudioRawFrame(pcm, RATE_HZ, 1))


@app.post("/twilio/voice")
async def voice(request: Request):
    twiml = f'<Response><Connect><Stream url="ws://{request.headers["host"]}/media"/></Connect></Response>'
    return Response(twiml, media_type="text/xml")


@app.websocket("/media")
async def media(websocket: WebSocket):
    await websocket.accept()
    _, call = await parse_telephony_websocket(websocket)
    serializer = TwilioFrameSerializer(
        stream_sid=call["stream_id"], params=TwilioFrameSerializer.InputParams(auto_hang_up=False)
    )
    transport = FastAPIWebsocketTransport(
        websocket, FastAPIWebsocketParams(audio_in_enabled=True, audio_out_enabled=True, serializer=serializer)
    )
    worker = PipelineWorker(
        Pipeline([transport.input(), Echo(), transport.output()]),
        params=PipelineParams(audio_in_sample_rate=RATE_HZ, audio_out_sample_rate=RATE_HZ),
        enable_turn_tracking=False,
        enable_rtvi=False,
        idle_timeout_secs=None,
    )

    @transport.event_handler("on_client_disconnected")
    async def hung_up(_transport, _websocket):
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await runner.run()
