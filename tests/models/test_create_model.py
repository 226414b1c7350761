"""C2D and I3D by name: published sizes and costs, blocks by preset, weights by inflation."""

import copy
import logging

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import torch_nonlocal as nl


def on_meta(name, **options):
    with torch.device("meta"):
        return nl.create_model(name, **options).eval()


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def giga_multiply_adds(model, frames, size):
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, frames, size, size, device="meta"))
    return counter.get_total_flops() / 2e9


class TestPublishedNumbers:
    """Figures of mmaction2's I3D R50 32x2, which are for 256 x 256 pixels, the size of its test crops.

    43.5 and 59.3 GFLOPs are 1.306 = (256 / 224)^2 times the figures for 224 x 224 pixels, without and with blocks.
    """

    def test_i3d(self):
        model = on_meta("i3d_resnet50")
        assert parameters(model) == 28_043_472
        assert giga_multiply_adds(model, 32, 256) == pytest.approx(43.5, rel=0.02)

    def test_i3d_with_five_blocks(self):
        model = on_meta("i3d_resnet50", non_local="paper-5", algorithm="dense")
        # their W_z has no bias: 2 x 512 and 3 x 1,024 parameters fewer
        assert parameters(model) == 35_397_840 + 2 * 512 + 3 * 1024
        assert giga_multiply_adds(model, 32, 256) == pytest.approx(59.3, rel=0.02)

    def test_i3d_with_five_gaussian_blocks(self):
        model = on_meta("i3d_resnet50", non_local="paper-5", pairwise="gaussian", algorithm="dense")
        assert parameters(model) == 31_723_728 + 2 * 512 + 3 * 1024
        assert giga_multiply_adds(model, 32, 256) == pytest.approx(56.5, rel=0.02)

    @pytest.mark.parametrize(
        ("name", "times_parameters", "times_flops"), [("i3d_resnet101_3x3x3", 1.5, 1.8), ("i3d_resnet101", 1.2, 1.5)]
    )
    def test_i3d_against_c2d(self, name, times_parameters, times_flops):
        """Ratios of the paper's table 2e, to one decimal."""
        base, model = on_meta("c2d_resnet101"), on_meta(name)
        assert round(parameters(model) / parameters(base), 1) == times_parameters
        ratio = giga_multiply_adds(model, 32, 224) / giga_multiply_adds(base, 32, 224)
        assert round(ratio, 1) == times_flops

    def test_c2d(self):
        model = on_meta("c2d_resnet101")  # table 2e: 43.2 million, 34.2 billion (without padding in pool1)
        assert parameters(model) == pytest.approx(43.2e6, rel=0.005)
        assert giga_multiply_adds(model, 32, 224) == pytest.approx(34.2, rel=0.04)


@pytest.mark.parametrize("family", ["c2d", "i3d"])
def test_feature_maps_have_the_sizes_of_table_1(family):
    model, sizes = on_meta(f"{family}_resnet50"), {}
    for name in ("conv1", "maxpool", "layer1", "pool2", "layer2", "layer3", "layer4"):
        getattr(model, name).register_forward_hook(lambda _m, _a, out, name=name: sizes.update({name: out.shape[1:]}))
    assert model(torch.empty(2, 3, 32, 224, 224, device="meta")).shape == (2, 400)
    assert {name: tuple(size) for name, size in sizes.items()} == {
        "conv1": (64, 16, 112, 112),
        "maxpool": (64, 8, 56, 56),
        "layer1": (256, 8, 56, 56),
        "pool2": (256, 4, 56, 56),
        "layer2": (512, 4, 28, 28),
        "layer3": (1024, 4, 14, 14),
        "layer4": (2048, 4, 7, 7),
    }


def test_8x8_keeps_four_frames_of_eight():
    model, frames = on_meta("i3d_resnet50_8x8"), []
    model.layer3.register_forward_hook(lambda _m, _a, out: frames.append(out.shape[2]))
    model(torch.empty(1, 3, 8, 64, 64, device="meta"))
    assert frames == [4]


