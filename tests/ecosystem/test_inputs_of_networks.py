"""Points are pixels of the user's images, whatever the network makes of its inputs."""

import pytest
import torch
from packages import package
from torch import nn
from torch.nn import functional as F

import torch_nonlocal as nl
from torch_nonlocal.attention import watch

PLACE = "backbone.body.layer1.0"


@pytest.fixture(scope="module")
def detector():
    detection = package("torchvision").models.detection
    torch.manual_seed(0)
    kinds = {"weights": None, "weights_backbone": None, "min_size": 64, "max_size": 128}
    model = detection.fasterrcnn_resnet50_fpn(num_classes=2, **kinds).eval()
    return nl.insert(model, PLACE, example_input=[torch.zeros(3, 40, 60)], pairwise="gaussian")


def looked_at(model, given):
    with torch.no_grad(), watch(model) as seen:
        model(given)
    return seen[PLACE]


def test_points_of_a_detector_are_pixels_of_the_image_before_it_is_resized(detector):
    geometry = looked_at(detector, [torch.rand(3, 40, 60)]).geometry
    # 40 x 60 is resized by 1.6 to 64 x 96; layer1 has stride 4 and offset 0 there.
    assert (geometry.grid, geometry.input_size, geometry.probed) == ((16, 24), (40, 60), True)
    assert geometry.stride == pytest.approx((2.5, 2.5))
    assert geometry.offset == pytest.approx((0.5 / 1.6 - 0.5,) * 2)


def test_each_image_of_a_batch_has_its_own_pixels(detector):
    record = looked_at(detector, [torch.rand(3, 40, 60), torch.rand(3, 32, 32)])
    first, second = record.geometry_of(0), record.geometry_of(1)
    assert record.geometry == first
    assert (first.input_size, first.stride) == ((40, 60), pytest.approx((2.5, 2.5)))
    assert (second.input_size, second.stride) == ((32, 32), pytest.approx((2, 2)))
    assert second.offset == pytest.approx((-0.25, -0.25))
    (link,) = record.links((30, 30), 1, pixels=True, batch=1)
    assert link.source == (15, 15)
    assert link.source_pixel == pytest.approx((29.75, 29.75))
    with pytest.raises(ValueError, match="pixel"):
        record.links((39, 59), 1, pixels=True, batch=1)


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("spot", [(12, 20), (20, 9)])
def test_a_change_at_a_pixel_changes_the_positions_around_the_one_over_it(detector, batch, spot):
    images = [torch.rand(3, 40, 60), torch.rand(3, 32, 32)]
    before = looked_at(detector, images)
    images[batch] = images[batch].clone()
    images[batch][:, spot[0], spot[1]] += 5
    changed = (looked_at(detector, images).weights.query - before.weights.query).abs().sum(-1)[batch]
    rows, columns = (changed.view(before.geometry.grid) > 0).nonzero(as_tuple=True)
    middle = [(axis.min() + axis.max()).item() / 2 for axis in (rows, columns)]
    over = before.geometry_of(batch).nearest_query(spot)
    assert all(abs(a - b) <= 1 for a, b in zip(middle, over, strict=True))


class Wrapper(nn.Module):
    """A network that makes a batch of its inputs in its own way."""

    def __init__(self, make_batch):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nl.NonLocal2d(4))
        self.make_batch = make_batch

    def forward(self, *args, **kwargs):
        return self.body(self.make_batch(*args, **kwargs))


def padded(images):
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    return torch.stack([F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in images])


IMAGE, BATCH, OTHER = torch.rand(3, 20, 24), torch.rand(2, 3, 20, 24), torch.rand(3, 16, 30)


@pytest.mark.parametrize(
    ("make_batch", "given", "input_size", "stride", "probed"),
    [
        (lambda x: x, BATCH, (20, 24), (2, 2), True),
        (lambda x: x["x"], {"x": BATCH, "threshold": 0.5}, (20, 24), (2, 2), True),
        (lambda x: x["x"], {"x": BATCH, "mask": BATCH[:, 0]}, (20, 24), (2, 2), False),
        (lambda x: x[0], (BATCH, 3), (20, 24), (2, 2), True),
        (lambda x: x[1], [OTHER[None], BATCH], (16, 30), (1.6, 2.5), False),
        (lambda x: x[None], IMAGE, (20, 24), (2, 2), True),
        (torch.stack, [IMAGE, IMAGE], (20, 24), (2, 2), True),
        (padded, [OTHER, IMAGE], (16, 30), (2, 2), True),
        (lambda x: padded([d["image"] for d in x]), [{"image": OTHER}, {"image": IMAGE}], (16, 30), (2, 2), True),
        (lambda x: F.interpolate(x[0][None], (40, 48)), [IMAGE], (20, 24), (1, 1), False),
        (lambda x: x["images"][0][None], {"images": [IMAGE]}, (20, 24), (2, 2), True),
    ],
)  # fmt: skip
def test_inputs_that_are_not_one_tensor(make_batch, given, input_size, stride, probed):
    model = Wrapper(make_batch).eval()
    with torch.no_grad(), watch(model) as seen:
        model(given)
    geometry = seen["body.1"].geometry
    assert (geometry.input_size, geometry.stride, geometry.probed) == (input_size, pytest.approx(stride), probed)


def test_nested_tensors_are_padded_batches():
    class NestedTensor:
        def __init__(self, tensors, mask):
            self.tensors, self.mask = tensors, mask

    model = Wrapper(lambda x: x.tensors).eval()
    with watch(model) as seen:
        model(NestedTensor(BATCH, BATCH[:, 0] > 0))
    geometry = seen["body.1"].geometry
    assert (geometry.input_size, geometry.stride, geometry.probed) == ((20, 24), (2, 2), True)


def test_blocks_that_see_regions_keep_grid_coordinates():
    class Regions(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Sequential(nn.Conv2d(8, 4, 1), nl.NonLocal2d(4))

        def forward(self, images):
            return self.head(images[0].new_zeros(len(images), 8, 7, 7))

    model = Regions().eval()
    with watch(model) as seen:
        model([IMAGE])
    geometry = seen["head.1"].geometry
    assert (geometry.input_size, geometry.stride, geometry.probed) == ((7, 7), (1, 1), False)
