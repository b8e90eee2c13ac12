import dataclasses
import itertools

import numpy as np
import pytest
import torch

from posweep.errors import Diverged
from posweep.policy.batch import Batch, Losses, PerItem, batches
from posweep.policy.train import optimise, reset
from posweep.settings import TrainSettings, steps_of

from ..rounding import assert_near, near

LENGTHS = np.random.default_rng(0).integers(5, 60, size=103)
SETTINGS = TrainSettings(learning_rate=0.05, warmup_ratio=0.0, schedule="constant")


class Regression(torch.nn.Module):
    """Least squares: y = 2x₀ − x₁ with a bias of ½."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(1)
        x = rng.normal(size=(32, 2))
        self.x, self.y = torch.tensor(x).float(), torch.tensor(x @ [2.0, -1.0] + 0.5).float()
        self.layer = torch.nn.utils.skip_init(torch.nn.Linear, 2, 1)
        torch.nn.init.zeros_(self.layer.weight)
        torch.nn.init.zeros_(self.layer.bias)

    def loss(self, items: np.ndarray) -> Losses:
        error = self.layer(self.x[items])[:, 0] - self.y[items]
        return Losses(error**2, {"error": error.detach()})


def train(settings=SETTINGS, steps=20, loss=None, at=None, model=None):
    model = model or Regression()
    curves = optimise(model, batches(np.ones(32), 8, steps), PerItem(loss or model.loss), settings, at)
    return model, curves


def rows(*arguments, **settings) -> list[np.ndarray]:
    """The items of each batch."""
    return [batch.items for batch in batches(*arguments, **settings)]


# --- the order


def test_batches_are_fixed_by_lengths_and_seed():
    one, other = (rows(LENGTHS, 8, 30, window=4, seed=3) for _ in range(2))
    assert all(map(np.array_equal, one, other))
    assert not all(map(np.array_equal, one, rows(LENGTHS, 8, 30, window=4, seed=4)))


def test_fewer_steps_see_the_beginning_of_the_same_order():
    assert all(map(np.array_equal, rows(LENGTHS, 8, 5), rows(LENGTHS, 8, 30)))


@pytest.mark.parametrize("window", [1, 3, 16])
@pytest.mark.parametrize("batch_size", [1, 8, 103])
def test_an_epoch_sees_each_item_at_most_once(batch_size, window):
    per_epoch = len(LENGTHS) // batch_size
    plan = rows(LENGTHS, batch_size, 2 * per_epoch, window=window)
    assert {len(items) for items in plan} == {batch_size}
    for epoch in (plan[:per_epoch], plan[per_epoch:]):
        seen = np.concatenate(epoch)
        assert len(set(seen.tolist())) == len(seen) == per_epoch * batch_size


def test_epochs_differ_and_leave_out_different_items():
    first, second = (set(np.concatenate(epoch).tolist()) for epoch in np.split(np.array(rows(LENGTHS, 8, 24)), 2))
    assert first != second


def test_batches_know_their_epoch():
    assert [batch.epoch for batch in batches(LENGTHS, 8, 30)] == [0] * 12 + [1] * 12 + [2] * 6


@pytest.mark.parametrize("size", [1, 3, 8, 9])
def test_the_parts_of_a_batch_are_its_items_in_order(size):
    whole = Batch(np.arange(8), epoch=2)
    parts = list(whole.parts(size))
    assert np.concatenate([part.items for part in parts]).tolist() == whole.items.tolist()
    assert {part.epoch for part in parts} == {2}
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)


def test_batches_of_a_window_are_slices_of_its_sorted_lengths():
    window = rows(LENGTHS, 8, 4, window=4)
    spans = sorted((LENGTHS[items].min(), LENGTHS[items].max()) for items in window)
    assert all(high <= low for (_, high), (low, _) in itertools.pairwise(spans))
    assert any(LENGTHS[a].max() > LENGTHS[b].max() for a, b in itertools.pairwise(window))  # and shuffled


def test_a_batch_larger_than_the_data_is_an_error_and_no_endless_loop(within):
    with within(2), pytest.raises(ValueError, match="batch"):
        batches(LENGTHS, 104, 1)


@pytest.mark.parametrize(("items", "size", "epochs", "steps"), [(96, 32, 1, 3), (100, 32, 2, 6), (96, 32, 0.1, 1)])
def test_steps_of(items, size, epochs, steps):
    assert steps_of(items, size, epochs) == steps


# --- the loop


def test_it_finds_the_minimum():
    model, curves = train(steps=300)
    assert curves["loss"][0][1] > 1
    assert curves["loss"][-1][1] < 1e-3
    assert model.layer.weight.tolist()[0] == pytest.approx([2, -1], abs=0.02)


@pytest.mark.parametrize("micro", [1, 2, 3, 4])
def test_the_micro_batch_changes_only_rounding(micro):
    """Adam's first step ignores the gradient's scale, so its norm is compared too."""
    whole, expected = train(steps=3)
    parts, curves = train(dataclasses.replace(SETTINGS, micro_batch_size=micro), steps=3)
    for name in expected:
        assert curves[name] == [near(point) for point in expected[name]]
    assert_near(parts.layer.weight, whole.layer.weight)


class Spread(Regression):
    """Each error against the mean error of its batch: no loss of parts."""

    separable = False

    def forward(self, batch):
        return {"values": self.layer(self.x[batch.items])[:, 0]}

    def losses(self, batch, columns):
        errors = columns["values"] - self.y[batch.items]
        return Losses((errors - errors.mean()) ** 2 + 0.1 * errors**2, {"error": errors.detach()})


@pytest.mark.parametrize("micro", [1, 2, 3, 4, 8])
def test_a_loss_of_the_whole_batch_does_not_feel_the_micro_batch(micro):
    def train_spread(settings):
        model = Spread()
        return model, optimise(model, batches(np.ones(32), 8, 3), model, settings)

    (whole, expected), (parts, curves) = map(
        train_spread, (SETTINGS, dataclasses.replace(SETTINGS, micro_batch_size=micro))
    )
    for name in expected:
        assert curves[name] == [near(point) for point in expected[name]]
    assert_near(parts.layer.weight, whole.layer.weight)


def test_such_a_loss_cut_into_parts_would_be_another(monkeypatch):
    monkeypatch.setattr(Spread, "separable", True)
    norms = []
    for micro in (None, 2):
        model = Spread()
        curves = optimise(
            model, batches(np.ones(32), 8, 1), model, dataclasses.replace(SETTINGS, micro_batch_size=micro)
        )
        norms.append(curves["grad_norm"][0][1])
    assert abs(norms[0] - norms[1]) > 0.01 * norms[0]


def test_curves_have_one_point_per_step():
    _, curves = train(steps=7)
    assert set(curves) == {"loss", "error", "grad_norm", "learning_rate", "grad_clipped"}
    assert {tuple(step for step, _ in points) for points in curves.values()} == {tuple(range(1, 8))}


def test_clipping_is_charted():
    _, curves = train(dataclasses.replace(SETTINGS, max_grad_norm=1.0), steps=60)
    expected = [[step, float(norm > 1)] for step, norm in curves["grad_norm"]]
    assert curves["grad_clipped"] == expected
    assert {value for _, value in expected} == {0.0, 1.0}


@pytest.mark.parametrize(
    ("schedule", "shape"),
    [
        ("constant", [0, 1 / 2, 1, 1, 1, 1, 1, 1]),
        ("linear", [0, 1 / 2, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("cosine", [0, 1 / 2, *((1 + np.cos(np.pi * i / 6)) / 2 for i in range(6))]),
    ],
)
def test_schedules(schedule, shape):
    _, curves = train(TrainSettings(learning_rate=0.2, warmup_ratio=0.25, schedule=schedule), steps=8)
    assert [rate for _, rate in curves["learning_rate"]] == pytest.approx([0.2 * share for share in shape])


def test_callbacks_come_after_their_steps():
    seen, model = [], Regression()
    look = {step: lambda step=step: seen.append((step, model.layer.bias.item())) for step in (2, 5)}
    train(steps=5, at=look, model=model)
    assert seen == [(steps, train(steps=steps)[0].layer.bias.item()) for steps in (2, 5)]


def test_training_moves_no_global_random_state():
    before = torch.get_rng_state()
    train()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("bad", [1, 5, 16, 17, 20])
@pytest.mark.parametrize(("what", "factor"), [("loss", float("nan")), ("grad norm", float("inf"))])
def test_divergence_names_the_first_step(bad, what, factor):
    """A gradient of ∞ ruins the weights, so every later loss is bad too: it is not the one to be named."""
    model, calls = Regression(), []

    def loss(items):
        calls.append(items)
        losses, charts = model.loss(items)
        if len(calls) == bad and what == "loss":
            losses = losses * factor
        elif len(calls) == bad:
            losses.register_hook(lambda gradient: gradient * factor)
        return Losses(losses, charts)

    with pytest.raises(Diverged) as caught:
        train(steps=20, loss=loss, model=model)
    assert (caught.value.step, caught.value.what) == (bad, what)


def test_divergence_is_noticed_before_a_callback():
    model, seen = Regression(), []

    def loss(items):
        return Losses(model.loss(items).losses * float("nan"), {})

    with pytest.raises(Diverged):
        train(loss=loss, model=model, at={3: lambda: seen.append(3)})
    assert seen == []


def test_a_step_that_failed_leaves_no_gradient_for_the_next_trial():
    model, calls = Regression(), []

    def loss(items):
        calls.append(items)
        if len(calls) == 2:
            raise MemoryError
        return model.loss(items)

    with pytest.raises(MemoryError):
        train(dataclasses.replace(SETTINGS, micro_batch_size=4), loss=loss, model=model)
    _, curves = train(model=model)
    assert curves == train()[1]


def test_reset_puts_the_weights_back_in_place():
    model = Regression()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    where = model.layer.weight.data_ptr()
    train(model=model)
    assert not torch.equal(model.layer.weight, kept["layer.weight"])
    reset(dict(model.named_parameters()), kept)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert model.layer.weight.data_ptr() == where
