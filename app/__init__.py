"""The telephone side: Twilio's webhooks and socket, the audio path, the life of a call, and the commands.

One process, one event loop. It never imports mlx or rustymimi; the models live in `workers`, a message away.
"""
