from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from seglab.data import workers

pytestmark = pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="no sigwaitinfo here")


def _wait(ready) -> None:
    workers.begin(0)
    ready.set()
    time.sleep(30)


@pytest.fixture
def worker():
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_wait, args=(ready,), daemon=True)
    process.start()
    assert ready.wait(10)
    yield process
    process.kill()
    process.join()


def test_a_signal_to_the_whole_group_does_not_end_a_worker(worker):
    for name in ("TERM", "USR1", "INT"):
        subprocess.run(
            [sys.executable, "-c", f"import os, signal; os.kill({worker.pid}, signal.SIG{name})"], check=True
        )
    worker.join(0.3)
    assert worker.is_alive()


def test_the_main_process_can_end_a_worker(worker):
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(5)
    assert worker.exitcode == 0
