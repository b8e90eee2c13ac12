"""Which tokens count where both responses of a pair are to have equally many."""

import copy

import numpy as np
import pytest

from posweep.artifacts.pairs import TokenPairs
from posweep.artifacts.reference import ReferenceLogps, TokenLogps
from posweep.objectives import OBJECTIVES
from posweep.policy.batch import Batch
from posweep.policy.score import score_all, score_tokens
from posweep.trial.loss import PairLoss
from posweep.trial.tokens import CommonTokens, common_pairs

from ..rounding import near

SIDES = ("chosen", "rejected")


def random_pairs(seed: int = 0, count: int = 30) -> TokenPairs:
    """Pairs whose responses have one to nine tokens; prompts of one to five."""
    rng = np.random.default_rng(seed)

    def rows(longest: int) -> list[list[int]]:
        return [rng.integers(2, 7, size=size).tolist() for size in rng.integers(1, longest + 1, size=count)]

    return TokenPairs(rows(5), rows(9), rows(9))


def random_logps(pairs: TokenPairs, seed: int = 0) -> TokenLogps:
    rng = np.random.default_rng(seed)
    return TokenLogps(*(-rng.exponential(size=sum(map(len, getattr(pairs, side)))).astype("f4") for side in SIDES))


def flags_of(tokens: CommonTokens) -> list[np.ndarray]:
    """The flags, response by response."""
    return [tokens.of([i]) for i in range(len(tokens.ends))]


def drawn(pairs: TokenPairs, *seed: int):
    return common_pairs(pairs, random_logps(pairs), np.random.default_rng(seed))


# --- which tokens


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rng", [None, 0])
def test_both_responses_of_a_pair_have_as_many_as_the_shorter_one_has(seed, rng):
    pairs = random_pairs(seed)
    found = common_pairs(pairs, random_logps(pairs), None if rng is None else np.random.default_rng(rng))
    for chosen, rejected, flags, others in zip(
        pairs.chosen, pairs.rejected, flags_of(found.chosen), flags_of(found.rejected), strict=True
    ):
        assert (len(flags), len(others)) == (len(chosen), len(rejected))
        assert flags.sum() == others.sum() == min(len(chosen), len(rejected))


def test_without_a_generator_they_are_the_first_ones():
    pairs = random_pairs()
    found = common_pairs(pairs, random_logps(pairs), None)
    for flags in (*flags_of(found.chosen), *flags_of(found.rejected)):
        assert flags.tolist() == sorted(flags.tolist(), reverse=True)


def test_each_token_and_each_subset_is_drawn_equally_often():
    """Two of four tokens: six subsets. 3000 draws of each put a sixth within 0.03, four standard deviations."""
    pairs = TokenPairs([[2]] * 3000, [[2, 3, 4, 5]] * 3000, [[2, 3]] * 3000)
    flags = np.array(flags_of(drawn(pairs, 0).chosen))
    subsets, counts = np.unique(flags, axis=0, return_counts=True)
    assert len(subsets) == 6
    assert counts / 3000 == pytest.approx(1 / 6, abs=0.03)
    assert flags.mean(0) == pytest.approx(0.5, abs=0.04)


def test_pairs_are_drawn_for_one_by_one():
    """Equal pairs have different tokens; neighbours say nothing of each other."""
    pairs = TokenPairs([[2]] * 3000, [[2, 3]] * 3000, [[2]] * 3000)
    first = np.array(flags_of(drawn(pairs, 0).chosen))[:, 0]
    assert (first[1:] == first[:-1]).mean() == pytest.approx(0.5, abs=0.04)


def test_a_draw_repeats_under_its_seed_and_under_no_other():
    one, same, other = (drawn(random_pairs(), seed) for seed in (3, 3, 4))
    for side in SIDES:
        assert np.array_equal(getattr(one, side).flags, getattr(same, side).flags)
        assert not np.array_equal(getattr(one, side).flags, getattr(other, side).flags)


# --- sums over them


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rng", [None, 0])
def test_sums_are_those_of_a_loop(seed, rng):
    pairs = random_pairs(seed)
    values = random_logps(pairs, seed)
    found = common_pairs(pairs, values, None if rng is None else np.random.default_rng(rng))
    for side in SIDES:
        ends = np.cumsum([len(row) for row in getattr(pairs, side)])
        parts = np.split(getattr(values, side), ends[:-1])
        expected = [sum(v for v, flag in zip(part, flags, strict=True) if flag)
                    for part, flags in zip(parts, flags_of(getattr(found, side)), strict=True)]  # fmt: skip
        assert getattr(found, f"reference_{side}") == near(np.array(expected))


