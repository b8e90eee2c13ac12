import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest

from posweep.artifacts.baselines import BaselineScores, Drawn
from posweep.artifacts.shared import prepare
from posweep.records import JUDGED, MEASURES, HeldOutPair, Opponents, Response
from posweep.trial import baseline_measures, opponents, run_trial
from posweep.trial.course import Stopwatch
from posweep.trial.generate import generate
from posweep.trial.judge import beaten, judge, prefixed
from posweep.trial.measure import mean, of_pairs, of_responses, ratio


def row(index, text="x", length=4, kl=1.0, kl_length=None, score=0.0, wins=(0.0, 0.0), truncated=False) -> Response:
    return Response(
        set="s", index=index, prompt=f"p{index}", text=text, length=length, truncated=truncated, kl=kl,
        kl_length=length if kl_length is None else kl_length, scores={"gold": score, "proxy": 2 * score},
        wins={"vs_sft": wins[0], "vs_chosen": wins[1], "proxy/vs_sft": 1 - wins[0]},
    )  # fmt: skip


def evaluation_set(sft_lengths=(4, 4, 8, 8), chosen_lengths=(2, 6)) -> SimpleNamespace:
    """What of_responses reads of an evaluation set: two prompts."""
    return SimpleNamespace(
        prompts=["p0", "p1"],
        sft=Drawn(["s"] * 4, list(sft_lengths), [False] * 4, 2),
        chosen_lengths=list(chosen_lengths),
        scores={"gold": None, "proxy": None},
    )


# --- means and ratios


def test_mean_by_hand():
    """1, 2, 6: mean 3, squared deviations 4 + 1 + 9 = 14, s² = 7, s/√3 = √(7/3)."""
    assert mean("x", np.array([1.0, 2.0, 6.0])) == pytest.approx({"x": 3, "x_se": (7 / 3) ** 0.5})


def test_ratio_by_hand():
    """(2 + 4)/(1 + 3) = 3/2; residuals 2 − 3/2 and 4 − 9/2 over b̄ = 2: ±1/4, whose s is √(1/8) and s/√2 = 1/4."""
    assert ratio("x", np.array([2.0, 4.0]), np.array([1.0, 3.0])) == pytest.approx({"x": 1.5, "x_se": 0.25})


def test_errors_are_those_of_a_bootstrap_over_prompts():
    rng = np.random.default_rng(0)
    below = rng.integers(5, 40, size=500).astype(float)
    above = 0.3 * below * rng.gamma(4, 0.25, size=500)
    draws = rng.integers(500, size=(4000, 500))
    assert mean("x", above)["x_se"] == pytest.approx(above[draws].mean(1).std(), rel=0.05)
    replicates = above[draws].sum(1) / below[draws].sum(1)
    assert ratio("x", above, below)["x_se"] == pytest.approx(replicates.std(), rel=0.05)


# --- responses


