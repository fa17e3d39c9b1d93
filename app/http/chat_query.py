"""The query of a chat: what Kyutai's web client asks for, NVIDIA's (`voice_prompt`, `text_prompt`), and `persona`,
`format` and `token` of ours.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from app import setting_types as types
from app.calls.personas import VoiceName
from app.calls.prompts import clean_prompt

SAMPLING = ("text_temperature", "text_top_k", "audio_temperature", "audio_top_k", "repetition_penalty")
MAX_SEED = 2**32 - 1
MOST_VOICE_NAME = 80


def _prompt(text: str) -> str:
    """Return a text for the model; an empty one is none."""
    return clean_prompt(text) if text.strip() else ""


class ChatQueryError(ValueError):
    """A query that cannot be served; the message is one line."""


class ChatQuery(BaseModel):
    """What a client asks for. Parameters of other names are passed over, and so is `repetition_penalty_context`."""

    model_config = ConfigDict(frozen=True)

    format: Literal["opus", "pcm"] = "opus"
    persona: str = Field("", max_length=40)
    text_temperature: types.Temperature | None = None
    text_top_k: types.TextTopK | None = Field(None, alias="text_topk")
    audio_temperature: types.Temperature | None = None
    audio_top_k: types.AudioTopK | None = Field(None, alias="audio_topk")
    repetition_penalty: types.RepetitionPenalty | None = None
    repetition_penalty_context: int | None = Field(None, ge=0)
    pad_mult: float | None = Field(None, ge=-10, le=10)
    text_seed: int | None = Field(None, ge=0, le=MAX_SEED)
    audio_seed: int | None = Field(None, ge=0, le=MAX_SEED)
    voice_prompt: Annotated[VoiceName, Field(max_length=MOST_VOICE_NAME)] = ""
    text_prompt: Annotated[str, AfterValidator(_prompt)] = ""

    @property
    def sampling(self) -> tuple[tuple[str, float], ...]:
        """What is asked for, by the names of the fields of `SamplingSettings`.

        `pad_mult` multiplies the probability of padding by its exponential, after the temperature (Kyutai's
        moshi-core); our bias is added to the score, before the temperature.
        """
        given = [(name, value) for name in SAMPLING if (value := getattr(self, name)) is not None]
        if self.pad_mult is not None:
            temperature = 1.0 if self.text_temperature is None else self.text_temperature
            given.append(("padding_bias", self.pad_mult * temperature))
        return tuple(given)

    @property
    def seed(self) -> int | None:
        """Both streams draw from one generator: the seed of the text is that of both."""
        return self.audio_seed if self.text_seed is None else self.text_seed


def parse_chat_query(fields: Mapping[str, str]) -> ChatQuery:
    """Return what a query asks for. Raises ChatQueryError."""
    try:
        return ChatQuery.model_validate(dict(fields))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise ChatQueryError(f"{where}: {said}" if where else said) from error
