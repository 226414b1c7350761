"""`watch` records what blocks compute and leaves the model unchanged, even after an exception."""

import copy
import gc
import weakref

import pytest
import torch
from dense_maps import full_map, rounding
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal.attention import receptive, watch


class Net(nn.Module):
    """A network with two blocks, dropout and batch norm."""

    def __init__(self, **options):
        super().__init__()
        self.stem = nn.Conv3d(3, 6, 3, (1, 2, 2), 1)
        self.stage = nn.Sequential(nn.Conv3d(6, 6, 3, 1, 1), nn.BatchNorm3d(6), nn.ReLU(inplace=True))
        self.late = nn.Conv3d(6, 6, 3, (2, 2, 2), 1)
        self.drop = nn.Dropout(0.5)
        nl.insert(self, at=["stage", "late"], example_input=torch.zeros(1, 3, 4, 12, 12), **options)
        for name, tensor in self.named_parameters():
            if "non_local" in name:
                nn.init.normal_(tensor, std=0.4)

    def forward(self, x, flag=None):
        return self.drop(self.late(self.stage(self.stem(x)))).mean((2, 3, 4))


PLACES = ["stage.2", "late"]


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def clip():
    return torch.randn(2, 3, 4, 12, 12, generator=torch.Generator().manual_seed(1))


def traces(model):
    return [
        (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), m.training, sorted(vars(m)))
        for m in model.modules()
    ]


def test_records_have_the_names_of_nl_blocks(net, clip):
    with watch(net) as seen:
        net(clip)
    assert list(seen) == list(nl.blocks(net)) == PLACES
    assert len(seen) == 2
    assert seen["late"].geometry.grid == (2, 3, 3)
    assert seen["stage.2"].rows([(0, 0, 0)]).sum().item() == pytest.approx(1)


def test_hooks_are_removed_and_memory_is_freed(net, clip):
    before = traces(net)
    with watch(net) as seen:
        net(clip)
    assert traces(net) == before
    model, first = weakref.ref(net.late), weakref.ref(seen["late"].weights.query)
    record = seen["late"]
    del seen, net
    gc.collect()
    assert first() is not None  # the record holds its tensors
    del record
    gc.collect()
    assert first() is None
    assert model() is not None  # the fixture still holds the model


def test_record_does_not_hold_the_model(clip):
    net = Net().eval()
    with watch(net) as seen:
        net(clip)
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None
    assert len(receptive._known) == sum(1 for _ in receptive._known)
    assert seen["late"].geometry.probed


def test_record_does_not_hold_the_clip(net, clip):
    mine = clip.clone()
    gone = weakref.ref(mine)
    with watch(net) as seen:
        net(mine)
        del mine
        gc.collect()
        assert gone() is None
    assert len(seen) == 2


def test_exceptions_propagate_and_the_model_is_restored(net, clip):
    before = traces(net)
    watching = watch(net)
    seen = watching.__enter__()
    net(clip)
    assert watching.__exit__(RuntimeError, RuntimeError("mine"), None) is None  # not swallowed
    assert traces(net) == before
    assert seen["late"].rows([(0, 0, 0)]).shape == (1, 2, 3, 3)
    assert not seen["late"].geometry.probed
    with pytest.raises(RuntimeError, match="channels"), watch(net):
        net(clip[:, :2])
    assert traces(net) == before


@pytest.mark.parametrize("training", [False, True])
def test_outputs_statistics_and_random_state_equal_those_of_an_unwatched_run(net, clip, training):
    other = copy.deepcopy(net).train(training)
    net.train(training)
    torch.manual_seed(3)
    expected = other(clip)
    follows = torch.rand(1)
    torch.manual_seed(3)
    with watch(net):
        result = net(clip)
    assert torch.equal(result, expected)
    assert torch.equal(torch.rand(1), follows)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_works_with_and_without_gradients(net, clip, context):
    with context(), watch(net) as seen:
        out = net(clip)
    query = seen["late"].weights.query
    assert query.grad_fn is None
    assert not query.requires_grad
    assert seen["late"].statistics().entropy > 0
    assert seen["late"].links((0, 0, 0), 3)
    if context is torch.enable_grad:
        out.sum().backward()
        assert net.stem.weight.grad is not None


def test_rows_equal_the_weights_of_the_block(net, clip):
    inputs = []
    net.late.non_local.register_forward_pre_hook(lambda _m, args: inputs.append(args[0].detach().clone()))
    with watch(net) as seen:
        net(clip)
    expected, grid, _ = full_map(net.late.non_local, inputs[0], 1)
    points = torch.cartesian_prod(*map(torch.arange, grid)).tolist()
    rows = seen["late"].rows(points, batch=1).flatten(1)
    torch.testing.assert_close(rows, expected, **rounding(seen["late"].weights))
    assert len(inputs) == 1  # probing does not call hooks of the user


def test_in_place_changes_after_the_block_do_not_change_the_record():
    block = nl.NonLocal2d(3, pairwise="gaussian").eval()
    x = torch.randn(1, 3, 4, 4)
    with watch(block) as seen:
        block(x)
    before = seen[""].rows([(0, 0)])
    x.zero_()
    assert torch.equal(seen[""].rows([(0, 0)]), before)


