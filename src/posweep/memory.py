"""How much memory a trial takes at its peak, from the configuration alone; `capacity` says whether that fits.

What stays from the first step to the last, in bytes (P parameters; A of adapters, where LoRA trains those):

                    whole model trained            LoRA
    weights         4 P, in float32                d P + 4 A, the frozen part in model.dtype (d = 2 or 4 bytes)
    their cast      2 P, made by autocast          2 A, likewise; none where model.dtype is float32
    optimizer       8 P, both moments of Adam      8 A
    reference       4 P, a second model            4 A: it is the policy without adapters, and A is kept to start from

On top of that comes the largest of three moments:

    training        gradients (4 P or 4 A), activations, and 8 bytes per response token and word of the vocabulary:
                    logits and log-softmax, whose place their gradient takes, in float32; 12 where a method needs
                    collisions (WPO), which take one array more; of 2^26 logits at most. Mismatched pairs (KTO) take a
                    cast of their own, where there is one: 2 P or 2 A more
    scoring         held-out pairs (8 bytes per response token and word, of 2^26 logits at most) or KL (8 for the logits of
                    two models; 12 more for those that are compared at once, or 2 for all of one in 16 bit)
    generation      keys and values of all layers, and 40 bytes per response and word for drawing a token

Every text counts as if it had all the tokens it may have, so this is an upper bound of what is counted. Not counted are
gaps between tensors, and what judges need while they read.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from posweep.objectives import OBJECTIVES, Need, needs
from posweep.settings import (
    BradleyTerrySettings,
    Configuration,
    HubModel,
    LoraSettings,
    ModelSettings,
    PairwiseModelSettings,
    RewardModelSettings,
)
from posweep.size import BYTES, Shape, adapter_parameters, lacking, shape_of, size_of, stored_parameters

GB = 1e9
GPU_OVERHEAD = 1_000_000_000
"""Bytes of a GPU that are gone before the first tensor: the CUDA context (about half of it), libraries, their workspaces."""
HOST_OVERHEAD = 500_000_000
"""Bytes of a process that has imported torch and transformers (0.4 GB, measured) and read its data."""
LOGITS, SCORED, HELD_OUT_PAIRS = 2**28, 128, 64
"""What scores at once at most: logits, sequences and pairs, as in policy/score.py and trial/measure.py."""
TRAINED_LOGITS = 2**26
"""Logits of a pass over pairs, at most: where there are more they are made part by part, as in policy/score.py."""
AT_ONCE = {"cpu": 2**18, "cuda": 2**24}
"""Logits of each model that KL compares at once, as in policy/divergence.py."""
HEAD_SIZE = 64
"""Width of an attention head, where only eager attention asks: few models have narrower ones."""


@dataclass(frozen=True)
class Memory:
    """What one trial holds at one moment, in bytes."""

    moment: str
    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    reference: int = 0
    activations: int = 0
    logits: int = 0
    cache: int = 0
    judges: int = 0
    overhead: int = 0

    @property
    def parts(self) -> dict[str, int]:
        """The bytes by name, the largest first."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "moment"}
        return dict(sorted(named.items(), key=lambda part: -part[1]))

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        """Such as `14.2 GB while training (optimizer 6.2, weights 3.1)`."""
        named = [f"{name} {gigabytes(size)}" for name, size in self.parts.items() if size >= 0.05 * GB]
        return f"{gigabytes(self.total)} GB while {self.moment} ({', '.join(named)})"


# --- what a trial takes


def estimate(configuration: Configuration, batch_size: int) -> Memory | None:
    """What a trial of so many pairs a step holds at its largest moment; None where a size is not known."""
    known = known_sizes(configuration)
    return max(moments_of(configuration, batch_size, *known), key=lambda moment: moment.total) if known else None


def moments_of(configuration: Configuration, batch_size: int, shape: Shape, judges: int) -> tuple[Memory, ...]:
    """Training, scoring, generating."""
    standing = _standing(configuration, shape, judges)
    return (
        _training(configuration, batch_size, shape, standing),
        _scoring(configuration, shape, standing),
        _generation(configuration, shape, standing),
    )


def _standing(configuration: Configuration, shape: Shape, judges: int) -> Memory:
    """What stays from the first step to the last: the table above."""
    model, trained = configuration.model, _trained(configuration.model, shape)
    cast = 2 if _half(model) else 0
    return Memory(
        "idle", weights=frozen_bytes(model, shape) + (4 + cast) * trained, optimizer=8 * trained, reference=4 * trained,
        judges=judges, overhead=GPU_OVERHEAD if configuration.executor.trial_resources.gpu else HOST_OVERHEAD,
    )  # fmt: skip