def test_one_response_per_prompt_by_hand():
    rows = [
        row(0, "a", length=4, kl=1.0, score=1.0, wins=(1.0, 0.5)),
        row(1, "b", length=8, kl=5.0, score=0.0, wins=(0.5, 0.0), truncated=True),
    ]
    found = of_responses(rows, evaluation_set())
    expected = {
        "win_rate_vs_sft": 0.75, "win_rate_vs_sft_se": 0.25, "win_rate_vs_chosen": 0.25, "win_rate_vs_chosen_se": 0.25,
        "proxy/win_rate_vs_sft": 0.25, "proxy/win_rate_vs_sft_se": 0.25, "mean_score": 0.5, "mean_score_se": 0.5,
        "proxy/mean_score": 1.0, "proxy/mean_score_se": 1.0, "kl_to_sft": 3.0, "kl_to_sft_se": 2.0,
        "kl_to_sft_per_token": 0.5, "response_length": 6.0, "response_length_se": 2.0, "response_length_median": 6.0,
        "response_length_p90": 4 + 0.9 * 4, "length_ratio_sft": 12 / 12, "length_ratio_sft_se": 0.0,
        "length_ratio_chosen": 12 / 8, "truncated": 0.5, "truncated_se": 0.5, "distinct": 1.0,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert set(found) - set(expected) == {"kl_to_sft_per_token_se", "length_ratio_chosen_se"}


def test_responses_of_a_prompt_are_averaged_first():
    """Prompt 0 always wins and prompt 1 never: four responses, yet an error of two prompts."""
    rows = [row(i, wins=(1.0 - i, 0.0)) for i in (0, 0, 1, 1)]
    found = of_responses(rows, evaluation_set())
    assert (found["win_rate_vs_sft"], found["win_rate_vs_sft_se"]) == (0.5, 0.5)
    assert found["distinct"] == 0.25


def test_kl_per_token_counts_the_tokens_of_its_own_samples():
    rows = [row(i, length=100, kl=3.0, kl_length=6) for i in (0, 1)]
    assert of_responses(rows, evaluation_set())["kl_to_sft_per_token"] == 0.5


def test_held_out_pairs_by_hand():
    pairs = [HeldOutPair("s", 0, 1.0, 0.0, -1.0, -3.0), HeldOutPair("s", 1, 2.0, 2.0, -2.0, -5.0)]
    assert of_pairs(pairs) == pytest.approx({
        "preference_accuracy": 0.75, "preference_accuracy_se": 0.25, "chosen_logps_change": -1.5,
        "chosen_logps_change_se": 0.5, "rejected_logps_change": -4.0, "rejected_logps_change_se": 1.0,
    })  # fmt: skip
    assert of_pairs([]) == {}


def test_each_response_meets_its_own_prompts_baselines():
    """Two responses per prompt against K = 2 SFT responses and one chosen one."""
    baseline = BaselineScores(np.array([[0.0, 1.0], [10.0, 10.0]]), np.zeros(4), np.array([1.0, 10.0]))
    found = prefixed(beaten(np.array([1.0, 0.5, 10.0, 11.0]), baseline), "gold")
    assert found["gold/vs_sft"].tolist() == [0.75, 0.5, 0.5, 1.0]
    assert found["gold/vs_chosen"].tolist() == [0.5, 0.0, 0.5, 1.0]


# --- on the smoke world


def test_sft_against_fresh_sft_is_one_half(smoke, store):
    data = dataclasses.replace(smoke.data, evaluation_prompts=200)
    shared = prepare(dataclasses.replace(smoke, data=data), store)
    found = baseline_measures(shared)
    for judged in ("", "proxy/"):
        for name in ("iid", "ood", "ood_counts"):
            win, error = (found[f"{name}/{judged}win_rate_vs_sft{end}"] for end in ("", "_se"))
            assert abs(win - 0.5) < 3 * error
            assert error < 0.03
    assert found["ood/kl_to_sft"] == 0
    assert found["ood/length_ratio_sft"] == pytest.approx(1, abs=4 * found["ood/length_ratio_sft_se"])


def test_opponents_are_what_the_baselines_hold(shared):
    """Texts, lengths and scores by prompt; the wins of fresh responses average to the A/A row."""
    found = [row for row in opponents(shared) if row.set == "ood"]
    one = next(evaluation for evaluation in shared.evaluation if evaluation.name == "ood")
    assert [row.prompt for row in found] == list(one.prompts)
    assert [text for row in found for text in row.sft] == one.sft.texts
    assert [length for row in found for length in row.fresh_lengths] == one.fresh.lengths
    assert [row.chosen_length for row in found] == one.chosen_lengths
    for row in found:
        for kind, texts in (("chosen", (row.chosen,)), ("sft", row.sft), ("fresh", row.fresh)):
            assert row.scores["gold"][kind] == shared.judges["gold"].score([row.prompt] * len(texts), texts).tolist()
    wins = np.mean([row.fresh_wins["proxy/vs_sft"] for row in found])
    assert wins == pytest.approx(baseline_measures(shared)["ood/proxy/win_rate_vs_sft"])
    assert [Opponents.from_json(json.loads(json.dumps(row.to_json()))) for row in found] == found


def test_responses_are_judged_by_all_judges_the_first_without_a_name(shared, plan):
    drawn = generate(plan[0], shared, Stopwatch().stage)
    judged = judge(drawn, shared)
    assert [dataclasses.replace(one, scores={}, wins={}) for one in judged] == drawn
    assert set(judged[0].wins) == {"vs_sft", "vs_chosen", "proxy/vs_sft", "proxy/vs_chosen"}
    for one in judged[:5]:
        assert one.scores["gold"] == shared.judges["gold"].score([one.prompt], [one.text])[0]


@pytest.mark.parametrize("changed", [{"temperature": 0.5}, {"top_p": 0.8}])
def test_kl_has_its_own_samples_where_decoding_differs(shared, plan, changed):
    """KL is of the policy: whatever the decoding, it is measured on one set of samples of π itself."""

    def drawn(**sampling):
        sample = dataclasses.replace(shared.configuration.sample, **sampling)
        configuration = dataclasses.replace(shared.configuration, sample=sample)
        return generate(plan[0], dataclasses.replace(shared, configuration=configuration), Stopwatch().stage)

    one, other = drawn(**changed), drawn(temperature=0.7)
    assert [(r.kl, r.kl_length) for r in one] == [(r.kl, r.kl_length) for r in other]
    assert [r.text for r in one] != [r.text for r in other]
    assert any(r.length != r.kl_length for r in one)
    assert all(r.length == r.kl_length for r in drawn())


def test_every_measure_is_named_in_the_records_and_the_documentation(shared, plan):
    """Names of measures are checked when a sweep is configured, long before one is taken."""
    measures = run_trial(next(iter(plan)), shared).result.measures
    names = {name.partition("/")[2] for name in measures if not name.endswith("_se")}
    assert {name for name in names if "/" not in name} == set(MEASURES)
    assert {name.rpartition("/")[2] for name in names if "/" in name} <= set(JUDGED)
