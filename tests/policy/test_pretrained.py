"""Models by their names, of four families: load, score, sample, LoRA, train."""

import dataclasses
import json

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posweep import hub
from posweep.errors import PreflightError
from posweep.policy.batch import Losses, PerItem, batches
from posweep.policy.divergence import kl_all
from posweep.policy.load import (
    export_policy,
    keep_policy,
    load_policy,
    new_reward_model,
    put_back,
    save_policy,
    trained,
)
from posweep.policy.pretrained import open_texts, problems, prompt_problems
from posweep.policy.sample import sample
from posweep.policy.score import collate, response_logits, score_all, score_tokens, sequence_logps
from posweep.policy.train import optimise, reset
from posweep.records import Message
from posweep.settings import LoraSettings, TrainSettings

from ..rounding import near
from .families import FAMILIES, TEXTS, in_cache, make_model, settings

every_family = pytest.mark.parametrize("family", FAMILIES)
QUESTION = "who are you?"


def tokens(policy, prompts=(QUESTION, "a log", "the cat sat on the mat and the dog"), answers=TEXTS):
    encoded = policy.texts.prompts(list(prompts), 64).rows
    return encoded, policy.texts.responses(list(answers)[: len(encoded)], 64).rows


# --- log-probs


@every_family
def test_log_probs_are_those_of_a_loop_over_tokens_in_float64(opened, family):
    policy = opened(family)
    prompts, responses = tokens(policy)
    found = score_tokens(policy, prompts, responses)
    exact = opened(family).model.double()
    expected = []
    for prompt, response in zip(prompts, responses, strict=True):
        for at in range(len(response)):
            with torch.no_grad():
                logits = exact(input_ids=torch.tensor([[*prompt, *response[:at]]])).logits[0, -1]
            expected.append(logits.log_softmax(-1)[response[at]].item())
    assert max(expected) - min(expected) > 3  # no flat π, for which anything would agree
    assert found.numpy() == near(np.array(expected))
    sums = [part.sum() for part in np.split(np.array(expected), np.cumsum([len(r) for r in responses])[:-1])]
    assert score_all(policy, prompts, responses).numpy() == pytest.approx(np.array(sums), abs=1e-3)


@every_family
def test_a_response_scores_alike_in_any_company_and_order(opened, family):
    policy = opened(family)
    prompts, responses = tokens(policy)
    together = score_all(policy, prompts, responses)
    alone = [score_all(policy, [p], [r]).item() for p, r in zip(prompts, responses, strict=True)]
    assert together.tolist() == pytest.approx(alone, abs=1e-3)
    assert score_all(policy, prompts[::-1], responses[::-1]).flip(0).tolist() == pytest.approx(alone, abs=1e-3)


@every_family
def test_the_vocabulary_is_projected_at_responses_only_and_to_the_models_own_logits(opened, family):
    policy = opened(family)
    prompts, responses = tokens(policy)
    batch = collate(prompts, responses, policy.pad, policy.device)
    with torch.no_grad():
        whole = policy.model(input_ids=batch.input_ids, use_cache=False).logits
        found = response_logits(policy, batch)
    assert found.shape == (sum(map(len, responses)), policy.vocabulary)
    assert torch.allclose(found, whole.flatten(0, 1)[batch.predicts], atol=1e-4)


def test_logits_that_a_model_caps_are_capped(tmp_path):
    from transformers import Gemma2Config

    FAMILIES["gemma"] = (Gemma2Config, {**FAMILIES["llama"][1], "head_dim": 8}, *FAMILIES["llama"][2:])
    try:
        folder = make_model("gemma", tmp_path / "gemma", final_logit_softcapping=1.0)
    finally:
        del FAMILIES["gemma"]
    policy = load_policy(settings("llama", folder, attention="eager"), folder)
    prompts, responses = tokens(policy)
    assert response_logits(policy, collate(prompts, responses, policy.pad, policy.device)).abs().max() <= 1.0


# --- sampling


def test_transformers_looks_for_no_packed_texts_and_is_left_as_it_was(opened, monkeypatch):
    """It would wait for the GPU in every step."""
    from transformers import masking_utils

    looked = []
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda ids: looked.append(ids))
    policy = opened("llama")
    prompts, responses = tokens(policy)
    sequence_logps(policy, collate(prompts, responses, policy.pad, policy.device))
    assert looked == []
    policy.model(input_ids=torch.tensor([prompts[0]]), use_cache=False)
    assert len(looked) == 1


