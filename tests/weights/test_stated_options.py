"""Options that tensors do not determine are read from the file, asked for, or shown with their effect."""

import pytest
import torch
from foreign_layouts import formula, named_as, random_parts
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal.layers.non_local import NonLocal3d
from torch_nonlocal.weights import convert_weights

X = torch.randn(2, 8, 3, 5, 6, generator=torch.Generator().manual_seed(2)).double()


def written(path, layout, block, parts=None, others=(), **beside):
    state = {**named_as(layout, parts or random_parts(3), block), **dict(others)}
    torch.save({"state_dict": state, **beside}, path / "theirs.pth")
    return path / "theirs.pth"


def computed(converted, x=X):
    """The output of the only converted block."""
    ((place, entry),) = converted.plan.items()
    block = getattr(nl, entry["class"])(**entry["options"]).double().eval()
    block.load_state_dict({key.removeprefix(f"{place}/"): value for key, value in converted.tensors.items()})
    return block(x)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("layout", "options", "expected"),
    [
        ("alexhex7", {}, {}),
        ("alexhex7", {"pairwise": "dot_product"}, {"form": "dot_product"}),
        ("alexhex7 pooled", {}, {"pool": (1, 2, 2)}),
        (
            "alexhex7 pooled",
            {"pairwise": "dot_product"},
            {"form": "dot_product", "pool": (1, 2, 2), "by_queries": True},
        ),
    ],
)
def test_ste_nvan_computes_its_own_function(tmp_path, layout, options, expected):
    parts = random_parts(3)
    path = written(tmp_path, layout, "features.backbone.NL_2.0", parts)
    converted = convert_weights(path, source="ste-nvan", **options)
    torch.testing.assert_close(computed(converted), formula(X, parts, **expected), rtol=1e-5, atol=1e-5)


def test_blocks_of_ste_nvan_are_not_taken_for_others(tmp_path):
    path = written(tmp_path, "alexhex7", "features.backbone.NL_2.0")
    with pytest.raises(ValueError, match=r"'features\.backbone\.NL_2\.0' is a block of STE-NVAN.*'ste-nvan'"):
        convert_weights(path)
    stripes = random_parts(3, channels=16, inner=4)
    stripes["out.weight"], stripes["out.bias"] = torch.ones(8, 4, 1, 1, 1), torch.ones(8)
    with pytest.raises(ValueError, match="Stripe_NonLocalBlock"):
        convert_weights(written(tmp_path, "alexhex7", "NL_2.0", stripes), source="ste-nvan")
    with pytest.warns(UserWarning, match="AGW"):
        agw = convert_weights(written(tmp_path, "alexhex7", "NL_2.0", random_parts(2, inner=1)))
    assert agw.source == "agw"
    assert agw.plan["NL_2.0"]["options"]["pairwise"] == "dot_product"


@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "dot_product"])
def test_the_dot_product_divided_by_queries(pairwise):
    torch.manual_seed(0)
    parts = random_parts(3)
    block = NonLocal3d(8, inner_channels=4, pairwise="dot_product", subsample=2, normalize="queries").double().eval()
    block.load_state_dict(parts)
    expected = formula(X, parts, form="dot_product", pool=(1, 2, 2), by_queries=True)
    torch.testing.assert_close(block(X), expected, rtol=1e-6, atol=1e-6)
    model = nn.Sequential(nn.Identity(), block)
    with nl.watch(model) as records:
        model(X)
    (record,) = records.values()
    theta, phi, _ = block.embed(X)
    rows = record.weights.rows(0, torch.arange(theta.shape[1]))
    torch.testing.assert_close(rows, (theta[0] @ phi[0].T / theta.shape[1]), rtol=1e-5, atol=1e-5, check_dtype=False)


PYSLOWFAST = """\
MODEL:
  ARCH: slow
NONLOCAL:
  GROUP:
  - - {group}
  - - {group}
  INSTANTIATION: {form}
  LOCATION:
  - - []
  - - - 1
      - 3
  POOL:
  - - - 1
      - 2
      - 2
  - - [1, 1, 3]
"""


@pytest.mark.parametrize(("form", "expected"), [("dot_product", {"form": "dot_product"}), ("softmax", {"scale": 0.5})])
@pytest.mark.parametrize("as_text", [True, False])
def test_pyslowfast_configurations_decide(tmp_path, form, expected, as_text, recwarn):
    parts = random_parts(3)
    text = PYSLOWFAST.format(group=1, form=form)
    nonlocal_section = {"INSTANTIATION": form, "POOL": [[[1, 2, 2]], [[1, 1, 3]]], "GROUP": [[1], [1]]}
    config = text if as_text else {"NONLOCAL": nonlocal_section}
    path = written(tmp_path, "slowfast", "s3.pathway0_nonlocal1", parts, cfg=config)
    converted = convert_weights(path)
    expected = formula(X, parts, pool=(1, 1, 3), pool_first=True, **expected)
    torch.testing.assert_close(computed(converted), expected, rtol=1e-5, atol=1e-5)
    assert converted.assumptions == []
    assert not recwarn.list


