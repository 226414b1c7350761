"""`nonlocal convert` as a function and as a command line."""

import sys

import pytest
import torch
from foreign_layouts import named_as, random_parts

import torch_nonlocal as nl

tyro = pytest.importorskip("tyro", reason="pip install 'torch-nonlocal[cli]'")
from torch_nonlocal.cli.convert import convert  # noqa: E402 (needs tyro)


@pytest.fixture
def theirs(tmp_path):
    path = tmp_path / "theirs.pth"
    torch.save({**named_as("tea1528", random_parts(2), "nl_1"), "fc.weight": torch.ones(2, 2)}, path)
    return path


def command(*words):
    return tyro.cli(convert, args=[str(word) for word in words], use_underscores=False)


def test_the_command_writes_blocks_that_load(theirs, tmp_path, capsys):
    out = tmp_path / "ours.pt"
    command(theirs, out, "--place", "nl_1=0", "--pairwise", "dot_product", "--subsample", "2")
    printed = capsys.readouterr().out
    for said in ("tea1528", "nl_1.W_z.0.weight -> 0/out.weight", "left over: 1 tensors", "fc.weight", "load_blocks"):
        assert said in printed
    model = nl.load_blocks(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1)), out)
    assert nl.blocks(model)["0"].pairwise == "dot_product"
    assert nl.blocks(model)["0"].subsample == (2, 2)


def test_two_equal_networks_of_a_file_are_written(theirs, tmp_path):
    blocks = torch.load(theirs)
    torch.save({"student": blocks, "teacher": blocks}, tmp_path / "both.pth")
    command(tmp_path / "both.pth", tmp_path / "ours.safetensors")
    tensors = nl.read_weights(tmp_path / "ours.safetensors").tensors
    assert torch.equal(tensors["student/g.weight"], blocks["nl_1.g.weight"])
    assert torch.equal(tensors["teacher/g.weight"], blocks["nl_1.g.weight"])


def test_a_place_that_a_network_lacks_is_named_with_the_option_that_sets_it(theirs, tmp_path):
    command(theirs, tmp_path / "ours.pt")
    with pytest.raises(ValueError, match=r"has a block for 'nl_1'.*modules: 0\..*--place nl_1=MODULE"):
        nl.load_blocks(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1)), tmp_path / "ours.pt")


def test_scale_accepts_a_number_or_sqrt(theirs, tmp_path):
    for text, expected in (("sqrt", 0.5), ("0.25", 0.25)):
        command(theirs, tmp_path / "ours.pt", "--scale", text, "--force")
        saved = nl.load_blocks(torch.nn.ModuleDict({"nl_1": torch.nn.Conv2d(3, 8, 1)}), tmp_path / "ours.pt")
        assert nl.blocks(saved)["nl_1"].scale == expected


def test_an_existing_file_is_replaced_only_with_overwrite(theirs, tmp_path):
    out = tmp_path / "ours.pt"
    out.write_text("precious")
    with pytest.raises(ValueError, match="exists; --overwrite replaces it"):
        convert(theirs, out)
    assert out.read_text() == "precious"
    convert(theirs, out, overwrite=True)
    assert out.read_bytes()[:2] == b"PK"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"place": ("nl_1",)}, "expected OLD=NEW"),
        ({"scale": "much"}, "--scale much"),
        ({"whole": True}, "no whole network"),
        ({"whole": True, "blocks": True}, "exclude each other"),
        ({"source": "nobody"}, "expected one of"),
    ],
)
def test_wrong_options_leave_no_file(theirs, tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        convert(theirs, tmp_path / "ours.pt", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.pth"]


def test_refused_files_leave_no_file(tmp_path):
    (tmp_path / "theirs.pkl").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    with pytest.raises(ValueError, match=r"posix\.system"):
        convert(tmp_path / "theirs.pkl", tmp_path / "ours.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.pkl"]


def test_the_help_has_examples(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["convert"])
    with pytest.raises(SystemExit):
        command("--help")
    printed = capsys.readouterr().out
    assert "nonlocal convert" in printed
    assert "--place" in printed