def test_weights_are_cast_once_for_a_whole_response(opened):
    """Not for every token: under autocast that would move more than the model itself."""
    policy = opened("llama", dtype="bfloat16")
    prompts, _ = tokens(policy)
    with torch.profiler.profile(record_shapes=True) as seen:
        drawn = sample(policy, prompts, np.full((len(prompts), 20), 0.5))
    assert max(len(one.tokens) for one in drawn) == 20
    matrices = {tuple(value.shape) for value in policy.model.parameters() if value.dim() == 2}
    casts = [e for e in seen.events() if e.name == "aten::_to_copy" and tuple(e.input_shapes[0]) in matrices]
    assert len(casts) <= sum(1 for value in policy.model.parameters() if value.dim() == 2)


@every_family
def test_a_drawn_response_does_not_depend_on_its_company_nor_on_the_cache(opened, family):
    policy = opened(family)
    prompts, _ = tokens(policy)
    noise = np.random.default_rng(0).random((len(prompts), 12))
    together = sample(policy, prompts, noise)
    for i, prompt in enumerate(prompts):
        [alone] = sample(policy, [prompt], noise[[i]])
        assert alone.tokens == together[i].tokens
        assert _by_hand(policy, prompt, noise[i]) == alone.tokens


def _by_hand(policy, prompt, noise):
    """The inverse of the cumulative distribution, one full forward pass a token."""
    drawn: list[int] = []
    for uniform in noise:
        with torch.no_grad():
            logits = policy.model(input_ids=torch.tensor([[*prompt, *drawn]]), use_cache=False).logits[0, -1]
        cumulative = logits.softmax(-1).double().cumsum(-1)
        drawn.append(int(torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)))
        if drawn[-1] in policy.texts.ends:
            break
    return drawn


# --- texts


@pytest.mark.parametrize(
    ("family", "end", "ends"),
    [
        ("llama", "<|eot_id|>", ["<|eot_id|>", "<|end_of_text|>"]),
        ("qwen", "<|im_end|>", ["<|im_end|>"]),
        ("neox", "<|endoftext|>", ["<|endoftext|>"]),
        ("phi3", "<|end|>", ["<|end|>", "<|endoftext|>"]),
    ],
)
def test_a_response_ends_as_the_template_ends_a_turn_or_as_the_model_ends_a_text(folders, family, end, ends):
    texts = open_texts(settings(family, folders[family]), folders[family])
    names = texts.tokenizer.convert_ids_to_tokens
    assert names(texts.end) == end
    assert names(list(texts.ends)) == ends == texts.ends_text.split(", ")
    assert names(texts.responses(["yes"], 9).rows[0][-1]) == end


