"""The saved page without a browser: its data, its accuracy and its errors."""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import torch_nonlocal as nl
from torch_nonlocal.attention import BlockRecord, similarity
from torch_nonlocal.view.page import bundle
from torch_nonlocal.view.page import frames as page_frames
from torch_nonlocal.view.page.payload import least_size, positions_of, prepare
from torch_nonlocal.view.page.quantize import BITS, packed_size, quantize

CLIP = torch.linspace(0, 1, 3 * 16 * 20).reshape(3, 16, 20, 1)


@pytest.fixture(scope="module")
def record() -> BlockRecord:
    torch.manual_seed(0)
    return similarity(torch.randn(2, 6, 3, 8, 10), input_size=(3, 16, 20), temperature=1.0, name="block")


def carried(path: Path) -> dict:
    text = re.search(r'id="page-data">(.*?)</script>', path.read_text())
    assert text
    return json.loads(text[1])


def numbers(path: Path, which: int) -> bytes:
    text = re.search(rf'id="data-{which}">(.*?)</script>', path.read_text())
    assert text
    return base64.b64decode(text[1])


def test_page_is_one_file_without_references_to_others(record, tmp_path: Path) -> None:
    path = nl.view.save_page(tmp_path / "page.html", CLIP, record)
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
    text = path.read_text()
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=[\"'](?!data:)", text)
    assert not re.search(r"\b(fetch|XMLHttpRequest|import)\s*\(", text)
    assert not re.search(r"^\s*(import|export)\b", text, re.MULTILINE)


def test_equal_data_is_stored_once(record, tmp_path: Path) -> None:
    (block,) = carried(nl.view.save_page(tmp_path / "page.html", CLIP, {"one": record}))["blocks"]
    assert block["query"] == block["key"]
    page = carried(nl.view.save_page(tmp_path / "page.html", CLIP, {"one": record, "again": record}))
    assert page["blocks"][0]["query"] == page["blocks"][1]["query"]
    assert [block["name"] for block in page["blocks"]] == ["one", "again"]


def test_stated_error_is_measured_and_at_most_two_percent(record, tmp_path: Path) -> None:
    path = nl.view.save_page(tmp_path / "page.html", CLIP, record, batch=1)
    (block,) = carried(path)["blocks"]
    assert 0 < block["error"]["relative"] <= 0.02
    assert block["query"]["bits"] == 8
    codes = np.frombuffer(numbers(path, block["query"]["codes"]), np.uint8).reshape(240, 6).astype(np.float32) - 127
    x = torch.from_numpy(codes * np.frombuffer(numbers(path, block["query"]["scales"]), "<f4")[:, None])
    found = torch.softmax(x @ x.T, dim=1)
    exact = torch.stack([record.rows([divmod_point(i)], batch=1)[0].flatten() for i in range(240)])
    assert (found - exact).abs().max() <= 2 * block["error"]["largest"]  # the stated error is that of sampled rows
    sums = torch.from_numpy(np.frombuffer(numbers(path, block["logSums"]), "<f4").copy())
    assert torch.allclose(torch.exp(x @ x.T - sums[:, None]).sum(1), torch.ones(240), atol=1e-4)


def divmod_point(index: int) -> tuple[int, int, int]:
    return index // 80, index // 10 % 8, index % 10


def test_large_logits_take_more_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sharp = nl.NonLocal3d(64, scale=8.0).eval()
    with torch.no_grad(), nl.watch(sharp) as seen:
        sharp(torch.randn(1, 64, 3, 8, 10))
    (block,) = carried(nl.view.save_page(tmp_path / "page.html", CLIP, seen))["blocks"]
    assert block["query"]["bits"] > 8
    assert block["error"]["relative"] <= 0.02


