"""The page states its facts, restores its state from a link, saves pictures, and works by keyboard."""

from pathlib import Path

import numpy as np
import page_browser
import pytest
import torch

import torch_nonlocal as nl
from torch_nonlocal.attention import BlockRecord, Geometry, similarity
from torch_nonlocal.attention.weights import PairWeights

T, SIZE = 4, (24, 20)
FACTS = {
    "file": "walk.mp4",
    "labels": [f"frame {10 * t}, {t:.2f} s" for t in range(T)],
    "size": (48, 40),
    "why": "The first query was given.",
}


def record_of(seed: int, name: str):
    torch.manual_seed(seed)
    return similarity(torch.randn(1, 6, T, 6, 5), input_size=(T, *SIZE), temperature=0.3, name=name)


@pytest.fixture(scope="module")
def records():
    return {"one": record_of(0, "one"), "two": record_of(1, "two")}


EVIDENCE = torch.linspace(-1, 1, T * 30).reshape(T, 6, 5)


@pytest.fixture(scope="module")
def saved(records, tmp_path_factory) -> Path:
    clip = np.random.default_rng(0).random((T, *SIZE, 3))
    trained = nl.view.BlockFacts(
        "runs/a",
        [("walking", 0.75), ("running", 0.25)],
        EVIDENCE,
        0.1,
        scored="From 10 views.",
        seen="The network saw whole frames.",
    )
    facts = nl.view.Facts(**FACTS, blocks={"one": trained})
    return nl.view.save_page(
        tmp_path_factory.mktemp("page") / "page.html", clip, records, point=(2, 13, 10), facts=facts
    )


@pytest.fixture(scope="module")
def browser():
    with page_browser.chromium() as found:
        yield found


@pytest.fixture
def opened(browser, saved):
    page = page_browser.Opened(browser, saved)
    yield page
    page.close()


def test_file_network_class_block_and_time_are_stated(opened):
    text = opened.tab.locator("header").inner_text()
    for part in ("walk.mp4", "runs/a", "walking (75.0 %)", "running", "one: gaussian"):
        assert part in text
    assert opened.tab.locator("#player output").inner_text() == "frame 20, 2.00 s (3 of 4)"
    assert opened.tab.locator("#why").inner_text() == FACTS["why"]
    assert opened.get("summary").startswith("Frame 20, 2.00 s, y 28, x 20 attends")  # in pixels of the file
    opened.click(0, 1, 1, SIZE)
    assert opened.tab.locator("#why").inner_text() == "Chosen by you."
    opened.tab.locator("#back").click()
    assert opened.tab.locator("#why").inner_text() == FACTS["why"]
    assert [opened.get("query")[axis] for axis in ("frame", "y", "x")] == [2, 3, 2]
    assert not opened.tab.locator("#back").is_visible()


def test_positions_are_those_of_the_file_if_the_clip_shows_a_region_of_it(browser, records, tmp_path):
    facts = nl.view.Facts(size=SIZE, origin=(100, 40))
    clip = np.random.default_rng(0).random((T, *SIZE, 3))
    page = page_browser.Opened(browser, nl.view.save_page(tmp_path / "page.html", clip, records, facts=facts))
    page.click(1, 13, 10, SIZE)
    assert page.get("summary").startswith("Frame 1, y 114, x 50 attends")  # the centers of the cell, 13.5 and 9.5
    page.close()


def test_the_judgment_of_a_block_stands_below_the_prediction(opened):
    verdict = opened.tab.locator("#verdict")
    prediction, source = (opened.tab.locator(name).bounding_box()["y"] for name in ("#prediction", "#source"))
    assert prediction < verdict.bounding_box()["y"] < source
    assert verdict.inner_text().startswith("one: weights are selective")
    assert verdict.get_attribute("title").startswith("Selective: ")
    assert "is-warning" not in (verdict.get_attribute("class") or "")
    assert opened.tab.locator("#scored").inner_text() == "From 10 views. The network saw whole frames."


def test_statistics_have_the_values_of_uniform_weights_beside_them(opened):
    rows = opened.tab.locator("#statistics tbody tr").all_inner_texts()
    uniform = {row.split("\t")[0]: row.split("\t")[-1] for row in rows}
    assert uniform["Entropy"] == "1.000"
    assert uniform["Largest ÷ uniform"] == "1.00"
    assert uniform["Own frame"] == "25.0 %"
    assert uniform["Self-weight"] == "0.83 %"  # one of 120 keys
    assert uniform["Distance, frames"] == "1.00"  # from frame 2 to 0, 1, 2, 3


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_texts_of_the_strip_do_not_overlap(browser, saved, width):
    page = page_browser.Opened(browser, saved, width=width)
    assert page.tab.evaluate(OVERLAPS) == []
    page.close()


