import csv

from seglab.loggers.csv import CSV


def rows(folder):
    return list(csv.DictReader((folder / "metrics.csv").open()))


def test_a_row_is_on_the_disk_when_it_is_logged(tmp_path):
    logger = CSV(tmp_path)
    for step in (1, 2):
        logger.log_metrics({"train/loss": 1 / step}, step)
        assert [row["step"] for row in rows(tmp_path)] == [str(s) for s in range(1, step + 1)]
    assert [float(row["train/loss"]) for row in rows(tmp_path)] == [1.0, 0.5]


def test_a_new_name_adds_a_column_and_keeps_what_was_there(tmp_path):
    logger = CSV(tmp_path)
    logger.log_metrics({"train/loss": 1.0}, 1)
    logger.log_metrics({"val/mIoU": 0.25, "val/a,b": 0.5}, 1)
    logger.log_metrics({"train/loss": 2.0}, 2)
    assert [list(row.values()) for row in rows(tmp_path)] == [
        ["1", "1.0", "", ""],
        ["1", "", "0.25", "0.5"],
        ["2", "2.0", "", ""],
    ]


def test_a_resumed_run_goes_on_and_replaces_the_steps_it_repeats(tmp_path):
    first = CSV(tmp_path)
    for step in (1, 2, 3):
        first.log_metrics({"loss": float(step), "lr": 0.1}, step)
    second = CSV(tmp_path)
    second.log_metrics({"loss": 20.0}, 2)
    second.log_metrics({"lr": 0.2}, 3)
    assert [(row["step"], row["loss"], row["lr"]) for row in rows(tmp_path)] == [
        ("1", "1.0", "0.1"),
        ("2", "20.0", ""),
        ("3", "", "0.2"),
    ]


def test_a_torn_last_line_does_not_stop_a_resumed_run(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,loss\n1,0.5\n2,0.")
    CSV(tmp_path).log_metrics({"loss": 7.0}, 3)
    assert rows(tmp_path)[-1] == {"step": "3", "loss": "7.0"}