@settings(max_examples=30, deadline=None)
@given(bits=st.sampled_from(BITS), positions=st.integers(1, 9), width=st.integers(1, 7), seed=st.integers(0, 99))
def test_packing_is_lossless_and_rounding_errors_are_at_most_half_a_step(
    bits: int, positions: int, width: int, seed: int
) -> None:
    values = torch.randn(positions, width, generator=torch.Generator().manual_seed(seed))
    found = quantize(values, bits)
    data = found.packed()
    assert len(data) == packed_size(positions, width, bits)
    stream = int.from_bytes(data, "big") >> (8 * len(data) - bits * positions * width)
    count = positions * width
    codes = [stream >> bits * (count - 1 - i) & (1 << bits) - 1 for i in range(count)]
    assert codes == found.code_PD.flatten().tolist()
    half_a_step = torch.from_numpy(found.scale_P)[:, None] / 2
    rounding = torch.finfo(torch.float32).eps * values.abs()  # of the quotient and of the product in float32
    assert ((found.values - values).abs() <= half_a_step + rounding).all()


def test_zeros_stay_zero() -> None:
    assert (quantize(torch.zeros(2, 3), 8).values == 0).all()


def test_coarser_grid_is_smaller_and_has_a_measured_distance(record, tmp_path: Path) -> None:
    path = nl.view.save_page(tmp_path / "page.html", CLIP, record, coarser=2)
    (block,) = carried(path)["blocks"]
    assert (block["grid"], block["coarser"]) == ([3, 4, 5], 2)
    assert 0 < block["distance"] < 1
    assert block["queryCenters"][1] == [1.5, 5.5, 9.5, 13.5]

    torch.manual_seed(0)
    even = torch.randn(1, 6, 3, 4, 5).repeat_interleave(2, 3).repeat_interleave(2, 4)
    same = similarity(even, input_size=(3, 16, 20))
    (block,) = carried(nl.view.save_page(path, CLIP, same, coarser=2))["blocks"]
    assert block["distance"] < 1e-5  # averaging equal positions is exact


@pytest.mark.parametrize(
    "options",
    [
        {"pairwise": "dot_product"},
        {"pairwise": "concatenation"},
        {"attend": "space", "subsample": 2},
        {"attend": "time", "subsample": 2},
        {"normalize": "queries"},
    ],
)
def test_coarser_grids_of_all_forms(options: dict, tmp_path: Path) -> None:
    torch.manual_seed(0)
    block = nl.NonLocal3d(4, **options).eval()
    with torch.no_grad(), nl.watch(block) as seen:
        block(torch.randn(1, 4, 4, 7, 9))
    clip = torch.rand(4, 14, 18)
    (block_spec,) = carried(nl.view.save_page(tmp_path / "page.html", clip, seen, coarser=2))["blocks"]
    assert block_spec["grid"] == [4, 4, 5]
    assert 0 <= block_spec["distance"] < 1
    for axis, count in enumerate(block_spec["grid"]):
        assert len(block_spec["queryCenters"][axis]) == len(block_spec["covering"][axis]) == count
        assert max(block_spec["covering"][axis]) < block_spec["keyGrid"][axis]


