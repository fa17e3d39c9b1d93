"""`moshi.server` in PyTorch on the CPU with random weights; runs where PyTorch and the package `moshi` are installed.

    python pytorch.py make FOLDER CONFIG MIMI   writes a checkpoint; Mimi's weights are given, but for codebooks
    python pytorch.py serve OPTIONS             is `python -m moshi.server OPTIONS`

The server waits for CUDA while it warms up, on the CPU, too: that alone is left out.
"""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import torch
from moshi.models import loaders
from safetensors.torch import load_file, save_file

FILES = ("moshi_name", "mimi_name", "tokenizer_name", "model_type", "lm_gen_config")
MOSHI = {
    "gating": "silu",
    "norm": "rms_norm_f32",
    "depformer_gating": "silu",
    "depformer_context": 8,
    "depformer_multi_linear": True,
    "depformer_weights_per_step": True,
}
"""What the config leaves out, as in Kyutai's."""


def without_files(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in FILES}


def make(folder: Path, config: Path, mimi: Path) -> None:
    torch.manual_seed(1)
    shape = json.loads(config.read_text()) | MOSHI
    (folder / "config.json").write_text(json.dumps(shape))
    lm = loaders.CheckpointInfo(Path(), Path(), Path(), lm_config=without_files(shape)).get_moshi(load_weight=False)
    save_file(lm.state_dict(), folder / "moshi.safetensors")
    save_file(loaders.get_mimi(None).state_dict() | load_file(mimi), folder / "mimi.safetensors")


if __name__ == "__main__":
    _, what, *options = sys.argv
    if what == "make":
        make(*map(Path, options))
    else:
        torch.cuda.synchronize = lambda *_: None
        sys.argv[1:] = options
        runpy.run_module("moshi.server", run_name="__main__")
