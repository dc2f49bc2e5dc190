from __future__ import annotations

import pkgutil
from dataclasses import fields
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from seglab.data import DataModule
from seglab.data.augment import Augment, PhotoMetricDistortion
from seglab.data.datasets import CIFAR10, CamVid, Cityscapes
from seglab.errors import ConfigError, DataError
from seglab.types import Batch
from tests.conftest import each as slow_but

CONF = Path(__file__).resolve().parents[2] / "conf"
SPLITS = {"train": "train", "val": "val", "test": "test"}


@pytest.fixture
def made(mini, tmp_path):
    return mini.camvid(tmp_path / "camvid")


@pytest.fixture
def data(made):
    def build(rank: int = 0, world_size: int = 1, **options) -> DataModule:
        augment = Augment(crop=(8, 8), photometric=PhotoMetricDistortion())
        options = {"root": made.root, "splits": SPLITS, "batch_size": 2, "num_workers": 0, "seed": 5, **options}
        module = DataModule(options.pop("dataset", CamVid), augment=options.pop("augment", augment), **options)
        if world_size > 1:
            module._place = lambda: (rank, world_size)
        return module

    return build


def batches(module: DataModule, count: int) -> list:
    return list(islice(module.train_dataloader(), count))


def same(first, second) -> bool:
    def equal(a, b) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

    return all(equal(getattr(first, f.name), getattr(second, f.name)) for f in fields(Batch))


def test_training_batches_are_raw_crops_with_train_ids(data):
    module = data()
    module.setup("fit")
    (batch,) = batches(module, 1)
    assert batch.image.shape == (2, 3, 8, 8)
    assert batch.image.dtype == torch.uint8
    assert batch.label.shape == (2, 8, 8)
    assert batch.label.dtype == torch.int64
    assert set(batch.label.unique().tolist()) <= {0, 5, 10, 255}
    assert all(name.startswith("train/images/") for name in batch.names)


def test_a_fraction_of_the_training_items_is_drawn_by_the_seed_and_smaller_ones_lie_in_larger_ones(data):
    whole = data().names("train")
    assert len(whole) >= 4
    half, quarter, other = (data(fraction=f, seed=s).names("train") for f, s in ((0.5, 5), (0.25, 5), (0.5, 6)))
    assert len(half) == round(len(whole) / 2)
    assert set(quarter) < set(half) < set(whole)
    assert half == data(fraction=0.5).names("train") != other
    assert data(fraction=0.5).names("val") == data().names("val")
    module = data(fraction=0.5)
    module.setup("fit")
    assert {name for batch in batches(module, 9) for name in batch.names} == set(half)
    with pytest.raises(ConfigError, match=r"data\.fraction=0 — expected a finite number > 0 and <= 1"):
        data(fraction=0)


def test_the_stream_does_not_depend_on_the_number_of_workers(data):
    alone = batches(data(), 9)
    assert not same(alone[0], alone[5])
    for workers in (1, 3):
        others = batches(data(num_workers=workers, persistent_workers=False), 9)
        assert all(same(a, b) for a, b in zip(alone, others, strict=True))


def test_a_resumed_stream_is_the_tail_of_the_whole(data):
    whole = batches(data(), 9)
    resumed = data(num_workers=1)
    resumed.start_step = 6
    assert all(same(a, b) for a, b in zip(whole[6:], batches(resumed, 3), strict=True))


