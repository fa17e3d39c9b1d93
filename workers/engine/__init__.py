"""Moshi for many calls at once, on MLX. Only here is moshi_mlx imported.

engine      `Engine.step`: one frame of every live call in, one frame to every call out
streams     which token is read at which step: the delay pattern
sampling    sampling settings and random numbers of each call; draws the tokens
kv_cache    keys and values of the last `context` steps
model       the step as one pure function over moshi_mlx's modules, which `weights` prepares
text        text tokens become words
checkpoint  a folder of files becomes an `Lm`; `memory` says beforehand what it takes
start       from files to a warm engine with as many slots as fit
stage       the engine as a stage of the pipeline
bench       the step timed against the official `LmGen`
"""
