"""How much memory a trial takes at its peak, from the configuration alone: what cannot fit is said before anything runs.

What stays from the first step to the last, in bytes (P parameters; A of adapters, where LoRA trains those):

                    whole model trained            LoRA
    weights         4 P, in float32                d P + 4 A, the frozen part in model.dtype (d = 2 or 4 bytes)
    their cast      2 P, made by autocast          2 A, likewise; none where model.dtype is float32
    optimizer       8 P, both moments of Adam      8 A
    reference       4 P, a second model            4 A: it is the policy without adapters, and A is kept to start from

On top of that comes the largest of three moments:

    training        gradients (4 P or 4 A), activations, and 12 bytes per response token and word of the vocabulary:
                    log-softmax, its gradient and that of the logits, in float32
    scoring         held-out pairs (8 bytes per response token and word) or KL (20: two distributions, three temporaries)
    generation      keys and values of all layers, and 40 bytes per response and word for drawing a token

Every text counts as if it had all the tokens it may have, so this is an upper bound of what is counted. Not counted are
gaps between tensors, and what judges need while they read.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from posweep.settings import (
    BradleyTerrySettings,
    Configuration,
    HubModel,
    LoraSettings,
    ModelSettings,
    PairwiseModelSettings,
    RewardModelSettings,
    TrialResources,
)
from posweep.size import BYTES, Shape, adapter_parameters, lacking, shape_of, size_of, stored_parameters

GB = 1e9
GPU_OVERHEAD = 1_000_000_000
"""Bytes of a GPU that are gone before the first tensor: the CUDA context (about half of it), libraries, their workspaces."""
HOST_OVERHEAD = 500_000_000
"""Bytes of a process that has imported torch and transformers (0.4 GB, measured) and read its data."""
LOGITS, SCORED, HELD_OUT_PAIRS = 2**28, 128, 64
"""What scores at once at most: logits, sequences and pairs, as in policy/score.py and trial/measure.py."""
MARGIN = 0.1
"""Share of the memory that stays free where several trials are put into it: for gaps between tensors."""
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
        named = [f"{name} {_gigabytes(size)}" for name, size in self.parts.items() if size >= 0.05 * GB]
        return f"{_gigabytes(self.total)} GB while {self.moment} ({', '.join(named)})"


# --- what a trial takes


def estimate(configuration: Configuration, batch_size: int) -> Memory | None:
    """What a trial of so many pairs a step holds at its largest moment; None where a size is not known."""
    known = _known(configuration)
    return max(_moments(configuration, batch_size, *known), key=lambda moment: moment.total) if known else None


def _moments(configuration: Configuration, batch_size: int, shape: Shape, judges: int) -> tuple[Memory, ...]:
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
        "idle", weights=_frozen(model, shape) + (4 + cast) * trained, optimizer=8 * trained, reference=4 * trained,
        judges=judges, overhead=GPU_OVERHEAD if configuration.executor.trial_resources.gpu else HOST_OVERHEAD,
    )  # fmt: skip


def _training(configuration: Configuration, batch_size: int, shape: Shape, standing: Memory) -> Memory:
    """A micro-batch of pairs, chosen and rejected responses with their prompts, in one forward and backward pass.

    Checkpointing keeps the hidden states between blocks, in the weights' own type, and one block in full.
    """
    model, data = configuration.model, configuration.data
    sequences = 2 * min(configuration.train.micro_batch_size or batch_size, batch_size)
    length = data.max_prompt_tokens + data.max_response_tokens
    block = kept(model, shape, length)
    checkpointed = isinstance(model, HubModel) and model.gradient_checkpointing
    blocks = shape.layers * _width(model) * shape.hidden_size + block if checkpointed else shape.layers * block
    return replace(
        standing, moment="training", gradients=4 * _trained(model, shape),
        activations=int(sequences * length * (blocks + passing(model, shape, length))),
        logits=12 * sequences * data.max_response_tokens * shape.vocabulary,
    )  # fmt: skip


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
    scored = _rows_scored(min(SCORED, prompts), new, shape.vocabulary)
    tokens = max(2 * pairs * length, scored * (data.max_prompt_tokens + new))
    return replace(
        standing, moment="scoring", activations=int(tokens * passing(configuration.model, shape, length)),
        logits=max(8 * 2 * pairs * data.max_response_tokens, 20 * scored * new) * shape.vocabulary,
    )  # fmt: skip


def _rows_scored(most: int, responses: int, vocabulary: int) -> int:
    """Rows of a batch that is scored: as many as the logits of their response tokens allow, at least one."""
    return max(1, min(most, LOGITS // (responses * vocabulary)))


def _generation(configuration: Configuration, shape: Shape, standing: Memory) -> Memory:
    """Responses drawn at once: keys and values of every token, in the weights' own type, and one block over the prompts."""
    model, sample, prompt = configuration.model, configuration.sample, configuration.data.max_prompt_tokens
    drawn = (prompts_per_set(configuration) or sample.batch_size) * configuration.evaluation.baseline_responses
    rows = min(sample.batch_size, drawn)
    per_token = 2 * shape.layers * shape.key_value_size * _width(model)
    return replace(
        standing, moment="generating", cache=rows * (prompt + sample.max_new_tokens) * per_token,
        activations=int(rows * prompt * passing(model, shape, prompt)), logits=40 * rows * shape.vocabulary,
    )  # fmt: skip


