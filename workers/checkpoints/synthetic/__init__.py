"""Stand-ins for Kyutai's weights: real checkpoint files, written by a program instead of training.

    script    answers with speech one can understand; `script.ScriptOracle` foretells every frame and word
    parrot    says what the caller says, code for code; see `parrot` for by how many steps
    random    random weights in three sizes and four formats; noise

numpy alone makes them. They are read by the untouched loaders: moshi_mlx, rustymimi, sentencepiece.

    make            specs, folders and file names: `make_standin`
    cache           all or nothing, once
    weights_file    safetensors, streamed                   tokenizer_file  sentencepiece
    mimi_layout     the tensors of Mimi                     lm_layout       the tensors and config.json of Moshi
    linear_mimi     a Mimi that speaks recordings           random_mimi     a Mimi that hisses
    phrases         the recordings                          script          the conversation and its oracle
    written_lm      what script_lm and parrot share         golay           numbers as patterns of signs
    script_lm, parrot, random_lm                            the three Moshis
"""

from workers.checkpoints.synthetic.make import make_standin

__all__ = ["make_standin"]
