"""`nonlocal view`: pictures and the interactive page for videos and images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import tyro

from torch_nonlocal._common.files import check_folder
from torch_nonlocal._common.terminal import terminal
from torch_nonlocal.cli import needs

if TYPE_CHECKING:
    from torch import Tensor

    from torch_nonlocal.attention import BlockRecord

PACKAGED = "packaged"


def view(
    paths: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="PATH...")],
    *,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("view-out"),
    point: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    block: str = "",
    model: str = PACKAGED,
    at: str = "",
    frames: int = 8,
    start: int = 0,
    stride: int = 0,
    size: int = 272,
    temperature: float = 0.1,
    k: int = 20,
    pretrained: bool = False,
    film: bool = False,
) -> None:
    """Show what pixels of a video or of images attend to: heatmaps, arrows and an interactive page.

    If a blocks file (written by nl.save_blocks) precedes the video, its blocks are shown in the network named by
    --model. Otherwise the softmax of feature similarities (a block without parameters) is computed from the
    features of --model. The packaged model is pretrained. Models of torchvision, timm or this library have random
    weights unless --pretrained is given, which downloads weights.

    Example: nonlocal view holiday.mp4 --point 0,120,200 -o out/

    Example: nonlocal view blocks.safetensors clip.mp4 --model torchvision:r3d_18

    Args:
        paths: [BLOCKS] VIDEO, or [BLOCKS] IMAGE IMAGE ...
        out: output folder for the pictures and page.html; created if missing.
        point: query pixel as frame,y,x, counted from 0, in the frames that are shown (see --size); by default a pixel
            that differs most from its surroundings. Repeat the option for several.
        block: name of the block to show; the first one by default.
        model: packaged (EfficientNet-Lite0 with ImageNet weights), torchvision:NAME, timm:NAME, ours:NAME or
            FILE.py:FUNCTION.
        at: module whose features are compared; required without BLOCKS, except for the packaged model.
        frames: number of frames taken from a video.
        start: index of the first frame, from 0.
        stride: step between sampled frames; 0 spreads them evenly over the video.
        size: maximum length of the shorter side in pixels; larger frames are downscaled.
        temperature: softmax temperature of the block without parameters; smaller is sharper.
        k: number of arrows per query pixel.
        pretrained: let torchvision or timm download pretrained weights.
        film: also write each heatmap as an MP4 video.
    """
    check_folder(out)
    needs.check("view", model=model)
    from torch_nonlocal import view as drawing
    from torch_nonlocal.tasks.viewing import CHECKPOINTS, attention_records, read_frames
    from torch_nonlocal.view.page.frames import eye_catcher

    checkpoint = paths[0] if paths and paths[0].suffix in CHECKPOINTS else None
    clip = read_frames(paths[1:] if checkpoint else paths, frames=frames, start=start, stride=stride, size=size)
    records = attention_records(
        clip, model=model, checkpoint=checkpoint, at=at, temperature=temperature, pretrained=pretrained
    )
    record = _chosen(records, block)
    points = [_point(text) for text in point] or [eye_catcher(clip.numpy())]
    looks = [_look(clip, record, one) for one in points]  # a point outside the clip fails before anything is written
    out.mkdir(parents=True, exist_ok=True)
    console = terminal()
    for number, (one, seen) in enumerate(zip(points, looks, strict=True)):
        _pictures(record, seen, out, f"point{number}", k, film)
        console.print(
            f"frame {one[0]:g}, y {one[1]:g}, x {one[2]:g}: {out}/point{number}-*.png", highlight=False, markup=False
        )
    first = looks[0]
    page = drawing.save_page(out / "page.html", first.clip, records, batch=first.batch, point=first.query)
    statistics = record.statistics(batch=first.batch)
    console.print(f"{record!r}\n{statistics}\n{page}: open it and click any pixel", highlight=False, markup=False)


class _Look(NamedTuple):
    """A query in the whole clip, or in one frame where a 2D block sees the frames as a batch."""

    clip: "Tensor"
    query: tuple[float, ...]
    batch: int
    row: "Tensor"


def _look(clip: "Tensor", record: "BlockRecord", point: tuple[float, float, float]) -> _Look:
    if len(record.geometry.grid) == 3:
        return _Look(clip, point, 0, record.rows([point], pixels=True)[0])
    frame = int(point[0])
    row = record.rows([point[1:]], pixels=True, batch=frame)[0]
    return _Look(clip[frame : frame + 1], point[1:], frame, row)


def _pictures(record: "BlockRecord", seen: _Look, out: Path, name: str, k: int, film: bool) -> None:
    import torch

    from torch_nonlocal import view as drawing

    row, several = seen.row, len(seen.clip) > 1 and seen.row.shape[0] > 1
    others, brightest = row, None
    if several:  # the weight on the query itself would outshine the rest
        own = record.geometry.covering_key(record.geometry.nearest_query(seen.query))
        others = torch.cat([row[: own[0]], row[own[0] + 1 :]])
        brightest = float(others.abs().max()) / 2 or None
    placed = record.geometry.spread(row)
    drawing.heatmap(seen.clip, placed, query=seen.query, vmax=brightest).save(out / f"{name}-heatmap.png")
    frames, most = "others" if several else "all", min(k, others.numel())
    links = record.links(seen.query, k=most, frames=frames, pixels=True, batch=seen.batch)
    drawing.arrows(seen.clip, links, k=k).save(out / f"{name}-arrows.png")
    if film:
        drawing.video(out / f"{name}.mp4", seen.clip, placed, query=seen.query, fps=4, vmax=brightest)


def _chosen(records: dict[str, "BlockRecord"], block: str) -> "BlockRecord":
    if block and block not in records:
        raise ValueError(f"--block {block}: expected one of {', '.join(records)}")
    return records[block] if block else next(iter(records.values()))


def _point(text: str) -> tuple[float, float, float]:
    try:
        frame, y, x = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--point {text}: expected frame,y,x such as 0,120,200") from None
    return frame, y, x
