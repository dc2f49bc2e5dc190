"""What a loader's worker process does before its first item."""

from __future__ import annotations

import os
import signal
import threading

import cv2

from seglab.runs.signals import shield


def begin(worker: int = 0) -> None:
    """The ``worker_init_fn``: one thread for the work, and signals left to the main process."""
    cv2.setNumThreads(0)  # workers are the parallelism: OpenCV's own threads would oversubscribe the cores
    shield()
    if hasattr(signal, "sigwaitinfo"):
        # The main process ends workers by SIGTERM and waits for them: ignoring that too would block it for ever.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        threading.Thread(target=_exit_on_sigterm_of, args=(os.getppid(),), daemon=True).start()


def _exit_on_sigterm_of(parent: int) -> None:
    """Leave when ``parent`` says so; a SIGTERM to the whole process group comes from elsewhere."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
