"""The smoke sweep with a setting changed, and with other blocks."""

import dataclasses
from typing import Any

from omegaconf import OmegaConf

from posweep.checks import checked
from posweep.config import configure
from posweep.settings import Configuration


def changed(composed: Any, override: str) -> Configuration:
    """With one setting changed; only choices of a group need Hydra."""
    if "." not in override.partition("=")[0]:
        return configure(["sweep=smoke", override])
    problems: list[str] = []
    merged = OmegaConf.to_container(OmegaConf.merge(composed, OmegaConf.from_dotlist([override])))
    configuration = checked(merged, "sweeps/smoke.yaml", problems)
    assert problems == []
    return configuration


def with_blocks(configuration: Configuration, *blocks: dict[str, Any], **sweep: Any) -> Configuration:
    """With other blocks, and the methods that they name."""
    methods = {block["method"] for block in blocks}
    kept = {name: settings for name, settings in configuration.methods.items() if name in methods}
    sweep = dataclasses.replace(configuration.sweep, blocks=blocks, **sweep)
    return dataclasses.replace(configuration, sweep=sweep, methods=kept)
