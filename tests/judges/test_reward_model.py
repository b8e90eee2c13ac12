"""Reward models by their name: scores, and what is said before anything is trained."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from posweep.errors import PreflightError
from posweep.judges.reward_model import open_reward_model, problems
from posweep.policy.fit import fit
from posweep.records import Message
from posweep.settings import RewardModelSettings

from ..rounding import near
from .models import WORDS, in_hub_cache, judge_folder, judge_tokenizer

PLACE = "judge.rm"
PROMPTS = ["word1 word2", (Message("user", "word3"), Message("assistant", "word4"), Message("user", "word5")), "word6"]
RESPONSES = ["word7", "word8 word9 word10", ""]


def settings(folder, **values):
    return RewardModelSettings(**{"name": str(folder), "dtype": "float32", **values})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return judge_folder(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return judge_folder(tmp_path_factory.mktemp("bert"), family="bert", chat=None)


def test_a_score_is_one_forward_pass_by_hand(folder):
    tokenizer, model = judge_tokenizer(WORDS), AutoModelForSequenceClassification.from_pretrained(folder).eval()
    texts = [
        "[BEGIN] <|user|> word1 word2 [END] <|assistant|> word7 [END]",
        "[BEGIN] <|user|> word3 [END] <|assistant|> word4 [END] <|user|> word5 [END] <|assistant|> word8 word9 word10 [END]",
        "[BEGIN] <|user|> word6 [END] <|assistant|> [END]",
    ]
    ids = [torch.tensor([tokenizer.convert_tokens_to_ids(text.split())]) for text in texts]
    with torch.no_grad():
        expected = [model(one).logits.item() for one in ids]
    scores = open_reward_model(settings(folder), "cpu").score(PROMPTS, RESPONSES)
    assert scores.dtype == np.float64
    assert scores == near(expected)


def test_a_pair_is_one_forward_pass_by_hand(bert):
    tokenizer, model = judge_tokenizer(WORDS), AutoModelForSequenceClassification.from_pretrained(bert).eval()
    with torch.no_grad():
        expected = model(**tokenizer("word1 word2", "word7", return_tensors="pt")).logits.item()
    judge = open_reward_model(settings(bert, template="pair"), "cpu")
    assert judge.score(PROMPTS, RESPONSES)[0] == near(expected)


def test_a_judge_scores_alike_whenever_it_is_opened_and_in_any_company(folder):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(1, 30))) for _ in range(40)]
    prompts, responses = texts[:20], texts[20:]
    one, other = (open_reward_model(settings(folder, batch_size=size), "cpu") for size in (1, 7))
    assert one.score(prompts, responses) == near(other.score(prompts, responses))
    again = open_reward_model(settings(folder, batch_size=7), "cpu")
    assert (again.score(prompts, responses) == other.score(prompts, responses)).all()
    assert one.score([], []).shape == (0,)


def test_like_texts_have_like_scores_to_the_last_bit(folder):
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(1, 30))) for _ in range(20)]
    scores = open_reward_model(settings(folder, batch_size=3), "cpu").score(["word1"] * 40, texts + texts)
    assert (scores[:20] == scores[20:]).all()


def test_long_texts_are_cut_and_counted(folder):
    judge = open_reward_model(settings(folder, max_tokens=12), "cpu")
    long = " ".join(WORDS[:30])
    scores = judge.score(["word1", long, long], ["word2", "word2", long])
    assert judge.cut == 2
    # five tokens are the template's own: word2 leaves the prompt six, and thirty words leave it none
    kept = " ".join(WORDS[24:30]), " ".join(WORDS[:7])
    assert scores[1:] == near(judge.score([kept[0], ""], ["word2", kept[1]]))
    assert judge.cut == 2


@pytest.mark.parametrize("template", ["chat", "pair"])
def test_no_conversation_is_too_long_for_the_tightest_limit(folder, template):
    limit = next(n for n in range(8, 20) if not problems(settings(folder, template=template, max_tokens=n), PLACE))
    judge = open_reward_model(settings(folder, template=template, max_tokens=limit), "cpu")
    long = " ".join(WORDS)
    turns = (Message("system", long), Message("user", long), Message("assistant", long), Message("user", long))
    rows = [fit(judge.form, judge.classifier.tokenizer, prompt, [long], limit) for prompt in (turns, turns[:2], long)]
    assert all(len(fitted.row.ids) <= limit for fitted in rows)


@pytest.mark.parametrize("family", ["llama", "roberta", "deberta", "bert", "gpt2"])
def test_no_text_is_too_long_for_any_model(tmp_path, family):
    judge = open_reward_model(settings(judge_folder(tmp_path, family=family, context=32)), "cpu")
    long = " ".join(WORDS)
    scores = judge.score([long, "word1"], [long, "word2"])
    assert np.isfinite(scores).all()
    assert judge.cut == 1
    assert judge.classifier.limit == (31 if family == "roberta" else 32)


def test_a_name_on_the_hub_is_read_from_its_cache(tmp_path, monkeypatch, within):
    from huggingface_hub import constants

    expected = open_reward_model(settings(judge_folder(tmp_path / "made")), "cpu").score(PROMPTS, RESPONSES)
    in_hub_cache(tmp_path / "made", tmp_path / "cache", "someone/judge")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with within(20):
        assert problems(settings("someone/judge"), PLACE) == []
        found = open_reward_model(settings("someone/judge"), "cpu").score(PROMPTS, RESPONSES)
        assert (found == expected).all()
        (problem,) = problems(settings("someone/other"), PLACE)
    assert problem.startswith("judge.rm.name: no model 'someone/other' at revision 'main'")


# --- problems


def one_problem(folder, **values):
    (problem,) = problems(settings(folder, **values), PLACE)
    with pytest.raises(PreflightError) as caught:
        open_reward_model(settings(folder, **values), "cpu", PLACE)
    assert caught.value.problems == (problem,)
    return problem


def test_a_good_model_has_no_problems(folder, bert):
    assert problems(settings(folder), PLACE) == []
    assert problems(settings(folder, template="pair"), PLACE) == []
    assert problems(settings(bert, template="pair", max_tokens=128), PLACE) == []


def test_no_name_and_a_folder_that_is_not_there(tmp_path):
    assert problems(settings(""), PLACE)[0].startswith("judge.rm.name: names nothing")
    assert "is not there" in problems(settings(tmp_path / "nowhere"), PLACE)[0]
    assert "cannot be opened" in one_problem(tmp_path)


def test_two_outputs(tmp_path):
    assert one_problem(judge_folder(tmp_path, outputs=2)) == (
        f"judge.rm.name: {tmp_path} has 2 outputs, and this judge reads one; name a model with one."
    )


def test_a_language_model_is_no_judge(tmp_path):
    config = LlamaConfig(vocab_size=99, hidden_size=8, num_attention_heads=2, num_hidden_layers=1)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    judge_tokenizer(WORDS).save_pretrained(tmp_path)
    assert f"{tmp_path} is a LlamaForCausalLM, no sequence classifier" in one_problem(tmp_path)


def test_no_chat_template(bert):
    assert "has no chat template; set judge.rm.template=pair" in one_problem(bert)


def test_no_weights(tmp_path):
    (judge_folder(tmp_path) / "model.safetensors").unlink()
    assert "has no weights (model.safetensors or pytorch_model.bin)" in one_problem(tmp_path)


def test_a_part_of_the_weights(tmp_path):
    weights = judge_folder(tmp_path) / "model.safetensors"
    weights.rename(tmp_path / "model-00001-of-00002.safetensors")
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    assert "lacks model-00002-of-00002.safetensors" in one_problem(tmp_path)


def test_more_tokens_than_the_model_reads(folder):
    assert one_problem(folder, max_tokens=129) == (
        f"judge.rm.max_tokens: 129 tokens, but {folder} reads 128; set it to 128 or less, or null for all it reads."
    )


def test_relative_positions_have_no_limit(tmp_path):
    judge_folder(tmp_path, family="deberta", context=32)
    assert problems(settings(tmp_path, max_tokens=64), PLACE) == []


def test_fewer_tokens_than_the_template_takes(tmp_path):
    judge_folder(tmp_path, chat="{{ 'word1 ' * 20 }}{{ messages[0].content }}{{ messages[1].content }}")
    assert "judge.rm.max_tokens: 10 tokens, and the template alone takes 20" in one_problem(tmp_path, max_tokens=10)


def test_code_that_comes_with_a_model_is_not_run(tmp_path):
    config = json.loads((judge_folder(tmp_path) / "config.json").read_text())
    own = {"AutoConfig": "own.Config", "AutoModelForSequenceClassification": "own.Judge"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": own}))
    (tmp_path / "own.py").write_text("raise SystemExit('this was run')")
    assert "set judge.rm.trust_remote_code=true if you trust it" in one_problem(tmp_path)
