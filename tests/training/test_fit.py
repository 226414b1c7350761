"""What a run computes and writes; interruptions are tested in test_resume."""

import json
import math
import sys

import pytest
import torch
from tiny_training import TinyClips, TinyTask, accuracy, last, network, plain_config, same_state, train
from torch import nn

from torch_nonlocal.training import (
    Metric,
    NonFiniteLossError,
    ShuffledBatches,
    TrainingMemoryError,
    fit,
    load_weights_file,
)
from torch_nonlocal.training.optimizer import make_optimizer, schedule_factor

pytest.importorskip("accelerate", reason="pip install 'torch-nonlocal[train]'")


def lines(folder, kind="train"):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def test_run_folder_holds_configuration_weights_and_environment(tmp_path):
    result, model = train(tmp_path / "run", plain_config(), about={"model": "tiny", "classes": ["a", "b", "c"]})
    assert (result.status, result.step, result.steps) == ("finished", 6, 6)
    assert not model.training
    kept = load_weights_file(result.weights)
    assert kept["about"] == {"model": "tiny", "classes": ["a", "b", "c"]}
    assert kept["config"]["batch_size"] == 4
    assert result.best["metric"] == "accuracy"
    assert kept["step"] == result.best["step"]
    again = network()
    again.load_state_dict(kept["model"])
    assert accuracy(again.eval())["accuracy"] == result.best["value"] == kept["metrics"]["accuracy"]
    start = json.loads((tmp_path / "run" / "environment.json").read_text())["starts"][0]
    assert start["versions"]["torch"] == torch.__version__
    assert start["from_step"] == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["lr"] == 0.05
    assert not list(tmp_path.rglob("*.partial"))


def test_loss_equals_a_plain_training_loop(tmp_path):
    """Without loss scale and schedule: SGD on the batches of the sampler."""
    config = plain_config(milestones=(), weight_decay=0.01, clip_grad=0.7)
    data = TinyClips(augment=False, dtype=torch.float64)
    train(tmp_path, config, model=network("group", torch.float64, dropout=0.0), data=data)

    net, sampler = network("group", torch.float64, dropout=0.0), ShuffledBatches(13, 4, 0)
    optimizer = make_optimizer(net, config)
    for step, line in enumerate(lines(tmp_path)):
        items = [data[item.index] for item in sampler.batch(step)]
        loss = nn.functional.cross_entropy(
            net(torch.stack([clip for clip, _ in items])), torch.tensor([label for _, label in items])
        )
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), 0.7)
        optimizer.step()
        assert line["loss"] == pytest.approx(loss.item(), rel=1e-6)  # averaged in float32
        assert line["gradient_norm"] == pytest.approx(norm.item(), rel=1e-12)
    for name, weight in net.state_dict().items():
        torch.testing.assert_close(last(tmp_path)["model"][name], weight, rtol=1e-11, atol=1e-13)


def test_loss_entries_are_logged_as_means_over_the_batch(tmp_path):
    class Counting(TinyTask):
        def loss(self, model, batch):
            return {"mean_label": batch[1].float().mean(), **super().loss(model, batch)}

    fit(Counting(network(), TinyClips()), plain_config(accumulate=2), tmp_path, log=lambda text: None)
    sampler = ShuffledBatches(13, 4, 0)
    expected = [sum(item.index % 3 for item in sampler.batch(step)) / 4 for step in range(6)]
    assert [line["mean_label"] for line in lines(tmp_path)] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "scalars",
    [
        {"other": torch.zeros(())},
        {"loss": torch.zeros(2, requires_grad=True)},
        {"loss": torch.zeros((), requires_grad=True), "lr": torch.zeros(())},
    ],
)
def test_wrong_loss_entries_raise(tmp_path, scalars):
    class Wrong(TinyTask):
        def loss(self, model, batch):
            return scalars

    with pytest.raises(ValueError, match=r"loss returned tensors of shapes .* expected scalars: 'loss' and others"):
        fit(Wrong(network(), TinyClips()), plain_config(), tmp_path, log=lambda text: None)