def test_groups_of_frames_are_refused(tmp_path):
    config = PYSLOWFAST.format(group=4, form="softmax")
    with pytest.raises(ValueError, match="4 groups"):
        convert_weights(written(tmp_path, "slowfast", "s3.pathway0_nonlocal1", cfg=config))


def trunk(stem, inside, stem_frames, inside_frames):
    return {stem: torch.ones(1, 1, stem_frames, 1, 1), inside: torch.ones(1, 1, inside_frames, 1, 1)}


SLOWFAST_TRUNK = ("s1.pathway0_stem.conv.weight", "s4.pathway0_res1.branch2.a.weight")
MMACTION2_TRUNK = ("backbone.conv1.conv.weight", "backbone.layer3.1.conv1.conv.weight")


@pytest.mark.parametrize(("frames", "form"), [((1, 3), "dot_product"), ((5, 1), "embedded_gaussian")])
def test_slow_networks_of_pyslowfast_use_the_dot_product(tmp_path, frames, form):
    path = written(tmp_path, "slowfast", "s3.pathway0_nonlocal1", others=trunk(*SLOWFAST_TRUNK, *frames))
    with pytest.warns(UserWarning, match=f"pairwise='{form}': usual for PySlowFast"):
        converted = convert_weights(path)
    assert [entry["options"]["pairwise"] for entry in converted.plan.values()] == [form]


MMACTION2 = """\
default_scope = 'mmaction'
model = dict(
    type='Recognizer3D',
    backbone=dict(
        type='ResNet3dSlowOnly',
        conv1_kernel=(1, 7, 7),  # no time
        non_local=((0, 0, 0), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 0, 0)),
        non_local_cfg=dict(
            sub_sample=True,
            use_scale={scale},
            norm_cfg=dict(type='BN3d', requires_grad=True),
            mode='{mode}')),
    cls_head=dict(type='I3DHead', num_classes=400))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100)
"""


@pytest.mark.parametrize("key", ["cfg", "config"])
@pytest.mark.parametrize(
    ("mode", "scale", "expected"),
    [
        ("dot_product", False, {"form": "dot_product"}),
        ("embedded_gaussian", False, {}),
        ("embedded_gaussian", True, {"scale": 0.5}),
    ],
)
def test_mmaction2_configurations_decide(tmp_path, key, mode, scale, expected, recwarn):
    parts = random_parts(3, biases="inside")
    meta = {key: MMACTION2.format(scale=scale, mode=mode), "epoch": 3}
    path = written(tmp_path, "mmcv pooled", "backbone.layer2.0.non_local_block", parts, meta=meta)
    converted = convert_weights(path)
    torch.testing.assert_close(computed(converted), formula(X, parts, pool=(1, 2, 2), **expected), rtol=1e-5, atol=1e-5)
    assert converted.assumptions == []
    assert not recwarn.list


@pytest.mark.parametrize(("frames", "scale"), [((1, 3), "'sqrt'"), ((5, 1), "None")])
def test_slowonly_scales_and_i3d_does_not(tmp_path, frames, scale):
    path = written(tmp_path, "mmcv", "backbone.layer2.1.non_local_block", others=trunk(*MMACTION2_TRUNK, *frames))
    with pytest.warns(UserWarning, match=f"scale={scale}.*usual for mmcv") as caught:
        convert_weights(path)
    assert "pairwise='dot_product' what the block adds differs by" in str(caught[0].message)


@pytest.mark.parametrize(
    "beside",
    [
        {"cfg": "NONLOCAL: [", "meta": 3},
        {"cfg": {"NONLOCAL": {"INSTANTIATION": [], "POOL": {}, "GROUP": "x"}}},
        {"cfg": "- " * 5000},
        {"meta": {"cfg": "model = dict(backbone=dict(non_local=1, non_local_cfg=dict(mode=[], use_scale=3"}},
        {"meta": {"cfg": "model = " + "dict(a=" * 5000}},
        {"meta": {"config": {"model": {"backbone": {"non_local": 1, "non_local_cfg": {"mode": {}}}}}}},
    ],
)
@pytest.mark.parametrize(
    "layout", [("slowfast", "s3.pathway0_nonlocal1"), ("mmcv", "backbone.layer2.0.non_local_block")]
)
def test_broken_configurations_state_nothing(tmp_path, beside, layout):
    with pytest.warns(UserWarning, match="the file does not state it"):
        convert_weights(written(tmp_path, *layout, **beside))


def test_the_effect_of_an_assumption_is_measured(tmp_path):
    parts = random_parts(3, norm=None)
    path = written(tmp_path, "alexhex7", "net.nl", parts)
    with pytest.warns(UserWarning, match="pairwise='dot_product' what the block adds differs by") as caught:
        convert_weights(path)
    said = int(str(caught[0].message).partition("differs by ")[2].partition(" ")[0])
    x = torch.randn(1, 8, 2, 4, 6, generator=torch.Generator().manual_seed(0)).abs()
    soft, dot = (formula(x, parts, form=form) - x for form in ("embedded", "dot_product"))
    assert said == round(100 * float((dot - soft).norm() / soft.norm()))
