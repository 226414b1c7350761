"""Block files: both containers, insertion by the plan of the file, and refused files."""

import io
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import torch_nonlocal as nl


def trained(model, clip, at="stage", **options):
    nl.insert(model, at=at, example_input=clip, **options)
    torch.manual_seed(3)
    for block in nl.blocks(model).values():
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model


SUFFIXES = [".safetensors", ".pt"]


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    if request.param == ".safetensors":
        pytest.importorskip("safetensors", reason="pip install 'torch-nonlocal[checkpoints]'")
    return tmp_path / f"blocks{request.param}"


def test_blocks_are_restored_in_a_model_without_blocks(small, clip, path):
    trained(small, clip, at=["stem", "stage"], pairwise="concatenation", subsample=2)
    expected = small(clip)
    nl.save_blocks(small, path)
    nl.remove(small)
    assert nl.load_blocks(small, path) is small
    assert torch.equal(small(clip), expected)
    assert list(path.parent.iterdir()) == [path]


def test_weights_are_restored_in_a_model_with_new_blocks(small, clip, path):
    trained(small, clip)
    expected = small(clip)
    nl.save_blocks(small, path)
    nl.remove(small)
    nl.insert(small, at="stage", example_input=clip)
    assert torch.equal(nl.load_blocks(small, path)(clip), expected)


def test_only_block_tensors_are_saved(small, clip, tmp_path):
    trained(small, clip)
    nl.save_blocks(small, tmp_path / "b.pt")
    saved = torch.load(tmp_path / "b.pt", weights_only=True)["tensors"]
    assert {key.split("/")[0] for key in saved} == {"stage.2"}


def test_a_model_without_blocks_is_refused(small, tmp_path):
    with pytest.raises(ValueError, match="no blocks to save"):
        nl.save_blocks(small, tmp_path / "b.pt")


def test_a_missing_file_is_named(small, tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights file at"):
        nl.load_blocks(small, tmp_path / "b.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps({"format": 1})])
def test_broken_files_are_named(small, path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path.name} is not a file of nl\.save_blocks"):
        nl.load_blocks(small, path)


def test_a_truncated_file_is_named(small, clip, path):
    trained(small, clip)
    nl.save_blocks(small, path)
    path.write_bytes(path.read_bytes()[:-200])
    nl.remove(small)
    with pytest.raises(ValueError, match="is not a file of"):
        nl.load_blocks(small, path)
    assert not nl.blocks(small)


class Exploit:
    def __init__(self, flag):
        self.flag = flag

    def __reduce__(self):
        return Path.touch, (Path(self.flag),)


def test_pickles_are_not_executed(small, tmp_path):
    flag, path = tmp_path / "executed", tmp_path / "b.pt"
    buffer = io.BytesIO()
    torch.save({"format": "torch-nonlocal blocks 1", "plan": Exploit(flag), "tensors": {}}, buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="is not a file of"):
        nl.load_blocks(small, path)
    assert not flag.exists()


def test_another_format_is_refused(small, tmp_path):
    torch.save({"format": "other", "plan": "{}", "tensors": {"0/g.weight": torch.ones(1)}}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match="format 'other'"):
        nl.load_blocks(small, tmp_path / "b.pt")


def test_a_place_that_the_model_lacks_is_named(small, clip, path):
    nl.save_blocks(trained(small, clip), path)
    with pytest.raises(ValueError, match=r"'stage\.2', which this model does not have"):
        nl.load_blocks(nn.Sequential(nn.Conv3d(3, 8, 1)), path)


def test_other_options_are_named_and_nothing_is_loaded(small, clip, path):
    nl.save_blocks(trained(small, clip, at=["stem", "stage"]), path)
    nl.remove(small)
    nl.insert(small, at="stem", example_input=clip)
    nl.insert(small, at="stage", example_input=clip, scale="sqrt")
    before = {key: value.clone() for key, value in small.state_dict().items()}
    with pytest.raises(ValueError, match=r"'stage\.2' differs in scale: the file has \[1\.0\], the model \[0\.5\]"):
        nl.load_blocks(small, path)
    assert all(torch.equal(value, before[key]) for key, value in small.state_dict().items())


def test_a_block_that_the_file_lacks_is_named(small, clip, path):
    nl.save_blocks(trained(small, clip), path)
    nl.insert(small, at="stem", example_input=clip)
    with pytest.raises(ValueError, match="holds no weights for the blocks at stem"):
        nl.load_blocks(small, path)


def test_the_original_checkpoint_of_the_network_still_loads_strictly(small, clip, caplog):
    original = {key: value + 1 for key, value in small.state_dict().items()}
    trained(small, clip)
    block = {key: value.clone() for key, value in nl.blocks(small)["stage.2"].state_dict().items()}
    result = small.load_state_dict(original, strict=True)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert torch.equal(small.stem.weight, original["stem.weight"])
    assert all(torch.equal(value, block[key]) for key, value in nl.blocks(small)["stage.2"].state_dict().items())
    assert "stage.2.non_local: not in this checkpoint" in caplog.text