# Pairs of texts below frames that overlap, and texts that are wider than their frame.
OVERLAPS = """() => {
  const texts = [...document.querySelectorAll("#strip .name, #strip .share")];
  const boxes = texts.map((text) => text.getBoundingClientRect());
  const wide = texts.filter((text, n) => boxes[n].width > text.closest("figure").clientWidth + 1);
  const pairs = boxes.flatMap((a, n) => boxes.slice(n + 1).filter((b) =>
    a.left < b.right - 0.5 && b.left < a.right - 0.5 && a.top < b.bottom - 0.5 && b.top < a.bottom - 0.5));
  return [...wide, ...pairs].map(String);
}"""


def test_the_legend_explains_dashed_arrows_where_there_are_several_frames(opened):
    assert "dashed: the other end is in another frame" in opened.tab.locator("#legend").inner_text()
    assert opened.tab.locator("#stage .elsewhere").count() > 0
    opened.tab.keyboard.press("w")
    assert "from a query, which has a dot" in opened.tab.locator("#legend").inner_text()


def test_the_evidence_is_shown_beside_the_attention_and_follows_the_query(opened, records):
    assert opened.get("beside") == "evidence"
    assert opened.tab.locator("#title-2").inner_text() == (
        "Contribution to walking (gradient \u00d7 activation) at the output of one"
    )
    assert np.reshape(opened.get("besideRow"), EVIDENCE.shape) == pytest.approx(EVIDENCE.numpy())
    assert opened.tab.locator("#note-2").inner_text() == (
        "Red raises and blue lowers the score (logit) of walking, to first order: gradient \u00d7 activation at each "
        f"position. Sum of all positions: {float(EVIDENCE.sum()):+.3g} logit."
    )
    opened.tab.locator("#beside").select_option("two")
    assert opened.tab.locator("#note-2").inner_text() == ""
    opened.tab.locator("#strip-2 canvas").nth(1).click()  # the cursors are linked
    query = opened.get("query")
    row = records["two"].rows([(query["t"], query["y"], query["x"])])[0].flatten()
    assert query["frame"] == 1
    assert opened.get("besideRow") == pytest.approx(row.tolist(), abs=0.02 * float(row.max()))
    rings = [opened.tab.locator(f"{root} .ring").count() for root in ("#stage", "#stage-2", "#strip", "#strip-2")]
    assert rings == [1, 1, 1, 1]
    opened.tab.locator("#strip canvas").nth(3).hover()
    assert [opened.tab.locator(f"{root} .cursor").count() for root in ("#strip", "#strip-2")] == [1, 1]
    opened.tab.locator("#beside").select_option("")
    assert not opened.tab.locator("#view-2").is_visible()


def test_a_link_restores_the_state(browser, saved, opened):
    opened.tab.get_by_role("tab", name="two", exact=True).click()
    opened.click(1, 9, 10, SIZE)
    opened.tab.locator("#mode input[value=in]").check(force=True)
    opened.tab.locator("#frames input[value=each]").check(force=True)
    opened.tab.locator("#k").fill("7")
    opened.tab.locator("#gain").fill("2")
    opened.tab.locator("#smooth").click()
    opened.tab.keyboard.press(".")
    opened.wait_until("location.hash.includes('frame=2') && location.hash.includes('smooth')")
    names = ("block", "mode", "frames", "k", "query", "high", "row")
    expected = {name: opened.get(name) for name in names}
    other = page_browser.Opened(browser, saved)
    other.tab.evaluate("link => { location.hash = link }", opened.tab.evaluate("location.hash"))
    other.wait_until("nonlocalPage.k === 7")
    for name in names:
        found = other.get(name)
        if name == "query":
            assert {axis: found[axis] for axis in ("frame", "t", "y", "x")} == {
                axis: expected[name][axis] for axis in ("frame", "t", "y", "x")
            }
        else:
            assert found == pytest.approx(expected[name]) if name in ("row", "high") else found == expected[name]
    assert other.tab.locator("#player output").inner_text() == "frame 20, 2.00 s (3 of 4)"
    assert other.tab.locator("#smooth").get_attribute("aria-pressed") == "true"
    other.close()


