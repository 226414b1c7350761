"""What is drawn of one query: its position, its color scale, the places of cells, and what is said about the block."""

import dataclasses

import pytest
import torch

np = pytest.importorskip("numpy", reason="drawing needs it: pip install 'torch-nonlocal[view]'")
pytest.importorskip("matplotlib", reason="drawing needs it: pip install 'torch-nonlocal[view]'")

import torch_nonlocal as nl  # noqa: E402 (after the skips)
from torch_nonlocal.attention import BlockRecord, Geometry, similarity  # noqa: E402
from torch_nonlocal.attention.weights import PairWeights  # noqa: E402
from torch_nonlocal.view.colors import brightest, scale_of  # noqa: E402
from torch_nonlocal.view.look import as_frames, look  # noqa: E402
from torch_nonlocal.view.page.save import first_query, reason  # noqa: E402
from torch_nonlocal.view.placement import axis_centers, placed  # noqa: E402
from torch_nonlocal.view.verdict import judge, verdict  # noqa: E402

CLIP = np.zeros((4, 12, 20, 3), np.uint8)


def record_of(**options):
    """A block on a grid (4, 3, 5), whose input has 4 x 12 x 20 pixels."""
    torch.manual_seed(0)
    block = nl.NonLocal3d(6, **options).eval()
    net = torch.nn.Sequential(torch.nn.AvgPool3d((1, 4, 4)), block).eval()
    with torch.no_grad(), nl.watch(net) as seen:
        net(3 * torch.randn(1, 6, 4, 12, 20))
    (found,) = seen.values()
    return found


@pytest.mark.parametrize(
    ("own_frame", "others", "expected"),
    [([0.5, 0.02, 0.01], [0.03, 0.0, 0.04], 0.04), ([0.5, 0.4, 0.01], [0.001, 0.0, 0.0], 0.05),
     ([0.5, 0.02, 0.01], None, 0.02), ([0.5, 0.0, 0.0], None, 0.5), ([0.0, 0.0, 0.0], None, 1.0)],
    ids=["other frames", "an eighth of the own frame", "an image", "itself alone", "zeros"],
)  # fmt: skip
def test_the_self_weight_does_not_set_the_scale(own_frame, others, expected):
    row = np.array([own_frame] if others is None else [own_frame, others])[:, None]
    assert brightest(row, (0, 0, 0)) == pytest.approx(expected)


def test_colors_between_two_entries_of_a_map_are_interpolated():
    scale = scale_of(np.array([1.0]), cmap="inferno")
    shades = scale.colors(np.linspace(0, 1, 4001))
    assert np.abs(np.diff(shades, axis=0)).max() < 0.5  # of 255 levels: no bands
    assert len(np.unique(shades, axis=0)) > 3000


@pytest.mark.parametrize("subsample", [None, 2])
def test_each_pixel_has_the_weight_of_the_nearest_cell(subsample):
    record = record_of(subsample=subsample)
    _, centers = axis_centers(record.geometry, CLIP.shape)
    row = record.rows([(1, 1, 1)])[0].numpy()
    whole = placed(row, centers, CLIP.shape)
    for t, y, x in [(0, 0, 0), (3, 11, 19), (2, 5, 7), (1, 7, 12)]:
        cell = tuple(
            int(np.argmin([abs(place - one) for one in line]))
            for place, line in zip((t, y, x), centers, strict=True)
        )  # fmt: skip
        assert whole[t, y, x] == pytest.approx(float(row[cell]))
    smooth = placed(row, centers, CLIP.shape, smooth=True)
    assert smooth.min() >= row.min()
    assert len(np.unique(smooth)) > len(np.unique(whole))


@pytest.mark.parametrize("factor", [1, 2])
def test_ring_arrows_and_scale_belong_to_one_query(factor):
    record = record_of()
    clip = CLIP.repeat(factor, 1).repeat(factor, 2)
    found = look(record, (2, 5 * factor, 7 * factor), clip, k=6)
    assert found.cell == (2, 1, 1)
    center = [(one + 0.5) * factor - 0.5 for one in record.geometry.query_pixel((2, 1, 1))[1:]]
    assert found.query == pytest.approx((2, *center))
    assert {link.source_pixel for link in found.links} == {found.query}
    assert all(link.target[0] != 2 for link in found.links)
    row = record.rows([(2, 1, 1)])[0]
    assert [link.weight for link in found.links] == pytest.approx(row[[0, 1, 3]].flatten().topk(6).values.tolist())
    np.testing.assert_allclose(found.row, row, rtol=1e-6)
    assert found.weights.shape == clip.shape[:3]


