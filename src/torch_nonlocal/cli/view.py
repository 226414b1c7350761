"""`nonlocal view`: pictures and the interactive page for videos and images."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import tyro

from torch_nonlocal._common.files import check_folder
from torch_nonlocal._common.terminal import terminal
from torch_nonlocal._common.text import did_you_mean
from torch_nonlocal.cli import needs

if TYPE_CHECKING:
    from torch_nonlocal.tasks.footage import Footage
    from torch_nonlocal.tasks.trained_viewing import Viewed
    from torch_nonlocal.tasks.viewing import Attended

PACKAGED = "packaged"
FRAMES = 8


def view(
    paths: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="PATH...")] = (),
    *,
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("view-out"),
    point: tyro.conf.UseAppendAction[tuple[str, ...]] = (),
    block: str = "",
    compare: Path | None = None,
    model: str = PACKAGED,
    at: str = "",
    frames: int = 0,
    start: int = 0,
    stride: int = 0,
    views: int = 10,
    crops: Literal["1", "3", "full"] = "3",
    size: int = 272,
    temperature: float = 0.1,
    k: int = 20,
    pretrained: bool = False,
    film: bool = False,
    smooth: bool = False,
    follow: Path | None = None,
    camera: int | None = None,
    window: int = 8,
) -> None:
    """Show what pixels of a video or of images attend to: heatmaps, arrows and an interactive page.

    If best.pt of `nonlocal train action` precedes the video, the page shows its blocks, the class that nonlocal predict
    predicts and what contributes to it, on the region of the frames that the network sees. After best.pt of `nonlocal
    train reid`, the video or folder is a tracklet, and its frames are those of one clip. If a blocks file (written by
    nl.save_blocks) precedes it, its blocks are shown in the network named by --model. Otherwise the softmax of
    feature similarities (a block without parameters) is computed from the features of --model. The packaged model is
    pretrained. Models of torchvision, timm or this library have random weights unless --pretrained is given, which
    downloads weights.

    Example: nonlocal view runs/action/checkpoints/best.pt clip.mp4 -o out/

    Example: nonlocal view holiday.mp4 --point 0,120,200

    Example: nonlocal view --camera 0 -o out/

    Args:
        paths: [CHECKPOINT] VIDEO, [CHECKPOINT] IMAGE ..., or [CHECKPOINT] FOLDER of images. CHECKPOINT is best.pt, the
            folder of a run, or a file of blocks.
        out: output folder for the pictures and page.html; created if missing.
        point: query as frame,y,x (for a single image y,x), counted from 0: the frame's number in the file, and pixels
            of the file; each can be a percentage, as in 50%,30%,70%. By default, the position with the most positive
            gradient x activation for the predicted class or, without classes, the region with the most contrast and
            motion. Repeat the option for several.
        block: name of the block to show; the first one by default.
        compare: a second checkpoint of the same kind, shown beside the first for the same query.
        model: packaged (EfficientNet-Lite0 with ImageNet weights), torchvision:NAME, timm:NAME, ours:NAME or
            FILE.py:FUNCTION.
        at: module whose features are compared; required without CHECKPOINT, except for the packaged model.
        frames: number of frames taken from a video; 0 takes 8, or as many as the trained network takes.
        start: index of the first frame, from 0.
        stride: step between sampled frames; 0 spreads them evenly over the video, or takes that of the training.
        views: evenly spaced clips per video over which a trained network's probabilities are averaged, as by nonlocal
            predict; the middle of the video is shown.
        crops: crops per view, as for nonlocal predict: 1, 3, or full for the whole frame. The middle one is shown.
        size: maximum length of the shorter side in pixels; larger frames are downscaled.
        temperature: softmax temperature of the block without parameters; smaller is sharper.
        k: number of arrows per query.
        pretrained: let torchvision or timm download pretrained weights.
        film: also write each heatmap as an MP4 video.
        smooth: interpolate weights between the cells of the block's grid in pictures.
        follow: a video whose frames are taken one after another, as of a camera: the links of --point (y,x, by default
            the middle) on the newest frame are written to live.mp4 and, while it runs, to latest.png, and are shown in
            a window where OpenCV and a display are available. PATH is then a file of causal blocks, or nothing for the
            block without parameters.
        camera: the number of a camera to follow, from 0; end with Q in the window or Ctrl-C.
        window: with --follow or --camera, the number of frames that the block without parameters attends to.
    """
    if follow is not None or camera is not None:
        _follow(paths, follow, camera, out, point, block, model, at, temperature, window, pretrained, size, k)
        return
    if not paths:
        raise ValueError("PATH: expected a video, images or a folder of images; --follow and --camera need none")
    check_folder(out)
    needs.check("view", model=model)
    from torch_nonlocal import view as drawing
    from torch_nonlocal.tasks.view_pictures import Block, Scene, save_evidence, save_pictures
    from torch_nonlocal.view.page.save import first_query, reason

    for option, value in (("k", k), ("views", views)):
        if value < 1:
            raise ValueError(f"--{option} {value}: expected at least 1")
    networks = {"model": model, "at": at, "temperature": temperature, "pretrained": pretrained}
    sampling = {"frames": frames, "start": start, "stride": stride}
    testing = {"views": views, "crops": crops if crops == "full" else int(crops)}
    footage, attended, beside = _attended(paths, compare, size, sampling, networks, testing)
    name = _chosen(attended.records, block)
    partner = _partner(name, beside, attended)
    shown = Block.of(name, attended)
    record, about = shown.record, shown.facts
    why = reason(name, about, given=bool(point))
    scene = Scene(footage, shown, why, Block.of(partner, attended) if partner else None, smooth)
    points = [footage.point(text) for text in point] or [first_query(record, about, scene.clip)]
    looks = [scene.look(one, k) for one in points]
    facts = drawing.Facts(
        footage.file, footage.labels, footage.region[2:], why=why, beside=partner, blocks=attended.facts,
        origin=footage.region[:2],
    )  # fmt: skip
    order = {name: record, **attended.records}
    page = drawing.Page(scene.clip, order, point=points[0], title=_title(footage, about), facts=facts)

    out.mkdir(parents=True, exist_ok=True)
    console = terminal()
    if about.classes:
        scores = ", ".join(f"{label} {score:.3f}" for label, score in about.classes[:3])
        console.print(f"predicted class: {scores}", highlight=False, markup=False)
        console.print(" ".join(filter(None, (about.scored, about.seen))), highlight=False, markup=False)
    if about.evidence is not None:
        path = save_evidence(scene, out / "evidence.png", looks[0].query)
        console.print(f"what contributes to {about.classes[0][0]}: {path}", highlight=False, markup=False)
    for number, seen in enumerate(looks):
        save_pictures(scene, seen, out / f"point{number}", film=film)
        place = footage.describe(seen.query)
        console.print(f"query {place}: {out}/point{number}-*.png", highlight=False, markup=False)
    if not point:
        console.print(f"query: {why[0].lower()}{why[1:]}", highlight=False, markup=False)
    path = page.save(out / "page.html")
    lines = str(record.statistics()).splitlines()
    lines[0] = f"{name}: {shown.judged.text}"
    console.print("\n".join([repr(record), *lines]), highlight=False, markup=False)
    console.print(f"{path}: open it and click any pixel", highlight=False, markup=False)


def _follow(
    paths: Sequence[Path],
    file: Path | None,
    camera: int | None,
    out: Path,
    points: Sequence[str],
    block: str,
    model: str,
    at: str,
    temperature: float,
    window: int,
    pretrained: bool,
    size: int,
    k: int,
) -> None:
    """Follow a video or a camera."""
    if file is not None and camera is not None:
        raise ValueError(f"--follow {file} and --camera {camera}: expected one of them")
    if len(paths) > 1 or len(points) > 1:
        raise ValueError("--follow and --camera take one file of blocks, and one --point y,x")
    needs.check(
        "view", model=model, packages=() if camera is None else ("cv2",), extras=("camera",) * (camera is not None)
    )
    from torch_nonlocal.media import probe
    from torch_nonlocal.media.live import camera_frames, file_frames
    from torch_nonlocal.tasks import live

    y, _, x = points[0].rpartition(",") if points else ("50%", ",", "50%")
    if not y:
        raise ValueError(f"--point {points[0]}: expected y,x such as 120,200 or 50%,30%")
    network = live.live_network(
        model,
        checkpoint=paths[0] if paths else None,
        at=at,
        temperature=temperature,
        window=window,
        pretrained=pretrained,
    )
    fps = 10.0 if file is None else probe(file).fps
    frames = file_frames(file, size) if file is not None else camera_frames(camera or 0, size)
    out.mkdir(parents=True, exist_ok=True)
    found = live.follow(network, frames, out, fps=fps, point=(y.rpartition(",")[2], x), block=block, k=k)
    terminal().print(
        f"{found.block}: {found.frames} frames, {found.film}; the last one: {found.latest}",
        highlight=False,
        markup=False,
    )


class _Read(NamedTuple):
    """The frames, the blocks of one or two networks, and the label of the second; "" if there is one."""

    footage: "Footage"
    attended: "Attended"
    beside: str


def _attended(
    paths: Sequence[Path],
    compare: Path | None,
    size: int,
    sampling: dict[str, int],
    networks: dict[str, Any],
    testing: dict[str, Any],
) -> _Read:
    from torch_nonlocal.tasks.footage import evenly, read_footage
    from torch_nonlocal.tasks.trained_viewing import is_trained, load_trained
    from torch_nonlocal.tasks.viewing import CHECKPOINTS, Attended, attend

    first = paths[0] if paths and (paths[0].suffix in CHECKPOINTS or is_trained(paths[0])) else None
    files = paths[1:] if first else paths
    if first is None and compare is not None:
        raise ValueError(f"--compare {compare}: expected a checkpoint before the video to compare it with")
    checkpoints = [path for path in (first, compare) if path is not None]
    kinds = [is_trained(path) for path in checkpoints]
    if len(set(kinds)) > 1:
        kind = "best.pt of a run" if kinds[0] else "a file of blocks"
        raise ValueError(f"--compare {compare}: expected {kind}, as {first}")
    own_network = networks["model"] if networks["model"].partition(":")[0].endswith(".py") else ""
    trained = [load_trained(path, own_network, **testing) for path in checkpoints] if any(kinds) else []
    if trained:
        file = files[0] if len(files) == 1 else None
        choose = trained[0].frames(file, **sampling)
        footage = read_footage(files, choose, size=size, view_of=trained[0].view_of).repeated(trained[0].length)
        _check_same_region(trained, footage, compare)
        found = [one.attend(footage, file) for one in trained]
    else:
        footage = read_footage(files, evenly(**{**sampling, "frames": sampling["frames"] or FRAMES}), size=size)
        found = [attend(footage.clip, checkpoint=path, **networks) for path in checkpoints or [None]]
    if len(found) == 1:
        return _Read(footage, found[0], "")
    labels = _labels(checkpoints)
    one, two = (part.named(label) for part, label in zip(found, labels, strict=True))
    return _Read(footage, Attended({**one.records, **two.records}, {**one.facts, **two.facts}), labels[1])


def _check_same_region(trained: Sequence["Viewed"], footage: "Footage", compare: Path | None) -> None:
    """Check that the networks see the region that is shown, up to a pixel of rounding."""
    from torch_nonlocal.tasks.footage import shown_crop

    for one in trained:
        box = shown_crop(one.view_of, footage.size).boxes[0]
        if max(abs(side - shown) for side, shown in zip(box, footage.region, strict=True)) > 1:
            raise ValueError(
                f"--compare {compare}: the networks see different regions of the frames; expected --crops full"
            )


def _labels(checkpoints: Sequence[Path]) -> list[str]:
    """The shortest ends of two paths that differ; A and B before equal ones."""
    one, two = (path.absolute().parts for path in checkpoints)
    for count in range(1, max(len(one), len(two)) + 1):
        if one[-count:] != two[-count:]:
            return ["/".join(parts[-count:]) for parts in (one, two)]
    return [f"A {checkpoints[0].name}", f"B {checkpoints[1].name}"]


def _chosen(names: Any, block: str) -> str:
    if not block:
        return next(iter(names))
    matching = [name for name in names if name == block or name.endswith(f": {block}")]
    if not matching:
        hint = did_you_mean(block, names)
        raise ValueError(f"--block {block}: expected one of {', '.join(names)}{'; ' + hint if hint else ''}")
    return matching[0]


def _partner(name: str, beside: str, attended: "Attended") -> str:
    """The block of the other network with the same name, or its first one."""
    if not beside:
        return ""
    others = [other for other in attended.records if other.startswith(f"{beside}: ")]
    same = [other for other in others if other.rpartition(": ")[2] == name.rpartition(": ")[2]]
    return next(other for other in (*same, *others) if other != name)


def _title(footage: "Footage", about: Any) -> str:
    if about.classes:
        return f"{footage.file}: predicted {about.classes[0][0]}"
    return f"{footage.file}: what every pixel attends to"
