"""`watch` and the geometry probe, while other threads and tasks use the same network."""

import asyncio
import copy
import functools
import threading
import types
import weakref

import pytest
import torch
from torch import nn

import torch_nonlocal as nl
from torch_nonlocal._common import capture
from torch_nonlocal._common.structural_copy import NotCopiedError, StructuralCopy
from torch_nonlocal.attention import added_magnitudes, gradient_times_activation, probe_geometry, receptive, watch
from torch_nonlocal.layers.observed import is_observed


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.stage = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.Dropout(0.5), nn.BatchNorm2d(8))
        self.head = nn.Conv2d(8, 4, 1)
        nl.insert(self, at="stage", example_input=torch.zeros(2, 3, 16, 16))
        for block in nl.blocks(self).values():
            nn.init.ones_(block.norm.weight)

    def forward(self, x):
        return self.head(self.stage(self.stem(x))).mean((2, 3))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


def image(seed, size=20):
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


def hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    return [[len(getattr(module, kind)) for kind in kinds] for module in model.modules()]


def together(*works):
    """Run functions in threads of their own that start at the same time; raise what they raise."""
    gate, errors = threading.Barrier(len(works)), []

    def run(work):
        gate.wait()
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def recorded(model, x):
    with torch.no_grad(), watch(model) as seen:
        model(x)
    (record,) = seen.values()
    return record.weights.query, record.weights.key


def test_each_of_two_threads_that_watch_has_its_own_records(net):
    runs = 40
    expected = {seed: recorded(net, image(seed)) for seed in range(2 * runs)}
    before, found = hooks(net), {}

    def work(first):
        for seed in range(first, 2 * runs, 2):
            found[seed] = recorded(net, image(seed))

    together(lambda: work(0), lambda: work(1))
    wrong = [
        seed for seed, (query, key) in found.items()
        if not (torch.equal(query, expected[seed][0]) and torch.equal(key, expected[seed][1]))
    ]  # fmt: skip
    assert len(found) == 2 * runs
    assert wrong == []
    assert hooks(net) == before


def test_one_watch_object_can_be_entered_by_two_threads(net):
    watching, found = watch(net), {}

    def work(seed):
        for _ in range(10):
            with torch.no_grad(), watching as seen:
                net(image(seed))
            found.setdefault(seed, []).append(seen["stage.2"].weights.query)

    together(lambda: work(1), lambda: work(2))
    for seed, queries in found.items():
        assert all(torch.equal(query, recorded(net, image(seed))[0]) for query in queries)
    assert watching._open == []


@pytest.mark.parametrize("training", [False, True])
def test_predictions_of_another_thread_are_bit_identical_during_watch_and_probe(net, training):
    net.stage[1].p = 0.0  # two threads that draw random numbers share one sequence by design
    net.train(training)
    other = copy.deepcopy(net)
    inputs = [image(seed, 16 + 4 * (seed % 5)) for seed in range(40)]
    with torch.no_grad():
        expected = [other(x) for x in inputs]
    found, done = [], threading.Event()

    def predict():
        with torch.no_grad():
            found.extend(net(x) for x in inputs)
        done.set()

    def look():
        while not done.is_set():
            receptive._known.clear()
            assert probe_geometry(net, "stage", (64, 64)).stride == (4, 4)
            if not training:  # a run in train mode is a training step
                recorded(net, image(1, 24))

    together(predict, look)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))
    assert all(module.training is training for module in net.modules())


def test_a_watch_does_not_record_runs_of_other_threads(net):
    with watch(net) as seen:
        thread = threading.Thread(target=lambda: net(image(3)))
        thread.start()
        thread.join()
        assert len(seen) == 0
        net(image(4))
        thread = threading.Thread(target=lambda: net(image(3, 32)))
        thread.start()
        thread.join()
    assert seen["stage.2"].geometry.input_size == (20, 20)


def test_exceptions_in_either_thread_leave_no_hooks(net):
    before = hooks(net)

    def work(size):
        for seed in range(10):
            with pytest.raises(RuntimeError, match="channels"), watch(net):
                net(image(seed, size)[:, :2])
            recorded(net, image(seed, size))

    together(lambda: work(20), lambda: work(24))
    assert hooks(net) == before


