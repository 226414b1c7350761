"""`nonlocal view`: pictures and the interactive page of one's own video or images."""

from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import tyro
from rich.console import Console
from torch import Tensor

from torch_nonlocal import view as drawing
from torch_nonlocal.attention import BlockRecord
from torch_nonlocal.models.build import PACKAGED
from torch_nonlocal.tasks.viewing import CHECKPOINTS, attention_records, read_frames
from torch_nonlocal.view.page.frames import eye_catcher


def view(
    paths: tyro.conf.Positional[tuple[Path, ...]],
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
    """Show what pixels of a video or of images look at: heatmaps, arrows, and a page to click in.

    With a checkpoint of blocks (nl.save_blocks) in front of the video: those blocks, in the network that --model names.
    Without one: a parameter-free block on a pretrained network's features, EfficientNet-Lite0 unless --model says
    otherwise. Nothing is downloaded unless --pretrained asks for it.

    Example: nonlocal view holiday.mp4 --point 0,120,200 -o out/

    Example: nonlocal view blocks.safetensors clip.mp4 --model torchvision:r3d_18

    Args:
        paths: [CHECKPOINT] VIDEO, or [CHECKPOINT] IMAGE IMAGE ...
        out: folder for the pictures and page.html; made if missing.
        point: a pixel as frame,y,x of the frames looked at (see --size); may be given several times.
        block: the block's name, where there are several.
        model: packaged, torchvision:NAME, timm:NAME, ours:NAME or FILE.py:FUNCTION.
        at: the module whose features are compared, without a checkpoint.
        frames: how many frames of a video.
        start: its first frame.
        stride: frames from one to the next; 0 spreads them evenly.
        size: larger frames are reduced to this short side, in pixels.
        temperature: of the parameter-free block; the smaller, the sharper.
        k: arrows drawn.
        pretrained: let torchvision or timm download their weights.
        film: also write an MP4 of each heatmap.
    """
    checkpoint = paths[0] if paths and paths[0].suffix in CHECKPOINTS else None
    clip = read_frames(paths[1:] if checkpoint else paths, frames=frames, start=start, stride=stride, size=size)
    records = attention_records(
        clip, model=model, checkpoint=checkpoint, at=at, temperature=temperature, pretrained=pretrained
    )
    record = _chosen(records, block)
    points = [_point(text) for text in point] or [eye_catcher(clip.numpy())]
    looks = [_look(clip, record, one) for one in points]  # a wrong point ends here, before anything is written
    out.mkdir(parents=True, exist_ok=True)
    console = Console()
    for number, (one, seen) in enumerate(zip(points, looks, strict=True)):
        _pictures(record, seen, out, f"point{number}", k, film)
        console.print(f"frame {one[0]:g}, y {one[1]:g}, x {one[2]:g}: {out}/point{number}-*.png", highlight=False)
    first = looks[0]
    page = drawing.save_page(out / "page.html", first.clip, records, batch=first.batch, point=first.query)
    console.print(
        f"{record!r}\n{record.statistics(batch=first.batch)}\n{page}: open it and click", highlight=False, markup=False
    )


class _Look(NamedTuple):
    """A query: of the whole clip, or of one frame where the block is 2D and saw the frames as a batch."""

    clip: Tensor
    query: tuple[float, ...]
    batch: int
    row: Tensor


def _look(clip: Tensor, record: BlockRecord, point: tuple[float, float, float]) -> _Look:
    if len(record.geometry.grid) == 3:
        return _Look(clip, point, 0, record.rows([point], pixels=True)[0])
    frame = int(point[0])
    row = record.rows([point[1:]], pixels=True, batch=frame)[0]
    return _Look(clip[frame : frame + 1], point[1:], frame, row)


def _pictures(record: BlockRecord, seen: _Look, out: Path, name: str, k: int, film: bool) -> None:
    row, several = seen.row, len(seen.clip) > 1 and seen.row.shape[0] > 1
    others, brightest = row, None
    if several:  # its own weight would outshine the rest
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


def _chosen(records: dict[str, BlockRecord], block: str) -> BlockRecord:
    if block and block not in records:
        raise ValueError(f"--block {block}: expected one of {', '.join(records)}")
    return records[block] if block else next(iter(records.values()))


def _point(text: str) -> tuple[float, float, float]:
    try:
        frame, y, x = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--point {text}: expected frame,y,x such as 0,120,200") from None
    return frame, y, x