def _trained(model: ModelSettings, shape: Shape) -> int:
    """Parameters that training changes."""
    lora = _lora(model)
    return adapter_parameters(shape, lora) if lora.rank else shape.parameters


def _frozen(model: ModelSettings, shape: Shape) -> int:
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


def _known(configuration: Configuration) -> tuple[Shape, int] | None:
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


# --- how many fit


def fused_fit(configuration: Configuration, batch_size: int, trials: int | None = None) -> int:
    """How many trials fit into one pass, at least 1; 1 where a size or the memory is not known.

    Each has trained weights, gradients, optimizer, activations, logits and cache of its own. The reference, the frozen
    weights under adapters, judges and what a process takes are there once.

    Args:
        configuration: of the sweep.
        batch_size: pairs a step, of each of the trials.
        trials: how many processes there are at most, where fewer than run at the same time.
    """
    known, room = _known(configuration), _room(configuration, trials)
    if known is None or room is None:
        return 1
    frozen = _frozen(configuration.model, known[0])

    def fit(moment: Memory) -> int:
        once = frozen + moment.reference + moment.judges + moment.overhead
        return int(((1 - MARGIN) * room - once) // (moment.total - once))

    return max(1, min(map(fit, _moments(configuration, batch_size, *known))))


def sharing(configuration: Configuration, batch_size: int, trials: int, measured: int = 0) -> str:
    """What to ask for so that trials share a GPU, where each asks for a whole one and two or more fit; else nothing.

    Args:
        configuration: of the sweep.
        batch_size: pairs a step, the most that any trial takes.
        trials: how many there are.
        measured: bytes that a probe's tensors took at their peak; 0 where none was run on a GPU.
    """
    asked, found = configuration.executor.trial_resources, estimate(configuration, batch_size)
    room = _gpu_bytes(configuration, asked)
    need = measured + GPU_OVERHEAD if measured else found.total if found else 0
    if asked.gpu < 1 or not room or not need:
        return ""
    fit = int(min((1 - MARGIN) * room // need, _beside_one_gpu(configuration), trials))
    share = math.floor(1e4 / max(fit, 1)) / 1e4  # Ray tells apart what is 0.0001 of a GPU
    said = f"a trial needs {_gigabytes(need)} of {_gigabytes(room)} GB{' (measured)' if measured else ''}"
    return f"{said}: {fit} fit on a GPU; executor.trial_resources.gpu={share:g}" if fit > 1 else ""


def _beside_one_gpu(configuration: Configuration) -> float:
    """Trials that have processor cores, for each GPU of this machine; of others no limit is known."""
    gpus = len(memory_of_gpus()) if configuration.executor.address is None else 0
    return int((os.cpu_count() or 1) // configuration.executor.trial_resources.cpu) // gpus if gpus else math.inf


# --- whether it fits


def summary(configuration: Configuration, batch_size: int, trials: int | None = None) -> str:
    """What a trial needs and what it has, in a line: `14.2 GB while training (optimizer 6.2, …) of 24 GB`."""
    found, room = estimate(configuration, batch_size), _room(configuration, trials)
    if found is None:
        return f"unknown ({unknown(configuration)})"
    return f"{found} of {_gigabytes(room)} GB" if room else str(found)


def problems(configuration: Configuration, batch_size: int, trials: int | None = None) -> list[str]:
    """A sentence where trials cannot fit into the memory of their GPU or, without one, of this machine.

    Args:
        configuration: of the sweep; nothing is known of the machines of a cluster, unless `gpu_memory` says it.
        batch_size: pairs a step, the most that any trial takes.
        trials: how many there are, where fewer than run at the same time.
    """
    found, room = estimate(configuration, batch_size), _room(configuration, trials)
    if found is None or room is None:
        return []
    if found.total <= room:
        return _fused_problems(configuration, batch_size, trials)
    ways = _ways_out(configuration, batch_size, room)
    if configuration.executor.trial_resources.gpu:
        return [_gpu_sentence(configuration, found, room, ways)]
    return [_host_sentence(found, trials_at_once(configuration, trials), ways)]


def _fused_problems(configuration: Configuration, batch_size: int, trials: int | None) -> list[str]:
    """A sentence where too many are to share a pass on a machine that kills who takes too much; on a GPU half are tried."""
    fused = configuration.executor.fused or 1
    if fused == 1 or configuration.executor.trial_resources.gpu:
        return []
    fit = fused_fit(configuration, batch_size, trials)
    if fit >= fused:
        return []
    place, machine = "executor.fused", _gigabytes(memory_here() or 0.0)
    return [f"{place}: {fused} trials in one pass do not fit into the {machine} GB of this machine; set {place}={fit}."]


def _gpu_sentence(configuration: Configuration, found: Memory, room: float, ways: str) -> str:
    place, share = _smallest(configuration)
    has = f"{_gigabytes(room)} GB" + (f" ({share.gpu:g} of a GPU)" if share.gpu < 1 else "")
    more = "take a larger GPU" if share.gpu >= 1 else "ask for more of a GPU"
    return f"{place}.gpu: a trial needs {found}, and has {has}; {ways}{more}."


def _smallest(configuration: Configuration) -> tuple[str, TrialResources]:
    """The request for the least memory of a GPU, and the setting it stands in."""

    def memory(request: tuple[str, TrialResources]) -> float:
        return (request[1].gpu_memory or math.inf) * min(request[1].gpu, 1)

    requests = configuration.executor.requests.items()
    return min(requests, key=lambda request: (memory(request), min(request[1].gpu, 1)))


def _host_sentence(found: Memory, together: int, ways: str) -> str:
    machine = memory_here() or 0.0
    has = f"and this machine has {_gigabytes(machine)} GB"
    if together == 1:
        return f"model: a trial needs {found}, {has}; {ways}take a larger machine."
    fit = int(machine // found.total)
    fewer = f"set executor.workers={fit}, or " if fit else ""
    need = f"{together} trials at a time need {_gigabytes(together * found.total)} GB, each {found}"
    return f"executor.workers: {need}, {has}; {fewer}{ways}take a larger machine."


Change = tuple[str, Callable[[Configuration], Configuration]]
"""A setting as it is written on the command line, and what it makes of a configuration."""


def _ways_out(configuration: Configuration, batch_size: int, room: float) -> str:
    """`set A or B, or ` where one setting is enough, `set A and B, or ` where it takes several; empty where nothing is."""
    known = _known(configuration)
    assert known is not None

    def over(changed: Configuration) -> float:
        return sum(max(moment.total - room, 0.0) for moment in _moments(changed, batch_size, *known))

    def mildest(changes: list[Change], start: Configuration) -> Change:
        return next((one for one in changes if not over(one[1](start))), changes[-1])

    settings = [changes for changes in _changes(configuration, batch_size) if changes]
    tried = [mildest(changes, configuration) for changes in settings]
    if enough := [text for text, change in tried if not over(change(configuration))]:
        return f"set {_listed(enough, 'or')}, or "
    changed, chosen = configuration, list[str]()
    for changes in sorted(settings, key=lambda changes: over(changes[-1][1](configuration))):
        text, change = mildest(changes, changed)
        if over(change(changed)) < over(changed):
            changed, chosen = change(changed), [*chosen, text]
        if not over(changed):
            return f"set {_listed(chosen, 'and')}, or "
    return ""


def _changes(configuration: Configuration, batch_size: int) -> Iterator[list[Change]]:
    """Settings that cost time or precision in place of memory; the values of each from the mildest to the strongest."""
    train, model = configuration.train, configuration.model
    micro = min(train.micro_batch_size or batch_size, batch_size)
    yield [(f"train.micro_batch_size={n}", _setter("train", micro_batch_size=n)) for n in _halves(micro)]
    if isinstance(model, HubModel):
        yield [("model.gradient_checkpointing=true", _setter("model", gradient_checkpointing=True))]
        lora = replace(model.lora, rank=model.lora.rank or 16)
        yield [("model.lora.rank=16", _setter("model", lora=lora))]
        yield [("model.attention=sdpa", _setter("model", attention="sdpa"))]
        yield [("model.dtype=bfloat16", _setter("model", dtype="bfloat16"))]
    drawn = configuration.sample.batch_size
    yield [(f"sample.batch_size={n}", _setter("sample", batch_size=n)) for n in _halves(drawn)]


def _setter(section: str, **values: Any) -> Callable[[Configuration], Configuration]:
    def set_values(configuration: Configuration) -> Configuration:
        changed: Any = {section: replace(getattr(configuration, section), **values)}
        return replace(configuration, **changed)

    return set_values


def _halves(number: int) -> list[int]:
    """A number's half, the half of that and so on, down to 1."""
    return [number >> i for i in range(1, number.bit_length())]


def _listed(words: list[str], last: str) -> str:
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def trials_at_once(configuration: Configuration, trials: int | None = None) -> int:
    """The most trials that run at the same time, as far as this machine can tell: those that ask for the least."""
    settings, requests = configuration.executor, configuration.executor.requests.values()
    most = settings.workers or max(1, int((os.cpu_count() or 1) // min(asked.cpu for asked in requests)))
    share = min(asked.gpu for asked in requests)
    if share and settings.workers is None and settings.address is None and (gpus := memory_of_gpus()):
        most = max(1, min(most, int(len(gpus) / share)))
    most = 1 if settings.kind == "local" else most
    return min(most, trials) if trials else most


def _room(configuration: Configuration, trials: int | None) -> float | None:
    """Bytes that one trial may take: of its GPU or its share of one, or an even share of this machine; None if unknown."""
    _, asked = _smallest(configuration)
    if asked.gpu:
        whole = _gpu_bytes(configuration, asked)
        return whole and whole * min(asked.gpu, 1)
    machine = memory_here() if configuration.executor.address is None else None
    return machine and machine / trials_at_once(configuration, trials)


def _gpu_bytes(configuration: Configuration, asked: TrialResources) -> float | None:
    """Bytes of one whole GPU, as the request says it or this machine's driver; None if unknown."""
    if asked.gpu_memory:
        return asked.gpu_memory * GB
    return min(memory_of_gpus(), default=None) if configuration.executor.address is None else None


def memory_here() -> float | None:
    """Bytes of memory this machine has; None where it does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return None


def memory_of_gpus() -> list[float]:
    """Bytes of each GPU of this machine, as its driver's own tool says: that takes no torch. Empty where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        asked = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout
        return [float(line) * 2**20 for line in asked.split()]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def _gigabytes(size: float) -> str:
    return f"{size / GB:.0f}" if size >= 100 * GB else f"{size / GB:.1f}"
