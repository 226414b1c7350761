"""The saved page in a browser: it shows the values of the record."""

import json
import re
from pathlib import Path

import numpy as np
import page_browser
import pytest
import torch

import torch_nonlocal as nl
from torch_nonlocal.attention import BlockRecord
from torch_nonlocal.attention.geometry import Geometry
from torch_nonlocal.attention.weights import PairWeights

T, H, W = 4, 6, 5
SIZE = (24, 20)  # size of the frames in pixels
FORMS = {
    "over keys": {"pairwise": "embedded_gaussian"},
    "over queries": {"pairwise": "embedded_gaussian", "normalize": "queries"},
    "large logits": {"pairwise": "embedded_gaussian", "scale": 20.0},
    "gaussian": {"pairwise": "gaussian"},
    "dot product": {"pairwise": "dot_product"},
    "concatenation": {"pairwise": "concatenation"},
    "space": {"pairwise": "embedded_gaussian", "attend": "space"},
    "time": {"pairwise": "embedded_gaussian", "attend": "time"},
    "dot product over queries": {"pairwise": "dot_product", "normalize": "queries", "subsample": 2},
    "causal": {"causal": "frames"},
    "causal window": {"causal": "frames", "window_frames": 2, "subsample": 2},
    "causal dot product": {"pairwise": "dot_product", "causal": "frames", "window_frames": 2},
    "causal concatenation": {"pairwise": "concatenation", "causal": "frames"},
    "causal time": {"attend": "time", "causal": "frames", "window_frames": 2},
    "windows": {"windows": (2, 4, None), "subsample": (1, 2, 2)},
    "interlaced": {
        "pairwise": "dot_product",
        "normalize": "queries",
        "windows": (None, 4, 2),
        "interlaced": True,
    },
    "criss cross": {"attend": "criss_cross", "pairwise": "concatenation"},
    "top-k": {"top_k": 40},
    "hard": {"hard": True, "subsample": 2},
    "top-k in windows": {"top_k": 3, "windows": (None, 4, 4)},
    "regions": {"regions": 60},
    "dot product of regions": {"regions": 20, "attend": "space", "pairwise": "dot_product"},
    "strided keys": {"keys": "stride", "subsample": 2},
    "pooled keys": {"pairwise": "embedded_gaussian", "subsample": (2, 2, 2)},
}


def record_of(name: str, seed: int = 0, **options: object) -> BlockRecord:
    """Record of a block with random weights on a grid (T, H, W) and two random clips of four times its size."""
    torch.manual_seed(seed)
    block = nl.NonLocal3d(12, **options).eval()  # pyright: ignore[reportArgumentType]
    net = torch.nn.Sequential(torch.nn.AvgPool3d((1, 4, 4)), block).eval()
    with torch.no_grad(), nl.watch(net) as seen:
        net(4 * torch.randn(2, 12, T, *SIZE))
    (found,) = seen.values()
    return found


@pytest.fixture(scope="module")
def records() -> dict[str, BlockRecord]:
    return {name: record_of(name, **options) for name, options in FORMS.items()}


@pytest.fixture(scope="module")
def saved(records: dict[str, BlockRecord], tmp_path_factory: pytest.TempPathFactory) -> Path:
    clip = np.random.default_rng(0).random((T, *SIZE, 3))
    return nl.view.save_page(tmp_path_factory.mktemp("page") / "all.html", clip, records, batch=1)


@pytest.fixture(scope="module")
def browser():
    with page_browser.chromium() as found:
        yield found


@pytest.fixture
def opened(browser, saved: Path):
    page = page_browser.Opened(browser, saved)
    yield page
    page.close()


@pytest.fixture(scope="module")
def shared(browser, saved: Path):
    """The page opened once for several tests."""
    page = page_browser.Opened(browser, saved)
    yield page
    page.close()


def stated_error(path: Path, name: str) -> float:
    text = re.search(r'id="page-data">(.*?)</script>', path.read_text())
    assert text
    (block,) = (block for block in json.loads(text[1])["blocks"] if block["name"] == name)
    return block["error"]["largest"]