def test_each_asyncio_task_has_its_own_records(net):
    expected = {seed: recorded(net, image(seed))[0] for seed in range(6)}

    async def task(seed, in_thread):
        with watch(net) as seen:
            await asyncio.sleep(0)
            if in_thread:
                await asyncio.to_thread(net, image(seed))
            else:
                net(image(seed))
            await asyncio.sleep(0)
        return seen["stage.2"].weights.query

    async def main():
        return await asyncio.gather(*(task(seed, seed >= 3) for seed in range(6)))

    found = asyncio.run(main())
    assert all(torch.equal(query, expected[seed]) for seed, query in enumerate(found))
    assert hooks(net) == hooks(Net())


def test_generators_that_watch_can_be_closed_by_another_thread(net):
    def stream():
        with watch(net) as seen:
            for seed in range(3):
                net(image(seed))
                yield seen["stage.2"].weights.query

    found = list(stream())
    assert all(torch.equal(query, recorded(net, image(seed))[0]) for seed, query in enumerate(found))
    left = stream()
    next(left)
    thread = threading.Thread(target=left.close)
    thread.start()
    thread.join()
    assert not is_observed()
    assert hooks(net) == hooks(Net())
    assert torch.equal(recorded(net, image(7))[0], recorded(net, image(7))[0])


def test_copies_and_pickles_made_inside_the_context_are_inert(net, tmp_path):
    with watch(net) as seen:
        copied = copy.deepcopy(net)
        torch.save(net, tmp_path / "net.pt")
        loaded = torch.load(tmp_path / "net.pt", weights_only=False)
        copied(image(1))
        loaded(image(1))
        assert len(seen) == 0
    assert torch.equal(copied(image(1)), net(image(1)))
    assert torch.equal(loaded(image(1)), net(image(1)))


def test_data_parallel_without_devices(net):
    with watch(nn.DataParallel(net)) as seen:
        nn.DataParallel(net)(image(1))
    assert torch.equal(seen["stage.2"].weights.query, recorded(net, image(1))[0])


@pytest.mark.parametrize("switch", ["of the thread", "of the process"])
def test_compiled_code_of_another_thread_stays_compiled(net, switch, monkeypatch):
    import torch._dynamo

    if switch == "of the process":
        monkeypatch.setattr(capture, "_state_of_thread", lambda: None)
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return lambda *args: (graphs.append("run"), graph.forward(*args))[1]

    compiled = torch.compile(net, backend=backend, fullgraph=True)
    expected = compiled(image(1))
    ran = []

    def other():
        start = graphs.count("run")
        assert torch.equal(compiled(image(1)), expected)
        ran.append(graphs.count("run") - start)

    with watch(compiled) as seen:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        compiled(image(2))
    assert ran == ([1] if switch == "of the thread" else [0])
    assert torch.equal(seen["stage.2"].weights.query, recorded(net, image(2))[0])
    outer, inner = watch(net), watch(net)  # contexts of two tasks end in any order
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    inner.__exit__(None, None, None)
    other()
    assert ran[1] == 1
    assert capture._stances == 0


def test_another_thread_may_compile_the_model_inside_the_context(net):
    torch.compiler.reset()
    expected = net(image(1))
    compiled = torch.compile(net, backend="eager", fullgraph=True)

    def other():
        torch.testing.assert_close(compiled(image(1)), expected)

    with watch(net) as seen:
        together(other)
        net(image(2))
    assert len(seen) == 1
    other()


def test_random_numbers_of_the_process_are_neither_drawn_nor_rewound(net):
    class Noisy(Net):
        def forward(self, x):
            x = x + torch.rand_like(x) + torch.rand(1) + torch.randn(x.shape).bernoulli_(0.5)
            return super().forward(nn.functional.dropout(x, 0.1, training=True))

    noisy = Noisy().eval()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    found = probe_geometry(noisy, "stage", (64, 64))
    assert torch.equal(torch.get_rng_state(), state)
    assert (found.probed, found.stride) == (True, (4, 4))

    generator = torch.Generator().manual_seed(5)
    expected = torch.cat([torch.rand(1, generator=generator) for _ in range(200)])
    drawn, done = [], threading.Event()

    def draw():
        drawn.extend(torch.rand(1) for _ in range(200))
        done.set()

    def look():
        while not done.is_set():
            receptive._known.clear()
            probe_geometry(noisy, "stage", (64, 64))

    together(draw, look)
    assert torch.equal(torch.cat(drawn), expected)


