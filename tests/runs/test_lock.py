"""A folder belongs to one process at a time, and never to a dead one."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from seglab.errors import ConfigError
from seglab.runs import lock


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path):
    code = f"from seglab.runs.lock import acquire; from pathlib import Path; acquire(Path({str(tmp_path)!r})); input()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        while not (tmp_path / ".lock").exists() or not (tmp_path / ".lock").read_text():
            time.sleep(0.01)
        with pytest.raises(ConfigError, match=f"process {other.pid}"):
            lock.acquire(tmp_path)
    finally:
        other.kill()
        other.wait()
    lock.acquire(tmp_path)
    assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_a_process_number_that_was_given_away_again_is_not_the_old_run(tmp_path):
    (tmp_path / ".lock").write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "born": "1"}))
    lock.acquire(tmp_path)


def test_a_lock_of_another_host_is_respected(tmp_path):
    (tmp_path / ".lock").write_text(json.dumps({"pid": 1, "host": "elsewhere", "born": "1"}))
    with pytest.raises(ConfigError, match=r"elsewhere.*delete .*\.lock"):
        lock.acquire(tmp_path)