def test_record_keeps_the_last_run(net, clip):
    with watch(net) as seen:
        net(torch.zeros_like(clip))
        net(clip[:1, :, :, :10])
    with watch(net) as again:
        net(clip[:1, :, :, :10])
    assert seen["late"].batch_size == 1
    assert list(seen) == PLACES
    assert torch.equal(seen["late"].rows([(1, 1, 1)]), again["late"].rows([(1, 1, 1)]))


def test_contexts_can_be_nested_and_reused(net, clip):
    before = traces(net)
    watching = watch(net)
    with watching as outer:
        net(clip)
        with watching as inner:
            net(clip * 2)
        net(clip)
        kept = outer["late"].rows([(0, 0, 0)])
    assert traces(net) == before
    assert not torch.equal(inner["late"].rows([(0, 0, 0)]), kept)
    with watching as later:
        net(clip)
    assert torch.equal(later["late"].rows([(0, 0, 0)]), kept)


def test_geometry_is_available_inside_the_context(net, clip):
    with watch(net) as seen:
        net(clip)
        assert seen["late"].geometry.stride == (2, 4, 4)
        net(clip)
        query = seen["late"].weights.query.clone()
    assert torch.equal(query, seen["late"].weights.query)


def test_works_under_autocast(net, clip):
    with torch.autocast("cpu", torch.bfloat16), watch(net) as seen:
        net(clip)
    assert seen["late"].weights.query.dtype == torch.bfloat16
    assert seen["late"].geometry.probed
    assert seen["late"].rows([(0, 0, 0)]).dtype == torch.float32


def test_unknown_blocks_and_blocks_that_have_not_run_raise(net, clip):
    with watch(net) as seen:
        assert "no block has run" in repr(seen)
        with pytest.raises(KeyError, match="has not run"):
            seen["late"]
        net.stage(net.stem(clip))
    assert "stage.2" in repr(seen)
    with pytest.raises(KeyError, match="'late' has not run"):
        seen["late"]
    with pytest.raises(KeyError, match=r"no block at 'nowhere'; blocks: stage\.2, late"):
        seen["nowhere"]
    with pytest.raises(ValueError, match="no non-local blocks"):
        watch(nn.Conv3d(3, 3, 1))


def test_names_of_blocks_in_user_modules():
    net = nn.ModuleDict({"my_non_local": nl.NonLocal2d(3), "b": nn.Conv2d(3, 3, 1)})
    nl.insert(net["b"], at=net["b"])
    root = nn.Conv2d(3, 3, 1)
    nl.insert(root, at=root)
    x = torch.randn(1, 3, 4, 4)
    with watch(net) as seen:
        net["b"](net["my_non_local"](x))
    assert list(seen) == ["my_non_local", "b"]
    with watch(root) as seen:
        root(x)
    assert list(seen) == list(nl.blocks(root)) == [""]


def test_keyword_arguments_and_inputs_that_are_not_one_tensor(net, clip):
    with watch(net) as seen:
        net(x=clip, flag=True)
    assert seen["late"].geometry.probed

    class OfList(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, clips):
            return self.inner(torch.stack(clips["all"] if isinstance(clips, dict) else clips))

    for given in (list(clip), {"all": list(clip)}):
        model = OfList(net)
        with watch(model) as seen:
            model(given)
        geometry = seen["inner.late"].geometry
        assert geometry.probed
        assert (geometry.input_size, geometry.offset, geometry.stride) == ((4, 12, 12), (0, 0, 0), (2, 4, 4))


def test_names_omit_the_prefix_of_distributed_data_parallel(net, clip, tmp_path):
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(net.train())
        before = traces(wrapped)
        with watch(wrapped) as seen:
            wrapped(clip).sum().backward()
        assert list(seen) == PLACES
        assert seen["late"].geometry.stride == (2, 4, 4)
        assert traces(wrapped) == before
        wrapped(clip).sum().backward()
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("how", ["wrapper", "in place", "a part"])
def test_compiled_models_run_eagerly_inside_the_context(net, clip, how):
    expected = net(clip)
    if how == "in place":
        net.compile(backend="eager")
        model = net
    elif how == "a part":
        net.stage = torch.compile(net.stage, backend="eager")
        model = net
    else:
        model = torch.compile(net, backend="eager")
    torch.testing.assert_close(model(clip), expected)
    with watch(model) as seen:
        torch.testing.assert_close(model(clip), expected)
    assert sorted(seen) == sorted(PLACES)
    assert seen["late"].geometry.probed
    torch.testing.assert_close(model(clip), expected)


def test_repr_describes_each_block(net, clip):
    with watch(net) as seen:
        net(clip)
    assert "late: embedded_gaussian, attend=spacetime, grid 2x3x3" in repr(seen)
    page = seen._repr_html_()
    assert page.count("<tr>") == 3
    assert "sum to one" in page
    assert "no block has run" in watch(net).__enter__()._repr_html_()
