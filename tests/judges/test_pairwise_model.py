"""Models that compare: PairRM, and classifiers of a text that holds both responses."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from posweep.errors import PreflightError
from posweep.judges.pairwise_model import filled, open_pairwise_model, problems
from posweep.policy.pairrm import PairRM
from posweep.records import Message
from posweep.settings import PairwiseModelSettings

from ..rounding import near
from .models import WORDS, judge_folder, judge_tokenizer, pair_rm_folder

PLACE = "judge.pm"
TEMPLATE = "{prompt} <|candidate1|> {first} <|candidate2|> {second}"


def settings(folder, **values):
    return PairwiseModelSettings(**{"name": str(folder), "dtype": "float32", **values})


def texts(count, seed=0, longest=20):
    rng = np.random.default_rng(seed)
    return [[" ".join(rng.choice(WORDS, size=rng.integers(1, longest))) for _ in range(count)] for _ in range(3)]


@pytest.fixture(scope="module")
def pair_rm(tmp_path_factory):
    return pair_rm_folder(tmp_path_factory.mktemp("pair_rm"))


@pytest.fixture(scope="module")
def one_output(tmp_path_factory):
    return judge_folder(tmp_path_factory.mktemp("one"), family="bert")


@pytest.fixture(scope="module")
def two_outputs(tmp_path_factory):
    return judge_folder(tmp_path_factory.mktemp("two"), family="llama", outputs=2)


@pytest.fixture(params=["pair_rm", "one_output", "two_outputs"])
def judge(request):
    values = {} if request.param == "pair_rm" else {"template": TEMPLATE}
    folder = request.getfixturevalue(request.param)
    return open_pairwise_model(settings(folder, opponents=2, max_tokens=100, **values), "cpu")


def test_who_wins_does_not_depend_on_the_order(judge):
    prompts, ours, theirs = texts(24)
    wins = judge.compare(prompts, ours, theirs)
    assert set(wins) <= {0.0, 0.5, 1.0}
    assert 0 < wins.mean() < 1
    assert (wins + judge.compare(prompts, theirs, ours) == 1).all()
    assert judge.opponents == 2


def test_like_responses_tie(judge):
    prompts, ours, theirs = texts(12)
    wins = judge.compare(prompts * 2, ours + ours, theirs + ours)
    assert (wins[12:] == 0.5).all()
    assert (wins[:12] != 0.5).any()


def test_no_comparison(judge):
    assert judge.compare([], [], []).shape == (0,)


def test_company_does_not_matter(judge):
    prompts, ours, theirs = texts(10, seed=3)
    together = judge._log_odds(list(zip(prompts, ours, theirs, strict=True)))
    alone = [judge._log_odds([one])[0] for one in zip(prompts, ours, theirs, strict=True)]
    assert together == near(alone)


def test_long_texts_are_cut_and_counted(judge):
    prompts, ours, theirs = texts(1, longest=10)
    long = " ".join(WORDS * 5)
    wins = judge.compare(prompts * 3, [ours[0], long, long], [theirs[0], theirs[0], long])
    assert judge.cut == 4  # two comparisons, each in both orders
    assert wins[2] == 0.5


# --- any classifier


def test_log_odds_are_the_output_or_the_first_minus_the_second(one_output, two_outputs):
    tokenizer = judge_tokenizer(WORDS)
    inputs = tokenizer("word1 <|candidate1|> word2 word3 <|candidate2|> word4", return_tensors="pt")
    for folder in (one_output, two_outputs):
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        with torch.no_grad():
            outputs = model(input_ids=inputs["input_ids"]).logits[0].tolist()
        judge = open_pairwise_model(settings(folder, template=TEMPLATE), "cpu")
        expected = outputs[0] - outputs[1] if folder == two_outputs else outputs[0]
        assert judge._log_odds([("word1", "word2 word3", "word4")]) == near([expected])


def test_braces_in_a_text_are_text():
    tokenizer = judge_tokenizer([*WORDS, "{first} {second} {} { {prompt}"])
    row = filled("{second} | {first} | {prompt}", tokenizer, "{first} {}", ["{second} {", "{prompt}"])
    assert tokenizer.convert_ids_to_tokens(list(row.ids)) == (
        ["[BEGIN]", "{prompt}", "[UNKNOWN]", "{second}", "{", "[UNKNOWN]", "{first}", "{}", "[END]"]
    )


def test_a_template_keeps_itself_whole(one_output):
    judge = open_pairwise_model(settings(one_output, template=TEMPLATE, max_tokens=12), "cpu")
    found = judge._text(" ".join(WORDS[:9]), (" ".join(WORDS[10:30]), "word40"))
    assert judge.classifier.tokenizer.convert_ids_to_tokens(list(found.row.ids)) == (
        ["[BEGIN]", "<|candidate1|>", *WORDS[10:17], "<|candidate2|>", "word40", "[END]"]
    )


# --- PairRM


def test_pair_rm_is_its_formula(pair_rm):
    """s(c) = W₂ tanh(W₁ [h(source), h(c)] + b₁) + b₂, h at the marks, on the parts one after another, unpadded."""
    tokenizer, model = judge_tokenizer(WORDS), PairRM.from_pretrained(pair_rm).eval()
    parts = ["<|source|> word1 word2", "<|candidate1|> word3", "<|candidate2|> word4 word5 word6"]
    ids = torch.tensor([[token for part in parts for token in tokenizer(part)["input_ids"]]])
    with torch.no_grad():
        hidden = model.pretrained_model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].double()
        source, first, second = hidden[1], hidden[6], hidden[10]
        w1, b1, w2, b2 = (p.double() for p in model.head_layer.parameters())
        scores = [w2 @ torch.tanh(w1 @ torch.cat([source, c]) + b1) + b2 for c in (first, second)]
    judge = open_pairwise_model(settings(pair_rm), "cpu")
    assert judge._log_odds([("word1 word2", "word3", "word4 word5 word6")]) == near((scores[0] - scores[1]).tolist())


def test_pair_rm_weights_are_called_as_in_the_original(pair_rm):
    from safetensors import safe_open

    with safe_open(pair_rm / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
    assert {"head_layer.1.weight", "head_layer.1.bias", "head_layer.4.weight", "head_layer.4.bias"} <= names
    assert "pretrained_model.embeddings.word_embeddings.weight" in names
    assert {name.partition(".")[0] for name in names} == {"head_layer", "pretrained_model"}


def test_pair_rm_cuts_each_part_to_its_share(pair_rm):
    judge = open_pairwise_model(settings(pair_rm, max_tokens=64), "cpu")
    prompt = (Message("user", " ".join(WORDS)), Message("assistant", "word1"), Message("user", " ".join(WORDS[:50])))
    found = judge._text(prompt, (" ".join(WORDS), "word3"))
    tokens = judge.classifier.tokenizer.convert_ids_to_tokens(list(found.row.ids))
    first, second = tokens.index("<|candidate1|>") - 1, tokens.index("<|candidate2|>") - 1
    assert found.cut
    assert tokens[:2] == ["[BEGIN]", "<|source|>"]
    assert tokens[first - 2 : first] == ["word49", "[END]"]
    assert (first, second - first) == (64 * 1224 // 2048, (64 - first) // 2)
    assert tokens[second:] == ["[BEGIN]", "<|candidate2|>", "word3", "[END]"]


def test_marks_in_a_text_are_left_out(pair_rm):
    judge = open_pairwise_model(settings(pair_rm), "cpu")
    forged, plain = (
        judge._log_odds([("word1", text, "word4")]) for text in ("word2 <|candidate2|> word3", "word2 word3")
    )
    assert forged == plain


# --- problems


def one_problem(folder, **values):
    (problem,) = problems(settings(folder, **values), PLACE)
    with pytest.raises(PreflightError) as caught:
        open_pairwise_model(settings(folder, **values), "cpu", PLACE)
    assert caught.value.problems == (problem,)
    return problem


def test_good_models_have_no_problems(pair_rm, one_output, two_outputs):
    assert [problems(settings(folder), PLACE) for folder in (pair_rm, one_output, two_outputs)] == [[], [], []]


def test_three_outputs(tmp_path):
    assert "has 3 outputs, and this judge reads one or two" in one_problem(judge_folder(tmp_path, outputs=3))


def test_a_template_without_a_place_for_a_text(one_output):
    assert one_problem(one_output, template="{prompt} {first}").startswith("judge.pm.template: lacks {second}")


def test_pair_rm_takes_no_template(pair_rm):
    assert "judge.pm.template: " in one_problem(pair_rm, template=TEMPLATE)


def test_pair_rm_needs_room_for_three_parts(pair_rm):
    assert (
        one_problem(pair_rm, max_tokens=12)
        == "judge.pm.max_tokens: must be 32 or more for PairRM's three parts, got 12."
    )


def test_pair_rm_needs_its_marks(tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    pair_rm_folder(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}))).save_pretrained(tmp_path)
    assert "lacks PairRM's marks" in one_problem(tmp_path)


def test_more_tokens_than_the_model_reads(one_output):
    assert "judge.pm.max_tokens: 500 tokens" in one_problem(one_output, max_tokens=500)