def test_titles_and_names_are_escaped(record, tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>&<!--"
    text = nl.view.save_page(tmp_path / "page.html", CLIP, {evil: record}, title=evil).read_text()
    assert "<script>alert" not in text
    assert carried(tmp_path / "page.html")["blocks"][0]["name"] == evil


def test_page_above_the_limit_raises_with_its_size_and_ways_to_reduce_it(record, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"would take 0\.0 MB, more than max_bytes=2000 .*coarser=2.*fewer frames"
    ) as hit:
        nl.view.save_page(tmp_path / "page.html", CLIP, record, max_bytes=2000)
    assert "240 positions" in str(hit.value)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="would take"):  # scripts count as well
        nl.view.save_page(tmp_path / "page.html", CLIP, record, max_bytes=20_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("channels", "frames", "side", "max_bytes"),
    [(2000, 3, 16, 300_000), (2, 60, 128, 200_000)],
    ids=["theta and phi", "frames"],
)
def test_a_page_above_the_limit_is_refused_before_it_is_encoded(
    channels: int, frames: int, side: int, max_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = similarity(torch.randn(1, channels, frames, 8, 10), input_size=(frames, side, side))
    clip = torch.randint(0, 256, (frames, side, side, 3), dtype=torch.uint8)
    encoded = []
    monkeypatch.setattr("torch_nonlocal.view.page.payload.quantize", lambda *given: encoded.append(given))
    encode = page_frames._data_uri
    monkeypatch.setattr(page_frames, "_data_uri", lambda frame: encoded.append("") or encode(frame))
    with pytest.raises(ValueError, match=r"the page would take .*, more than max_bytes="):
        nl.view.save_page(tmp_path / "page.html", clip, record, max_bytes=max_bytes)
    assert encoded in ([], [""] * 3)  # three frames for the estimate
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pairwise", ["gaussian", "embedded_gaussian", "dot_product", "concatenation"])
@pytest.mark.parametrize("coarser", [1, 3])
def test_the_size_is_known_before_rounding(pairwise: str, coarser: int) -> None:
    torch.manual_seed(0)
    block = nl.NonLocal3d(8, pairwise=pairwise, subsample=2).eval()  # pyright: ignore[reportArgumentType]
    with torch.no_grad(), nl.watch(block) as seen:
        block(torch.randn(1, 8, 4, 7, 9))
    (record,) = seen.values()
    prepared = prepare(record, batch=0, coarser=coarser)
    assert positions_of(record, coarser=coarser) == (len(prepared.maps.query), len(prepared.maps.key))
    least = least_size(record, coarser=coarser)
    assert least <= prepared.size
    if pairwise != "gaussian" and prepared.bits in (8, 32):
        assert least == prepared.size


def not_finite() -> BlockRecord:
    return similarity(torch.full((1, 2, 3, 4, 5), torch.nan), input_size=(3, 16, 20))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seen": {}}, "no block has run"),
        ({"batch": 2}, "batch=2: expected 0 to 1, the batch that 'block' ran on"),
        ({"batch": -1}, "batch=-1: expected 0 to 1"),
        ({"clip": CLIP[:2]}, "'block' has 3 frames but the clip has 2"),
        ({"clip": CLIP[:0]}, "empty"),
        ({"point": (3, 0, 0)}, "query frame 3 is outside the clip: expected 0 to 2"),
        ({"coarser": 0}, "coarser=0"),
        ({"seen": not_finite()}, "not finite"),
        ({"seen": similarity(torch.randn(1, 2, 4, 5), input_size=(16, 20))}, r"ran on images .* clip\[0\]"),
    ],
)
def test_invalid_input_raises_and_writes_nothing(change: dict, message: str, record, tmp_path) -> None:
    given = {"clip": CLIP, "seen": record} | change
    with pytest.raises(ValueError, match=message):
        nl.view.save_page(tmp_path / "page.html", given.pop("clip"), given.pop("seen"), **given)
    assert list(tmp_path.iterdir()) == []


def test_invalid_records_and_folders_raise(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"expected the result of nl\.watch"):
        nl.view.save_page(tmp_path / "page.html", CLIP, [1])
    with pytest.raises(ValueError, match="no folder"):
        nl.view.save_page(
            tmp_path / "none" / "page.html", CLIP, similarity(torch.randn(1, 2, 3, 4, 5), input_size=(3, 16, 20))
        )


def test_missing_jinja2_raises_with_the_pip_command(record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"pip install 'torch-nonlocal\[view\]'"):
        nl.view.save_page(tmp_path / "page.html", CLIP, record)
    assert list(tmp_path.iterdir()) == []


def test_first_query_is_the_given_point_or_the_most_varied_region(record, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    assert carried(nl.view.save_page(path, CLIP, record, point=(2, 5, 7)))["start"] == [2, 5, 7]
    clip = torch.zeros(3, 16, 20, 1)
    clip[1, 8:10, 12:14, 0] = torch.eye(2)
    assert carried(nl.view.save_page(path, clip, record))["start"] == [1, 8.5, 12.5]


def test_importing_view_does_not_import_the_page() -> None:
    code = "import sys, torch_nonlocal.view; assert not any('page' in m for m in sys.modules if 'torch_nonlocal' in m)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_page_contains_all_scripts() -> None:
    folder = Path(bundle.__file__).parent / "static"
    assert sorted(bundle._SCRIPTS) == sorted(file.name for file in folder.glob("*.js"))