@every_family
def test_prompts_are_written_in_the_models_own_form(folders, family):
    texts = open_texts(settings(family, folders[family]), folders[family])
    conversation = (Message("user", "a dog?"), Message("assistant", "a log"), Message("user", QUESTION))
    written = [texts.tokenizer.decode(row) for row in texts.prompts([QUESTION, conversation], 500).rows]
    if family == "neox":
        assert written[0] == f"\n\nHuman: {QUESTION}\n\nAssistant:"
        assert written[1] == f"\n\nHuman: a dog?\n\nAssistant: a log\n\nHuman: {QUESTION}\n\nAssistant:"
        return
    for text, turns in zip(written, [[("user", QUESTION)], [(m.role, m.content) for m in conversation]], strict=True):
        rendered = [{"role": role, "content": content} for role, content in turns]
        assert text == texts.tokenizer.apply_chat_template(rendered, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("family", ["llama", "qwen", "phi3"])
def test_a_long_conversation_loses_its_oldest_turns_and_keeps_its_form(folders, family):
    texts = open_texts(settings(family, folders[family]), folders[family])
    turns = [Message("system", "be kind")]
    for i in range(6):
        turns += [Message("user", f"question {i}?"), Message("assistant", f"answer {i}")]
    prompt = (*turns, Message("user", QUESTION))
    [whole], [cut] = texts.prompts([prompt], 5000).rows, texts.prompts([prompt], 120).rows
    text = texts.tokenizer.decode(cut)
    assert len(cut) <= 120 < len(whole)
    assert "be kind" in text
    assert "question 0" not in text
    assert "question 5" in text
    assert text.startswith(texts.tokenizer.decode(whole)[:12])
    assert text.endswith(texts.tokenizer.decode(whole)[-20:])
    assert texts.prompts([prompt, QUESTION], 120).cut == 1


@pytest.mark.parametrize("family", ["llama", "qwen", "phi3"])
def test_a_long_question_loses_its_beginning(folders, family):
    texts = open_texts(settings(family, folders[family]), folders[family])
    question = " ".join(f"word{i}" for i in range(200))
    [cut] = texts.prompts([question], 60).rows
    text = texts.tokenizer.decode(cut)
    assert len(cut) <= 60
    assert "word199" in text
    assert "word0 " not in text
    assert text.startswith(texts.tokenizer.decode(texts.prompts(["x"], 500).rows[0])[:9])
    assert texts.prompts([question], 60).cut == 1


@pytest.mark.parametrize("family", ["llama", "qwen", "phi3"])
def test_a_response_is_what_the_template_writes_behind_the_question(folders, family):
    """Also where the tokenizer would put a space before a text of its own, as Phi-3's does."""
    texts = open_texts(settings(family, folders[family]), folders[family])
    [asked], [answered] = texts.prompts([QUESTION], 99).rows, texts.responses(["nobody, and you?"], 99).rows
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "nobody, and you?"}]
    whole = texts.tokenizer.apply_chat_template(turns)["input_ids"]
    assert [*asked, *answered] == whole[: len(asked) + len(answered)]
    alone = texts.encode(["nobody, and you?"])[0]
    assert (answered[:-1] == alone) == (family != "phi3")
    assert texts.decode([answered]) == ["nobody, and you?"]


@every_family
def test_the_name_of_a_special_token_in_a_response_is_text(folders, family):
    texts = open_texts(settings(family, folders[family]), folders[family])
    word = texts.tokenizer.convert_ids_to_tokens(texts.end)
    [row] = texts.responses([f"cat {word} dog"], 99).rows
    assert not set(row[:-1]) & set(texts.ends)


# --- LoRA


LORA = {"lora": LoraSettings(rank=4, alpha=16)}


@every_family
def test_an_adapter_that_is_new_or_off_changes_nothing(opened, family):
    base, policy = opened(family), opened(family, **LORA)
    prompts, responses = tokens(base)
    expected = score_tokens(base, prompts, responses)
    assert torch.equal(score_tokens(policy, prompts, responses), expected)
    _step(policy)
    assert not torch.equal(score_tokens(policy, prompts, responses), expected)
    assert torch.equal(score_tokens(policy.without_adapter(), prompts, responses), expected)
    assert policy.without_adapter().model is policy.model  # not a second copy


@every_family
def test_only_adapters_are_trained_and_reset_puts_them_back(opened, family):
    policy = opened(family, **LORA)
    start = {name: value.clone() for name, value in trained(policy).items()}
    assert all(".lora_" in name for name in start)
    frozen = {n: v.clone() for n, v in policy.model.named_parameters() if n not in start}
    prompts, responses = tokens(policy)
    before = score_all(policy, prompts, responses)
    _step(policy)
    assert all(torch.equal(v, frozen[n]) for n, v in policy.model.named_parameters() if n in frozen)
    reset(trained(policy), start)
    assert torch.equal(score_all(policy, prompts, responses), before)


def test_kl_to_the_adapters_base_is_exact(opened):
    """Σ_t Σ_v π(v) (log π(v) − log π_0(v)) by enumeration, in float64."""
    policy = opened("qwen", **LORA)
    prompts, responses = tokens(policy)
    assert kl_all(policy, policy.without_adapter(), prompts, responses).tolist() == [0.0] * 3
    _step(policy, steps=3)
    found = kl_all(policy, policy.without_adapter(), prompts, responses)
    batch = collate(prompts, responses, policy.pad, policy.device)
    with torch.no_grad():
        p, q = (response_logits(one, batch).double().log_softmax(-1) for one in (policy, policy.without_adapter()))
    by_token = (p.exp() * (p - q)).sum(-1)
    expected = torch.zeros(3, dtype=torch.double).index_add(0, batch.owner, by_token)
    assert expected.min() > 1e-3
    assert found.double() == near(expected)