def test_missing_metric_raises(tmp_path):
    with pytest.raises(ValueError, match="evaluate returned f1, expected its metric 'accuracy'"):
        train(tmp_path, evaluate=lambda model: {"f1": 1.0})


def test_sampler_of_another_batch_size_raises(tmp_path):
    class Smaller(TinyTask):
        def sampler(self, batch_size, seed):
            return ShuffledBatches(len(self.data), 2, seed)

    with pytest.raises(ValueError, match="sampler has batches of 2 items, expected batch_size=4"):
        fit(Smaller(network(), TinyClips()), plain_config(), tmp_path)


def test_task_optimizer_and_lr_scale_are_used(tmp_path):
    class Own(TinyTask):
        def optimizer(self, model):
            weights = [one for one in model.parameters() if one.ndim > 1]
            others = [one for one in model.parameters() if one.ndim <= 1]
            groups = [{"params": weights, "lr_scale": 0.5}, {"params": others}]
            self.made = torch.optim.AdamW(groups, lr=123.0)
            return self.made

    task = Own(network(), TinyClips())
    config = plain_config(schedule="cosine")
    fit(task, config, tmp_path, log=lambda text: None)
    last_lr = config.lr * schedule_factor(config, 5, 6)
    assert [group["lr"] for group in task.made.param_groups] == [last_lr * 0.5, last_lr]
    assert set(last(tmp_path)["optimizer"]) == {name for name, _ in task.model.named_parameters()}
    assert all("exp_avg" in one for one in last(tmp_path)["optimizer"].values())


@pytest.mark.parametrize(
    ("higher_is_better", "value", "best", "expected"),
    [
        (True, 0.2, 0.1, True), (True, 0.1, 0.1, False), (False, 0.1, 0.2, True), (False, 0.2, 0.1, False),
        (False, 5.0, None, True), (False, 5.0, math.nan, True), (False, math.nan, 5.0, False),
        (True, math.nan, 5.0, False), (True, math.nan, None, True),
    ],
)  # fmt: skip
def test_metric_improves_in_its_direction(higher_is_better, value, best, expected):
    assert Metric("m", higher_is_better).improves(value, best) is expected


def test_accumulated_parts_equal_the_whole_batch(tmp_path):
    ends = []
    for parts in (1, 4):
        data = TinyClips(dtype=torch.float64)
        config = plain_config(accumulate=parts, clip_grad=0.3)
        train(tmp_path / str(parts), config, model=network("group", torch.float64, dropout=0.0), data=data)
        ends.append(last(tmp_path / str(parts))["model"])
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=1e-11, atol=1e-13)


def test_best_weights_are_those_of_the_best_evaluation(tmp_path):
    values = iter([0.2, 0.9, 0.4])
    result, _ = train(tmp_path, plain_config(epochs=3), evaluate=lambda model: {"accuracy": next(values)})
    assert result.best == {"step": 6, "metric": "accuracy", "value": 0.9}
    assert load_weights_file(result.weights)["step"] == 6


def test_without_a_metric_the_newest_weights_are_best(tmp_path):
    result, model = train(tmp_path, plain_config(), evaluate=None)
    kept = load_weights_file(result.weights)["model"]
    assert all(torch.equal(kept[name], one) for name, one in model.state_dict().items())


def test_keep_retains_the_newest_weights(tmp_path):
    train(tmp_path, plain_config(epochs=4, keep=2))
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*")) == [
        "step-00000009.pt",
        "step-00000012.pt",
    ]


def test_evaluation_and_its_options_change_no_weight(tmp_path):
    """Averaged weights and recomputed statistics are temporary; an evaluation may draw random numbers."""

    def noisy(model):
        torch.randn(5)
        return accuracy(model)

    train(tmp_path / "a", plain_config(), evaluate=None)
    train(tmp_path / "b", plain_config(eval_every=1, precise_bn=2, ema=0.9, attention_items=2, keep=1), evaluate=noisy)
    assert same_state(last(tmp_path / "a")["model"], last(tmp_path / "b")["model"])
    assert same_state(last(tmp_path / "a")["optimizer"], last(tmp_path / "b")["optimizer"])