@pytest.mark.parametrize("name", FORMS)
def test_click_shows_the_row_column_and_links_of_the_record(name, shared, records, saved) -> None:
    record, opened = records[name], shared
    if opened.get("mode") == "in":
        opened.tab.keyboard.press("w")
    opened.tab.get_by_role("tab", name=name, exact=True).click()
    assert opened.get("mode") == "out"
    opened.click(2, 13, 10, SIZE)  # cell (2, 3, 2)
    assert opened.get("block") == name
    assert {key: opened.get("query")[key] for key in "tyx"} == {"t": 2, "y": 3, "x": 2}
    tolerance = 2 * stated_error(saved, name) + 1e-6  # the error is that of sampled rows

    row = record.rows([(2, 13, 10)], pixels=True, batch=1)[0].numpy()
    assert np.abs(np.reshape(opened.get("row"), row.shape) - row).max() <= tolerance
    check_links(opened, record.links, row, tolerance, "out")

    opened.tab.keyboard.press("w")
    column = record.column((2, 13, 10), pixels=True, batch=1).numpy()
    assert np.abs(np.reshape(opened.get("row"), column.shape) - column).max() <= tolerance
    check_links(opened, record.links, column, tolerance, "in")


def check_links(opened, links, expected, tolerance: float, direction: str) -> None:
    """The page lists k links with the weights of the record's links, at positions with these weights.

    Those of at least 1% of the strongest weight have arrows; none has if practically nothing attends to the position.
    """
    frames, k = opened.get("frames"), opened.get("k")
    wanted = links((2, 13, 10), k, frames=frames, direction=direction, pixels=True, batch=1)
    found = opened.get("links")
    assert [link["weight"] for link in found] == pytest.approx([link.weight for link in wanted], abs=2 * tolerance)
    for link in found:
        end = "target" if direction == "out" else "source"
        assert abs(expected[tuple(link[end])] - link["weight"]) <= tolerance
    assert direction == "in" or found[0]["sourcePixel"] == pytest.approx(wanted[0].source_pixel)
    drawn = opened.tab.locator("#strip svg .link").evaluate_all("links => links.map(link => +link.dataset.weight)")
    weights = [link["weight"] for link in found]
    visible = [one for one in weights if abs(one) >= 0.01 * max(map(abs, weights))]
    if "practically nothing" in opened.get("summary"):
        assert direction == "in"
        assert expected.sum() * expected.size < 0.01 * expected.size
        visible = []
    assert sorted(drawn) == pytest.approx(sorted(visible))
    assert opened.tab.locator("#links li").count() == len(visible)


@pytest.mark.parametrize("width", [320, 1280])  # frames in two lines and in one
def test_arrows_start_at_the_query_and_end_at_the_targets(browser, saved, width: int) -> None:
    opened = page_browser.Opened(browser, saved, width=width)
    opened.click(1, 5, 6, SIZE)
    ends = opened.tab.evaluate(
        """() => {
          const strip = document.querySelector("#strip").getBoundingClientRect();
          const place = ([frame, y, x]) => {
            const box = document.querySelectorAll("#strip canvas")[frame].getBoundingClientRect();
            return [box.left - strip.left + (x + 0.5) / 20 * box.width,
              box.top - strip.top + (y + 0.5) / 24 * box.height];
          };
          return nonlocalPage.links.map((link, rank) => {
            const group = document.querySelector(`#strip .link[data-rank="${rank}"]`);
            const start = group.querySelector("path").getAttribute("d").match(/[-\\d.]+/g).slice(0, 2).map(Number);
            const tip = group.querySelector("polygon").getAttribute("points").split(" ")[0].split(",").map(Number);
            return [start, place(link.sourcePixel), tip, place(link.targetPixel)];
          });
        }"""
    )
    assert len(ends) == 20
    for start, source, tip, target in ends:
        assert start == pytest.approx(source, abs=0.6)
        assert tip == pytest.approx(target, abs=0.6)
    opened.close()


def test_keys_move_the_query_step_frames_and_play(opened) -> None:
    opened.click(1, 9, 10, SIZE)
    assert [opened.get("query")[key] for key in ("t", "y", "x")] == [1, 2, 2]
    for key, place in (("ArrowRight", [1, 2, 3]), ("ArrowDown", [1, 3, 3]), ("ArrowLeft", [1, 3, 2]),
                       ("ArrowUp", [1, 2, 2]), ("]", [2, 2, 2]), ("[", [1, 2, 2])):  # fmt: skip
        opened.tab.keyboard.press(key)
        assert [opened.get("query")[axis] for axis in ("t", "y", "x")] == place, key
    for _ in range(9):
        opened.tab.keyboard.press("ArrowUp")  # the query stays on the grid
    assert opened.get("query")["y"] == 0
    shown = opened.tab.locator("#player output")
    for key, frame in ((".", 2), (",", 1), ("PageDown", 2), ("PageUp", 1)):
        opened.tab.keyboard.press(key)
        assert shown.inner_text() == f"frame {frame} / 3", key
    opened.tab.keyboard.press(" ")
    opened.tab.get_by_role("button", name="Pause").wait_for()
    opened.wait_until("document.querySelector('#player output').textContent !== 'frame 1 / 3'")
    opened.tab.keyboard.press(" ")
    opened.tab.get_by_role("button", name="Play").wait_for()