def _step(policy, steps: int = 2, **changes):
    """A few steps of imitation; the curves."""
    prompts, responses = tokens(policy)

    def loss(items):
        batch = collate([prompts[i] for i in items], [responses[i] for i in items], policy.pad, policy.device)
        return Losses(-sequence_logps(policy, batch) / batch.lengths, {})

    loop = TrainSettings(learning_rate=1e-2, warmup_ratio=0.0, **changes)
    policy.model.train()
    curves = optimise(policy.model, batches(np.array([9, 9, 9]), 3, steps), PerItem(loss), loop)
    policy.model.eval()
    return curves


# --- training


@pytest.mark.parametrize("lora", [0, 4])
def test_a_judge_made_from_the_policy_is_trained_in_float32(opened, lora):
    policy = opened("qwen", dtype="bfloat16", lora=LoraSettings(rank=lora))
    judge = new_reward_model(policy, 0)
    assert {value.dtype for value in judge.model.parameters()} == {torch.float32}
    base = opened("qwen").model.model.embed_tokens.weight
    assert torch.allclose(judge.model.model.embed_tokens.weight, base, atol=0.05)


@every_family
@pytest.mark.parametrize("lora", [0, 4])
def test_training_learns_and_repeats(opened, family, lora):
    runs = [_step(opened(family, lora=LoraSettings(rank=lora)), steps=8) for _ in range(2)]
    assert runs[0] == runs[1]  # no dropout, no global random state
    losses = [value for _, value in runs[0]["loss"]]
    assert losses[-1] < 0.8 * losses[0]


@every_family
@pytest.mark.parametrize("lora", [0, 4])
def test_checkpointing_changes_memory_and_not_one_bit(opened, family, lora):
    plain, saving = (
        _step(opened(family, lora=LoraSettings(rank=lora), gradient_checkpointing=on), steps=3) for on in (False, True)
    )
    assert plain == saving


@pytest.mark.parametrize("lora", [0, 4])
def test_bfloat16_is_what_products_are_taken_in_and_not_what_is_trained(opened, lora):
    policy, exact = opened("llama", dtype="bfloat16", lora=LoraSettings(rank=lora)), opened("llama")
    assert {value.dtype for value in trained(policy).values()} == {torch.float32}
    frozen = {v.dtype for v in policy.model.parameters() if not v.requires_grad}
    assert frozen == ({torch.bfloat16} if lora else set())
    prompts, responses = tokens(policy)
    found, expected = (score_tokens(one, prompts, responses) for one in (policy, exact))
    assert not torch.equal(found, expected)
    assert found.numpy() == pytest.approx(expected.numpy(), abs=0.35)
    losses = [value for _, value in _step(policy, steps=8)["loss"]]
    assert losses[-1] < 0.8 * losses[0]


# --- keeping and exporting


@every_family
@pytest.mark.parametrize("lora", [0, 4])
def test_a_kept_policy_comes_back_to_the_bit(opened, family, lora, tmp_path):
    one, other = (opened(family, lora=LoraSettings(rank=lora)) for _ in range(2))
    _step(one)
    keep_policy(one, tmp_path / "kept")
    names = {file.name for file in (tmp_path / "kept").iterdir()}
    assert ("adapter_model.safetensors" in names) == bool(lora)
    assert ("model.safetensors" in names) != bool(lora)
    put_back(other, tmp_path / "kept")
    prompts, responses = tokens(one)
    assert torch.equal(score_all(one, prompts, responses), score_all(other, prompts, responses))