def test_an_invalid_link_is_ignored(browser, saved):
    page = page_browser.Opened(browser, saved)
    page.tab.evaluate("location.hash = '#block=none&query=99,a&k=900&frame=-3&direction=up&links=x&brightness=nan'")
    page.tab.wait_for_timeout(100)
    assert (page.get("block"), page.get("k"), page.get("mode"), page.get("frames")) == ("one", 20, "out", "others")
    page.close()


def test_the_picture_is_downloaded(opened, tmp_path):
    Image = pytest.importorskip("PIL.Image")
    with opened.tab.expect_download() as download:
        opened.tab.get_by_role("button", name="Save picture").click()
    assert download.value.suggested_filename == "walk-one.png"
    download.value.save_as(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape[0] > 300
    assert (np.ptp(pixels, axis=2) > 60).mean() > 0.02  # colors of weights and arrows


def test_thumbnails_are_reached_and_used_by_keyboard(opened):
    frames = opened.tab.locator("#strip canvas")
    frames.nth(3).focus()
    assert opened.tab.evaluate("document.activeElement === document.querySelectorAll('#strip canvas')[3]")
    assert frames.nth(3).get_attribute("aria-label").startswith("frame 30, 3.00 s, ")
    before = opened.get("query")
    for key, frame in (("Enter", 3), (" ", 0)):
        frames.nth(frame).focus()
        opened.tab.keyboard.press(key)
        assert opened.get("query")["frame"] == frame
        assert (opened.get("query")["y"], opened.get("query")["x"]) == (before["y"], before["x"])
    assert opened.tab.locator("#player output").inner_text() == "frame 0, 0.00 s (1 of 4)"
    assert opened.tab.get_by_role("button", name="Play").count() == 1  # space did not start the player


@pytest.mark.parametrize("mode", ["out", "in"])
@pytest.mark.parametrize("frames", ["all", "others", "each"])
def test_the_main_frame_shows_arrows_in_every_mode(opened, mode, frames):
    opened.click(2, 13, 10, SIZE)
    opened.tab.locator(f"#mode input[value={mode}]").check(force=True)
    opened.tab.locator(f"#frames input[value={frames}]").check(force=True)
    links, own = opened.get("links"), 2
    arrows = opened.tab.locator("#stage .link")
    assert arrows.count() == len(links)
    elsewhere = sum(link["other"][0] != own for link in links)
    assert opened.tab.locator("#stage .link.elsewhere").count() == elsewhere
    assert opened.tab.locator("#stage .link path").count() > 0
    opened.tab.get_by_role("button", name="Next frame").click()  # another frame shows the arrows to it
    assert arrows.count() == sum(link["other"][0] == 3 for link in links)


def test_cells_are_sharp_unless_smoothing_is_asked_for(opened):
    assert opened.tab.locator("#smooth").get_attribute("aria-pressed") == "false"
    count = """() => { const canvas = document.querySelector('#stage-2 canvas');
      const copy = document.createElement('canvas'); [copy.width, copy.height] = [canvas.width, canvas.height];
      const context = copy.getContext('2d', { willReadFrequently: true }); context.drawImage(canvas, 0, 0);
      const row = context.getImageData(0, canvas.height / 2 | 0, canvas.width, 1).data;
      let jumps = 0; for (let i = 4; i < row.length; i += 4) jumps += row[i] !== row[i - 4]; return jumps; }"""
    opened.tab.locator("#arrows").click()
    sharp = opened.tab.evaluate(count)
    opened.tab.locator("#smooth").click()
    assert opened.tab.evaluate(count) > sharp


def test_pictures_and_page_have_one_scale(opened, records):
    from torch_nonlocal.view.look import look

    clip = np.zeros((T, *SIZE, 3), np.uint8)
    assert opened.get("high") == pytest.approx(look(records["one"], (2, 13, 10), clip).brightest, rel=0.02)


def test_a_single_image_has_one_frame_and_links(browser, tmp_path):
    torch.manual_seed(0)
    record = similarity(torch.randn(1, 6, 1, 6, 5), input_size=(1, *SIZE))
    page = page_browser.Opened(browser, nl.view.save_page(tmp_path / "page.html", np.zeros((1, *SIZE, 3)), record))
    assert "1 frame of 24 \u00d7 20 pixels" in page.tab.locator("#subtitle").inner_text()
    assert len(page.get("links")) == 20
    assert "frames" not in page.tab.locator("#statistics").inner_text()
    page.close()


@pytest.fixture
def sharp(browser, tmp_path):
    """A page of a block whose weights are all on frame 0, none on its first cell; keys are coarser than queries."""
    key = torch.zeros(1, 4 * 6, 1)
    key[0, :6], key[0, 0], key[0, 1] = 30.0, -30.0, 32.0
    weights = PairWeights("embedded_gaussian", torch.ones(1, 4 * 24, 1), key)
    geometry = Geometry.evenly((4, 6, 4), (4, 3, 2), (1, 2, 2), (T, *SIZE))
    record = BlockRecord("sharp", weights, geometry, attend="spacetime", batch=1)
    facts = nl.view.Facts(size=(48, 40))
    path = nl.view.save_page(tmp_path / "page.html", np.zeros((T, *SIZE, 3)), record, point=(0, 1, 1), facts=facts)
    page = page_browser.Opened(browser, path)
    yield page
    page.close()


def arrows_of(page) -> list[int]:
    return [page.tab.locator(f"{root} .link").count() for root in ("#stage", "#strip")]


def test_a_position_to_which_nothing_attends_has_no_arrows(sharp):
    sharp.tab.keyboard.press("w")
    said = "practically nothing attends here: this key receives < 0.001 % of what an average key receives."
    assert sharp.get("summary") == f"Frame 0, y 4, x 5: {said}"
    assert sharp.tab.locator("#note").inner_text() == said.capitalize()
    assert arrows_of(sharp) == [0, 0]
    assert sharp.tab.locator("#links li").count() == 0
    assert sharp.tab.locator("#query-title").inner_text() == "Key"
    assert sharp.tab.locator("#why").inner_text() == "Given, not chosen automatically."
    assert "Received, of average\t< 0.001 %" in sharp.tab.locator("#statistics").inner_text()
    fits = "document.querySelector('#statistics').getBoundingClientRect().right"
    assert sharp.tab.evaluate(f"{fits} < document.querySelector('.panel').getBoundingClientRect().right")
    sharp.click(0, 1, 19, SIZE)  # the key with most weight
    assert min(arrows_of(sharp)) > 0
    assert sharp.tab.locator("#links-note").inner_text() == "Percent of the weight of each query."
    assert sharp.tab.locator("#strip-note").inner_text().endswith("percent of what this key receives from all queries.")


def test_frames_without_weight_are_called_so(sharp):
    assert sharp.get("summary").endswith(
        "practically no weight in other frames: each weight is at most 1.0 % of a uniform one."
    )
    assert arrows_of(sharp) == [0, 0]
    sharp.tab.locator("#frames input[value=all]").check(force=True)
    assert arrows_of(sharp) == [5, 5]
    assert sharp.tab.locator("#links li").count() == 5
    assert (
        sharp.tab.locator("#links-rest").inner_text() == "15 of the 20 strongest not listed: below 1 % of the largest."
    )
    assert sharp.tab.locator("#note").inner_text() == ""
    sharp.tab.get_by_role("button", name="Next frame").click()
    assert sharp.tab.locator("#note").inner_text() == (
        "Practically no weight in this frame (< 0.001 %); strongest in frame 0 (100 %)."
    )


def test_the_legend_states_units_and_where_arrows_end(sharp, opened):
    text = sharp.tab.locator("#legend").inner_text()
    assert "query; positions are in pixels of the file, from 0 at its top left" in text
    assert (
        "at the center of the key's cell, which is coarser (4 \u00d7 3 \u00d7 2 keys, 4 \u00d7 6 \u00d7 4 queries)"
        in text
    )
    assert "coarser" not in opened.tab.locator("#legend").inner_text()
    means = sharp.tab.locator("#statistics tr", has_text="Distance, pixels").locator("td").all_inner_texts()
    assert float(means[0]) == pytest.approx(
        float(means[1]), rel=0.5
    )  # all in pixels of the file, twice those of the input


def test_arrows_have_the_colors_of_the_scale(opened):
    """The lower half of the scale has the colors of arrows."""
    found = opened.tab.evaluate(
        """() => [...document.querySelectorAll("#strip .link polygon:last-child")].map((tip) => {
          const weight = +tip.closest(".link").dataset.weight, canvas = document.querySelector("#scale canvas");
          const level = Math.round(255 * Math.min(weight / nonlocalPage.high, 1));
          const copy = document.createElement("canvas");
          [copy.width, copy.height] = [canvas.width, canvas.height];
          const context = copy.getContext("2d", { willReadFrequently: true });
          context.drawImage(canvas, 0, 0);
          const pixel = [...context.getImageData(level, 9, 1, 1).data].slice(0, 3);
          return [tip.getAttribute("fill"), `rgb(${pixel.join(" ")})`];
        })"""
    )
    assert len(found) == 20
    assert all(arrow == scale for arrow, scale in found)
    assert len({arrow for arrow, _ in found}) > 5
