"""Synthetic checkpoints: real checkpoint files whose weights are written by a program instead of training.

    script    answers with recorded phrases; `script.ScriptOracle` predicts every frame and word
    parrot    repeats the caller's codes exactly; see `parrot` for by how many steps
    random    random weights in three sizes and four formats; noise

numpy alone makes them. They are read by the untouched loaders: moshi_mlx, rustymimi, sentencepiece.

    make            specs, folders and file names: `make_synthetic`     cache           all or nothing, once
    weights_file    safetensors, streamed                               tokenizer_file  sentencepiece
    lm_layout       the tensors and config.json of Moshi                written_lm      what script_lm and parrot share
    linear_mimi     a Mimi that speaks recordings                       random_mimi     a Mimi of noise
    phrases         the recordings                                      script          the conversation and its oracle
    script_lm, parrot, random_lm                                        the three Moshis
"""

from workers.checkpoints.synthetic.make import make_synthetic

__all__ = ["make_synthetic"]
