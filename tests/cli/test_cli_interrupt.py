"""Ctrl-C at any moment of a command: one line or nothing, never a traceback; status 130, or that of a server that was told to stop."""
import signal
import subprocess
import sys
import time

import pytest

import cdp

# Says so when loading begins: what Python itself does before cannot be helped.
BEGUN = """
import sys
sys.addaudithook(lambda event, args: print(flush=True) if event == "import" and args[0] == "cdp.cli" else None)
from cdp.__main__ import main
sys.argv[0] = "cdp"
main()
"""


@pytest.mark.parametrize("verb", ["serve", "info"])
def test_an_interrupt_while_it_loads_is_one_line(tmp_path, monkeypatch, verb):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    cdp.create(tmp_path / "web", size=1 << 20).close()
    seen = []
    for delay_ms in (0, 5, 15, 30, 50, 80, 110, 140, 180, 220, 260, 320):
        with subprocess.Popen([sys.executable, "-c", BEGUN, verb, tmp_path / "web"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True) as process:
            process.stdout.readline()
            time.sleep(delay_ms / 1000)
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=60)
        assert process.returncode in (0, 130, -signal.SIGINT) and "Traceback" not in told and "ignored" not in told, (delay_ms, told)
        if process.returncode == 130:
            assert told == "cdp: error: interrupted\n", delay_ms
        seen.append(process.returncode)
    assert 130 in seen
