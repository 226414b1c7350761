"""Every door refuses hostile files in one line, without executing them, at a cost bounded by what they hold."""

import json
import os
import pickle
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from hostile_files import ALWAYS_TRIED, EVERY_DOOR, FILES, GOOD, write_file
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal._common.tensor_files import read_content, write_content, write_tensors
from torch_nonlocal.insertion.block_files import save_blocks
from torch_nonlocal.training.run_folder import load_weights_file

for package in (
    "accelerate",
    "av",
    "huggingface_hub",
    "matplotlib",
    "safetensors",
    "torchmetrics",
    "torchvision",
    "tyro",
):
    pytest.importorskip(package)
if sys.platform != "linux":
    pytest.skip("the cost of a trial is measured by fork and /proc", allow_module_level=True)

MOST_SECONDS, MOST_BYTES = 10, 500 << 20
EXECUTING = ["os.system in a pickle", "os.system in a torch file", "os.system in a legacy torch file", "eval"]


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """Trials by file. Each ran in a process of its own."""
    folder = tmp_path_factory.mktemp("hostile")
    program = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("hostile_files.py")), str(folder)]
    ran = subprocess.run(program, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr
    by_file = defaultdict(list)
    for line in ran.stdout.splitlines():
        trial = json.loads(line)
        by_file[trial["file"]].append(trial)
    return by_file


def test_every_door_is_tried_with_at_least_25_files():
    assert min(sum(door in doors for _, doors, _ in FILES.values()) for door in EVERY_DOOR) >= 25


@pytest.mark.parametrize("name", FILES)
def test_hostile_files_are_refused_in_one_line_at_a_bounded_cost(name, trials):
    _, doors, said = FILES[name]
    assert {trial["door"] for trial in trials[name]} == {*doors, *ALWAYS_TRIED}
    for trial in trials[name]:
        where, message = trial["door"], trial["message"]
        assert not trial["executed"], where
        assert trial["kind"] in (("ValueError",) if where in doors else ("", "ValueError")), (where, trial)
        assert "\n" not in message, where
        assert len(message) < 1500, where
        assert "weights_only" not in message, where
        assert trial["seconds"] < MOST_SECONDS, where
        assert trial["bytes"] < MOST_BYTES, where
        if trial["kind"]:
            named = {"resume": "last.pt", "hub": "hub"}.get(where, "file.pt")
            assert named in message or where == "hub", (where, message)
    assert any(said in trial["message"] for trial in trials[name] if trial["door"] in doors), trials[name][0]


@pytest.mark.parametrize("name", EXECUTING)
def test_ordinary_readers_execute_the_hostile_files(name, tmp_path):
    path, marker, _ = write_file(name, tmp_path / "file")
    if "pickle" in name:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()


def blocks_file(path):
    save_blocks(nl.insert(nn.Sequential(nn.Conv2d(3, 8, 1)), at="0"), path)


def network_file(path):
    write_tensors(path, GOOD, {"format": "torch-nonlocal network 1", "call": "nl.create_model(...)"}, key="state_dict")


def weights_file(path):
    content = {"model": GOOD, "step": 1, "metrics": {}, "config": {}, "about": {}}
    write_content(path, {"format": "torch-nonlocal weights 1", **content})


def state_file(path):
    write_content(path, {"format": "torch-nonlocal training state 2", "model": GOOD, "progress": {"step": 1}})


OURS = {
    "blocks.pt": (blocks_file, lambda path: nl.load_blocks(nn.Sequential(nn.Conv2d(3, 8, 1)), path)),
    "blocks.safetensors": (blocks_file, lambda path: nl.load_blocks(nn.Sequential(nn.Conv2d(3, 8, 1)), path)),
    "network.pt": (network_file, nl.read_weights),
    "network.safetensors": (network_file, nl.read_weights),
    "best.pt": (weights_file, load_weights_file),
    "last.pt": (state_file, read_content),
}


@pytest.mark.parametrize("name", OURS)
def test_every_flipped_bit_and_every_truncation_of_our_files_is_named(name, tmp_path):
    path = tmp_path / name
    write, read = OURS[name]
    write(path)
    read(path)
    whole = path.read_bytes()
    bits = range(0, len(whole) * 8, 61)  # every 61st bit: all places in a byte, all parts of the file
    damaged = [whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :] for bit in bits]
    for content in [*damaged, *(whole[:length] for length in range(0, len(whole), 53))]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=name):
            read(path)


def test_files_without_a_checksum_of_their_own_are_read(tmp_path):
    torch.save({"format": "torch-nonlocal network 1", "call": "f()", "state_dict": GOOD}, tmp_path / "old.pt")
    assert nl.read_weights(tmp_path / "old.pt").kind == "network"


def test_torch_reads_the_files_that_carry_a_checksum(tmp_path):
    weights_file(tmp_path / "best.pt")
    model = torch.load(tmp_path / "best.pt", weights_only=True)["model"]
    assert all(torch.equal(model[key], GOOD[key]) for key in GOOD)
