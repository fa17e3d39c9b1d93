"""Mimi for many calls at once: 80 ms of PCM to eight codes and back.

codec           what an encoder and a decoder are; the line test's loopback
choose          which codec CODEC means, and which library computes it
mimi            our Mimi: checks frames, keeps calls apart; `state` is what it remembers of them
frame           one frame through Mimi, for any library; `numpy_step` and `mlx_step` compute it
weights         the layers as matrices, out of a file by `tensors`
rustymimi_codec the reference
stages          encoder and decoder as stages of the pipeline
render, bench   a call from its tokens; our codec against rustymimi
"""