@every_family
@pytest.mark.parametrize("lora", [0, 4])
def test_an_exported_policy_is_read_by_transformers_alone(opened, family, lora, tmp_path):
    policy = opened(family, lora=LoraSettings(rank=lora))
    _step(policy)
    prompts, responses = tokens(policy)
    expected = score_all(policy, prompts, responses)
    export_policy(policy, tmp_path / "out", merged=True)
    model, tokenizer = (c.from_pretrained(tmp_path / "out") for c in (AutoModelForCausalLM, AutoTokenizer))
    assert not list((tmp_path / "out").glob("adapter*"))
    found = []
    for prompt, response in zip(prompts, responses, strict=True):
        with torch.no_grad():
            logps = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0].log_softmax(-1)
        found.append(sum(logps[len(prompt) + i - 1, token].item() for i, token in enumerate(response)))
    assert found == pytest.approx(expected.tolist(), abs=1e-2)
    assert tokenizer.get_vocab() == policy.tokenizer.get_vocab()


def test_adapters_alone_can_be_exported_and_name_their_base(opened, folders, tmp_path):
    from peft import PeftModel

    policy = opened("llama", **LORA)
    _step(policy)
    prompts, responses = tokens(policy)
    export_policy(policy, tmp_path / "out", merged=False)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folders["llama"])
    base = AutoModelForCausalLM.from_pretrained(folders["llama"])
    loaded = dataclasses.replace(policy, model=PeftModel.from_pretrained(base, tmp_path / "out").eval())
    assert score_all(loaded, prompts, responses).tolist() == near(score_all(policy, prompts, responses).tolist())


# --- by hub name


def test_a_model_is_found_in_the_hubs_cache_without_a_network(tmp_path, monkeypatch):
    commit = in_cache(make_model("qwen", tmp_path / "made"), tmp_path / "cache", "some/qwen")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    named = settings("qwen", "some/qwen")
    assert hub.commit(named, "model", "model") == commit
    named = dataclasses.replace(named, commit=commit)
    folder = hub.folder(named, "model", "model")
    assert folder.name == commit
    assert problems(named, hub.fetch(named, "model", "model", hub.SMALL), 100) == []
    policy = load_policy(named, folder)
    prompts, responses = tokens(policy)
    assert score_all(policy, prompts, responses).isfinite().all()
    with pytest.raises(PreflightError, match=r"model.name: no model 'some/other' at revision 'main'.*HF_HUB_OFFLINE"):
        hub.commit(settings("qwen", "some/other"), "model", "model")
    with pytest.raises(PreflightError, match=r"'no name at all' is no name on the hub"):
        hub.commit(settings("qwen", "no name at all"), "model", "model")


def test_a_folder_is_known_by_its_content_and_a_hub_thing_by_its_name(tmp_path):
    one, other = make_model("qwen", tmp_path / "one"), make_model("qwen", tmp_path / "other", seed=1)
    known = hub.identity(settings("qwen", one))
    assert "name" not in known
    assert hub.identity(settings("qwen", other)) != known
    one.rename(tmp_path / "moved")
    assert hub.identity(settings("qwen", tmp_path / "moved")) == known
    assert hub.identity(settings("qwen", tmp_path / "moved", gradient_checkpointing=True)) == known
    named = hub.identity(settings("qwen", "some/qwen", revision="v2"))
    assert (named["name"], named["revision"]) == ("some/qwen", "v2")


# --- mistakes


def said(folder, family="llama", longest=64, **changes) -> list[str]:
    return problems(settings(family, folder, **changes), folder, longest)


def test_nothing_is_wrong_with_the_families(folders):
    for family, folder in folders.items():
        assert said(folder, family) == []
        assert hub.weight_problems(settings(family, folder), folder, "model") == []


def test_a_model_without_a_pad_or_end_token(folders, tmp_path):
    [pad] = said(folders["llama"], pad_token=None)
    assert pad.startswith("model.pad_token: the tokenizer of")
    assert "'<|end_of_text|>' will do" in pad
    FAMILIES["endless"] = (*FAMILIES["qwen"][:2], None, *FAMILIES["qwen"][3:5], None)
    folder = make_model("qwen", tmp_path / "endless")
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "eos_token": None, "pad_token": None}))
    del FAMILIES["endless"]
    found = said(folder, "qwen")
    assert [f.partition(":")[0] for f in found] == ["model.pad_token", "model.end_token"]
    assert said(folder, "qwen", pad_token="<|endoftext|>", end_token="<|im_end|>") == []
    [unknown] = said(folder, "qwen", pad_token="<none>", end_token="<|im_end|>")
    assert "'<none>' is no token of" in unknown


