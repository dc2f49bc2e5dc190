"""Sweeps that nobody trained: run folders with the files of real ones, and numbers that are known."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

CLASSES = ["road", "building", "sky", "tree", "pavement", "car", "pole", "fence", "pedestrian", "bicyclist", "sign"]
STEPS = 400
FIXED = ["data=camvid", "trainer.max_steps=400"]

STRUCTURE = {
    "baseline": 0.0,
    "SEPA": 0.006,
    "SPPA": 0.004,
    "SEPA+SPPA": 0.012,
    "SEPA+Lg+Lsd": 0.021,
    "SPPA+Lg+Lpd": 0.018,
    "all": 0.03,
}
PUBLISHED = {
    "source": "SSA-Seg (NeurIPS 2024), Table 8", "setting": "SeaFormer-L, ADE20K val", "metric": "mIoU",
    "values": {"baseline": 42.36, "SEPA": 42.88, "SPPA": 42.76, "SEPA+SPPA": 43.27, "SEPA+Lg+Lsd": 44.26, "SPPA+Lg+Lpd": 44.48, "all": 45.36},
}  # fmt: skip


def structure(folder: Path, seeds: int = 3, **about) -> Path:
    """Named variants with the paper's rows."""
    plan = {"title": "SSA-Seg: structure", "baseline": {"variant": "baseline"}, "published": PUBLISHED, **about}
    jobs = [{"variant": name, "seed": seed} for name in STRUCTURE for seed in range(seeds)]
    return write(folder, jobs, lambda choice: STRUCTURE[choice["variant"]], plan)


def tau(folder: Path, seeds: int = 3) -> Path:
    """A temperature with an optimum at 15, and two published points."""
    plan = {"title": "CAC: temperature of the cosine", "baseline": {"classifier.tau": 15},
            "published": {"source": "CAC (AAAI 2023)", "setting": "ResNet-50, ADE20K val", "metric": "mIoU", "values": {"5": 44.1, "15": 45.3, "30": 44.9}}}  # fmt: skip
    jobs = [{"classifier.tau": value, "seed": seed} for value in (1, 5, 15, 30, 60) for seed in range(seeds)]
    return write(folder, jobs, lambda choice: -0.02 * np.log(choice["classifier.tau"] / 15) ** 2, plan)


def grid(folder: Path, seeds: int = 2) -> Path:
    """Classifiers on decoders."""
    classifiers, decoders = (
        {"linear": 0, "cosine": 0.003, "cac": 0.02, "ssa": 0.03},
        {"fcn": -0.02, "fpn": 0, "upernet": 0.02, "mlp": 0.01},
    )
    plan = {
        "title": "Classifiers on decoders",
        "baseline": {"classifier": "linear", "decoder": "fpn"},
        "published": None,
    }
    jobs = [
        {"classifier": c, "decoder": d, "seed": s} for c, d, s in itertools.product(classifiers, decoders, range(seeds))
    ]
    return write(folder, jobs, lambda choice: classifiers[choice["classifier"]] + decoders[choice["decoder"]], plan)


def write(folder: Path, jobs: list[dict], effect, plan: dict, folder_names=None) -> Path:
    """A sweep's folder with a finished run for each of ``jobs``; ``effect(factors)`` is added to an mIoU of about 0.6."""
    planned = {}
    for factors in jobs:
        name = (
            next(folder_names)
            if folder_names
            else ",".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in factors.items())
        )
        overrides = [f"{key}={value}" for key, value in factors.items() if key != "variant"]
        planned[name] = {"factors": factors, "overrides": overrides}
        noise = np.random.default_rng([*str(factors).encode()])
        run(folder / name, 0.6 + effect(factors) + noise.normal(0, 0.003), [*FIXED, *overrides], noise)
    about = {"format": 1, "name": folder.name, "ablation": None, **plan}
    folder.mkdir(exist_ok=True)
    (folder / "sweep.json").write_text(json.dumps({**about, "jobs": planned}))
    return folder


def run(folder: Path, miou: float, overrides: list[str], noise: np.random.Generator) -> None:
    """One run folder that is done."""
    for name in ("tables", "images"):
        (folder / name).mkdir(parents=True)
    ease = np.linspace(0.3, -0.3, len(CLASSES))
    iou = (miou + ease + noise.normal(0, 0.01, len(CLASSES))).clip(0, 1)
    iou[-1] = np.nan  # a class that does not occur
    matrix = noise.integers(0, 400, (len(CLASSES), len(CLASSES))) + np.diag((20_000 * np.nan_to_num(iou)).astype(int))
    config = {
        "seed": 0, "backbone": {"name": "resnet18.a1_in1k"}, "decoder": {"_target_": "seglab.decoders.FPN"},
        "classifier": {"_target_": "seglab.classifiers.SSA", "tau": 15}, "data": {"batch_size": 8}, "trainer": {"max_steps": STEPS},
    }  # fmt: skip
    metrics = {
        "test/mIoU": miou,
        "val/mIoU": miou + 0.01,
        "test/IoU": [None if v != v else v for v in iou.tolist()],
        "parameters": 11_700_000,
        "trained": 11_700_000,
        "step": STEPS,
    }
    write_json(folder / "metrics.json", metrics)
    status = {
        "status": "done",
        "started": "2026-11-20T10:00:00+0000",
        "ended": "2026-11-20T10:01:30+0000",
        "exit_code": 0,
        "error": None,
    }
    write_json(
        folder / "status.json",
        {
            **status,
            "step": STEPS,
            "max_steps": STEPS,
            "seconds": 90 + 5 * noise.random(),
            "best": {"val/mIoU": miou, "step": STEPS},
        },
    )
    write_json(folder / "provenance.json", {
        "started": "2026-11-20T10:00:00+0000", "command": ["seglab-train", "ablation=<x>", "data=camvid"], "seed": 0, "data": {"dataset": "camvid"},
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "branch": "main", "dirty": True},
        "versions": {"python": "3.11.2", "seglab": "0.1.0", "torch": "2.12.0"}, "platform": "Linux", "host": "here",
        "machine": {"processor": "a CPU", "cores": 2, "threads": 2, "gpus": []},
    })  # fmt: skip
    write_json(
        folder / "tables" / f"test_{STEPS:06d}.json",
        {
            "step": STEPS,
            "names": CLASSES,
            "classes": len(CLASSES),
            "IoU": metrics["test/IoU"],
            "mIoU": miou,
            "matrix": matrix.tolist(),
        },
    )
    rows = "".join(f"{name},{iou}\n" for name, iou in zip(CLASSES, metrics["test/IoU"], strict=True))
    (folder / "tables" / f"test_{STEPS:06d}.csv").write_text("class,IoU\n" + rows)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "overrides.txt").write_text("".join(f"{override}\n" for override in overrides))
    lines = ["step,train/loss,val/mIoU"]
    for step in range(5, STEPS + 1, 5):
        loss = 0.4 + 2 * np.exp(-step / 90) + noise.normal(0, 0.06)
        score = f"{miou * (1 - np.exp(-step / 80)) + noise.normal(0, 0.004)}" if step % 50 == 0 else ""
        lines.append(f"{step},{loss},{score}")
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    image = np.zeros((96, 384, 3), np.uint8)
    image[..., 0], image[..., 1] = (
        np.linspace(40, 220, 384).astype(np.uint8),
        np.linspace(60, 180, 96).astype(np.uint8)[:, None],
    )
    Image.fromarray(image).save(folder / "images" / f"step_{STEPS:06d}.png")


def write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content))
