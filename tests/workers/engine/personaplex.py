"""PersonaPlex's prompt stepped frame by frame, as PERSONAPLEX.md §3 says that NVIDIA's `LMGen` does it.

Written from that rule alone, on the modules of the official `Lm` and its own cache, one position at a time: call o
writes its frame at column o + delay (in a prompt also Moshi's codes and the text), reads column o - 1 and samples the
tokens of column o, where a token that was written wins. A column up to a stream's delay is read as initial.
"""

from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np
from moshi_mlx.models import Lm
from moshi_mlx.utils import Sampler

from workers.engine.voice_file import VoiceEmbeddings
from workers.messages import CodeArray

DELAYS = [0, 0, *[1] * 7, 0, *[1] * 7]
SILENCE = [948, 243, 1178, 546, 1736, 1030, 1978, 2008]
SINE = [430, 1268, 381, 1611, 1095, 1495, 56, 472]
FILLER = 3
Spoken = tuple[int, list[int]]
"""The text token and Moshi's codes of one frame."""


@dataclass
class LmGen:
    """One call of one `Lm`, whose cache it uses."""

    lm: Lm
    call: int = 1
    written: dict[tuple[int, int], int] = field(default_factory=dict)
    """Tokens by stream and column."""

    def __post_init__(self) -> None:
        for layer in self.lm.transformer_cache:
            layer.reset()

    def write(self, streams: range, tokens: list[int]) -> None:
        for stream, token in zip(streams, tokens, strict=True):
            self.written[stream, self.call + DELAYS[stream]] = token

    def read(self, column: int) -> list[int]:
        initial = [self.lm.cfg.text_out_vocab_size, *[2048] * 16]
        return [
            initial[stream] if column <= delay else self.written[stream, column] for stream, delay in enumerate(DELAYS)
        ]

    def embed(self, tokens: list[int]) -> mx.array:
        x: mx.array = self.lm.text_emb(mx.array([tokens[:1]]))
        for token, table in zip(tokens[1:], self.lm.audio_embs, strict=True):
            x = x + table(mx.array([[token]]))
        return x

    def run(self, x: mx.array | None = None) -> None:
        """End a call: compute its position, from the tokens unless an embedding is given."""
        x = self.embed(self.read(self.call - 1)) if x is None else x
        hidden = self.lm.out_norm(self.lm.transformer(x, cache=self.lm.transformer_cache))
        text = mx.argmax(self.lm.text_linear(hidden), axis=-1).astype(mx.int32)
        codes = self.lm.depformer.sample(hidden, Sampler(temp=0.0), text, self.lm.depformer_cache)
        for stream, token in enumerate([int(np.array(text).item()), *np.array(codes).reshape(-1).tolist()]):
            self.written.setdefault((stream, self.call), token)
        self.call += 1

    def step(self, text: int, agent: list[int], user: list[int]) -> None:
        self.write(range(17), [text, *agent, *user])
        self.run()

    def prompt(self, text: list[int], voice: CodeArray | VoiceEmbeddings | None) -> None:
        if isinstance(voice, VoiceEmbeddings):
            self._embeddings(voice)
        else:
            # Frame 0 is given before the first call that computes anything.
            frames = [] if voice is None else voice.tolist()
            first = [*frames, SILENCE][0]
            self.call = 0
            self.write(range(17), [FILLER, *first, *SINE])
            self.call = 1
            for frame in frames[1:]:
                self.step(FILLER, frame, SINE)
        spacers = [FILLER] * 6
        silence = [*spacers, *text, *spacers]
        for token in silence[1 if voice is None else 0 :]:
            self.step(token, SILENCE, SINE)

    def _embeddings(self, voice: VoiceEmbeddings) -> None:
        for embedding in voice.embeddings:
            self.run(mx.array(embedding)[None, None].astype(self.lm.out_norm.weight.dtype))
        count = len(voice.embeddings)
        for stream, delay in enumerate(DELAYS):
            for column in range(count, count + 1 + delay):
                self.written[stream, column] = int(voice.cache[stream, column % 4])


def spoken(lm: Lm, text: list[int], voice: CodeArray | VoiceEmbeddings | None, heard: CodeArray) -> list[Spoken]:
    """Return what is said to the caller's frames after a prompt; the caller's first frame is not read.

    As many texts as frames; the frame of Moshi's codes that is complete after a call is that of the column before.
    """
    model = LmGen(lm)
    model.prompt(text, voice)
    begin = model.call
    for frame in heard[1:]:
        model.write(range(9, 17), frame.tolist())
        model.run()
    columns = range(begin, model.call - 1)
    codes = {column: [model.written[1 + c, column + DELAYS[1 + c]] for c in range(8)] for column in columns}
    return [(model.written[0, column], codes[column]) for column in columns]