@pytest.mark.parametrize(("name", "kernel"), [("c2d_resnet101", 1), ("i3d_resnet101", 3)])
def test_inflated_kernels_are_those_of_the_paper(name, kernel):
    model = on_meta(name)
    in_time = {
        stage: [index for index, block in enumerate(getattr(model, stage)) if block.conv1.kernel_size[0] > 1]
        for stage in ("layer1", "layer2", "layer3", "layer4")
    }
    expected = {"layer1": [0, 1, 2], "layer2": [0, 2], "layer3": list(range(0, 23, 2)), "layer4": [1]}
    assert in_time == (expected if kernel == 3 else {stage: [] for stage in expected})


def test_names_are_listed_and_unknown_names_raise():
    assert "i3d_resnet50" in nl.list_models()
    assert nl.list_models("c2d_resnet50*") == ["c2d_resnet50", "c2d_resnet50_8x8"]
    with pytest.raises(ValueError, match="did you mean 'i3d_resnet50'"):
        nl.create_model("i3d_resnet5")
    with pytest.raises(ValueError, match="subsample: block options require places, such as non_local='paper-5'"):
        nl.create_model("i3d_resnet50", subsample=2)


def test_blocks_by_preset_have_pooled_keys_by_default():
    blocks = nl.blocks(on_meta("c2d_resnet50", non_local="paper-5"))
    assert list(blocks) == ["layer2.1", "layer2.3", "layer3.1", "layer3.3", "layer3.5"]
    assert {block.subsample for block in blocks.values()} == {(1, 2, 2)}
    blocks = nl.blocks(on_meta("c2d_resnet50", non_local="paper-1", subsample=None))
    assert [(name, block.subsample) for name, block in blocks.items()] == [("layer3.4", None)]


def test_wrong_clips_raise_with_their_shape():
    with pytest.raises(ValueError, match=r"expected clips \(B, 3, T, H, W\), got \(1, 3, 32, 32\)"):
        nl.create_model("c2d_resnet50")(torch.randn(1, 3, 32, 32))


@pytest.fixture(scope="module")
def resnet():
    torchvision = pytest.importorskip("torchvision", reason="pip install torchvision")
    torch.manual_seed(0)
    resnet = torchvision.models.resnet50(num_classes=7)
    with torch.no_grad():
        for module in resnet.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.8, 1.2)
    return resnet.eval()


@pytest.fixture(scope="module")
def file(resnet, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in resnet.state_dict().items()}}, path)
    return path