def record_without_links() -> BlockRecord:
    """Nearly all weight of each query is on the keys of frame 0 except its first, which receives nothing."""
    key = torch.zeros(1, 60, 1)
    key[0, :15], key[0, 0] = 30.0, -30.0
    weights = PairWeights("embedded_gaussian", torch.ones(1, 60, 1), key)
    geometry = Geometry.evenly((4, 3, 5), (4, 3, 5), (1, 1, 1), (4, 12, 20))
    return BlockRecord("b", weights, geometry, attend="spacetime", batch=1)


def test_links_that_weigh_practically_nothing_are_left_out():
    record = record_without_links()
    alone, others = (look(record, (frame, 5, 7), CLIP, k=20) for frame in (0, 1))
    assert alone.links == []  # to other frames
    assert alone.brightest == pytest.approx(1 / 14 / 8)  # an eighth of the largest in its frame
    assert [link.weight for link in others.links[:14]] == pytest.approx([1 / 14] * 14, rel=1e-5)


def test_pictures_without_links_have_no_arrows_and_say_why(tmp_path, monkeypatch):
    from torch_nonlocal.tasks.footage import Footage
    from torch_nonlocal.tasks.view_pictures import Block, Scene, save_pictures
    from torch_nonlocal.tasks.viewing import Attended

    labels = tuple(f"frame {number}" for number in range(4))
    footage = Footage(torch.from_numpy(CLIP), "a.mp4", (0, 1, 2, 3), labels, (12, 20), 4, (0, 0, 12, 20), ())
    attended = Attended({"b": record_without_links()}, {"b": nl.view.BlockFacts()})
    scene = Scene(footage, Block.of("b", attended), "Given.")
    captions = []
    heatmap = nl.view.heatmap

    def spied(*args, caption, **options):
        captions.append(caption)
        return heatmap(*args, caption=caption, **options)

    monkeypatch.setattr(nl.view, "heatmap", spied)
    for frame, pictures in ((1, ["a-arrows.png", "a-heatmap.png"]), (0, ["a-heatmap.png"])):
        saved = save_pictures(scene, scene.look((frame, 5, 7), 20), tmp_path / "a", film=False)
        assert sorted(path.name for path in saved) == sorted(path.name for path in tmp_path.iterdir()) == pictures
    assert "Practically no weight" not in captions[0]
    assert captions[1].endswith("Practically no weight in other frames: each is at most 1% of a uniform one.")


def test_an_image_has_no_arrow_to_itself():
    torch.manual_seed(0)
    features = torch.randn(1, 6, 3, 5)
    record = similarity(features, input_size=(12, 20), temperature=1.0)
    found = look(record, (0, 5, 7), CLIP[:1], k=20)
    assert len(found.links) == 14
    assert all(link.target != (1, 1) for link in found.links)
    assert found.brightest == pytest.approx(max(link.weight for link in found.links))
    alone = look(similarity(features, input_size=(12, 20), temperature=0.05), (0, 5, 7), CLIP[:1])
    assert alone.links == []
    assert alone.brightest == pytest.approx(0.01 / 15)


def test_a_batch_of_images_becomes_a_clip_that_attends_within_frames():
    torch.manual_seed(0)
    block = nl.NonLocal2d(6, subsample=2).eval()
    with torch.no_grad(), nl.watch(block) as seen:
        block(torch.randn(3, 6, 4, 6))
    (record,) = seen.values()
    clip = as_frames(record)
    assert (clip.geometry.grid, clip.geometry.input_size, clip.batch_size) == ((3, 4, 6), (3, 4, 6), 1)
    for image in range(3):
        row = clip.rows([(image, 2, 3)])[0]
        torch.testing.assert_close(row[image], record.rows([(2, 3)], batch=image)[0])
        assert row.sum() == pytest.approx(1.0)
    assert as_frames(clip) is clip


