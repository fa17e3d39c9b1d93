"""Synthetic checkpoints: real checkpoint files whose weights are written by a program instead of training.

    script    answers with recorded phrases, and says forced text in recorded words; `script_oracle` predicts every
              frame and word
    parrot    repeats the caller's codes exactly; see `parrot` for by how many steps
    random    random weights in three sizes and four formats; noise
    personaplex    random weights in the files of NVIDIA's PersonaPlex, with voices; noise

numpy alone makes them, and the untouched loaders read them: moshi_mlx, rustymimi, sentencepiece. `make` puts one
together from a Moshi (script_lm, parrot, random_lm), a Mimi (linear_mimi, random_mimi) and a tokenizer.
"""

from workers.checkpoints.synthetic.make import make_synthetic

__all__ = ["make_synthetic"]
