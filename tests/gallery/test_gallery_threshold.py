"""Unknown persons are rejected at the chosen rate."""

import pytest

np = pytest.importorskip("numpy", reason="pip install 'torch-nonlocal[reid]'")

from galleries import MODEL, embed_from, entries, identities  # noqa: E402 (after the skips)

from torch_nonlocal.gallery.threshold import calibrate  # noqa: E402
from torch_nonlocal.gallery.vectors import Vectors, normalized  # noqa: E402


def both(vectors, numbers, rate, **more):
    stored = Vectors([normalized(vectors, str)], vectors.shape[1])
    return calibrate(stored, numbers, stored, numbers, rate, **more)


def test_the_threshold_by_hand():
    """Angles of 0, 1 (identity 0), 10 (1) and 30 degrees (2): the nearest others are 10, 9, 9 and 20 degrees away."""
    angles = np.deg2rad([0, 1, 10, 30])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    numbers = np.array([0, 0, 1, 2])
    for rate, degrees, attainable in (
        (0.1, 9, False),
        (0.2, 9, True),
        (0.5, 9, True),
        (0.6, 10, True),
        (0.9, 20, True),
    ):
        found = both(vectors, numbers, rate)
        assert found.similarity == pytest.approx(np.cos(np.deg2rad(degrees)), abs=1e-6)
        assert (found.rate, found.samples, found.identities, found.attainable) == (rate, 4, 3, attainable)


def test_one_identity_has_no_threshold():
    assert both(np.eye(3), np.zeros(3, int), 0.01) is None


@pytest.mark.parametrize("rate", [0.01, 0.05])
@pytest.mark.parametrize("by", ["tracklet", "person"])
def test_unknown_persons_are_rejected_at_the_chosen_rate(galleries_of_2000, rate, by):
    from torch_nonlocal.gallery import recalibrate

    folder, unknown, known = galleries_of_2000
    gallery = recalibrate(folder, rate)
    accepted = gallery.nearest(unknown, 1, by=by)[0][:, 0] > gallery.thresholds[by].similarity
    assert accepted.mean() == pytest.approx(rate, abs=0.01)
    answers = gallery.search(known, 1, by=by)
    assert np.mean([answer.identity is not None for answer in answers]) > 0.9
    assert gallery.search(unknown[~accepted][:1], by=by)[0].identity is None
    assert gallery.thresholds[by].samples == 4000


@pytest.fixture(scope="module")
def galleries_of_2000(tmp_path_factory):
    """A gallery of 2,000 identities with 5 tracklets each; 4,000 vectors of others, and new ones of the same."""
    pytest.importorskip("pyarrow", reason="pip install 'torch-nonlocal[reid]'")
    from torch_nonlocal.gallery import build

    vectors, numbers = identities(6000, 6, dimension=64)
    folder = tmp_path_factory.mktemp("galleries") / "g"
    fresh = np.arange(len(vectors)) % 6 == 5
    enrolled = (numbers < 2000) & ~fresh
    build(folder, entries(numbers[enrolled]), embed_from(vectors[enrolled]), MODEL, chunk=1000)
    return folder, vectors[(numbers >= 2000) & fresh], vectors[(numbers < 200) & fresh]
