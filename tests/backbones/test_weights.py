"""Weights of a backbone: every tensor from the file, or an error that says which are not."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from seglab.backbones import Timm, weights
from seglab.errors import CheckpointError, ConfigError


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_mambaout", "test_convnext"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_whole_classification_network_fills_the_backbone(name: str, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    whole = timm.create_model(name)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": whole.state_dict(), "epoch": 3}, path)
    else:
        safetensors.torch.save_file(whole.state_dict(), path)
    backbone = Timm(name, weights=str(path))
    theirs = {weights.canonical(key): value for key, value in whole.state_dict().items()}
    assert all(torch.equal(value, theirs[weights.canonical(key)]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    "prefix", ["", "module.", "backbone.", "_orig_mod.", "module.backbone.", "model._orig_mod.backbone."]
)
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_wrappers_around_the_network_do_not_matter(prefix: str, name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = Timm(name)
    state = {f"{prefix}{key}": value for key, value in source.state_dict().items()}
    if "backbone" in prefix:  # a whole segmentation network
        state[prefix.replace("backbone.", "decoder.") + "conv1.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "w.pth")
    assert same(source, Timm(name, weights=str(tmp_path / "w.pth")))


def test_the_published_format_of_swin_is_translated(tmp_path: Path) -> None:
    whole = timm.create_model("swin_tiny_patch4_window7_224", embed_dim=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
    old = {}
    for key, value in whole.state_dict().items():
        for stage in (1, 2, 3):  # the authors count a downsampling to the stage before
            key = key.replace(f"layers.{stage}.downsample", f"layers.{stage - 1}.DOWN")
        old[key.replace("DOWN", "downsample").replace("head.fc", "head")] = value
    translated = weights.translate(old, "swin_tiny_patch4_window7_224", {})
    assert {key: value.shape for key, value in translated.items()} == {
        k: v.shape for k, v in whole.state_dict().items()
    }


def test_position_tables_are_resized_to_the_image_size(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "w.pth")
    backbone = Timm("test_vit", weights=str(tmp_path / "w.pth"), image_size=[64, 96])
    assert backbone.model.model.pos_embed.shape[1] == 1 + 4 * 6


def test_another_networks_file_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "w.pth")
    with pytest.raises(
        CheckpointError, match=r"w\.pth does not fit backbone test_resnet: .*layer1 \(\d+: .*blocks \(\d+"
    ):
        Timm("test_resnet", weights=str(tmp_path / "w.pth"))


def test_one_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet").state_dict()
    state["conv1.0.weight"] = state["conv1.0.weight"][:-1]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"are conv1 \(1: conv1.0.weight\);"):
        Timm("test_resnet", weights=str(tmp_path / "w.pth"))


def test_what_is_not_a_weights_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a file"):
        Timm("test_resnet", weights=str(tmp_path / "none.pth"))
    for name, content, said in (
        ("a.pth", b"", "is empty"),
        ("b.pth", b"<html>", "truncated or not a checkpoint"),
        ("c.safetensors", b"\xff" * 64, "cannot be read"),
        ("d.pth", pickle.dumps(print, protocol=2), "holds more than tensors and plain data"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{said}.*\(backbone\.weights\)"):
            Timm("test_resnet", weights=str(tmp_path / name))
    torch.save({"epoch": 3}, tmp_path / "e.pth")
    with pytest.raises(CheckpointError, match="holds no tensors"):
        Timm("test_resnet", weights=str(tmp_path / "e.pth"))


def test_two_sources_of_weights_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="one source"):
        Timm("test_resnet", pretrained=True, weights="w.pth")


def test_pretrained_weights_come_from_the_cache_without_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    torch.manual_seed(1)
    whole = timm.create_model("test_resnet")
    safetensors.torch.save_file(whole.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: str(tmp_path / "model.safetensors"))
    monkeypatch.setattr(weights, "reachable", lambda address: pytest.fail("asked the network"))
    assert torch.equal(Timm("test_resnet", pretrained=True).model.conv1[0].weight, whole.conv1[0].weight)


def test_pretrained_offline_is_an_answer_and_not_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: None)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match=r"offline.*backbone\.weights.*pretrained=false"):
        Timm("test_resnet", pretrained=True)


def test_a_network_without_published_weights_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda name: None)
    with pytest.raises(CheckpointError, match="no weights"):
        weights.fetch("test_resnet")


def test_a_server_that_never_answers_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def silent(*arguments: object, **options: object) -> None:
        time.sleep(5)
        raise OSError("no answer")

    monkeypatch.setattr("urllib.request.urlopen", silent)
    started = time.monotonic()
    assert not weights.reachable("https://example.invalid/model.safetensors", seconds=0.2)
    assert time.monotonic() - started < 2
