"""Run folders that nobody trained: only the files that a table is made of."""

import json
from pathlib import Path

import pytest
import yaml


class Folder:
    """A sweep's folder that a test fills."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def run(
        self,
        name: str,
        miou=0.5,
        *,
        factors=None,
        overrides=(),
        seed=0,
        status="done",
        dataset="scenes",
        variant=None,
        config=None,
        metrics=None,
        **about,
    ) -> Path:
        """A run folder; ``factors`` puts it among the jobs of sweep.json."""
        folder = self.path / name
        folder.mkdir()
        dump(
            folder / "status.json",
            {"status": status, "step": 10, "max_steps": 20, "seconds": 60.0, "error": None, **about},
        )
        dump(
            folder / "metrics.json",
            {
                "test/mIoU": miou,
                "val/mIoU": miou / 2,
                "test/IoU": [miou, None, 0.1],
                "parameters": 1_500_000,
                **(metrics or {}),
            },
        )
        dump(
            folder / "provenance.json",
            {
                "started": "2026-01-01T00:00:00",
                "data": {"dataset": dataset, "fingerprint": "f", **({"variant": variant} if variant else {})},
            },
        )
        (folder / "config.yaml").write_text(
            yaml.safe_dump(
                {"seed": seed, "classifier": {"_target_": "C", "tau": 15.0}, "optim": {"lr": 0.1}, **(config or {})}
            )
        )
        (folder / "overrides.txt").write_text("".join(f"{line}\n" for line in overrides))
        if factors is not None:
            self.plan(jobs={name: {"factors": {**factors, "seed": seed}, "overrides": list(overrides)}})
        return folder

    def plan(self, jobs=None, **about) -> None:
        """Add to sweep.json."""
        path = self.path / "sweep.json"
        known = json.loads(path.read_text()) if path.exists() else {"format": 1, "name": "s", "jobs": {}}
        dump(path, {**known, **about, "jobs": {**known["jobs"], **(jobs or {})}})

    def rows(self, values: dict, factor="variant") -> "Folder":
        """Planned runs: ``{factor's value: [mIoU by seed]}``; a None is a planned job that was never started."""
        for value, found in values.items():
            for seed, miou in enumerate(found):
                name = f"{factor.rsplit('.', 1)[-1]}={value},seed={seed}".replace("/", "_")
                if miou is None:
                    self.plan(jobs={name: {"factors": {factor: value, "seed": seed}, "overrides": []}})
                else:
                    self.run(name, miou, factors={factor: value}, seed=seed)
        return self


def dump(path: Path, content) -> None:
    path.write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path / "sweep")