def test_an_item_is_augmented_anew_in_each_epoch(data):
    stream = batches(data(batch_size=1), 10)
    first, second = ({batch.names: batch.image for batch in epoch} for epoch in (stream[:5], stream[5:]))
    assert first.keys() == second.keys()
    assert not any(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_is_another_stream(data):
    assert not same(batches(data(), 1)[0], batches(data(seed=6), 1)[0])


def test_loading_leaves_the_global_random_numbers_alone(data):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    batches(data(), 2)
    list(data().val_dataloader())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_train_on_what_one_process_would(data, world_size):
    (whole,) = batches(data(batch_size=3 if world_size == 3 else 4), 1)
    per_rank = 1 if world_size == 3 else 2
    shares = [batches(data(rank, world_size, batch_size=per_rank), 1)[0] for rank in range(world_size)]
    assert tuple(name for share in shares for name in share.names) == whole.names
    assert torch.equal(torch.cat([share.image for share in shares]), whole.image)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_gives_every_item_once_and_in_order(data, world_size):
    names = data().names("test")
    for size in (1, 3):
        shares = [
            [
                name
                for group in data(rank, world_size, eval_batch_size=size).test_dataloader()
                for b in group
                for name in b.names
            ]
            for rank in range(world_size)
        ]
        assert [share == names[rank::world_size] for rank, share in enumerate(shares)] == [True] * world_size


@pytest.fixture
def videos(made, mini):
    """Two videos more in the split ``val``; the frames of one are not numbered in the order of their characters."""
    for name in ("Seq05VD_f2", "Seq05VD_f10", "Seq05VD_f9", "0006R0_f1"):
        mini.image(made.root / "val/images" / f"{name}.jpg", 0)
        mini.label(made.root / "val/labels" / f"{name}.png", (0, 1))


@pytest.mark.parametrize("world_size", [1, 2])
def test_on_request_evaluation_gives_whole_sequences_in_the_order_of_their_frames(data, videos, world_size):
    seen = []
    for rank in range(world_size):
        module = data(rank, world_size, eval_batch_size=2)
        module.in_sequences = True
        module.setup("validate")
        share = [
            pair for group in module.val_dataloader() for b in group for pair in zip(b.sequence, b.names, strict=True)
        ]
        runs = [name for name, _ in groupby(sequence for sequence, _ in share)]
        assert len(runs) == len(set(runs)), "a sequence is never left and taken up again"
        seen += share
    assert sorted(name for _, name in seen) == sorted(data().names("val"))
    numbers = [name.rpartition("_")[2] for sequence, name in seen if sequence == "val/Seq05VD"]
    assert numbers == ["f2", "f9", "f10"]


def test_sequences_are_refused_where_there_are_none_or_fewer_than_processes(data, videos, mini, tmp_path):
    module = data(0, 9)
    module.in_sequences = True
    with pytest.raises(DataError, match=r"3 sequences, fewer than the 9 processes .*trainer\.devices"):
        module.setup("validate")
    city = data(root=mini.cityscapes(tmp_path / "city").root, dataset=Cityscapes)
    city.in_sequences = True
    with pytest.raises(ConfigError, match=r"cityscapes has no sequences .*predictor=still"):
        city.setup("validate")


def test_evaluation_keeps_sizes_and_groups_neighbours_of_one_size(data, made, mini):
    for i, size in enumerate([(12, 16), (12, 16), (9, 9)]):
        mini.image(made.root / "val" / "images" / f"0001TP_{i:06d}.jpg", i, size)
        mini.label(made.root / "val" / "labels" / f"0001TP_{i:06d}.png", (0, 1), size=size)
    (group,) = list(data(eval_batch_size=3).val_dataloader())
    assert [tuple(batch.image.shape) for batch in group] == [(2, 3, 12, 16), (1, 3, 9, 9)]
    assert [tuple(batch.label.shape) for batch in group] == [(2, 12, 16), (1, 9, 9)]
    image = data().source.read("val", 2).image
    assert group[1].image.dtype == torch.uint8
    assert np.array_equal(group[1].image[0].permute(1, 2, 0).numpy(), image)


def test_a_split_without_labels_gives_images_only(data, mini, tmp_path):
    made = mini.cityscapes(tmp_path / "city")
    module = data(dataset=made.dataset, root=made.root, splits={**SPLITS, "train": "test"})
    groups = list(module.test_dataloader())
    assert groups[0][0].label is None
    with pytest.raises(DataError, match=r"no label, which the task learns from.*data\.splits\.train"):
        batches(module, 1)


def test_a_role_may_join_several_splits(data):
    module = data(splits={**SPLITS, "train": ["train", "val"]})
    assert len(module.names("train")) == 8
    assert module.names("train")[5].startswith("val/")
    read = module.items("train").read(6)
    assert read.name == module.names("train")[6]
    seen = {name for batch in batches(module, 4) for name in batch.names}
    assert seen == set(module.names("train"))


def test_a_test_split_is_taken_by_its_name_or_there_is_none(data, mini, tmp_path):
    assert data(splits={**SPLITS, "test": "auto"}).splits["test"] == ["test"]
    made = mini.pascal_context59(tmp_path / "context")  # train and val only
    for given in ("auto", None):
        module = data(dataset=made.dataset, root=made.root, splits={**SPLITS, "test": given})
        assert module.splits["test"] == []
        assert module.split("test") == ""
        module.setup("fit")
        with pytest.raises(ConfigError, match=r"no test split is chosen — it has train, val — set data\.splits\.test"):
            module.test_dataloader()


def test_the_splits_behind_a_role_are_named(data):
    assert data(splits={**SPLITS, "test": ["val", "test"]}).split("test") == "val + test"


def test_training_on_crops_of_different_sizes_names_the_key(data, made, mini):
    mini.image(made.root / "train" / "images" / "0001TP_000000.jpg", 0, (9, 9))
    mini.label(made.root / "train" / "labels" / "0001TP_000000.png", (0, 1), size=(9, 9))
    with pytest.raises(ConfigError, match=r"augment\.crop"):
        batches(data(augment=Augment(crop=None, ratio=None), batch_size=5), 1)


def test_fewer_items_than_a_global_batch_are_refused(data):
    with pytest.raises(DataError, match=r"split `train` has 5 items; batch 6 x 1 devices needs >= 6"):
        data(batch_size=6).setup("fit")
    with pytest.raises(DataError, match=r"batch 2 x 3 devices needs >= 6"):
        data(0, 3).setup("fit")
    with pytest.raises(DataError, match=r"split `val` has 3 items, fewer than the 4 processes"):
        data(0, 4).setup("validate")


def test_a_stage_checks_the_splits_it_needs(data, made):
    (made.root / "test" / "labels" / "0001TP_000000.png").unlink()
    data().setup("fit")
    with pytest.raises(DataError, match=r"0001TP_000000\.jpg"):
        data().setup("test")


def test_the_full_check_comes_with_setup(data, made, mini):
    file = mini.label(made.root / "val" / "labels" / "0001TP_000001.png", (0, 1), size=(9, 9))
    data().setup("fit")
    with pytest.raises(DataError, match=file.name):
        data(check="full").setup("fit")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_keeps_its_type_and_file_name_across_processes(data, made, mini, workers):
    for path in (made.root / "train" / "labels").iterdir():
        mini.label(path, (0, 1))
    module = data(num_workers=workers, persistent_workers=False)
    module.setup("fit")
    for path in (made.root / "train" / "labels").iterdir():
        mini.label(path, (0, 99))
    iterator = iter(module.train_dataloader())
    with pytest.raises(DataError, match=r"0001TP_00000\d\.png: ids 99"):
        next(iterator)
    if workers:
        # An error that a worker sent is a reference cycle; left to the garbage collector, torch would wait for timeouts.
        iterator._shutdown_workers()


def test_a_corrupt_item_is_skipped_on_request_by_the_next_one(data, made):
    (made.root / "train" / "images" / "0001TP_000002.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)0001TP_000002\.jpg.*empty.*data\.on_corrupt=skip"):
        batches(data(), 3)
    for workers in (0, 2):
        module = data(on_corrupt="skip", num_workers=workers, persistent_workers=False)
        loader = module.train_dataloader()
        names = [name for batch in islice(loader, 5) for name in batch.names]
        assert names.count("train/images/0001TP_000003") == 4
        assert "train/images/0001TP_000002" not in names
        assert loader.dataset.corrupt.tolist() == [False, False, True, False, False]


def test_too_many_corrupt_items_are_an_error_even_if_skipped(data, made):
    for i in (1, 2):
        (made.root / "train" / "images" / f"0001TP_{i:06d}.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="2 of 5 items cannot be read"):
        batches(data(on_corrupt="skip"), 3)


def test_evaluation_never_skips(data, made):
    (made.root / "val" / "images" / "0001TP_000000.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"0001TP_000000\.jpg"):
        list(data(on_corrupt="skip").val_dataloader())


def test_an_epoch_is_as_many_steps_as_show_all_items(data):
    assert data().steps_per_epoch() == 3
    assert data().steps_per_epoch(2) == 2


def test_the_fingerprint_is_that_of_the_files(data, made):
    first = data().fingerprint()
    assert data(batch_size=1, seed=9).fingerprint() == first
    with open(made.root / "val" / "images" / "0001TP_000000.jpg", "ab") as file:
        file.write(b"\0")
    assert data().fingerprint() != first


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"check": "everything"}, "names, headers, full"),
        ({"on_corrupt": "ignore"}, "raise, skip"),
        ({"batch_size": 0}, r"data\.batch_size=0"),
        ({"splits": {"train": "train"}}, "train, val, test"),
        ({"splits": {**SPLITS, "val": None}}, r"data\.splits\.val=None.*train, val, test.*only test may be null"),
        ({"splits": {**SPLITS, "train": []}}, r"data\.splits\.train=\[\]"),
    ],
)
def test_options_out_of_range_are_refused(data, options, says):
    with pytest.raises(ConfigError, match=says):
        data(**options)