def test_query_follows_the_pointer_until_a_click(opened) -> None:
    opened.tab.locator("#strip canvas").nth(3).hover()
    opened.wait_until("nonlocalPage.query.frame === 3")
    opened.click(0, 1, 1, SIZE)
    opened.tab.locator("#strip canvas").nth(2).hover()
    opened.tab.locator("#hint").wait_for(state="visible")
    assert opened.get("query")["frame"] == 0


def test_slider_sets_k_up_to_the_number_of_links(opened) -> None:
    opened.tab.locator("#k").fill("7")
    assert (opened.get("k"), len(opened.get("links"))) == (7, 7)
    opened.tab.get_by_role("tab", name="time", exact=True).click()  # three other frames: at most three links
    assert (opened.get("k"), len(opened.get("links"))) == (3, 3)
    assert opened.tab.locator("#k").get_attribute("max") == "3"


def test_frame_choices_match_those_of_links(opened, records) -> None:
    opened.click(2, 13, 10, SIZE)
    for frames in ("all", "others", "each"):
        opened.tab.locator(f"#frames input[value={frames}]").check(force=True)
        wanted = records["over keys"].links((2, 13, 10), 20, frames=frames, pixels=True, batch=1)
        assert len(opened.get("links")) == len(wanted)
        assert sum(link["weight"] for link in opened.get("links")) == pytest.approx(
            sum(link.weight for link in wanted), rel=0.02
        )


def test_query_is_announced_to_screen_readers(opened) -> None:
    opened.click(2, 13, 10, SIZE)
    live = opened.tab.locator("#live[aria-live=polite]")
    opened.wait_until("document.querySelector('#live').textContent === nonlocalPage.summary")
    assert live.inner_text().startswith("Frame 2, y 14, x 10 attends most to")


def test_statistics_match_the_row(opened, records) -> None:
    opened.click(2, 13, 10, SIZE)
    row = records["over keys"].rows([(2, 13, 10)], pixels=True, batch=1)[0].double()
    found = opened.get("statistics")
    assert found["entropy"] == pytest.approx(float(-(row * row.log()).sum() / np.log(row.numel())), abs=5e-3)
    assert found["on_itself"] == pytest.approx(float(row[2, 3, 2]), rel=0.02)
    assert found["on_own_frame"] == pytest.approx(float(row[2].sum()), rel=0.02)
    t, y, x = torch.meshgrid(torch.arange(T), torch.arange(H), torch.arange(W), indexing="ij")
    assert found["reach_frames"] == pytest.approx(float((row * (t - 2).abs()).sum()), rel=0.02)
    distance = 4 * torch.hypot((y - 3).double(), (x - 2).double())
    assert found["reach_pixels"] == pytest.approx(float((row * distance).sum()), rel=0.02)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_themes_have_sufficient_contrast_and_narrow_screens_do_not_scroll_sideways(
    browser, saved, scheme, width
) -> None:
    page = page_browser.Opened(browser, saved, width=width, height=844, scheme=scheme)
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= width
    dim = page.tab.evaluate(CONTRASTS)
    assert dim == []
    page.tab.locator("#theme").click()
    assert page.tab.evaluate("document.documentElement.dataset.theme") == {"light": "dark", "dark": "light"}[scheme]
    assert page.tab.evaluate(CONTRASTS) == []
    page.click(3, 2, 2, SIZE)
    assert page.get("query")["frame"] == 3
    page.close()


