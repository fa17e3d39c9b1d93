"""Without NATS_URL nothing of the cluster is imported, and nothing changes."""

import subprocess
import sys

from app.config import read_settings
from app.server.service import Service

PROGRAM = """
import sys
from app.config import read_settings
from app.server.service import Service
service = Service(read_settings(engine="loopback", codec="loopback", database_url="off"), lambda progress: None)
assert service.node is None
print(*sys.modules)
"""


def test_one_machine_alone_imports_nothing_of_the_cluster() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "app.server.service" in loaded
    assert [name for name in loaded if name.startswith(("nats", "app.cluster"))] == []


def test_without_a_node_url_media_goes_to_the_public_one() -> None:
    alone = read_settings(engine="loopback", codec="loopback", database_url="off", public_url="https://a.example.com")
    assert Service(alone, lambda progress: None).public.media_url == "https://a.example.com"