def test_the_start_is_read_from_the_trainer(data):
    module = data()
    progress = SimpleNamespace(batch_progress=SimpleNamespace(total=SimpleNamespace(ready=4)))
    module.trainer = SimpleNamespace(
        fit_loop=SimpleNamespace(epoch_loop=progress), global_rank=0, world_size=1, num_devices=1
    )
    assert same(batches(module, 1)[0], batches(data(), 5)[4])


def files(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def test_every_dataset_of_conf_has_a_miniature(mini):
    elsewhere = {"scenes", "scenes_video", "shapes", "cifar10"}
    assert set(files("data")) - elsewhere == set(mini.ALL), "these are drawn, or written by a script"


def configured(name: str, augment: str, root: Path, *overrides: str, **options) -> DataModule:
    """The DataModule of two options of conf, for a task that needs what the data set gives."""
    given = [f"data={name}", f"augment={augment}", f"data.root='{root}'", "data.num_workers=0", *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=["run_dir=.", *given])
    pipeline = instantiate(config.augment, _convert_="all")
    target = pkgutil.resolve_name(config.data.dataset._target_)
    needs = sorted(target.gives)
    return instantiate({**config.data, "_partial_": True}, _convert_="all")(augment=pipeline, seed=0, needs=needs)


@pytest.mark.parametrize("augment", slow_but(files("augment"), "standard"))
def test_every_dataset_of_conf_is_built_and_gives_a_batch(each, augment, mini, tmp_path):
    made = mini.ALL[each](tmp_path)
    module = configured(each, augment, made.root, "data.batch_size=2", "augment.crop=[8,10]")
    assert isinstance(module, DataModule)
    for stage in ("fit", "test"):
        module.setup(stage)
    (batch,) = batches(module, 1)
    assert batch.image.shape == (2, 3, 8, 10)
    (first, *_) = module.test_dataloader()
    assert first[0].image.shape == (1, 3, mini.HEIGHT, mini.WIDTH)
    assert np.array_equal(first[0].label[0], mini.stripes(made.train))


@pytest.mark.parametrize("augment", files("augment"))
@pytest.mark.parametrize("layout", ["py", "bin"])
def test_cifar10_of_conf_gives_whole_images_with_their_classes(augment, layout, cifar10_miniature, tmp_path):
    cifar10_miniature.write(tmp_path, per_class=5, layout=layout)
    module = configured("cifar10", augment, tmp_path, "data.batch_size=16")
    for stage in ("fit", "test"):
        module.setup(stage)
    first, second = batches(module, 2)
    for batch in (first, second):
        assert batch.image.shape == (16, 3, 32, 32)
        assert (batch.category.shape, batch.category.dtype, batch.label) == ((16,), torch.int64, None)
    assert same(first, batches(configured("cifar10", augment, tmp_path, "data.batch_size=16"), 1)[0])
    ((tested,),) = list(module.test_dataloader())
    assert tested.image.shape == (10, 3, 32, 32)
    assert sorted(tested.category.tolist()) == list(range(10))


def test_cifar10_is_normalised_by_its_published_numbers_unless_others_are_chosen():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        own, other = (compose("train", ["run_dir=.", "data=cifar10", *o]) for o in ([], ["normalize=imagenet"]))
    assert own.normalize.mean == pytest.approx([255 * x for x in (0.4914, 0.4822, 0.4465)])
    assert own.normalize.std == pytest.approx([255 * x for x in (0.2023, 0.1994, 0.2010)])
    assert other.normalize.mean == [123.675, 116.28, 103.53]
    assert (own.data.batch_size, own.augment.crop) == (128, [32, 32])
    assert own.trainer.max_steps * own.data.batch_size == 600 * 50000


def test_a_data_set_without_what_the_task_needs_is_refused(data, cifar10_miniature, tmp_path):
    cifar10_miniature.write(tmp_path, per_class=1)
    splits = {"train": "train", "val": "test", "test": None}
    options = {"dataset": CIFAR10, "root": tmp_path, "splits": splits}
    with pytest.raises(ConfigError, match=r"cifar10 gives category; the task needs label — choose another data= or"):
        data(**options)
    with pytest.raises(ConfigError, match="camvid gives label; the task needs category"):
        data(needs=("label", "category"))
    assert batches(data(**options, needs=("category",)), 1)[0].category is not None


@pytest.mark.parametrize(
    ("name", "crop", "long_short", "batch", "test"),
    [
        ("camvid", [360, 480], None, 8, ("whole", None)),
        ("ade20k", [512, 512], [2048, 512], 16, ("whole", [2048, 512])),
        ("coco_stuff10k", [512, 512], [2048, 512], 16, ("whole", [2048, 512])),
        ("coco_stuff164k", [512, 512], [2048, 512], 16, ("whole", [2048, 512])),
        ("cityscapes", [512, 1024], [2048, 1024], 8, ("whole", [2048, 1024])),
        ("pascal_context59", [480, 480], [520, 520], 16, ("slide", [520, 520])),
        ("pascal_context60", [480, 480], [520, 520], 16, ("slide", [520, 520])),
        ("voc2012", [512, 512], [2048, 512], 16, ("whole", [2048, 512])),
        ("nyudv2", [480, 640], None, 8, ("whole", None)),
    ],
)
def test_conf_holds_the_published_protocol(name, crop, long_short, batch, test):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"data={name}"])
    assert (config.augment.crop, config.augment.long_short, config.data.batch_size) == (crop, long_short, batch)
    assert (config.evaluation.mode, config.evaluation.long_short) == test
    assert config.trainer.max_steps > 0
    if test[0] == "slide":
        assert (config.evaluation.window, config.evaluation.stride) == ([480, 480], [320, 320])


@pytest.mark.parametrize("name", files("data"))
def test_no_protocol_decodes_reduced_images(name):
    """Absent in runs of before, which are resumed: null is the same to them, false would be a change."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose("train", ["run_dir=.", f"data={name}"]).augment.scaled_decoding is None


def test_the_dataset_may_be_a_partial(data, made):
    assert data(dataset=partial(CamVid, exif="apply")).source.exif == "apply"


@pytest.mark.parametrize(
    ("cores", "processes", "device", "workers"),
    [(2, 1, "cpu", 1), (8, 1, "cpu", 4), (8, 2, "cpu", 2), (8, 1, "cuda", 8), (64, 1, "cuda", 8), (8, 4, "cuda", 2), (1, 1, "cpu", 1)],
)  # fmt: skip
def test_loader_processes_are_no_more_than_the_cores(cores, processes, device, workers, data, monkeypatch):
    monkeypatch.setattr("seglab.data.datamodule._cores", lambda: cores)
    module = data(num_workers=None)
    module.trainer = SimpleNamespace(
        num_devices=processes, strategy=SimpleNamespace(root_device=torch.device(device))
    )  # fmt: skip
    assert module._loading()["num_workers"] == workers
    assert workers * processes <= max(cores, processes)
