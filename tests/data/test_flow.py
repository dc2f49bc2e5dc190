"""Files of optical flow give the same in every format; what is no flow is named."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from seglab.data.clips import Clips
from seglab.data.collate import stack
from seglab.data.datamodule import DataModule
from seglab.data.datasets import Folder
from seglab.data.flow import StoredFlow, read_flow
from seglab.data.items import TrainItems
from seglab.errors import DataError
from tests.data.test_clips import plain

FLOW = np.stack(np.meshgrid(np.arange(16) / 4 - 2, np.arange(12) * 1.5), -1).astype(np.float32)
FLOW[3, 4] = np.nan


def write_flo(path, flow):
    values = np.where(np.isnan(flow), 1e10, flow).astype("<f4")
    head = np.float32(202021.25).tobytes() + np.array(flow.shape[1::-1], "<i4").tobytes()
    path.write_bytes(head + values.tobytes())


def write_kitti(path, flow):
    known = np.isfinite(flow).all(-1)
    u, v = np.moveaxis(np.where(known[..., None], np.nan_to_num(flow) * 64 + (1 << 15), 0), -1, 0)
    cv2.imwrite(str(path), np.stack((known, v, u), -1).astype(np.uint16))  # OpenCV writes B, G, R


def write_npy(path, flow):
    np.save(path, flow)


WRITERS = {".flo": write_flo, ".png": write_kitti, ".npy": write_npy}


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_flow_is_what_was_written(tmp_path, suffix):
    WRITERS[suffix](tmp_path / f"a{suffix}", FLOW)
    np.testing.assert_array_equal(read_flow(str(tmp_path / f"a{suffix}")), FLOW)


def test_an_array_may_have_its_channels_first(tmp_path):
    np.save(tmp_path / "a.npy", np.moveaxis(FLOW, -1, 0))
    np.testing.assert_array_equal(read_flow(str(tmp_path / "a.npy")), FLOW)


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.flo", b"PIEX"), ("a.flo", np.float32(202021.25).tobytes() + np.array((16, 12), "<i4").tobytes() + b"1234"),
     ("a.png", b"no image"), ("a.npy", b"no array")],
)  # fmt: skip
def test_what_is_no_flow_is_refused_by_name(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=name):
        read_flow(str(tmp_path / name))


def test_a_missing_file_or_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"data\.flow"):
        StoredFlow(str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"images/val/a/1\.flo.*data\.flow=null"):
        StoredFlow(str(tmp_path))("images/val/a/1")


@pytest.fixture
def videos(mini, tmp_path):
    (tmp_path / "classes.txt").write_text("road\nsky\n")
    for video in ("a", "b"):
        for number in (9, 10, 11):
            mini.image(tmp_path / "images" / "val" / video / f"{number}.png", number)
            mini.label(tmp_path / "labels" / "val" / video / f"{number}.png", (0, 1))
            (tmp_path / "flow" / "images" / "val" / video).mkdir(parents=True, exist_ok=True)
            if number < 11:
                write_flo(tmp_path / "flow" / "images" / "val" / video / f"{number}.flo", FLOW + number)
    return tmp_path


def data_of(root, flow):
    data = DataModule(
        lambda root: Folder(root), str(root), {"train": "val", "val": "val", "test": None}, plain(), num_workers=0,
        flow=flow, eval_batch_size=2,
    )  # fmt: skip
    data.in_sequences = True
    return data


def test_sequences_are_evaluated_with_the_flow_to_each_next_frame(videos):
    batches = [batch for some in data_of(videos, str(videos / "flow")).val_dataloader() for batch in some]
    flows = {name: flow for batch in batches for name, flow in zip(batch.names, batch.flow, strict=True)}
    assert len(flows) == 6
    for video in "ab":
        for number in (9, 10):
            np.testing.assert_array_equal(flows[f"images/val/{video}/{number}"].permute(1, 2, 0).numpy(), FLOW + number)
        assert flows[f"images/val/{video}/11"].isnan().all()  # nothing follows


def test_clips_have_the_flow_to_the_next_frame_and_none_to_others(videos):
    data = data_of(videos, str(videos / "flow"))
    data.clips = Clips(gap=1)
    items = TrainItems(data.items("train"), plain(), seed=0, clips=data.clips)
    for epoch in range(6):
        made = [items[epoch, index] for index in range(6)]
        stack(made)
        for item in made:
            near = 1 - int(item.clip.index)
            flow, number = item.clip.flow[near].permute(1, 2, 0).numpy(), int(item.name.rpartition("/")[2])
            if item.clip.offset[near] == 1:
                np.testing.assert_array_equal(flow, FLOW + number)
            else:
                assert np.isnan(flow).all()
    write_flo(videos / "flow" / "images" / "val" / "a" / "9.flo", FLOW[:6])  # the first frame has a next one only
    with pytest.raises(DataError, match="16x6.*16x12"):
        items[0, items.items.names.index("images/val/a/9")]


def test_without_files_there_is_no_flow(videos):
    assert all(batch.flow is None for some in data_of(videos, None).val_dataloader() for batch in some)


def test_a_flow_of_another_size_is_refused(videos):
    write_flo(videos / "flow" / "images" / "val" / "a" / "9.flo", FLOW[:6])
    with pytest.raises(DataError, match="16x6.*16x12"):
        list(data_of(videos, str(videos / "flow")).val_dataloader())
