"""Which model an engine computes: of two engines with the same digest, each can go on with the other's calls.

Weights are not read as a whole: a digest of 15 GB would take longer than loading them. Two fine-tunes of one model have
the same header and size, so blocks that are spread over the file count too.
"""

import hashlib
from pathlib import Path

from workers.checkpoints.files import Files
from workers.engine.config import config_of, model_header

BLOCKS, BLOCK_BYTES = 128, 4_096
"""What is read of a file of weights beside its first megabyte, which holds the header."""
HEAD_BYTES = 1 << 20
DIGITS = 16


def digest_of(files: Files, quantize: int | None, context: int | None) -> str:
    """Return 16 hexadecimal digits; `quantize` and `context` as in `WorkerConfig`. Raises CheckpointError, OSError."""
    quantised = any(name.endswith(".scales") for name in model_header(files))
    lora = files.lora
    parts = [
        b"" if files.config is None else files.config.read_bytes(),
        sample(files.model),
        sample(files.mimi),
        files.tokenizer.read_bytes(),
        sample(lora.weights) + repr(lora.scaling).encode() if lora else b"",
        repr((None if quantised else quantize, context or int(config_of(files).transformer.context))).encode(),
    ]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:DIGITS]


def sample(path: Path) -> bytes:
    """Return the size of a file, its beginning and blocks of the rest."""
    size = path.stat().st_size
    with path.open("rb") as file:
        read = [str(size).encode(), file.read(HEAD_BYTES)]
        for block in range(1, BLOCKS + 1):
            file.seek(max(0, size * block // BLOCKS - BLOCK_BYTES))
            read.append(file.read(BLOCK_BYTES))
    return b"".join(read)