def _training(configuration: Configuration, batch_size: int, shape: Shape, standing: Memory) -> Memory:
    """A micro-batch of pairs, chosen and rejected responses with their prompts, in one forward and backward pass.

    A second cast comes on top where earlier micro-batches left gradients; where none did, their room is enough for it.
    """
    model, data = configuration.model, configuration.data
    micro = min(configuration.train.micro_batch_size or batch_size, batch_size)
    length = data.max_prompt_tokens + data.max_response_tokens
    logits = min(2 * micro * data.max_response_tokens * shape.vocabulary, TRAINED_LOGITS)
    per_token = _kept_by_all(model, shape, length) + passing(model, shape, length)
    return replace(
        standing, moment="training", gradients=4 * _trained(model, shape),
        weights=standing.weights + (_second_cast(configuration, shape) if micro < batch_size else 0),
        activations=int(2 * micro * length * per_token),
        logits=(12 if "collisions" in _needed(configuration) else 8) * logits,
    )  # fmt: skip


def _needed(configuration: Configuration) -> set[Need]:
    """What some method of the sweep needs of the policy beyond sums and lengths."""
    return {need for name in configuration.methods for need in needs(OBJECTIVES[name])}


def _second_cast(configuration: Configuration, shape: Shape) -> int:
    """Bytes of the weights as mismatched pairs are scored with, while the graph of the trained pass holds its own cast.

    Under checkpointing that graph holds only the head's. Their logits fit where those of the trained pass were: they are
    half as many, 8 bytes each beside 4 for every log-softmax that is kept.
    """
    if "mismatched" not in _needed(configuration) or not _half(configuration.model):
        return 0
    trained, head = _trained(configuration.model, shape), shape.vocabulary * shape.hidden_size
    return 2 * (min(trained, head) if _checkpointed(configuration.model) else trained)


def _kept_by_all(model: ModelSettings, shape: Shape, length: int) -> float:
    """Bytes that all blocks keep, per token; under checkpointing the hidden states between them, and one block in full."""
    block = kept(model, shape, length)
    between = shape.layers * _width(model) * shape.hidden_size  # in the weights' own type
    return between + block if _checkpointed(model) else shape.layers * block


def _checkpointed(model: ModelSettings) -> bool:
    return isinstance(model, HubModel) and model.gradient_checkpointing


def kept(model: ModelSettings, shape: Shape, length: int) -> float:
    """Bytes that a block keeps for its backward pass, per token of sequences of a length.

    34 h + 8 f with matrix products in 16 bit, 40 h + 16 f in float32. Korthikanti et al. 2022 (arXiv 2205.05198, eq. 2
    without the attention matrix, which sdpa and flash attention do not keep) count 34 h for a block of GPT. A block of
    Llama in transformers, whose norms compute in float32 and whose feed-forward part is f wide and has three projections,
    keeps what is said here: counted tensor by tensor, as the tests do.
    """
    h, f = shape.hidden_size, shape.feed_forward
    return (34 * h + 8 * f if _half(model) else 40 * h + 16 * f) + _matrix(model, shape, length)


def passing(model: ModelSettings, shape: Shape, length: int) -> float:
    """Bytes that a block holds for a moment, per token: 20 h + 6 f in 16 bit, 20 h + 12 f in float32; counted likewise."""
    h, f = shape.hidden_size, shape.feed_forward
    return 20 * h + (6 if _half(model) else 12) * f + _matrix(model, shape, length)


