"""CMC, mAP and mINP under both protocols: values by hand, a plain program beside them, the real index of MARS."""

import csv
import importlib.util
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_nonlocal.tasks.reid.metrics import evaluate, evaluate_blocks, evaluate_embeddings

MARS = Path(__file__).parents[3].parent / "shared" / "data" / "mars"

# One query of identity 1 in camera 1. Rows of the gallery: identity, camera, distance.
RULES = {
    "matches at ranks 2 and 4": ([(2, 2, 1), (1, 2, 2), (3, 2, 3), (1, 2, 4)], 1 / 3, 1 / 2, 0, 1 / 2),
    "junk takes no rank": ([(-1, 2, 1), (1, 2, 2)], 1, 1, 1, 1),
    "junk between matches takes no rank": ([(1, 2, 1), (-1, 2, 2), (1, 3, 3)], 1, 1, 1, 1),
    "the identity in its own camera takes no rank": ([(1, 1, 1), (1, 2, 2)], 1, 1, 1, 1),
    "the identity in its own camera is no match": ([(1, 1, 1), (2, 2, 2), (1, 2, 3)], 1 / 4, 1 / 2, 0, 1 / 2),
    "the identity in its own camera is not expected": ([(1, 2, 1), (2, 2, 2), (1, 1, 3)], 1, 1, 1, 1),
    "distractors rank": ([(0, 2, 1), (1, 2, 2)], 1 / 4, 1 / 2, 0, 1 / 2),
    "distractors of the same camera rank": ([(0, 1, 1), (1, 2, 2)], 1 / 4, 1 / 2, 0, 1 / 2),
    "others of the same camera rank": ([(2, 1, 1), (1, 2, 2)], 1 / 4, 1 / 2, 0, 1 / 2),
    "rows at equal distance keep their order, match first": ([(1, 2, 1), (2, 2, 1)], 1, 1, 1, 1),
    "rows at equal distance keep their order, match last": ([(2, 2, 1), (1, 2, 1)], 1 / 4, 1 / 2, 0, 1 / 2),
    "junk at equal distance takes no rank": ([(-1, 2, 1), (1, 2, 1), (1, 1, 1), (2, 2, 1)], 1, 1, 1, 1),
    # precisions 1, 2/3, 3/4; before the matches 1, 1/2, 2/3; the last match is at rank 4
    "three matches": ([(1, 2, 1), (5, 2, 2), (1, 3, 3), (1, 2, 4)], (2 + 7 / 6 + 17 / 12) / 6, 29 / 36, 1, 3 / 4),
}


@pytest.mark.parametrize(("rows", "official", "common", "rank1", "inverse_penalty"), RULES.values(), ids=RULES)
def test_rules_of_one_query(rows, official, common, rank1, inverse_penalty):
    ids, cameras, distances = zip(*rows, strict=True)
    for protocol, average_precision in (("official", official), ("common", common)):
        scores = evaluate(np.array(distances)[:, None], ids, cameras, [1], [1], protocol=protocol)
        assert scores.mean_ap == pytest.approx(average_precision, abs=1e-12)
        assert scores.cmc[0] == rank1
        assert scores.mean_inp == pytest.approx(inverse_penalty, abs=1e-12)
        assert (scores.scored, scores.skipped) == (1, 0)


# Three queries, which are the first rows of the gallery: identity 1 in cameras 1 and 2, identity 2 in camera 1.
IDS, CAMERAS, INDEX = [1, 1, 2, 2, 1, -1], [1, 2, 1, 2, 3, 1], [0, 1, 2]
DISTANCES = np.array([[0, 1, 9], [1, 0, 8], [2, 2, 0], [3, 8, 1], [4, 4, 4], [0, 0, 0]], float)


def test_official_counts_the_queries_of_the_gallery():
    scores = evaluate(DISTANCES, IDS, CAMERAS, [1, 1, 2], [1, 2, 1], query_index=INDEX)
    # query 0 ranks rows 1 2 3 4: matches at 1 and 4; query 1 ranks 0 2 4 3: at 1 and 3; query 2 ranks 3 4 1 0: at 1
    first, second = (2 + 1 / 3 + 1 / 2) / 4, (2 + 1 / 2 + 2 / 3) / 4
    np.testing.assert_allclose(scores.average_precisions, [first, second, 1], rtol=1e-12)
    assert scores.mean_inp == pytest.approx((2 / 4 + 2 / 3 + 1) / 3)
    assert scores.rank(1) == 1


def test_common_leaves_the_queries_out_of_the_gallery():
    scores = evaluate(DISTANCES, IDS, CAMERAS, [1, 1, 2], [1, 2, 1], protocol="common", query_index=INDEX)
    # query 0 ranks rows 3 4: a match at 2; query 1 ranks 4 3: at 1; query 2 ranks 3 4: at 1
    np.testing.assert_allclose(scores.average_precisions, [1 / 2, 1, 1])
    assert scores.cmc[:2].tolist() == [2 / 3, 1]


