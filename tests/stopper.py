"""A callback that asks for preemption at a step, as a cluster would."""

import os
import signal
import time

from lightning import Callback


class Stop(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


class Cut(Callback):
    """Ends the run in a hook at a step: by ``SIGTERM``, or as if the power had been cut."""

    def __init__(self, hook: str, step: int, how: str) -> None:
        self.step, self.how = step, how
        setattr(self, hook, self.cut)

    def cut(self, trainer, module, *rest):
        if trainer.global_step == self.step:
            if self.how == "power":
                raise RuntimeError("power cut")
            os.kill(os.getpid(), signal.SIGTERM)


class Slow(Callback):
    """Makes steps long enough to be interrupted, unless the environment says otherwise."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if not os.environ.get("SEGLAB_TEST_FAST"):
            time.sleep(self.seconds)