# Texts whose contrast to the background is below that of WCAG AA.
CONTRASTS = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color.slice(0, 3);
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll("body *")].filter((node) =>
    [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim()) && node.offsetParent &&
    !node.closest("script, noscript, .skip, .unseen, #hint")
  ).map((node) => {
    const [high, low] = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a);
    return [(high + 0.05) / (low + 0.05), node.textContent.slice(0, 40)];
  }).filter(([ratio]) => ratio < 4.5);
}"""


def test_images_have_no_strip_and_sequences_open(browser, tmp_path: Path) -> None:
    torch.manual_seed(0)
    block = nl.NonLocal2d(8, subsample=2).eval()
    with torch.no_grad(), nl.watch(block) as seen:
        block(torch.randn(1, 8, 9, 14))
    path = nl.view.save_page(tmp_path / "image.html", torch.rand(9, 14, 3), seen, title="</script><b>&")
    page = page_browser.Opened(browser, path)
    page.click(0, 7, 11, (9, 14))
    (record,) = seen.values()
    assert np.abs(np.array(page.get("row")) - record.rows([(7, 11)])[0].flatten().numpy()).max() < 1e-3
    assert not page.tab.locator("#strip").is_visible()
    assert not page.tab.locator("#player").is_visible()
    assert page.tab.locator("h1").inner_text() == "</script><b>&" == page.tab.title()
    page.close()

    key = torch.randn(1, 30)
    sequence = BlockRecord(
        "sequence", PairWeights("concatenation", torch.randn(1, 30), key),
        Geometry.evenly((30,), (30,), (1,), (30,)), attend="spacetime", batch=1,
    )  # fmt: skip
    page = page_browser.Opened(browser, nl.view.save_page(tmp_path / "line.html", torch.rand(3, 30), sequence))
    page.click(0, 1, 12, (3, 30))
    assert np.array(page.get("row")) == pytest.approx(sequence.rows([(12,)])[0].numpy(), abs=1e-6)
    page.close()


EVIL = '</script><script>window.ran = "script"</script><img src=x onerror="ran = 1"><base href="https://a.example/">'


def test_names_and_title_cannot_add_elements_to_the_page(browser, records, tmp_path: Path) -> None:
    clip = np.random.default_rng(0).random((T, *SIZE, 3))
    seen = {EVIL: records["space"], "\u2028'\"<!--<script>": records["time"]}
    page = page_browser.Opened(browser, nl.view.save_page(tmp_path / "evil.html", clip, seen, title=EVIL))
    page.click(2, 13, 10, SIZE)
    assert page.tab.locator("#tabs [role=tab]").all_inner_texts() == list(seen)
    assert page.tab.evaluate("window.ran") is None
    assert page.tab.locator("img, base, #tabs script").count() == 0
    page.close()


# Each would set window.ran without a policy. eval runs in a callback: the policy does not hold inside evaluate().
ATTEMPTS = {
    "script-src-elem": "const s = document.createElement('script'); s.textContent = 'ran = 1'; document.body.append(s)",
    "script-src-attr": "document.body.insertAdjacentHTML('beforeend', '<svg onload=\"ran = 1\"></svg>')",
    "script-src": "setTimeout(() => { try { Function('ran = 1')() } catch {} })",
    "connect-src": "fetch('https://a.example/').then(() => { ran = 1 }).catch(() => {})",
    "img-src": "const i = new Image(); i.onload = () => { ran = 1 }; i.src = 'https://a.example/i.png'",
    "base-uri": "const b = document.createElement('base'); b.href = 'https://a.example/'; document.head.append(b);"
    " if (document.baseURI.includes('a.example')) ran = 1",
    "form-action": "const f = document.createElement('form'); f.action = 'https://a.example/'; f.method = 'post';"
    " document.body.append(f); f.submit()",
}


@pytest.mark.parametrize("directive", ATTEMPTS)
def test_policy_of_the_page_blocks_everything_but_its_own_script(directive: str, browser, saved) -> None:
    page = page_browser.Opened(browser, saved)
    page.tab.evaluate(
        "window.blocked = [];"
        "document.addEventListener('securitypolicyviolation', (event) => blocked.push(event.effectiveDirective))"
    )
    page.tab.evaluate(f"() => {{ {ATTEMPTS[directive]} }}")
    page.wait_until("blocked.length > 0")
    assert page.tab.evaluate("blocked") == [directive]
    assert page.tab.evaluate("window.ran") is None
    page.context.close()  # the browser has logged the violation


def test_page_of_6272_positions_takes_less_than_8_megabytes(browser, tmp_path: Path) -> None:
    torch.manual_seed(0)
    block = nl.NonLocal3d(512).eval()
    with torch.no_grad(), nl.watch(block) as seen:
        block(torch.randn(1, 512, 8, 28, 28))
    ramp = torch.linspace(0, 1, 224)
    clip = (ramp[None, :, None] * ramp[None, None, :] + torch.zeros(8, 1, 1)).clamp(0, 1)
    path = nl.view.save_page(tmp_path / "big.html", clip, seen)
    assert path.stat().st_size < 8e6
    page = page_browser.Opened(browser, path)
    (record,) = seen.values()
    for point in ((3, 60, 80), (5, 120, 40), (0, 20, 200), (7, 220, 3), (4, 99, 101)):
        before = page.get("lastPaintMs")
        page.click(*point, (224, 224))
        page.wait_until(f"nonlocalPage.lastPaintMs !== {json.dumps(before)}")
        query = page.get("query")
        row = record.rows([(query["t"], query["y"], query["x"])])[0].flatten().numpy()
        assert np.abs(np.array(page.get("row")) - row).max() <= 0.02 * row.max()
    page.close()