def test_the_first_query_is_where_the_predicted_class_is_seen():
    record = record_of()
    evidence = torch.zeros(record.geometry.grid)
    evidence[3, 2, 4], evidence[0, 0, 0] = 2.0, -5.0
    clip = CLIP.copy()
    clip[1, 1, 1] = 255
    trained = nl.view.BlockFacts(evidence=evidence, classes=[("a", 0.9)])
    assert first_query(record, trained, clip) == pytest.approx((3, *record.geometry.query_pixel((3, 2, 4))[1:]))
    why = (
        "Chosen automatically in stage2: the position with the most positive gradient \u00d7 activation (+2 logit) for "
    )
    assert reason("stage2", trained, given=False) == f"{why}a, the predicted class."
    assert reason("stage2", dataclasses.replace(trained, classes=()), given=False) == f"{why}the score."
    assert trained.contribution.endswith("Sum of all positions: -3 logit.")
    untrained = dataclasses.replace(trained, untrained="the network is at chance")
    for facts in (untrained, nl.view.BlockFacts()):
        assert first_query(record, facts, clip) == (1, 1.0, 1.0)  # the salient pixel, not the middle


def test_untrained_blocks_are_called_so():
    torch.manual_seed(0)
    found = similarity(torch.randn(1, 6, 4, 3, 5), input_size=(4, 12, 20), temperature=0.2).statistics()
    assert "selective" in found.verdict
    assert verdict(found, added=0.0).startswith("untrained: the block adds nothing")
    chance = verdict(found, added=0.1, untrained="the network is at chance (validation accuracy 0.34 with 3 classes)")
    assert chance.startswith("the network is at chance")
    assert "selective" not in chance
    assert verdict(found, added=0.125).endswith("the block adds 12.5% to its input")


@pytest.mark.parametrize(
    ("theta", "scale", "words"),
    [
        (torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), 60.0, "on a single key"),
        (
            torch.tensor([3.0, 0, 0, 0]) + torch.randn(12, 4, generator=torch.Generator().manual_seed(0)) / 3,
            1.0,
            "similar",
        ),
        (torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), 1.0, ""),
    ],
    ids=["one key each", "one row for all", "selective"],
)
def test_collapsed_blocks_are_called_so(theta, scale, words):
    phi = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))
    weights = PairWeights("embedded_gaussian", theta[None], phi[None], scale)
    record = BlockRecord("b", weights, Geometry.evenly((12,), (12,), (1,), (12,)), attend="spacetime", batch=1)
    found = judge(record.statistics())
    assert found.text.startswith("collapsed") == bool(words)
    assert words in found.text
    terms = {"on a single key": "on one key", "similar": "nearly the same weights", "": "weights differ"}
    assert [words == case for case in terms] == [term in found.meaning for term in terms.values()]
    assert "arrow" not in found.meaning


def test_a_saved_page_equals_the_notebook_page(tmp_path):
    page = nl.view.Page(CLIP, record_of())
    assert page.save(tmp_path / "page.html").read_text() == page.html
    shown = page._repr_html_()
    assert shown.startswith('<iframe srcdoc="')
    assert "allow-same-origin" not in shown


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (nl.view.Facts(labels=["a"]), r"facts\.labels: got 1, expected one for each of 4 frames"),
        (nl.view.Facts(beside="x"), "facts: no record of block 'x'; records: 1"),
        (nl.view.Facts(blocks={"1": nl.view.BlockFacts(evidence=torch.zeros(2, 2, 2))}), "expected .4, 3, 5."),
    ],
)
def test_facts_that_do_not_fit_the_clip_raise(facts, message):
    with pytest.raises(ValueError, match=message):
        nl.view.Page(CLIP, {"1": record_of()}, facts=facts)


def test_single_images_of_several_blocks_are_laid_out_in_rows():
    rows = {f"layer{number}": torch.rand(3, 4) for number in range(5)}
    picture = nl.view.compare(np.zeros((30, 40, 3), np.uint8), rows, query=(5, 7), title="five blocks\nof one image")
    lefts = {round(image.get_extent()[0], 3) for image in picture.figure.axes[0].images}
    tops = {round(image.get_extent()[3], 3) for image in picture.figure.axes[0].images}
    assert len(lefts) > 1
    assert len(tops) < 5
    words = [text.get_text() for text in picture.figure.axes[0].texts]
    assert words[:2] == ["five blocks", "of one image"]
    assert not any("frame" in word for word in words)


def test_titles_of_frames_lie_below_the_arrows(link):
    clip = np.zeros((8, 30, 60, 3), np.uint8)
    picture = nl.view.arrows(clip, [link((0, 5, 5), (t, 20, 40), 0.1) for t in range(1, 8)])
    axes = picture.figure.axes[0]
    arrows = [patch.get_zorder() for patch in axes.patches if (patch.get_gid() or "").startswith("link")]
    titles = [text for text in axes.texts if text.get_text().startswith("frame")]
    assert max(text.get_zorder() for text in titles) < min(arrows)
    assert all(text.get_bbox_patch() is None for text in titles)