def test_rows_of_the_queries_may_be_in_any_order():
    labels = IDS, CAMERAS, [1, 1, 2], [1, 2, 1]
    expected = evaluate(DISTANCES, *labels, protocol="common", query_index=INDEX)
    for index in ([2, 0, 1], [1, 0, 2]):
        scores = evaluate(DISTANCES, *labels, protocol="common", query_index=index)
        np.testing.assert_array_equal(scores.average_precisions, expected.average_precisions)
    with pytest.raises(ValueError, match=r"query_index\[0\] is gallery row 1, whose camera is not that of query 0"):
        evaluate(DISTANCES, *labels, protocol="common", query_index=[1, 1, 2])


def test_a_query_without_a_match_scores_zero_or_is_skipped():
    distances = np.array([[1.0, 1], [2, 2]])
    official = evaluate(distances, [1, 2], [2, 2], [1, 3], [1, 1])
    assert (official.mean_ap, official.mean_inp, official.rank(20)) == (0.5, 0.5, 0.5)
    assert official.average_precisions.tolist() == [1, 0]
    assert (official.scored, official.skipped) == (2, 0)
    common = evaluate(distances, [1, 2], [2, 2], [1, 3], [1, 1], protocol="common")
    assert (common.mean_ap, common.mean_inp, common.rank(20)) == (1, 1, 1)
    assert (common.scored, common.skipped) == (1, 1)
    assert common.average_precisions[0] == 1
    assert np.isnan(common.average_precisions[1])


def test_the_curve_has_at_least_50_ranks_and_one_for_each_row_of_the_gallery():
    small = evaluate(np.array([[2.0], [1.0]]), [1, 2], [2, 2], [1], [1])
    assert small.cmc.dtype == np.float64
    assert small.cmc.tolist() == [0] + [1] * 49
    assert small.rank(1000) == 1
    large = evaluate(np.arange(60.0)[::-1, None], [1] + [2] * 59, [2] * 60, [1], [1])
    assert large.cmc.tolist() == [0] * 59 + [1]
    with pytest.raises(ValueError, match="rank 0: expected at least 1"):
        small.rank(0)


def test_plain_values_name_the_protocol_and_cannot_be_changed():
    scores = evaluate(np.array([[2.0], [1.0]]), [1, 2], [2, 2], [1], [1], protocol="common")
    assert scores.plain() == {
        **{"protocol": "common", "rank1": 0, "rank5": 1, "rank10": 1, "rank20": 1},
        **{"mean_ap": 0.5, "mean_inp": 0.5, "scored": 1, "skipped": 0},
    }
    with pytest.raises(FrozenInstanceError):
        scores.mean_ap = 1.0


def plain_scores(distances_GQ, ids, cameras, query_ids, query_cameras, protocol, query_index):
    """Every rank by sorting, one query after another."""
    precisions, firsts, penalties = [], [], []
    for query, (identity, camera) in enumerate(zip(query_ids, query_cameras, strict=True)):
        seen = hits = 0
        total, before, first = 0.0, 1.0, None
        for row in sorted(range(len(ids)), key=lambda row: (distances_GQ[row][query], row)):
            if protocol == "common" and row in query_index:
                continue
            if ids[row] == -1 or (ids[row] == identity and cameras[row] == camera):
                continue
            seen += 1
            if ids[row] == identity:
                hits += 1
                total += (before + hits / seen) / 2 if protocol == "official" else hits / seen
                last, first = seen, first or seen
            before = hits / seen
        if hits:
            precisions.append(total / hits)
            firsts.append(first)
            penalties.append(hits / last)
        elif protocol == "official":
            precisions.append(0.0)
            firsts.append(10**9)
            penalties.append(0.0)
    return precisions, firsts, penalties


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_scores_equal_those_of_a_plain_program(data):
    gallery = data.draw(st.integers(1, 12))
    ids = data.draw(st.lists(st.integers(-1, 3), min_size=gallery, max_size=gallery))
    cameras = data.draw(st.lists(st.integers(1, 3), min_size=gallery, max_size=gallery))
    known = [row for row in range(gallery) if ids[row] > 0]
    if not known:
        return
    index = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=5, unique=True))
    values = st.integers(0, 4)  # few values, so that many rows are equally far
    drawn = data.draw(st.lists(values, min_size=gallery * len(index), max_size=gallery * len(index)))
    distances = np.array(drawn, np.float32).reshape(gallery, len(index))
    labels = ids, cameras, [ids[row] for row in index], [cameras[row] for row in index]
    for protocol in ("official", "common"):
        precisions, firsts, penalties = plain_scores(distances.tolist(), *labels, protocol, index)
        if not any(precisions):
            with pytest.raises(ValueError, match=f"protocol '{protocol}': none of {len(index)} queries has a match"):
                evaluate(distances, *labels, protocol=protocol, query_index=index)
            continue
        scores = evaluate(distances, *labels, protocol=protocol, query_index=index)
        assert scores.mean_ap == pytest.approx(np.mean(precisions), abs=1e-12)
        assert scores.mean_inp == pytest.approx(np.mean(penalties), abs=1e-12)
        expected = [np.mean([first <= rank for first in firsts]) for rank in range(1, 51)]
        np.testing.assert_allclose(scores.cmc, expected, atol=1e-12)
        assert scores.skipped == len(index) - len(precisions)


