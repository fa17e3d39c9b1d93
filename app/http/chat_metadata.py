"""The metadata of a chat: what is true of it, by the names that Kyutai's web client wants to find."""

from app.calls.active_call import ActiveCall
from app.http.chat_query import ChatQuery

BUILD = (
    *("build_timestamp", "build_date", "git_branch", "git_timestamp", "git_date", "git_hash", "git_describe"),
    *("rustc_host_triple", "rustc_version", "cargo_target_triple"),
)
"""Of a Rust server: nothing here."""


def make_metadata(
    call: ActiveCall, query: ChatQuery, default: tuple[tuple[str, float], ...], model: str
) -> dict[str, object]:
    """Return what is true of a chat, whose sampling `default` is that of the workers; 0 for what they do not sample.

    No call has a top_k above the default's. `pad_mult` is the bias that counts after the temperature.
    """
    limits = dict(default)
    changes = {name: value for name, value in call.sampling if name in limits}
    top_k = {name: min(value, limits[name]) for name, value in changes.items() if name.endswith("top_k")}
    sampling = limits | changes | top_k
    temperature = sampling.get("text_temperature", 0)
    return {
        "text_temperature": temperature,
        "text_topk": sampling.get("text_top_k", 0),
        "audio_temperature": sampling.get("audio_temperature", 0),
        "audio_topk": sampling.get("audio_top_k", 0),
        "pad_mult": sampling.get("padding_bias", 0) / (temperature or 1),
        "repetition_penalty": sampling.get("repetition_penalty", 0),
        "repetition_penalty_context": sampling.get("repetition_penalty_context", 0),
        "lm_model_file": model,
        "instance_name": "moshi-bridge",
        "build_info": dict.fromkeys(BUILD, ""),
        "format": query.format,
        "persona": call.session.record.persona,
        "call_sid": call.session.record.call_sid,
        "recorded": bool(call.session.stream.recording.name),
    }
