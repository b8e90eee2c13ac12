"""A policy: a language model seen as π(y|x), with what turns x and y into tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import masking_utils
from transformers.modeling_outputs import BaseModelOutputWithPast

from posweep.policy.texts import Texts

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


@dataclass(frozen=True)
class Policy:
    """A language model and its texts.

    Attributes:
        autocast: what matrix products are computed in, where that is not the weights' own type.
        adapter: whether LoRA's adapters count, where the model has any; without them it is the model they started from.
        packs: whether it takes sequences without padding (`policy/packed.py`).
    """

    model: Any
    texts: Texts
    autocast: torch.dtype | None = None
    adapter: bool = True
    packs: bool = False

    @property
    def tokenizer(self) -> Any:
        """What texts are tokens of."""
        return self.texts.tokenizer

    @property
    def pad(self) -> int:
        """The padding token."""
        return self.texts.pad

    @property
    def device(self) -> torch.device:
        """Where the weights live."""
        return next(self.model.parameters()).device

    @property
    def vocabulary(self) -> int:
        """Tokens the model chooses among."""
        return int(self.model.get_output_embeddings().weight.shape[-2])

    @property
    def adapted(self) -> bool:
        """Whether adapters are trained in place of the weights."""
        return hasattr(self.model, "peft_config")

    def without_adapter(self) -> Policy:
        """The model the adapters started from: the same weights, not a second copy."""
        return replace(self, adapter=False)

    def run(self, wanted: Callable[[Tensor], Tensor], **inputs: Any) -> Any:
        """The model's own forward pass, with the hidden states projected onto the vocabulary only where `wanted` says."""
        with self.opened(wanted) as model:
            return model(**inputs)

    @contextmanager
    def opened(self, wanted: Callable[[Tensor], Tensor]) -> Iterator[Any]:
        """The model, ready for any number of forward passes of that kind, all under the same weights.

        The projection is narrowed at its door, so that whatever an architecture does around it (scaling, capping) is done.
        """
        head = self.model.get_output_embeddings()
        with ExitStack() as stack:
            stack.enter_context(head.register_forward_pre_hook(lambda _, hidden: (wanted(hidden[0]),)))
            stack.enter_context(told_what_is_packed())
            stack.enter_context(self.products())
            if self.adapted and not self.adapter:
                stack.enter_context(self.model.disable_adapter())
            yield self.model

    def hidden(self, **inputs: Any) -> Tensor:
        """The last hidden states, (sequences, longest, size): the forward pass without the vocabulary."""
        with self.opened(_all):
            return self._body(**inputs).last_hidden_state  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        """What the model makes of some last hidden states, (positions, size): (positions, vocabulary).

        It is the model's own forward pass with a body that knows the answer, so that scaling and capping are done.
        """
        with self.opened(_all) as model, _answering(self._body, hidden[None]):
            ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
            return model(input_ids=ids, use_cache=False).logits[0]  # type: ignore[no-any-return]

    @property
    def _body(self) -> Any:
        """The model below its vocabulary."""
        return (self.model.get_base_model() if self.adapted else self.model).base_model

    def products(self) -> AbstractContextManager[Any]:
        """Matrix products inside are taken in the policy's own type.

        Forward passes inside one such block share one cast of the weights, which must not change meanwhile.
        """
        return nullcontext() if self.autocast is None else torch.autocast(self.device.type, self.autocast)


def _all(hidden: Tensor) -> Tensor:
    return hidden


class _Answer(BaseModelOutputWithPast):
    """Last hidden states, and nothing of what else some architecture's body gives, such as the logits of a router."""

    def __getattr__(self, name: str) -> None:
        """What is not there."""


@contextmanager
def _answering(body: Any, hidden: Tensor) -> Iterator[None]:
    """A body that gives these hidden states, whatever it is asked."""
    body.forward = lambda *_, **__: _Answer(last_hidden_state=hidden)
    try:
        yield
    finally:
        del body.forward


@contextmanager
def told_what_is_packed() -> Iterator[None]:
    """Transformers would look for several texts in one row, for which the host waits for the GPU; we say where they are."""
    look = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = look


DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def products(dtype: str) -> torch.dtype | None:
    """What autocast takes matrix products in, by its name; None where it is the weights' own float32."""
    return None if dtype == "float32" else torch.bfloat16


def bfloat16_problems(dtype: str, device: str, place: str) -> list[str]:
    """A sentence where products are asked for in a type that the GPU of this machine does not have."""
    asked = dtype == "bfloat16" and device.startswith("cuda") and torch.cuda.is_available()
    if not asked or torch.cuda.is_bf16_supported(including_emulation=False):
        return []
    return [f"{place}.dtype: the GPU of this machine has no bfloat16; set {place}.dtype=float32."]


def own_code(error: BaseException, place: str, otherwise: str) -> str:
    """The way out where transformers could not open something: trust the code it brings, or `otherwise`."""
    if "trust_remote_code" in str(error):
        return f"it brings code of its own: set {place}.trust_remote_code=true if you trust it."
    return otherwise


def onto(device: torch.device, values: Any) -> Tensor:
    """Plain numbers as a tensor on a device; on a GPU the copy waits for nobody, since pages are pinned."""
    tensor = torch.as_tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
