"""Frame sampling."""

import pytest
import torch

from torch_nonlocal.media import parse_schedule, random_clip, uniform_clips


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("8x8", (8, 8)),
        ("32x2", (32, 2)),
        ("4x16", (4, 16)),
        (" 8X4 ", (8, 4)),
        ("64-to-32", (32, 2)),
        ("uniform-8", (8, None)),
    ],
)
def test_named_schedules(name, schedule):
    assert parse_schedule(name) == schedule
    assert parse_schedule(name).is_uniform == (schedule[1] is None)
    assert parse_schedule(name).span == (None if schedule[1] is None else schedule[0] * schedule[1])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("eight", r"got 'eight', expected FRAMESxSTRIDE such as 8x8"),
        ("8", "expected FRAMESxSTRIDE"),
        ("0x8", "1 or more"),
        ("8x0", "1 or more"),
        ("64-to-0", "not a multiple"),
        ("64-to-30", "64 is not a multiple of 30"),
        ("-8x8", "expected"),
        ("uniform", "or uniform-FRAMES such as uniform-8"),
        ("uniform-0", "1 or more"),
        ("uniform8", "expected"),
    ],
)
def test_other_names_raise_with_the_expected_format(name, message):
    with pytest.raises(ValueError, match=message):
        parse_schedule(name)


def test_random_starts_cover_every_position_at_which_the_clip_fits():
    generator = torch.Generator().manual_seed(0)
    drawn = [random_clip(12, 3, 4, generator) for _ in range(200)]
    assert {clip[0] for clip in drawn} == {0, 1, 2, 3}
    assert all(clip == [clip[0], clip[0] + 4, clip[0] + 8] for clip in drawn)


@pytest.mark.parametrize(
    ("total", "length", "stride", "expected"),
    [
        (57, 8, 8, [[0, 8, 16, 24, 32, 40, 48, 56]]),  # fits once
        (20, 8, 8, [[start + 2 * i for i in range(8)] for start in range(6)]),  # stride 2 is the largest that fits
        (8, 8, 8, [list(range(8))]),
        (3, 8, 8, [[0, 1, 2, 0, 1, 2, 0, 1]]),
        (1, 4, 2, [[0, 0, 0, 0]]),
        (5, 1, 8, [[0], [1], [2], [3], [4]]),
    ],
)
def test_short_videos_are_sampled_more_densely_then_repeated(total, length, stride, expected):
    generator = torch.Generator().manual_seed(1)
    drawn = [random_clip(total, length, stride, generator) for _ in range(100)]
    assert sorted(map(list, {tuple(clip) for clip in drawn})) == expected
    assert uniform_clips(total, length, stride, 2) == [expected[0], expected[-1]]


@pytest.mark.parametrize("stride", [8, None])
def test_the_generator_advances_equally_for_every_video(stride):
    after = []
    for total in (1, 20, 10_000):
        generator = torch.Generator().manual_seed(2)
        random_clip(total, 8, stride, generator)
        after.append(torch.rand(1, generator=generator))
    assert after[0] == after[1] == after[2]


def test_uniform_clips_cover_the_video_at_equal_steps():
    clips = uniform_clips(100, 4, 3, 10)
    assert [clip[0] for clip in clips] == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert clips[-1][-1] == 99
    assert uniform_clips(101, 4, 3, 1) == [[45, 48, 51, 54]]


@pytest.mark.parametrize(
    ("total", "length", "expected"),
    [
        (80, 8, [5, 15, 25, 35, 45, 55, 65, 75]),
        (20, 8, [1, 3, 6, 8, 11, 13, 16, 18]),  # parts of 2 or 3 frames
        (8, 8, list(range(8))),
        (5, 8, [0, 0, 1, 1, 2, 3, 3, 4]),  # frames repeat in order
        (1, 4, [0, 0, 0, 0]),
        (7, 1, [3]),
    ],
)
def test_a_uniform_clip_has_the_center_of_each_part(total, length, expected):
    assert uniform_clips(total, length, None, 1) == [expected]


@pytest.mark.parametrize("total", [1, 5, 8, 20, 80, 301])
def test_random_uniform_clips_have_every_frame_of_each_part_and_no_other(total):
    generator = torch.Generator().manual_seed(0)
    drawn = [random_clip(total, 8, None, generator) for _ in range(2000)]
    for part in range(8):
        first, stop = part * total // 8, (part + 1) * total // 8
        assert {clip[part] for clip in drawn} == (set(range(first, stop)) or {first})


def test_uniform_views_differ_in_every_frame_where_parts_are_long_enough():
    views = uniform_clips(80, 8, None, 10)
    assert sorted(frame for view in views for frame in view) == list(range(80))
    assert views[0] == [10 * part for part in range(8)]
    assert uniform_clips(240, 8, None, 3)[0][:2] == [5, 35], "the center of a third of a part"
    short = uniform_clips(20, 8, None, 10)
    assert all(part * 20 // 8 <= view[part] < (part + 1) * 20 // 8 for view in short for part in range(8))
    assert uniform_clips(3, 8, None, 2) == [[0, 0, 0, 1, 1, 1, 2, 2]] * 2


@pytest.mark.parametrize(("total", "length", "stride"), [(0, 8, 8), (9, 0, 1), (9, 1, 0)])
def test_numbers_below_one_raise(total, length, stride):
    with pytest.raises(ValueError, match="must be 1 or more, got 0"):
        random_clip(total, length, stride, torch.Generator())
    with pytest.raises(ValueError, match="must be 1 or more, got 0"):
        uniform_clips(total, length, stride, 1)
    with pytest.raises(ValueError, match="clips must be 1 or more, got 0"):
        uniform_clips(9, 1, 1, 0)
