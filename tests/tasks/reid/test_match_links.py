"""What supports a match: contributions that sum to the similarity, and links within the query."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity

import torch_nonlocal as nl
from torch_nonlocal.models.tracklet_net import TrackletNet
from torch_nonlocal.tasks.reid.match_links import ShownClip, Support, contributions, match_picture, support


def net(pooling="average", *, block=None):
    """A small network with statistics and weights unlike those of a new one; `block`: does the block add anything."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv3d(3, 6, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)), nn.ReLU())
    model = TrackletNet(backbone, 6, 5, pooling=pooling)
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(model.neck, name).data.uniform_(0.5, 2.0)
    if pooling == "attention":
        nn.init.normal_(model.pool.score.weight, std=3.0)
    model.eval()
    if block is not None:
        nl.insert(model, at="backbone.1", example_input=torch.zeros(1, 3, 4, 8, 6))
        inserted = nl.blocks(model)["backbone.1"]
        if block:
            nn.init.constant_(inserted.norm.weight, 1.0)
    return model.eval()


def clips(frames=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, 3, frames, 8, 6, generator=generator), torch.randn(1, 3, frames, 8, 6, generator=generator)


@pytest.mark.parametrize("pooling", ["average", "attention"])
def test_contributions_sum_to_the_similarity(pooling):
    model = net(pooling)
    query, match = clips()
    with torch.no_grad():
        embedding, other = model(query)[0], model(match)[0]
    parts = contributions(model, query, 7 * other)
    assert parts.shape == (4, 4, 3)
    assert float(parts.sum()) == pytest.approx(float(cosine_similarity(embedding, other, dim=0)), abs=1e-6)


@pytest.mark.parametrize("pooling", ["average", "attention"])
def test_weights_of_the_pool_give_its_output(pooling):
    pool = net(pooling).pool
    x = torch.randn(2, 6, 3, 4, 5, generator=torch.Generator().manual_seed(2))
    weights = pool.weights(x)
    torch.testing.assert_close(weights.sum((1, 2, 3)), torch.ones(2))
    torch.testing.assert_close((x * weights[:, None]).sum((2, 3, 4)), pool(x))


def test_the_position_that_resembles_the_match_contributes_most():
    model = TrackletNet(nn.Identity(), 3, 2).eval()
    clip = torch.zeros(1, 3, 2, 4, 2)
    clip[0, :, 1, 2, 1] = torch.tensor([0.0, 2.0, 0.0])
    clip[0, :, 0, 0, 0] = torch.tensor([2.0, 0.0, 0.0])
    clip[0, :, 0, 1, 0] = torch.tensor([0.0, -1.0, 0.0])
    parts = contributions(model, clip, torch.tensor([0.0, 5.0, 0.0]))
    # embedding (2, 1, 0) / 16, of length sqrt(5) / 16
    assert parts[1, 2, 1].item() == pytest.approx(2 / 5**0.5, abs=1e-6)
    assert parts[0, 1, 0].item() == pytest.approx(-1 / 5**0.5, abs=1e-6)
    assert parts.abs().sum().item() == pytest.approx(3 / 5**0.5, abs=1e-6)


def test_both_clips_explain_one_similarity_and_links_start_where_a_block_supports_it():
    found = support(net(block=True), *clips())
    assert float(found.query.sum()) == pytest.approx(found.similarity)
    assert float(found.match.sum()) == pytest.approx(found.similarity, abs=1e-6)
    assert (found.note, found.look.record.name) == ("", "backbone.1")


@pytest.mark.parametrize(("block", "reason"), [(None, "no non-local blocks"), (False, "untrained")])
def test_without_links_the_contributions_are_drawn_and_the_reason_is_given(block, reason):
    found = support(net(block=block), *clips())
    assert found.look is None
    assert reason in found.note


def test_picture_is_drawn_with_links_and_long_clips():
    model = net(block=True)
    query, match = clips(10)[0], clips(1)[1]
    found = support(model, query, match)
    shown = [ShownClip(np.zeros((n, 32, 16, 3), np.uint8), range(5, 5 + n)) for n in (10, 1)]
    with_links = match_picture(shown[0], shown[1], found, ["right match of $a_: <b>", "similarity"])
    found = support(net(), query, match)
    assert with_links.mode == "RGB"
    assert with_links.height > match_picture(shown[0], shown[1], found, ["a", "b"]).height


def test_contributions_have_the_same_colors_whether_or_not_some_are_negative():
    parts = torch.linspace(0.0, 1.0, 8, dtype=torch.float64).reshape(1, 4, 2)
    with_negative = parts.clone()
    with_negative[0, 0, 0] = -0.05
    shown = ShownClip(np.zeros((1, 32, 16, 3), np.uint8), [0])
    images = [
        np.asarray(match_picture(shown, shown, Support(0.5, query, parts, None, ""), ["a", "b"]), np.int16)
        for query in (parts, with_negative)
    ]
    assert np.abs(images[0] - images[1]).max() <= 20
