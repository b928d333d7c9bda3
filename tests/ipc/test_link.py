"""Connections between our own processes, where one of them has no descriptor left."""
import subprocess
import sys
from pathlib import Path

from cdp.ipc.link import Link

SERVER = """
import logging, os, resource, sys
from cdp.ipc.link import accept_links
from cdp.ipc.unix_socket import bind_unix
logging.basicConfig(format="%(message)s")
def converse(link):
    link.send({"hello": 1})
    link.close()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
listener = bind_unix(sys.argv[1])
stop = accept_links(listener, converse, "test")
resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))), hard))     # that one is gone
print("ready", flush=True)
sys.stdin.readline()
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
sys.stdin.readline()
stop()
listener.close()
"""


def test_who_has_no_descriptor_says_so_and_accepts_later(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    server = subprocess.Popen([sys.executable, "-c", SERVER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)
    with server:
        assert server.stdin and server.stdout and server.stderr
        assert server.stdout.readline() == "ready\n"
        with Link.connect(path) as link:
            said = server.stderr.readline()
            assert "test: accepting a connection" in said and "Too many open files" in said and "again" in said
            server.stdin.write("more\n")
            server.stdin.flush()
            assert link.receive() == ({"hello": 1}, [])
        _, rest = server.communicate("end\n", timeout=60)
        assert server.returncode == 0 and rest == ""       # said once