class Counting(nn.Module):
    """Changes its own state in every run, and refers to modules in ways that are not children."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4)
        self.register_buffer("runs", torch.zeros(()))
        self.seen, self.table = [], {"norm": (self.norm, [self.norm])}
        self.bound, self.partial = self.norm.forward, functools.partial(nn.Module.__call__, self.norm)
        self.hidden, self.parent = [nn.BatchNorm2d(4)], weakref.ref(self.norm)
        self.data, self.lock = list(range(10**6)), threading.Lock()

    def forward(self, x):
        self.runs += 1
        self.seen.append(x.shape)
        self.table["last"] = x
        x = self.conv(x)
        x = self.bound(self.partial(self.table["norm"][0](self.table["norm"][1][0](x))))
        return self.hidden[0](self.parent()(x))


def test_the_probe_changes_no_state_of_the_model():
    model = Counting().train()
    before = copy.deepcopy([model.state_dict(), model.hidden[0].state_dict()])
    found = probe_geometry(model, "conv", (32, 32))
    assert (found.probed, found.stride) == (True, (2, 2))
    assert probe_geometry(model, "", (32, 32)).probed
    after = [model.state_dict(), model.hidden[0].state_dict()]
    assert all(torch.equal(a[key], b[key]) for a, b in zip(before, after, strict=True) for key in a)
    assert model.seen == []
    assert "last" not in model.table


def test_a_structural_copy_shares_parameters_and_data_and_nothing_else():
    model = Counting()
    made = StructuralCopy(model)
    assert type(made.model) is Counting
    assert made.model.conv.weight is model.conv.weight
    assert made.model.data is model.data
    assert made.model.lock is model.lock
    assert made[model.norm] is made.model.norm is made.model.table["norm"][1][0] is made.model.parent()
    assert made.model.bound.__self__ is made.model.norm
    assert made.model.partial.args == (made.model.norm,)
    assert made.model.hidden[0] is not model.hidden[0]
    assert not {id(module) for module in made.copies()} & {id(module) for module in made.originals()}
    shared = {buffer.data_ptr() for buffer in model.buffers()} & {buffer.data_ptr() for buffer in made.model.buffers()}
    assert shared == set()


@pytest.mark.parametrize("place", ["stage.0", "stage.2.non_local.theta"])
def test_a_forward_that_was_replaced_by_a_function_is_not_probed_through(net, place):
    calls = []
    module = net.get_submodule(place)
    old = module.forward
    module.forward = lambda x: calls.append(1) or old(x)
    net(image(1))
    once = len(calls)
    with watch(net) as seen:
        net(image(1))
    inside = place.endswith("theta")  # blocks are bypassed
    assert seen["stage.2"].geometry.probed is inside
    assert seen["stage.2"].geometry.stride == (4, 4)
    assert len(calls) <= once + 2


def test_a_forward_that_was_replaced_by_a_method_is_probed(net):
    net.stage[0].forward = types.MethodType(lambda self, x: nn.Conv2d.forward(self, x) * 2, net.stage[0])
    with watch(net) as seen:
        net(image(1))
    assert seen["stage.2"].geometry.probed


@pytest.mark.parametrize("how", ["parametrized", "weight norm", "pruned", "spectral norm", "script", "graph module"])
def test_networks_that_other_tools_have_changed_are_probed(net, how):
    import torch.nn.utils.parametrize as parametrize
    from torch.nn.utils import prune

    conv = net.stage[0]
    if how == "parametrized":
        parametrize.register_parametrization(conv, "weight", nn.Identity())
    elif how == "weight norm":
        nn.utils.parametrizations.weight_norm(conv)
    elif how == "pruned":
        prune.l1_unstructured(conv, "weight", 0.5)
    elif how == "spectral norm":
        nn.utils.spectral_norm(conv.train())
    elif how == "script":
        net.stem = torch.jit.script(net.stem)
    else:
        net.stem = torch.fx.symbolic_trace(net.stem)
    before = copy.deepcopy(net.state_dict())
    found = probe_geometry(net, "stage", (64, 64))
    assert (found.probed, found.stride) == (True, (4, 4))
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())


class Indirect(nn.Module):
    """Runs modules, or changes parameters, by way of an object that is not a module."""

    def __init__(self, changes_parameter):
        super().__init__()
        self.net, self.scale = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4)), nn.Parameter(torch.ones(()))
        self.helper, self.changes_parameter = types.SimpleNamespace(net=self.net), changes_parameter

    def forward(self, x):
        if self.changes_parameter:
            self.scale.data.mul_(2)
            return self.net(x)
        return self.helper.net(x)


@pytest.mark.parametrize("changes_parameter", [False, True])
def test_a_network_that_cannot_be_kept_apart_is_not_probed(changes_parameter):
    model = Indirect(changes_parameter).train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="of the network"):
        probe_geometry(model, "net", (32, 32))
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


def test_networks_without_values_are_not_copied():
    with pytest.raises(NotCopiedError, match="Conv2d has parameters on the meta device"):
        StructuralCopy(nn.Sequential(nn.Conv2d(3, 4, 3, device="meta")))
    with pytest.raises(NotCopiedError, match="TorchScript module in train mode"):
        StructuralCopy(nn.Sequential(torch.jit.script(nn.BatchNorm2d(3))))


def test_global_hooks_of_the_user_are_not_called_by_the_probe(net):
    calls = []
    handle = nn.modules.module.register_module_forward_hook(lambda *_: calls.append(1))
    try:
        assert probe_geometry(net, "stage", (64, 64)).probed
    finally:
        handle.remove()
    assert calls == []


def test_attribution_changes_nothing_for_other_threads(net):
    inputs = [image(seed) for seed in range(20)]
    expected = [net(x).detach() for x in inputs]
    flags, done = [], threading.Event()

    def train():
        for x, before in zip(inputs, expected, strict=True):
            scores = net(x)
            flags.append(scores.requires_grad and torch.equal(scores, before))
        done.set()

    def look():
        while not done.is_set():
            gradient_times_activation(net, net.stage[0], inputs[0], lambda scores: scores[0, 1])
            with added_magnitudes(nl.blocks(net)) as added:
                pass
            assert added == {}

    together(train, look)
    assert flags == [True] * len(inputs)
    assert hooks(net) == hooks(Net())


@pytest.mark.parametrize("pairwise", ["embedded_gaussian", "concatenation"])
def test_watching_calls_no_part_of_a_block_again(pairwise):
    """A training step with spectral norm and dropout inside theta is the same with and without a watch."""

    def make():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nl.NonLocal2d(8, pairwise=pairwise)).train()
        nn.utils.spectral_norm(model[1].phi)
        model[1].theta = nn.Sequential(model[1].theta, nn.Dropout(0.5))
        return model

    plain, watched, calls = make(), make(), []
    watched[1].theta.register_forward_hook(lambda _module, _args, output: calls.append(output))
    torch.manual_seed(1)
    expected, follows = plain(image(1)), torch.rand(1)
    torch.manual_seed(1)
    with watch(watched) as seen:
        result = watched(image(1))
        assert torch.equal(torch.rand(1), follows)
    assert torch.equal(result, expected)
    assert len(calls) == 1
    for key, value in plain.state_dict().items():
        assert torch.equal(watched.state_dict()[key], value), key
    if pairwise == "embedded_gaussian":
        assert torch.equal(seen["1"].weights.query, calls[0].flatten(2).transpose(1, 2))


def test_blocks_that_run_again_in_backward_keep_the_order(net):
    nl.insert(net, at="stem", example_input=torch.zeros(2, 3, 16, 16), checkpoint=True)
    net.train()
    with watch(net) as seen:
        net(image(1)).sum().backward()
        assert list(seen) == ["stem.2", "stage.2"]