def test_averaged_weights_are_evaluated_and_saved(tmp_path):
    result, _ = train(tmp_path, plain_config(ema=0.5), evaluate=None)
    state = last(tmp_path)
    assert same_state(load_weights_file(result.weights)["model"], state["ema"])
    assert not torch.equal(state["ema"]["0.weight"], state["model"]["0.weight"])


def test_precise_batch_norm_statistics_are_means_over_batches(tmp_path):
    """Compared with the mean over the last epoch's batches, computed by hand with the final weights."""
    net = nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2), nn.Flatten(), nn.Linear(100, 3))
    data = TinyClips(8, augment=False)
    result, model = train(tmp_path, plain_config(epochs=1, precise_bn=2), model=net, data=data, evaluate=None)

    sampler = ShuffledBatches(8, 4, 0)
    with torch.no_grad():
        maps = [model[0](torch.stack([data[item.index][0] for item in sampler.batch(step)])) for step in (0, 1)]
    kept = load_weights_file(result.weights)["model"]
    mean = torch.stack([one.mean((0, 2, 3, 4)) for one in maps]).mean(0)
    var = torch.stack([one.var((0, 2, 3, 4)) for one in maps]).mean(0)
    torch.testing.assert_close(kept["1.running_mean"], mean)
    torch.testing.assert_close(kept["1.running_var"], var)
    assert not torch.allclose(model[1].running_mean, mean), "the statistics of training are unchanged"


def test_freeze_bn_freezes_all_norms_except_those_of_blocks(tmp_path):
    model, before = network(), network().state_dict()
    train(tmp_path, plain_config(freeze_bn=True), model=model)
    after = model.state_dict()
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(after[f"1.{name}"], before[f"1.{name}"]), name
    assert not torch.equal(after["0.non_local.norm.weight"], before["0.non_local.norm.weight"])
    assert not torch.equal(after["0.non_local.norm.running_mean"], before["0.non_local.norm.running_mean"])


BACKBONE = ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked")


@pytest.mark.parametrize(("epochs", "trained"), [(-1, False), (2, False), (1, True)])
def test_freeze_backbone_trains_the_last_layer_and_the_blocks_first(tmp_path, epochs, trained):
    model, before, lines = network(), network().state_dict(), []
    train(tmp_path, plain_config(epochs=2, freeze_backbone=epochs), model=model, log=lines.append)
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert {name for name in BACKBONE if name in changed} == (set(BACKBONE) if trained else set())
    assert {"5.weight", "5.bias", "0.non_local.norm.weight", "0.non_local.norm.running_mean"} <= changed
    assert ("the whole network is trained from step 4 on" in lines) == trained
    until = {-1: "", 1: " in the first 3 steps", 2: " in the first 6 steps"}[epochs]
    assert f"only the last layer and the blocks are trained{until}" in lines


def test_a_frozen_backbone_is_weights_without_gradient_and_frozen_norms(tmp_path):
    train(tmp_path / "option", plain_config(freeze_backbone=-1, clip_grad=0.5))
    model = network()
    for parameter in model[0].weight, model[0].bias:
        parameter.requires_grad_(False)
    train(tmp_path / "by-hand", plain_config(freeze_bn=True, clip_grad=0.5), model=model)
    assert same_state(last(tmp_path / "option"), last(tmp_path / "by-hand"))


