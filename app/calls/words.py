"""The words of both sides of one stream on their way to those who watch: pieces and heard words in, masked words out.

Times are seconds of the call's clock. Moshi's greeting is computed ahead: its words are given out once the stream has
started, with the times at which they are played.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import assert_never

from app.calls.masking import DigitMask
from app.calls.session import CallSession
from app.calls.transcript import PieceWords, Side, Turn, TurnBuilder, Word
from workers.messages import FRAME_S, Frame, Heard, TranscriptEnd, TranscriptMessage, TurnOver

HEARD_LATE_S = 1.5
"""So long after it was said a word of the caller's may still come."""
Known = Word | Turn
"""A turn follows the last of its words."""


class StreamWords:
    def __init__(self) -> None:
        self._pieces = PieceWords()
        self._masks = {speaker: DigitMask() for speaker in Side}
        self._turns = {speaker: TurnBuilder() for speaker in Side}
        self._greeting: list[tuple[int, str]] = []
        self._greeting_frames = 0
        self._started_s: float | None = None

    def start(self, greeting_frames: int, now_s: float) -> Iterator[Known]:
        """The stream has started; the first `greeting_frames` of Moshi's frames are played from now on."""
        self._greeting_frames, self._started_s = greeting_frames, now_s
        greeting, self._greeting = self._greeting, []
        for seq, text in greeting:
            yield from self._said(self._pieces.add(text, now_s + seq * FRAME_S))

    def add_frame(self, seq: int, text: str, now_s: float) -> Iterator[Known]:
        """Add the text of one of Moshi's frames, "" for none; yield what is known by now."""
        if self._started_s is None:
            self._greeting += [(seq, text)] if text else []
            return
        if text:
            played_s = self._started_s + seq * FRAME_S if seq < self._greeting_frames else now_s
            yield from self._said(self._pieces.add(text, max(now_s, played_s)))
        yield from self._check(now_s)

    def add_heard(self, word: Word) -> Iterator[Known]:
        return self._said([word])

    def end_turn(self) -> Iterator[Known]:
        """The caller seems to have said all they wanted; in a run of digits they may only have paused."""
        if not self._masks[Side.CALLER].holds:
            yield from self._turns[Side.CALLER].flush()

    def flush(self, speaker: Side) -> Iterator[Known]:
        """Nothing more comes of this side."""
        if speaker is Side.MOSHI:
            yield from self.start(0, self._started_s or 0.0)
            yield from self._said(self._pieces.flush())
        yield from self._spoken(speaker, self._masks[speaker].flush())
        yield from self._turns[speaker].flush()

    def _check(self, now_s: float) -> Iterator[Known]:
        yield from self._said(self._pieces.check(now_s))
        for speaker, at_s in ((Side.MOSHI, now_s), (Side.CALLER, now_s - HEARD_LATE_S)):
            yield from self._spoken(speaker, self._masks[speaker].check(at_s))
            if not self._masks[speaker].holds:
                yield from self._turns[speaker].check(at_s)

    def _said(self, words: Iterable[Word]) -> Iterator[Known]:
        for word in words:
            yield from self._spoken(word.speaker, self._masks[word.speaker].add(word))

    def _spoken(self, speaker: Side, words: Iterable[Word]) -> Iterator[Known]:
        for word in words:
            yield from self._turns[speaker].check(word.start_s)
            yield word
            yield from self._turns[speaker].add(word)


class CallWords:
    """Puts the words of one stream into its call's record and notifies its observers; `now` is monotonic."""

    def __init__(self, session: CallSession, notify: Callable[..., None]) -> None:
        self._session, self._notify = session, notify
        self._words = StreamWords()
        self.is_transcribed = False
        """Whether the transcript has ended since the call was last in a pipeline that was lost."""

    def restart(self) -> None:
        """Forget the greeting so far, which nobody has heard."""
        self._words = StreamWords()

    def start(self, now: float) -> None:
        self._publish(self._words.start(self._session.record.greeting_frames, self._at_s(now)), now)

    def add_frame(self, frame: Frame, now: float) -> None:
        self._publish(self._words.add_frame(frame.seq, frame.text, self._at_s(now)), now)

    def handle_transcript(self, message: TranscriptMessage, now: float) -> None:
        """Handle what the transcriber tells, also after the end."""
        match message:
            case Heard():
                self._publish(self._words.add_heard(self._word(message, now)), now)
            case TurnOver():
                self._publish(self._words.end_turn(), now)
            case TranscriptEnd(_, _, missed):
                self._session.record.counts["frames_unheard"] += missed
                self.is_transcribed = True
                self.flush(Side.CALLER, now)
            case _:
                assert_never(message)

    def flush(self, speaker: Side, now: float) -> None:
        self._publish(self._words.flush(speaker), now)

    def _word(self, heard: Heard, now: float) -> Word:
        begin_s = self._session.leg.spoken_s(heard.start_s)
        at_s = self._at_s(now if begin_s is None else begin_s)
        return Word(Side.CALLER, heard.word, at_s, at_s + heard.stop_s - heard.start_s)

    def _at_s(self, moment_s: float) -> float:
        return max(0.0, moment_s - self._session.record.reserved_s)

    def _publish(self, known: Iterable[Known], now: float) -> None:
        for one in known:
            if isinstance(one, Word):
                self._session.record.words.append(one)
            self._notify("on_word" if isinstance(one, Word) else "on_turn", one, now)