@pytest.mark.parametrize("items", [[0], [7, 3, 3, 29], list(range(30)), np.array([29, 0])])
def test_flags_of_some_pairs_come_one_after_the_other_in_their_order(items):
    tokens = drawn(random_pairs(), 0).chosen
    everything = np.split(tokens.flags, tokens.ends[:-1])
    assert np.array_equal(tokens.of(items), np.concatenate([everything[i] for i in items]))


# --- in a trial


@pytest.fixture(scope="module")
def policy(toy):
    return copy.deepcopy(toy[0])


@pytest.fixture(scope="module")
def loss_of(policy):
    """SamPO or LD-DPO on pairs of which the policy itself is the reference."""
    pairs = random_pairs(1, count=12)
    by_token = TokenLogps(*(score_tokens(policy, pairs.prompts, getattr(pairs, s)).numpy() for s in SIDES))
    sums = (score_all(policy, pairs.prompts, getattr(pairs, side)) for side in SIDES)
    reference = ReferenceLogps(*sums, by_token=by_token)

    def make(method: str = "sampo", name: str = "train", seed: int = 0) -> PairLoss:
        return PairLoss(OBJECTIVES[method](), policy, pairs, reference, name, seed)

    return make


def common_sums(loss: PairLoss, items, epoch: int = 0) -> dict[int, tuple[float, float]]:
    """What the policy makes of the tokens that count in each pair."""
    columns = loss.forward(Batch(np.array(items), epoch))
    sides = (columns[f"policy_{side}_common_logps"].tolist() for side in SIDES)
    return dict(zip(items, zip(*sides, strict=True), strict=True))


def test_a_draw_depends_on_the_pair_and_not_on_its_batch(loss_of):
    loss = loss_of()
    whole = common_sums(loss, list(range(12)))
    for items in ([3], [11, 3, 5], [5, 11, 3], [0, 1, 2, 3]):
        for item, sums in common_sums(loss, items).items():
            assert sums == near(whole[item])


def test_a_draw_depends_on_the_epoch_the_seed_and_the_set(loss_of):
    items = list(range(12))
    first = common_sums(loss_of(), items)
    assert common_sums(loss_of(), items) == first
    for loss, epoch in ((loss_of(), 1), (loss_of(seed=1), 0), (loss_of(name="iid"), 0)):
        assert common_sums(loss, items, epoch) != first


def test_an_epoch_seen_again_has_its_draw_again(loss_of):
    loss, items = loss_of(), list(range(12))
    first, second, again = (common_sums(loss, items, epoch) for epoch in (0, 1, 0))
    assert first == again != second


def test_first_tokens_are_the_same_in_every_epoch_and_for_every_seed(loss_of):
    items = list(range(12))
    assert common_sums(loss_of("ld_dpo"), items) == common_sums(loss_of("ld_dpo", seed=1), items, epoch=3)


@pytest.mark.parametrize("method", ["sampo", "ld_dpo"])
@pytest.mark.parametrize("epoch", [0, 1])
def test_policy_and_reference_count_the_same_tokens(loss_of, method, epoch):
    """The policy is its own reference here, so nothing is gained on any of them."""
    loss, batch = loss_of(method), Batch(np.array([7, 2, 0, 11]), epoch)
    out = loss.score(batch, loss.forward(batch))
    assert out.chosen_rewards.tolist() == near([0] * 4)
    assert out.rejected_rewards.tolist() == near([0] * 4)


@pytest.mark.parametrize("method", ["sampo", "ld_dpo"])
def test_the_policy_sums_its_own_log_probabilities_over_them(loss_of, policy, method):
    """Against a loop over tokens, and the sum over all of them where the response is the shorter one."""
    loss, items = loss_of(method), [9, 4, 1]
    columns = loss.forward(Batch(np.array(items)))
    common = loss._common_pairs(0)
    for side in SIDES:
        for row, item in enumerate(items):
            response = getattr(loss.pairs, side)[item]
            scores = score_tokens(policy, [loss.pairs.prompts[item]], [response]).numpy()
            expected = scores[getattr(common, side).of([item])].sum()
            assert columns[f"policy_{side}_common_logps"][row].item() == near(expected)


def test_what_was_not_prepared_is_named(policy, loss_of):
    loss = loss_of()
    loss.reference = ReferenceLogps(loss.reference.chosen, loss.reference.rejected)
    with pytest.raises(ValueError, match="token by token were not prepared"):
        loss.forward(Batch(np.array([0])))
