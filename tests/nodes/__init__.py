"""Several nodes as processes, real NATS servers between them, the simulator as Twilio."""
