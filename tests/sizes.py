"""Configurations whose model has a known size."""

from transformers import LlamaConfig

from posweep.config import configure
from posweep.settings import ModelSize

KNOWN = ModelSize(494032768, 24, 896, 128, 151936, 32768)


def demo(*overrides: str):
    return configure(["sweep=demo", *overrides])


def gpu(gigabytes: float, *overrides: str):
    asked = ("executor.trial_resources.gpu=1", f"executor.trial_resources.gpu_memory={gigabytes}")
    return demo("model=qwen_05b", *asked, *overrides)


def parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


def llama(**about) -> LlamaConfig:
    usual = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 168, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return LlamaConfig(**{**usual, **heads, **about})
