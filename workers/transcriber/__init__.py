"""The caller's words: Kyutai's speech-to-text on the same codes as Moshi, batched over the calls.

config       which checkpoints can be used
model        one step of many rows, over the engine's main transformer
transcriber  many calls through one set of weights, one step at a time
words        text tokens become words with times
stage        what the process does with the frames of all calls
start        from files on disk to a warm transcriber
bench        what a step takes, and what it costs Moshi's
"""
