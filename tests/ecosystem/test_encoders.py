"""Presets and plans find the encoder of segmentation networks."""

import pytest
import torch
from packages import package

import torch_nonlocal as nl
from torch_nonlocal.insertion.presets import stages

STAGES = ["layer1", "layer2", "layer3", "layer4"]
SWIN = "tu-swin_tiny_patch4_window7_224"
ENCODERS = [
    # segmentation network, options, stages
    *(
        (name, {"encoder_name": "resnet18"}, [f"encoder.{stage}" for stage in STAGES])
        for name in ("FPN", "Unet", "UnetPlusPlus", "MAnet", "Linknet", "PAN", "UPerNet", "PSPNet", "DeepLabV3Plus")
    ),
    ("Unet", {"encoder_name": "resnext50_32x4d"}, [f"encoder.{stage}" for stage in STAGES]),
    ("Unet", {"encoder_name": "tu-convnext_atto"}, [f"encoder.model.stages_{i}.blocks" for i in range(4)]),
    ("FPN", {"encoder_name": SWIN}, [f"encoder.model.layers_{i}.blocks" for i in range(4)]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options", "found"), ENCODERS)
def test_the_stages_of_a_segmentation_network_are_those_of_its_encoder(name, options, found):
    with torch.device("meta"):
        model = getattr(package("segmentation_models_pytorch"), name)(**options, encoder_weights=None)
    assert list(stages(model)) == found


def test_stages_of_monai():
    nets = package("monai.networks.nets")
    model = nets.SwinUNETR(in_channels=1, out_channels=2, feature_size=12, spatial_dims=2)
    assert list(stages(model)) == [f"swinViT.layers{i}" for i in (1, 2, 3, 4)]
    assert list(stages(nets.resnet18(spatial_dims=3, n_input_channels=1))) == STAGES


def test_a_preset_leaves_out_a_stage_that_does_not_run():
    smp = package("segmentation_models_pytorch")
    model = smp.PSPNet("resnet18", encoder_weights=None).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model(image)
        with pytest.warns(UserWarning, match=r"encoder\.layer3\.0.*encoder\.layer3\.1: left out, does not run"):
            nl.insert(model, "paper-5", image)
        assert list(nl.blocks(model)) == ["encoder.layer2.0", "encoder.layer2.1"]
        assert torch.equal(model(image), before)
    named = ["paper-5", "encoder.layer3.0"]
    alone = pytest.warns(UserWarning, match=r"^encoder\.layer3\.1: left out")
    with alone, pytest.raises(ValueError, match=r"'encoder\.layer3\.0' .* does not run on the example input"):
        nl.insert(nl.remove(model), named, image)


@pytest.mark.parametrize("name", ["FPN", "PSPNet"])
def test_a_plan_recommends_places_of_the_encoder(name):
    model = getattr(package("segmentation_models_pytorch"), name)("resnet18", encoder_weights=None)
    plan = nl.plan(model, torch.zeros(1, 3, 64, 64))
    assert all(place.name.startswith("encoder.layer") for place in plan.places)
    runs = ["encoder.layer2.0", "encoder.layer2.1", "encoder.layer3.0", "encoder.layer3.1"]
    assert plan.chosen == (runs[:2] if name == "PSPNet" else runs)
    assert [one for one, _ in plan.refused] == (
        [*runs[2:], "encoder.layer4.0", "encoder.layer4.1"] if name == "PSPNet" else []
    )
