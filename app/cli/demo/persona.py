"""Who greets in the demo: Ada of `deploy/personas/`, with words that the synthetic checkpoint has recorded."""

from pathlib import Path

NAME = "ada"
GREETING = "Hello! I'm Ada from Northside Dental, how can I help you?"


def write_persona(folder: Path) -> dict[str, str]:
    """Write Ada's file into a folder of personas below this one; return the settings with which she answers."""
    personas = (folder / "personas").resolve()
    personas.mkdir(parents=True, exist_ok=True)
    (personas / f"{NAME}.toml").write_text(f'greeting = "{GREETING}"\n')
    return {"PERSONAS_DIR": str(personas), "PERSONA": NAME, "GREETING_LISTENS": "false"}
