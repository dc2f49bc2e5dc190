"""A signal is the main process's business."""

import subprocess
import sys


def test_a_data_worker_ignores_what_is_meant_for_the_main_process():
    code = "import os, signal, seglab.runs.signals as r; r.shield()\nfor n in r.REASONS: os.kill(os.getpid(), n)\nprint('alive')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "alive\n"
