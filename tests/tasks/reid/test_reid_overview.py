"""Principal components of embeddings, against numpy's SVD, and their picture."""

import numpy as np
import pytest

from torch_nonlocal.tasks.attention_picture import rendered
from torch_nonlocal.tasks.reid.overview import most_frequent, overview_picture, principal_components


@pytest.mark.parametrize("shape", [(40, 6), (5, 12), (3, 3)])
def test_components_are_those_of_an_svd(shape):
    x = np.random.default_rng(0).normal(size=shape) * np.linspace(3, 1, shape[1])
    centered = x - x.mean(0)
    _, values, directions = np.linalg.svd(centered, full_matrices=False)
    expected = centered @ directions[:2].T
    expected *= [np.sign(one[np.abs(one).argmax()]) for one in directions[:2]]
    found = principal_components(x)
    np.testing.assert_allclose(found.coordinates, expected, atol=1e-10)
    np.testing.assert_allclose(found.shares, (values**2 / (values**2).sum())[:2], atol=1e-12)


def test_the_sign_does_not_depend_on_the_order_of_the_embeddings():
    x = np.random.default_rng(1).normal(size=(20, 4))
    turned = principal_components(x[::-1].copy()).coordinates[::-1]
    np.testing.assert_allclose(turned, principal_components(x).coordinates, atol=1e-10)


@pytest.mark.parametrize("x", [np.full((7, 3), 0.1), np.ones((1, 5)), np.zeros((2, 1))])
def test_equal_embeddings_have_no_components(x):
    found = principal_components(x)
    assert found.coordinates.shape == (len(x), 2)
    assert not found.coordinates.any()
    assert not found.shares.any()


def test_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"shape \(3,\), expected"):
        principal_components(np.zeros(3))


def test_at_most_twenty_identities_are_colored_and_the_others_counted():
    identities = [f"p{number % 25:02}" for number in range(60)] + ["", "$x_<b>", "$x_<b>", "$x_<b>"]
    cameras = [f"c{number % 11:02}" for number in range(64)]
    assert most_frequent(identities, 3) == ["$x_<b>", "p00", "p01"]
    points = principal_components(np.random.default_rng(2).normal(size=(64, 4)))
    figure = overview_picture(points, identities, cameras)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:2] == ["$x_<b>", "p00"]
    assert len(legend) == 20 + 8
    assert legend[20] == "camera c00"
    assert legend[-1] == "other cameras"
    assert "6 other identities" in figure.axes[0].get_title()
    assert f"{points.shares[0]:.1%}" in figure.axes[0].get_xlabel()
    rendered(figure)
