"""The query parameters by which servers are told who speaks."""

from collections.abc import Mapping
from pathlib import PurePath

PLAIN_PROMPT, PLAIN_VOICE = "You enjoy having a good conversation.", "NATF0.pt"
"""PersonaPlex ends a connection that lacks a prompt or a voice."""
VOICE_FILE, RECORDING = ".pt", ".wav"
NAMES = {
    "text_temperature": "text_temperature",
    "text_top_k": "text_topk",
    "audio_temperature": "audio_temperature",
    "audio_top_k": "audio_topk",
    "repetition_penalty": "repetition_penalty",
}
"""Kyutai's names, by ours."""


def personaplex_query(prompt: str, voice: str) -> Mapping[str, str]:
    """Return what PersonaPlex wants: both parameters, neither empty, and never `seed`, which ends its session.

    `voice` is a name or the path of a file. Raises ValueError.
    """
    name = PurePath(voice or PLAIN_VOICE).name
    suffix = PurePath(name).suffix
    if suffix == RECORDING:
        raise ValueError("a voice from a recording cannot be sent to another server")
    return {"voice_prompt": name if suffix else name + VOICE_FILE, "text_prompt": prompt or PLAIN_PROMPT}


def sampling_query(sampling: Mapping[str, float]) -> Mapping[str, str]:
    """Return sampling in the words of Kyutai's web client; `pad_mult` is added after the temperature."""
    query = {NAMES[name]: f"{value:g}" for name, value in sampling.items() if name in NAMES}
    if bias := sampling.get("padding_bias"):
        query["pad_mult"] = f"{bias / (sampling.get('text_temperature') or 1):g}"
    return query
