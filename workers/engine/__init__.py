"""Moshi for many calls at once: checkpoints, the batched step, sampling, text.

Only here are mlx and moshi_mlx imported, and not by this file, so that a process which wants no more than
`workers.engine.text` stays light.

    engine       `Engine.step`: one frame from every live call in, one frame to every call out
    streams      which token is read at which step: the delays
    rules        by which rules a row draws, and its chances
    ring         the keys and values of the last `context` steps
    forward      the step as one pure function of these four
    model        its arithmetic, over moshi_mlx's modules
    weights      those modules, prepared for being called often
    sampling     one token out of many
    text         text tokens become words
    checkpoint   the door to weights: a folder of files becomes an `Lm`; `hub`, `header` help to get there
    memory       what all this takes, known before anything is loaded
    bench        the step, timed against the official `LmGen`
"""