def test_a_chat_template_that_is_missing(folders):
    [found] = said(folders["neox"], "neox", prompt_format="chat")
    assert found.startswith("model.prompt_format: the tokenizer of")
    assert "transcript" in found


def test_a_sequence_longer_than_the_models_context(folders):
    [found] = said(folders["llama"], longest=300)
    assert "reads 256 tokens, but prompts and responses may take 300" in found


def test_layers_that_are_not_there(folders):
    [found] = said(folders["llama"], lora=LoraSettings(rank=4, targets=("query_key_value",)))
    assert "model.lora.targets" in found
    assert "q_proj" in found


def test_an_adapter_on_a_head_that_is_also_the_input_embedding(folders):
    """Merged, it would change what the model reads too."""
    head = LoraSettings(rank=4, targets=("q_proj", "lm_head"))
    [found] = said(folders["qwen"], "qwen", lora=head)
    assert "lm_head of" in found
    assert "is its input embedding too" in found
    assert said(folders["llama"], "llama", lora=head) == []


def test_a_model_without_keys_and_values(tmp_path):
    from transformers import MambaConfig

    config = MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, architectures=["MambaForCausalLM"])
    make_model("qwen", tmp_path)
    config.save_pretrained(tmp_path)
    [found] = said(tmp_path, "qwen", attention="eager")
    assert "keeps no keys and values" in found


def test_weights_that_are_not_there_or_not_whole(tmp_path):
    folder = make_model("qwen", tmp_path / "made")
    (folder / "model.safetensors").rename(tmp_path / "aside")
    [found] = hub.weight_problems(settings("qwen", folder), folder, "model")
    assert "no weights (model.safetensors or pytorch_model.bin)" in found
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    [found] = hub.weight_problems(settings("qwen", folder), folder, "model")
    assert "lacks model-1.safetensors" in found


def test_pickled_weights_are_read_as_tensors_alone(tmp_path):
    """A pickle that would run something is refused; one of tensors gives the numbers of the safe file."""
    folder = make_model("qwen", tmp_path / "made")
    safe = load_policy(settings("qwen", folder), folder)
    prompts, responses = tokens(safe)
    expected = score_all(safe, prompts, responses)
    weights = safe.model.state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    assert torch.equal(score_all(load_policy(settings("qwen", folder), folder), prompts, responses), expected)
    torch.save({**weights, "run": _Runs()}, folder / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        load_policy(settings("qwen", folder), folder)


class _Runs:
    def __reduce__(self):
        return pytest.fail, ("was run",)


def test_weights_that_a_model_needs_and_a_file_lacks(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = make_model("llama", tmp_path / "made")
    weights = load_file(folder / "model.safetensors")
    save_file({n: v for n, v in weights.items() if "lm_head" not in n}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(PreflightError, match=r"has no weights for lm_head.weight"):
        load_policy(settings("llama", folder), folder)


def test_a_template_that_refuses_a_conversation(tmp_path):
    strict = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + FAMILIES["qwen"][2]
    )
    folder = make_model("qwen", tmp_path / "made", template=strict)
    system = (Message("system", "be kind"), Message("user", QUESTION))
    [found] = prompt_problems(settings("qwen", folder), folder, [QUESTION, system])
    assert found.startswith("model.prompt_format: the chat template of")
    assert "refuses the turns system, user (no system)" in found


def test_what_is_no_language_model(tmp_path):
    folder = make_model("qwen", tmp_path / "made")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["Qwen2ForSequenceClassification"]}))
    [found] = said(folder, "qwen")
    assert "is no causal language model (Qwen2ForSequenceClassification)" in found
    (folder / "config.json").write_text("{}")
    [found] = said(folder, "qwen")
    assert "cannot be opened" in found


def test_code_of_a_models_own_is_not_run_unasked(folders, tmp_path):
    folder = make_model("qwen", tmp_path / "made")
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": own}))
    (folder / "own.py").write_text("raise SystemExit('was run')")
    [found] = said(folder, "qwen")
    assert "set model.trust_remote_code=true if you trust it" in found


def test_saving_writes_no_pickle(opened, tmp_path):
    save_policy(opened("llama"), tmp_path)
    assert not list(tmp_path.glob("*.bin"))