class TestWeights:
    def test_c2d_of_a_still_clip_is_the_2d_network(self, resnet, file):
        model = nl.create_model("c2d_resnet50", num_classes=7, weights=file, non_local="paper-1").eval().double()
        image = torch.randn(2, 3, 64, 64, dtype=torch.float64)
        with torch.no_grad():
            expected = copy.deepcopy(resnet).double()(image)
            torch.testing.assert_close(model(image.unsqueeze(2).expand(-1, -1, 8, -1, -1)), expected)

    def test_inflated_kernels_sum_to_the_2d_ones(self, resnet, file):
        model = nl.create_model("i3d_resnet50", num_classes=7, weights=file)
        for inflated, flat in ((model.conv1, resnet.conv1), (model.layer2[0].conv1, resnet.layer2[0].conv1)):
            assert inflated.kernel_size[0] > 1
            torch.testing.assert_close(inflated.weight.sum(2), flat.weight)

    def test_imagenet_loads_torchvisions_weights_of_the_same_depth(self, resnet, monkeypatch):
        asked = []

        def get_model(name, *, weights):
            asked.append((name, weights))
            return resnet

        monkeypatch.setattr("torchvision.models.get_model", get_model)
        model = nl.create_model("i3d_resnet50", num_classes=7, weights="imagenet")
        assert asked == [("resnet50", "DEFAULT")]
        torch.testing.assert_close(model.conv1.weight.sum(2), resnet.conv1.weight)

    def test_other_classes_start_fresh(self, file, caplog):
        with caplog.at_level(logging.WARNING, "torch_nonlocal"):
            model = nl.create_model("c2d_resnet50", num_classes=5, weights=file)
        assert "newly initialized: fc (7 classes in the weights, 5 in the model)" in caplog.text
        assert model.fc.weight.shape == (5, 2048)

    def test_own_weights_come_back_with_their_blocks(self, tmp_path):
        safetensors = pytest.importorskip("safetensors.torch", reason="pip install 'torch-nonlocal[checkpoints]'")
        torch.manual_seed(1)
        model = nl.create_model("c2d_resnet50", num_classes=3, non_local="paper-1").eval()
        torch.nn.init.normal_(nl.blocks(model)["layer3.4"].norm.weight)
        safetensors.save_file(model.state_dict(), tmp_path / "own.safetensors")
        again = nl.create_model(
            "c2d_resnet50", num_classes=3, non_local="paper-1", weights=tmp_path / "own.safetensors"
        ).eval()
        clip = torch.randn(1, 3, 4, 32, 32)
        assert torch.equal(again(clip), model(clip))

    @pytest.mark.parametrize(
        ("make", "error", "match"),
        [
            (lambda path: None, FileNotFoundError, "no weights file"),
            (lambda path: path.write_bytes(b"nonsense"), ValueError, "cannot be read as a checkpoint"),
            (lambda path: torch.save([1, 2], path), ValueError, "holds a list, expected tensors by name"),
            (
                lambda path: torch.save({"a": torch.ones(1)}, path),
                ValueError,
                "does not fit VideoResNet: missing keys: conv1.weight, .*; unexpected keys: a",
            ),
            (
                lambda path: torch.save({"conv1.weight": torch.ones(2, 2)}, path),
                ValueError,
                r"other shapes: conv1.weight \(2, 2\), expected \(64, 3, 1, 7, 7\)",
            ),
        ],
        ids=["missing", "broken", "a list", "another network", "another shape"],
    )
    def test_files_that_do_not_fit_are_named(self, tmp_path, make, error, match):
        path = tmp_path / "weights.pth"
        make(path)
        with pytest.raises(error, match=match):
            nl.create_model("c2d_resnet50", weights=path)


def test_a_saved_hub_model_is_loaded_from_its_folder(tmp_path):
    pytest.importorskip("huggingface_hub", reason="pip install 'torch-nonlocal[hub]'")
    from torch_nonlocal.models.hub import HubModel

    model = HubModel("c2d_resnet50", num_classes=3, non_local="paper-1", block_options={"pairwise": "dot_product"})
    torch.nn.init.normal_(nl.blocks(model)["network.layer3.4"].norm.weight)
    model.save_pretrained(tmp_path)
    again = HubModel.from_pretrained(tmp_path)
    clip = torch.randn(1, 3, 4, 32, 32)
    assert torch.equal(again.eval()(clip), model.eval()(clip))
    assert nl.blocks(again)["network.layer3.4"].pairwise == "dot_product"


def test_a_hub_folder_without_one_of_its_tensors_is_refused(tmp_path):
    pytest.importorskip("huggingface_hub")
    from torch_nonlocal._common.tensor_files import read_weights, write_tensors
    from torch_nonlocal.models.hub import HubModel

    HubModel("c2d_resnet50", num_classes=3).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = read_weights(path).tensors
    del tensors["network.fc.bias"]
    write_tensors(path, tensors, {"format": "pt"}, key="state_dict")
    with pytest.raises(ValueError, match=r"missing keys: network\.fc\.bias"):
        HubModel.from_pretrained(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no weights file at"):
        HubModel.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        HubModel.from_pretrained(tmp_path)
