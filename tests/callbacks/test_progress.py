import logging
import re

import rich
from rich.console import Console

from seglab.callbacks.progress import Progress


def test_a_log_file_gets_a_line_now_and_then(fit, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "seglab"):
        fit(tmp_path, Progress(every_n_steps=3), max_steps=8, accumulate=2, enable_progress_bar=True)
    lines = [r.message for r in caplog.records if r.name == "seglab.callbacks.progress"]
    seen = ["step 3/8", "validation at step 4", "step 6/8", "step 8/8", "validation at step 8"]
    assert [line.split(":")[0] for line in lines] == seen
    assert re.fullmatch(r"validation at step 4: mIoU \d+\.\d\d %", lines[1])
    for word in ("lr 3.75e-02", "steps/s", "left"):
        assert word in lines[0]


def test_the_loss_of_accumulated_batches_is_not_divided(fit, toy, tmp_path, caplog):
    class Constant(toy):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * 0 + 5

    with caplog.at_level(logging.INFO, "seglab"):
        fit(tmp_path, Progress(1), module=Constant(), max_steps=1, accumulate=4, enable_progress_bar=True)
    assert "loss 5.0000" in caplog.text


def test_a_terminal_gets_one_bar_over_all_steps(fit, tmp_path, monkeypatch, caplog):
    import io

    text = io.StringIO()
    terminal = Console(file=text, force_terminal=True, width=140)
    monkeypatch.setattr(rich, "_console", terminal)
    monkeypatch.setattr("lightning.pytorch.callbacks.progress.rich_progress.reconfigure", lambda **kwargs: None)
    fit(tmp_path, Progress(), max_steps=8, accumulate=2, enable_progress_bar=True)
    assert "Training" in text.getvalue()
    assert "16/16" in text.getvalue()
    assert not [r for r in caplog.records if r.name == "seglab.callbacks.progress"]