def random_case(seed=0, gallery=300, width=8):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(-1, 40, (gallery,), generator=generator)
    cameras = torch.randint(1, 5, (gallery,), generator=generator)
    embeddings = torch.randn(41, width, generator=generator)[ids] + torch.randn(gallery, width, generator=generator)
    index = (ids > 0).nonzero().flatten()[:150]
    return embeddings, ids, cameras, index


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_embeddings_in_blocks_score_as_their_distances(metric):
    embeddings, ids, cameras, index = random_case()
    wide = embeddings.double()
    if metric == "cosine":
        wide = torch.nn.functional.normalize(wide)
    distances = torch.cdist(wide, wide[index], compute_mode="donot_use_mm_for_euclid_dist")
    labels = ids, cameras, ids[index], cameras[index]
    both = evaluate_embeddings(embeddings[index], embeddings, *labels, query_index=index, metric=metric, block=64)
    assert list(both) == ["official", "common"]
    for protocol, scores in both.items():
        expected = evaluate(distances, *labels, protocol=protocol, query_index=index)
        assert scores.protocol == protocol
        assert scores.mean_ap == pytest.approx(expected.mean_ap, abs=1e-12)
        np.testing.assert_array_equal(scores.cmc, expected.cmc)
        np.testing.assert_array_equal(scores.average_precisions, expected.average_precisions)


def test_arrays_tensors_lists_and_named_cameras_give_the_same_scores():
    embeddings, ids, cameras, index = random_case()
    distances = torch.cdist(embeddings, embeddings[index])
    labels = ids, cameras, ids[index], cameras[index]
    expected = evaluate(distances, *labels).mean_ap
    assert evaluate(distances.numpy(), *(one.numpy() for one in labels)).mean_ap == expected
    assert evaluate(distances.tolist(), *(one.tolist() for one in labels)).mean_ap == expected
    assert evaluate(distances.clone().requires_grad_(), *labels).mean_ap == expected
    assert evaluate(np.asfortranarray(distances.numpy())[:, ::-1], ids, cameras, *(one.flip(0) for one in labels[2:]))
    named = [f"camera {one}" for one in cameras.tolist()]
    assert evaluate(distances, ids, named, ids[index], [named[row] for row in index]).mean_ap == expected
    for dtype in (object, np.dtypes.StringDType()):  # columns of tables
        table = np.array(named, dtype)
        assert evaluate(distances, ids.numpy().astype(object), table, ids[index], table[index]).mean_ap == expected
    half = distances.bfloat16()
    assert evaluate(half, *labels).mean_ap == evaluate(half.float(), *labels).mean_ap


