"""What a server that cannot be reached costs the process: nothing that adds up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from redis_server import free_port
from remote_host import Host

NUM_SENTINELS = 20  # each is tried for every connection


def num_sockets() -> int:
    """That this process has open."""
    names = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            names.append(os.readlink(entry))
        except FileNotFoundError:
            continue  # the listing's own
    return sum(name.startswith("socket:") for name in names)


def test_servers_that_refuse_leave_no_sockets_behind():
    before = num_sockets()
    places = ",".join(f"127.0.0.1:{free_port()}" for _ in range(NUM_SENTINELS))

    with Host(f"redis+sentinel://{places}/cache") as host:
        host.wait_for(serves=False)

        assert num_sockets() - before <= 2  # of the two lanes, which go on trying


WITHOUT_CIPHERS = """
openssl_conf = init
[init]
providers = providers
[providers]
null = null
[null]
activate = 1
"""

CONNECT = """
import socket
from remote_host import Host
with socket.create_server(("127.0.0.1", 0)) as server:
    with Host(f"rediss://127.0.0.1:{server.getsockname()[1]}") as host:
        host.wait_for(serves=False)
"""


@pytest.mark.long
def test_a_host_whose_tls_does_not_work_is_cut_off(tmp_path):
    (tmp_path / "openssl.cnf").write_text(WITHOUT_CIPHERS)
    paths = [entry for entry in sys.path if entry]
    environment = os.environ | {
        "OPENSSL_CONF": str(tmp_path / "openssl.cnf"),
        "PYTHONPATH": os.pathsep.join(paths),
    }
    done = subprocess.run(
        [sys.executable, "-c", CONNECT], env=environment, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
