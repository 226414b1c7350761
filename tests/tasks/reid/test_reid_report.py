"""The report of a test: the page, its pictures, and what of the data reaches them."""

import copy
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from torch_nonlocal.data.tracklets.tracklet import Tracklet
from torch_nonlocal.insertion import insert
from torch_nonlocal.media.broken import BrokenVideoError
from torch_nonlocal.models.inputs import Inputs
from torch_nonlocal.models.tracklet_net import TrackletNet
from torch_nonlocal.tasks.reid import testing
from torch_nonlocal.tasks.reid.data import Retrieval
from torch_nonlocal.tasks.reid.evaluation import embedded_retrieval
from torch_nonlocal.tasks.reid.metrics import PROTOCOLS, evaluate_blocks
from torch_nonlocal.tasks.reid.open_set import identify_embeddings
from torch_nonlocal.tasks.reid.rankings import rank_matches
from torch_nonlocal.tasks.reid.report import chosen_queries, threshold_text, write_report
from torch_nonlocal.tasks.reid.report_pictures import Drawing
from torch_nonlocal.tasks.reid.settings import ReidSettings, ReidTestOptions
from torch_nonlocal.tasks.reid.trained import TrackletEmbedder
from torch_nonlocal.tasks.reid.verification import verify_embeddings

HOSTILE = "<script>alert(1)</script> & $x_"


class Source:
    """Colored tracklets of three identities in two cameras; the first frame of one of them cannot be read."""

    def __init__(self):
        names = [("a", "1"), ("b", "1"), (HOSTILE, "1"), ("a", "2"), ("b", "2"), (HOSTILE, "2"), ("junk", "2")]
        self.tracklets = [
            Tracklet(f"{identity}-{camera}", identity, camera, 5, role="junk" if identity == "junk" else "person")
            for identity, camera in names
        ]
        self.broken = set()

    def read(self, index, frames):
        if index in self.broken:
            raise BrokenVideoError("gone", "damaged")
        generator = torch.Generator().manual_seed(index)
        return torch.randint(0, 256, (3, 5, 16, 8), generator=generator, dtype=torch.uint8)[:, list(frames)]


@pytest.fixture(scope="module")
def tested():
    torch.manual_seed(0)
    network = TrackletNet(nn.Sequential(nn.Conv3d(3, 6, (1, 4, 4), stride=(1, 4, 4)), nn.ReLU()), 6, 3).eval()
    network.inputs = Inputs((0.5,) * 3, (0.25,) * 3)
    settings = ReidSettings(frames="uniform-2", height=16, width=8, non_local="none")
    retrieval = Retrieval(Source(), (0, 1, 2), (3, 4, 5, 6))
    model, options = TrackletEmbedder(network, settings, ""), ReidTestOptions(pictures=2)
    ranked = embedded_retrieval(network, retrieval, settings, model.inputs)
    labels = ranked.gallery_ids, ranked.gallery_cameras, ranked.query_ids, ranked.query_cameras
    pairs = ranked.query, ranked.gallery, *labels
    verified = verify_embeddings(*pairs, metric="cosine")
    open_set = identify_embeddings(*pairs, unknown_ids=[1], metric="cosine")
    scores = evaluate_blocks(testing.distances_of(ranked, options), *labels, protocols=PROTOCOLS)
    return testing.Tested(model, retrieval, ranked, scores, verified, open_set, options, (f"note {HOSTILE}",), ())


def written(tested, out, pictures=2):
    options = ReidTestOptions(pictures=pictures)
    tested = testing.Tested(**{**vars(tested), "options": options})
    rankings = rank_matches(tested.blocks(), tested.labels(), "official")
    return write_report(tested, out, rankings, about={"data": HOSTILE})


@pytest.fixture(scope="module")
def report(tested, tmp_path_factory):
    return written(tested, tmp_path_factory.mktemp("test"))


def test_page_shows_every_picture_and_names_both_protocols(tested, report):
    page = report.read_text()
    shown = re.findall(r'src="([^"]*)"', page)
    assert sorted(shown) == sorted(f"pictures/{path.name}" for path in (report.parent / "pictures").iterdir())
    expected = {"cmc", "roc", "pairs", "overview", "worst-01", "worst-02", "best-01"}
    expected |= {f"links-0{number}-{kind}" for number in (1, 2, 3) for kind in ("right", "wrong")}
    assert {name.removeprefix("pictures/").removesuffix(".png") for name in shown} == expected
    for name, one in tested.scores.items():
        assert f"<td>{name}</td><td>{one.mean_ap:.4f}</td>" in page
    assert "known identities: 2, of unknown\nones: 1." in page
    assert "without the consent of these people" in page
    assert "nearest right match at rank" in page
    assert threshold_text(tested.verification.at_false_accept_rate(0.01).threshold, "cosine") in page


def test_the_page_names_the_places_of_the_blocks(tested, report, tmp_path):
    assert "no blocks" in report.read_text("utf-8")
    model = copy.deepcopy(tested.model)
    insert(model.network.backbone, "0", torch.zeros(1, 3, 2, 16, 8))
    page = written(testing.Tested(**{**vars(tested), "model": model}), tmp_path, pictures=0)
    assert "1 block at backbone.0," in page.read_text("utf-8")


def test_names_are_escaped(tested, report):
    page = report.read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 3


def test_without_pictures_the_page_has_tables_and_earlier_pictures_are_removed(tested, tmp_path):
    (tmp_path / "pictures").mkdir()
    for name in ("worst-01", "links-03-wrong", "cmc", "mine"):
        (tmp_path / "pictures" / f"{name}.png").touch()
    page = written(tested, tmp_path, pictures=0).read_text()
    assert "<img" not in page
    assert "Retrieval" in page
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["mine.png"]


def test_a_report_that_fails_leaves_no_earlier_page_without_its_pictures(tested, tmp_path, monkeypatch):
    written(tested, tmp_path)
    monkeypatch.setattr(Drawing, "overview", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        written(tested, tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_tracklets_that_are_gone_leave_gaps(tested, tmp_path):
    tested.retrieval.source.broken = {0, 3}
    try:
        written(tested, tmp_path)
    finally:
        tested.retrieval.source.broken = set()
    assert (tmp_path / "pictures" / "worst-01.png").exists()


def test_no_figure_stays_open(report):
    pyplot = sys.modules.get("matplotlib.pyplot", SimpleNamespace(get_fignums=list))
    assert not pyplot.get_fignums()


def test_the_worst_queries_come_first_and_no_query_twice():
    values = np.array([0.5, np.nan, 0.1, 1.0, 0.1, 0.9])
    assert chosen_queries(values, 2) == ([2, 4], [3, 5])
    assert chosen_queries(values, 4) == ([2, 4, 0, 5], [3])
    assert chosen_queries(values, 9) == ([2, 4, 0, 5, 3], [])