GOOD = {
    "distances_GQ": np.array([[1.0, 2], [2, 1], [3, 3]]),
    "gallery_ids": [1, 2, 2],
    "gallery_cameras": [2, 2, 1],
    "query_ids": [1, 2],
    "query_cameras": [1, 1],
}
NAN = np.array([[1, 2], [2, np.nan], [3, 3]])
INFINITE = np.array([[1, 2], [2, 1], [-np.inf, 3]])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"distances_GQ": np.ones((2, 3))}, ValueError, r"shape \(2, 3\), expected \(gallery, queries\) = \(3, 2\)"),
        ({"distances_GQ": NAN}, ValueError, "between query 1 and gallery row 1 is nan, expected a finite number"),
        ({"distances_GQ": torch.tensor(INFINITE)}, ValueError, "between query 0 and gallery row 2 is -inf"),
        ({"distances_GQ": np.ones((3, 2), complex)}, TypeError, "dtype complex128, expected real numbers"),
        ({"gallery_ids": []}, ValueError, "gallery_ids is empty"),
        ({"query_ids": np.array([])}, ValueError, "query_ids is empty"),
        ({"gallery_cameras": [1]}, ValueError, "gallery_cameras has length 1, expected that of gallery_ids, 3"),
        ({"query_cameras": [1, 2, 3]}, ValueError, "query_cameras has length 3, expected that of query_ids, 2"),
        ({"gallery_ids": [[1], [2], [2]]}, ValueError, r"gallery_ids has shape \(3, 1\), expected one entry per"),
        ({"gallery_ids": [1, -2, 2]}, ValueError, r"gallery_ids\[1\] is -2, expected -1 \(junk\), 0 \(distractor\) or"),
        ({"gallery_ids": [1.5, 2, 2]}, TypeError, "gallery_ids has dtype float64, expected integers"),
        ({"query_ids": ["a", "b"]}, TypeError, "query_ids has dtype <U1, expected integers"),
        ({"query_ids": [1, -1]}, ValueError, r"query_ids\[1\] is -1, expected an identity from 1: junk \(-1\)"),
        ({"query_ids": [0, 1]}, ValueError, r"query_ids\[0\] is 0, expected an identity from 1"),
        ({"query_cameras": [1.0, 2.0]}, TypeError, "query_cameras has dtype float64, expected integers or names"),
        ({"gallery_cameras": np.array(["a", None, "b"])}, TypeError, "gallery_cameras has dtype object, expected int"),
        ({"query_cameras": ["a", "b"]}, TypeError, "integers in both gallery_cameras and query_cameras, or names in"),
        ({"protocol": "offical"}, ValueError, "unknown protocol 'offical'; did you mean 'official'?"),
        ({"protocol": "x"}, ValueError, "unknown protocol 'x'; expected 'official' or 'common'"),
        ({"protocol": None}, ValueError, "unknown protocol None; expected 'official' or 'common'"),
        ({"query_index": [0]}, ValueError, "query_index has 1 rows, expected one for each of 2 queries"),
        ({"query_index": [0, 3]}, ValueError, r"query_index\[1\] is 3, expected a gallery row, 0 to 2"),
        ({"query_index": [-1, 0]}, ValueError, r"query_index\[0\] is -1, expected a gallery row, 0 to 2"),
        ({"query_index": [True, False]}, TypeError, "query_index has dtype bool, expected integers"),
        ({"query_index": [0, 0]}, ValueError, r"query_index\[1\] is gallery row 0, whose identity is not that of"),
        ({"query_index": [0, 2]}, ValueError, r"query_index\[0\] is gallery row 0, whose camera is not that of query"),
        ({"query_ids": [3, 4]}, ValueError, "'official': none of 2 queries has a match: a gallery row of its identity"),
    ],
)
def test_wrong_input_is_named(change, error, message):
    assert evaluate(**GOOD).scored == 2
    with pytest.raises(error, match=message):
        evaluate(**(GOOD | change))


def test_blocks_have_to_cover_the_queries():
    labels = list(GOOD.values())[1:]
    distances_QG = GOOD["distances_GQ"].T
    assert evaluate_blocks([(0, distances_QG[:1]), (1, distances_QG[1:])], *labels)["common"].scored == 2
    with pytest.raises(ValueError, match="distances of 1 queries, expected 2"):
        evaluate_blocks([(0, distances_QG[:1])], *labels)
    with pytest.raises(
        ValueError, match=r"shape \(1, 3\) from query 1: expected queries from 0 of 2, and a gallery of"
    ):
        evaluate_blocks([(1, distances_QG[1:])], *labels)
    with pytest.raises(ValueError, match=r"no protocol is given, expected one or more of official, common"):
        evaluate_blocks([(0, distances_QG)], *labels, protocols=())


@pytest.mark.skipif(not MARS.is_dir(), reason="needs ../shared/data/mars, the index of the tracklets of MARS")
@pytest.mark.parametrize(
    ("noise", "official", "common"),
    [
        (0.6, (0.93283298, 0.96818182, 0.99595960, 0.99747475, 1.0), (0.93764078, 0.96086957)),
        (1.0, (0.42847024, 0.66666667, 0.84040404, 0.88989899, 0.93484848), (0.45349970, 0.63369565)),
    ],
)
def test_the_index_of_mars_gives_the_figures_of_its_authors_program(noise, official, common):
    spec = importlib.util.spec_from_file_location("mars_case", MARS / "mars_case.py")
    case = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(case)
    with (MARS / "mars-test.csv").open() as file:
        rows = [(int(row["identity"]), int(row["camera"]), int(row["query"])) for row in csv.DictReader(file)]
    ids, cameras, query = np.array(rows).T
    index = np.flatnonzero(query)
    distances = case.distances(ids, cameras, index, noise)
    labels = ids, cameras, ids[index], cameras[index]
    scores = evaluate(distances, *labels, query_index=index)
    assert [scores.mean_ap, *map(scores.rank, (1, 5, 10, 20))] == pytest.approx(official, abs=1e-8)
    assert (scores.scored, scores.skipped) == (1980, 0)
    scores = evaluate(distances, *labels, protocol="common", query_index=index)
    assert [scores.mean_ap, scores.rank(1)] == pytest.approx(common, abs=1e-8)
    assert (scores.scored, scores.skipped) == (1840, 140)