def test_a_model_without_a_last_layer_and_blocks_cannot_be_trained_with_a_frozen_backbone(tmp_path):
    with pytest.raises(ValueError, match="freeze_backbone=1: Sequential has neither a last linear layer nor non-local"):
        train(tmp_path, plain_config(freeze_backbone=1), model=nn.Sequential(nn.Conv3d(1, 3, (2, 5, 5)), nn.Flatten()))


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_non_finite_loss_names_the_items(tmp_path, kind):
    def spoil(index, clip):
        return clip * float("nan") if kind == "loss" and index == 9 else clip

    def loss(output, labels):
        zero = (output * 0).sum()
        return zero.sqrt() if kind == "gradient" and state["bad"] else nn.functional.cross_entropy(output, labels)

    def name(index):
        return f"clips/{index}.mp4"

    state = {"bad": False}

    batches = [[item.index for item in ShuffledBatches(13, 4, 0).batch(step)] for step in range(30)]
    when = next(step for step, batch in enumerate(batches) if 9 in batch)
    if kind == "gradient":
        when = 4
    seen = []

    def count(index, clip):
        seen.append(index)
        state["bad"] = len(seen) > 4 * when
        return spoil(index, clip)

    config = plain_config(epochs=10, accumulate=2, checkpoint_minutes=0.0)
    with pytest.raises(NonFiniteLossError) as caught:
        train(tmp_path, config, data=TinyClips(on_read=count), names=name, loss_of=loss, evaluate=None)
    half = batches[when][:2] if 9 in batches[when][:2] else batches[when][2:]
    expected = half if kind == "loss" else batches[when]
    assert caught.value.items == [name(index) for index in expected]
    assert caught.value.step == when + 1
    assert all(name in str(caught.value) for name in caught.value.items)
    assert last(tmp_path)["progress"]["step"] == when, "the last checkpoint is intact"
    assert all(one.isfinite().all() for one in last(tmp_path)["model"].values())


def test_non_finite_loss_names_the_items_that_were_read(tmp_path):
    """Item 9 stands in for an item that cannot be read."""

    class Replacing(TinyTask):
        def item_indices(self, batch, requested):
            return [9] * len(requested)

    task = Replacing(network(), TinyClips(), loss_of=lambda output, labels: output.mean() * math.nan)
    with pytest.raises(NonFiniteLossError) as caught:
        fit(task, plain_config(), tmp_path, log=lambda text: None)
    assert caught.value.items == ["item 9"] * 4


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_names_the_options_to_lower(tmp_path, error):
    def loss(output, labels):
        raise error

    with pytest.raises(
        TrainingMemoryError, match=r"4 items at once; try accumulate=2 .* batch_size .* precision='bf16'"
    ):
        train(tmp_path, loss_of=loss)


def test_other_errors_are_not_changed(tmp_path):
    def loss(output, labels):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match=r"^a bug$"):
        train(tmp_path, loss_of=loss)


def test_bf16_keeps_float32_parameters(tmp_path):
    result, model = train(tmp_path, plain_config(precision="bf16", optimizer="adamw"))
    assert result.status == "finished"
    assert all(one.dtype == torch.float32 for one in model.parameters())
    assert any("exp_avg" in one for one in last(tmp_path)["optimizer"].values())


def test_channels_last_converts_weights_and_keeps_results(tmp_path):
    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv3d(1, 4, 1), nn.Conv3d(4, 4, 3, padding=1), nn.Flatten(), nn.Linear(200, 3))

    _, plain = train(tmp_path / "a", model=net())
    _, converted = train(tmp_path / "b", plain_config(channels_last=True), model=net())
    assert converted[1].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert not plain[1].weight.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(converted[1].weight.contiguous(), plain[1].weight, rtol=1e-3, atol=1e-4)


def test_compile_compiles_the_model(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    _, model = train(tmp_path, plain_config(epochs=1, compile=True))
    assert compiled == [model]


def test_unsupported_precision_raises(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="expected a GPU"):
        train(tmp_path, plain_config(precision="fp16"))
    with pytest.raises(ValueError, match="channels_last=True with precision='bf16': expected a GPU"):
        train(tmp_path, plain_config(precision="bf16", channels_last=True))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ValueError, match="use precision='bf16'"):
        train(tmp_path)
    assert not list(tmp_path.iterdir()), "checks run before anything is written"


def test_a_missing_accelerate_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ImportError, match=r"missing package accelerate: pip install 'torch-nonlocal\[train\]'"):
        train(tmp_path)