def _matrix(model: ModelSettings, shape: Shape, length: int) -> int:
    """The attention matrix where attention is eager: for each head a row as long as the sequence, in float32 and 16 bit."""
    eager = isinstance(model, HubModel) and model.attention == "eager"
    return 6 * max(1, shape.hidden_size // HEAD_SIZE) * length if eager else 0


def _scoring(configuration: Configuration, shape: Shape, standing: Memory) -> Memory:
    """Held-out pairs, or responses under two policies; without gradient one block's tensors live at a time."""
    data, new = configuration.data, configuration.sample.max_new_tokens
    prompts, length = prompts_per_set(configuration) or SCORED, data.max_prompt_tokens + data.max_response_tokens
    prompts = min(prompts, configuration.sample.batch_size)
    pairs = _rows_scored(min(HELD_OUT_PAIRS, prompts), 2 * data.max_response_tokens, shape.vocabulary)
    responses = min(SCORED, prompts * len(configuration.sets), configuration.sample.batch_size)  # of all sets together
    scored = _rows_scored(responses, new, shape.vocabulary)
    tokens = max(2 * pairs * length, scored * (data.max_prompt_tokens + new))
    held_out = 8 * min(2 * pairs * data.max_response_tokens * shape.vocabulary, TRAINED_LOGITS)
    return replace(
        standing, moment="scoring", activations=int(tokens * passing(configuration.model, shape, length)),
        logits=max(held_out, _compared(configuration, scored * new * shape.vocabulary)),
    )  # fmt: skip


def _compared(configuration: Configuration, logits: int) -> int:
    """Bytes for so many logits of each of two models, in float32, with what is compared at once.

    Where products are in 16 bit, the second model's are for a moment there in both; nothing is compared yet.
    """
    at_once = AT_ONCE["cuda" if configuration.executor.trial_resources.gpu else "cpu"]
    return 8 * logits + max(12 * min(logits, at_once), 2 * logits if _half(configuration.model) else 0)


def _rows_scored(most: int, responses: int, vocabulary: int) -> int:
    """Rows of a batch that is scored: as many as the logits of their response tokens allow, at least one."""
    return max(1, min(most, LOGITS // (responses * vocabulary)))


def _generation(configuration: Configuration, shape: Shape, standing: Memory) -> Memory:
    """Responses drawn at once: keys and values of every token, in the weights' own type, and one block over the prompts."""
    model, sample, prompt = configuration.model, configuration.sample, configuration.data.max_prompt_tokens
    # a trial's responses are drawn for all sets at once, the SFT model's for one
    each = max(len(configuration.sets), configuration.evaluation.baseline_responses)
    rows = min(sample.batch_size, (prompts_per_set(configuration) or sample.batch_size) * each)
    per_token = 2 * shape.layers * shape.key_value_size * _width(model)
    return replace(
        standing, moment="generating", cache=rows * (prompt + sample.max_new_tokens) * per_token,
        activations=int(rows * prompt * passing(model, shape, prompt)), logits=40 * rows * shape.vocabulary,
    )  # fmt: skip


def _trained(model: ModelSettings, shape: Shape) -> int:
    """Parameters that training changes."""
    lora = _lora(model)
    return adapter_parameters(shape, lora) if lora.rank else shape.parameters


def frozen_bytes(model: ModelSettings, shape: Shape) -> int:
    """Bytes of weights that training leaves as they are."""
    return shape.parameters * _width(model) if _lora(model).rank else 0


def _lora(model: ModelSettings) -> LoraSettings:
    return model.lora if isinstance(model, HubModel) else LoraSettings()


def _half(model: ModelSettings) -> bool:
    """Whether matrix products are taken in 16 bit."""
    return isinstance(model, HubModel) and BYTES[model.dtype] == 2


def _width(model: ModelSettings) -> int:
    """Bytes of the weights' own type, and so of hidden states between blocks: what is trained is in float32."""
    return 2 if _half(model) and _lora(model).rank else 4


def prompts_per_set(configuration: Configuration) -> int | None:
    """Evaluation prompts in each set; None where only the data can say."""
    return configuration.evaluation.prompts or getattr(configuration.data, "evaluation_prompts", None)


def known_sizes(configuration: Configuration) -> tuple[Shape, int] | None:
    """The policy's shape and the bytes of judges that are models; None where one of them is not known."""
    shape = shape_of(configuration.model)
    judges = [_judge_bytes(configuration, name, shape.parameters if shape else 0) for name in configuration.judges]
    known = [size for size in judges if size is not None]
    return (shape, sum(known)) if shape and len(known) == len(judges) else None


def _judge_bytes(configuration: Configuration, name: str, policy: int) -> int | None:
    """Bytes of a judge's weights: 0 for a rule or an endpoint; one trained here is a copy of the policy's body."""
    match configuration.judges[name]:
        case RewardModelSettings() | PairwiseModelSettings() as judge:
            parameters = judge.parameters or stored_parameters(judge)
            return None if parameters is None else int(parameters) * BYTES[judge.dtype]
        case BradleyTerrySettings():
            return 4 * policy
        case _:
            return 0


def unknown(configuration: Configuration) -> str:
    """Which size is not known and how to say it; empty where all are."""
    places = [f"model.size.{name}" for name in lacking(size_of(configuration.model))]
    places += [f"judge.{n}.parameters" for n in configuration.judges if _judge_bytes(configuration, n, 0) is None]
    return f"not on this machine; set {', '.join(places)}" if places else ""


def gigabytes(size: float) -> str:
    """Bytes in gigabytes, in three digits or so."""
    return f"{size / GB:.0f}" if size >= 100 * GB else f"{size / GB:.1f}"
