"""How the usual loop measures a policy: `generate`, the judges, the exact KL to the SFT model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from course import Course, prompted

GENERATED = 256
"""Responses drawn at once, as posweep does."""
COMPARED = 128
"""Sequences whose KL is computed at once, as posweep does."""

Tokens = list[list[int]]


def encode(tokenizer: Any, prompts: Sequence[str]) -> Tokens:
    """Prompts in tokens."""
    return tokenizer([prompted(p) for p in prompts], add_special_tokens=False)["input_ids"]  # type: ignore[no-any-return]


def generate(model: Any, tokenizer: Any, prompts: Tokens, longest: int) -> Tokens:
    """One response per prompt at temperature 1, end token included, in batches of similar length."""
    from transformers import GenerationConfig

    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    settings = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=longest, use_cache=True,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    drawn: dict[int, list[int]] = {}
    for start in range(0, len(order), GENERATED):
        rows = order[start : start + GENERATED]
        batch = tokenizer.pad({"input_ids": [prompts[i] for i in rows]}, padding_side="left", return_tensors="pt")
        with torch.inference_mode():
            found = model.generate(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], generation_config=settings
            )
        responses = found[:, batch["input_ids"].shape[1] :].tolist()
        drawn |= {row: until(ids, tokenizer.eos_token_id) for row, ids in zip(rows, responses, strict=True)}
    return [drawn[i] for i in range(len(prompts))]


def until(tokens: list[int], end: int) -> list[int]:
    """A response is over at its first end token."""
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def divergence(model: Any, reference: Any, prompts: Tokens, responses: Tokens, pad: int) -> np.ndarray:
    """Σ_t KL(π‖π_SFT) along each response, over the whole vocabulary; nats, (responses,)."""
    lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    order, sums = sorted(range(len(lengths)), key=lengths.__getitem__), np.empty(len(lengths))
    for start in range(0, len(order), COMPARED):
        rows = order[start : start + COMPARED]
        longest = max(lengths[i] for i in rows)
        ids = torch.full((len(rows), longest), pad)
        inside, answered = torch.zeros(2, len(rows), longest, dtype=torch.bool)
        for row, i in enumerate(rows):
            ids[row, : lengths[i]] = torch.tensor(prompts[i] + responses[i])
            inside[row, : lengths[i]] = True
            answered[row, len(prompts[i]) - 1 : lengths[i] - 1] = True
        with torch.inference_mode():
            ours, theirs = (_logits(one, ids, inside, answered).log_softmax(-1) for one in (model, reference))
            by_token = (ours.exp() * (ours - theirs)).sum(-1)
            owner = torch.arange(len(rows))[:, None].expand(-1, longest)[answered]
            sums[rows] = torch.zeros(len(rows)).index_add(0, owner, by_token).numpy()
    return sums


def _logits(model: Any, ids: torch.Tensor, inside: torch.Tensor, answered: torch.Tensor) -> torch.Tensor:
    """Logits where a response's tokens are predicted; no others are computed."""
    hidden = model.model(input_ids=ids, attention_mask=inside.long(), use_cache=False).last_hidden_state
    return model.lm_head(hidden[answered])  # type: ignore[no-any-return]


def by_set(sets: Mapping[str, Sequence[str]], values: Sequence[Any]) -> dict[str, Any]:
    """Values of all prompts, one set after the other, by set."""
    ends = np.cumsum([len(prompts) for prompts in sets.values()]).tolist()
    return {name: values[end - len(sets[name]) : end] for name, end in zip(sets, ends, strict=True)}


def judges(course: Course) -> dict[str, Any]:
    """The demo's judges, by name: what judges is not raced."""
    from posweep.judges import GoldJudge, ProxyJudge

    known = {"gold": GoldJudge(), "proxy": ProxyJudge(course.facts["length_bias"])}
    return {name: known[name] for name in course.facts["judges"]}


def make_baselines(course: Course, model: Any, tokenizer: Any, file: Path) -> None:
    """Once per sweep: scores of K responses of the SFT model per prompt, and of the chosen one."""
    arrays = {}
    for name, prompts in course.facts["prompts"].items():
        count = course.facts["opponents"]
        repeated = [prompt for prompt in prompts for _ in range(count)]
        drawn = generate(model, tokenizer, encode(tokenizer, repeated), course.facts["max_new_tokens"])
        texts = tokenizer.batch_decode(drawn, skip_special_tokens=True)
        for judge_name, judge in judges(course).items():
            arrays[f"{name}/{judge_name}/sft"] = judge.score(repeated, texts).reshape(len(prompts), count)
            arrays[f"{name}/{judge_name}/chosen"] = judge.score(prompts, course.facts["chosen"][name])[:, None]
    np.savez(file, **arrays)


def measures(
    course: Course, baselines: Mapping[str, np.ndarray], texts: Mapping[str, Sequence[str]], lengths: Mapping[str, Any],
    kl: Mapping[str, np.ndarray],
) -> dict[str, float]:  # fmt: skip
    """Win-rates, scores, KL and length on each set, named as posweep names them."""
    from posweep.judges import wins

    found: dict[str, float] = {}
    for name, prompts in course.facts["prompts"].items():
        for place, (judge_name, judge) in enumerate(judges(course).items()):
            scores, prefix = judge.score(prompts, texts[name]), f"{name}/{judge_name}/" if place else f"{name}/"
            found[f"{prefix}mean_score"] = float(scores.mean())
            for against in ("sft", "chosen"):
                beaten = wins(scores, baselines[f"{name}/{judge_name}/{against}"])
                found[f"{prefix}win_rate_vs_{against}"] = float(beaten.mean())
        found[f"{name}/kl_to_sft"] = float(kl[name].mean())
        found[f"{name}/response_length"] = float(np.mean(lengths[name]))
    return found
