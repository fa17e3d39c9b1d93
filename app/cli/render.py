"""`moshi-bridge render CALL`: a call at 24 kHz, made from its tokens; the codec runs in a process of its own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from app.cli.options import EXIT_FAILED, EXIT_SETTINGS, fail
from app.config import CodecKind, Settings
from app.telemetry.recording.audio_files import AudioFileError, open_audio
from app.telemetry.recording.store import TOKENS, RecordingStore
from app.telemetry.recording.tokens import TokenLogError, read_tokens
from workers.messages import FRAME_SAMPLES, SAMPLE_RATE_HZ

FORMATS = (".flac", ".wav")
FRAME_BYTES = 2 * 4 * FRAME_SAMPLES
MAX_NAMED = 5


class NotRendered(Exception):
    """The call cannot be rendered; the message is one line."""


def render_call(settings: Settings, call: str, output: Path | None, checkpoint: str | None) -> int:
    """Write the call to `output`, by default NAME.24k.flac here; return the exit status.

    `call` is the path of a token log, the name of a recording, the SID of a call, or its end.
    """
    try:
        tokens = find_tokens(settings, call)
        header, records = read_tokens(tokens)
        target = output or Path(f"{tokens.stem}.24k.flac")
        if target.suffix not in FORMATS:
            raise NotRendered(f"{target}: name a file that ends in {' or '.join(FORMATS)}")
        _render(settings, checkpoint or header.checkpoint, header.call_sid, records, target)
    except (NotRendered, TokenLogError, AudioFileError, OSError) as error:
        return fail(error, EXIT_FAILED if isinstance(error, NotRendered) else EXIT_SETTINGS)
    print(target)
    return 0


def find_tokens(settings: Settings, call: str) -> Path:
    """Return the token log that is meant. Raises NotRendered."""
    if call.endswith(TOKENS) and Path(call).is_file():
        return Path(call)
    if settings.recording.folder is None:
        raise NotRendered("RECORDINGS_DIR is not set: say where the recordings are, or name a token log")
    store = RecordingStore(settings.recording.folder)
    found = [name for name in store.names(call) if store.path(f"{name}{TOKENS}").is_file()]
    if not found:
        raise NotRendered(f"no token log in {settings.recording.folder} is of a call whose SID is or ends with {call}")
    if len(found) > 1:
        raise NotRendered(f"more than one recording: {', '.join(found[:MAX_NAMED])}; give one of these names")
    return store.path(f"{found[0]}{TOKENS}")


def _render(settings: Settings, checkpoint: str, call_sid: str, records: NDArray[np.int16], target: Path) -> None:
    """Write beside `target`, which is replaced only by a whole call."""
    if not target.parent.is_dir():
        raise NotADirectoryError(f"{target}: there is no such folder")
    with tempfile.TemporaryDirectory(prefix=".render-", dir=target.parent) as folder:
        part = Path(folder) / target.name
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))
        with (
            Progress(console=Console(stderr=True), transient=True) as bars,
            _codec(settings, checkpoint, records) as audio,
            open_audio(part, "w", SAMPLE_RATE_HZ, 2) as sink,
        ):
            task = bars.add_task(f"rendering {call_sid}", total=len(records))
            while len(frame := audio.read(FRAME_BYTES)) == FRAME_BYTES:
                sink.write(np.frombuffer(frame, np.float32).reshape(-1, 2))
                bars.advance(task)
        part.replace(target)


@contextmanager
def _codec(settings: Settings, checkpoint: str, records: NDArray[np.int16]) -> Iterator[IO[bytes]]:
    """Run the codec on these records; yield its output, float32 (samples, 2). Raises NotRendered if it fails."""
    codec = settings.model.codec if settings.model.codec in (CodecKind.MLX, CodecKind.NUMPY) else CodecKind.AUTO
    quantize = ["--quantize", str(settings.model.quantize_bits)] if settings.model.quantize_bits else []
    options = ["--cache", str(settings.model.cache), "--codec", codec, *quantize]
    command = [sys.executable, "-m", "workers.codec.render", checkpoint, *options]
    with tempfile.TemporaryFile() as steps:
        steps.write(records.astype("<i2").tobytes())
        steps.seek(0)
        with subprocess.Popen(command, stdin=steps, stdout=subprocess.PIPE) as process:
            assert process.stdout
            try:
                yield process.stdout
            except BaseException:
                with suppress(ProcessLookupError):
                    process.kill()
                raise
    if process.returncode:
        raise NotRendered(f"{checkpoint} cannot render the call")
