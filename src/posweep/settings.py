"""Every setting of a sweep as frozen dataclasses, without torch: what the YAML files under `conf/` may say.

A field's scope says which key it enters: `train` (the weights depend on it), `response` (only what is measured on them
depends on it) or `none` (it changes where and how fast, never what).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from posweep.fields import choice, nested, number, setting

# --- the policy


@dataclass(frozen=True)
class SftSettings:
    """Supervised fine-tuning of the start checkpoint, once per sweep."""

    steps: int = number(400, at_least=0)
    batch_size: int = number(64, at_least=1)
    learning_rate: float = number(2e-3, above=0, scale="log")
    warmup_ratio: float = number(0.05, at_least=0, at_most=1)
    seed: int = number(0, at_least=0)


@dataclass(frozen=True)
class ScratchModel:
    """A Llama of any size, from scratch, with a tokenizer made from the training texts."""

    kind: str = choice("scratch", "scratch")
    tokenizer: str = choice("words", "words", "bpe")
    vocabulary_size: int = number(4096, at_least=64)
    hidden_size: int = number(96, at_least=8)
    layers: int = number(2, at_least=1)
    heads: int = number(4, at_least=1)
    context: int = number(128, at_least=16)
    dtype: str = choice("float32", "bfloat16", "float32")
    seed: int = number(0, at_least=0)
    sft: SftSettings = field(default_factory=SftSettings)


@dataclass(frozen=True)
class HubSftSettings:
    """Supervised fine-tuning on the chosen responses, once per sweep; no epochs: the checkpoint is the SFT model."""

    epochs: float = number(0.0, at_least=0)
    batch_size: int = number(32, at_least=1)
    learning_rate: float = number(1e-5, above=0, scale="log")
    warmup_ratio: float = number(0.05, at_least=0, at_most=1)
    seed: int = number(0, at_least=0)


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters beside the linear layers in place of all weights; rank 0 trains all weights."""

    rank: int = number(0, at_least=0)
    alpha: int = number(32, at_least=1)
    targets: tuple[str, ...] | str = ("all-linear",)


@dataclass(frozen=True)
class ModelSize:
    """What a model measures, for planning where it is not at hand; null: read from the model where it is."""

    parameters: float | None = number(None, above=0)
    layers: int | None = number(None, at_least=1)
    hidden_size: int | None = number(None, at_least=1)
    key_value_size: int | None = number(None, at_least=1)
    vocabulary: int | None = number(None, at_least=1)
    context: int | None = number(None, at_least=1)


@dataclass(frozen=True)
class HubModel:
    """Any causal language model, by its name on the hub or its folder on this machine."""

    kind: str = choice("hf", "hf")
    name: str = ""
    revision: str = "main"
    dtype: str = choice("bfloat16", "bfloat16", "float32")
    attention: str = choice("sdpa", "eager", "sdpa", "flash_attention_2")
    gradient_checkpointing: bool = setting(False, scope="none")
    lora: LoraSettings = field(default_factory=LoraSettings)
    prompt_format: str = choice("chat", "chat", "transcript", "text")
    pad_token: str | None = None
    end_token: str | None = None
    template_kwargs: Mapping[str, Any] = nested(dict, optional=True)
    trust_remote_code: bool = False
    seed: int = number(0, at_least=0)
    sft: HubSftSettings = field(default_factory=HubSftSettings)
    size: ModelSize = nested(ModelSize, scope="none")
    commit: str = setting("", scope="none", found=True)


MODELS: dict[str, type] = {"scratch": ScratchModel, "hf": HubModel}
ModelSettings = ScratchModel | HubModel


# --- the preferences


@dataclass(frozen=True)
class DemoData:
    """The demo world: name so many things of these kinds; see `data/demo.py`."""

    kind: str = choice("demo", "demo")
    seed: int = number(0, at_least=0)
    pairs: int = number(2000, at_least=32)
    sft_examples: int = number(6000, at_least=32)
    evaluation_prompts: int = number(256, at_least=8, at_most=600, scope="response")
    length_bias: float = number(0.1)
    judge_share: float = number(0.0, at_least=0, below=1)
    max_prompt_tokens: ClassVar[int] = 8
    max_response_tokens: ClassVar[int] = 48
    sets: ClassVar[tuple[str, ...]] = ("iid", "ood", "ood_counts")


Columns = Mapping[str, str | None]
"""Which column holds what: prompt, chosen, rejected · response_0, response_1, preference · response, label; and, only
where they are named, system and input."""


@dataclass(frozen=True)
class LocalData:
    """Preferences in files on this machine: one to train on, one per evaluation set."""

    kind: str = choice("local", "local")
    path: str = ""
    train: str = "train.jsonl"
    evaluation: Mapping[str, str] = field(default_factory=lambda: {"iid": "iid.jsonl", "ood": "ood.jsonl"})
    columns: Columns = field(default_factory=dict)
    pairs: int | None = number(None, at_least=2)
    shared_prompts: str = choice("error", "error", "drop", "allow")
    max_prompt_tokens: int = number(128, at_least=3)
    max_response_tokens: int = number(256, at_least=2)
    judge_share: float = number(0.0, at_least=0, below=1)
    seed: int = number(0, at_least=0)

    @property
    def sets(self) -> tuple[str, ...]:
        """The names of the evaluation sets."""
        return tuple(self.evaluation)


@dataclass(frozen=True)
class HubData:
    """Preferences by their name on the hub: one split to train on, one per evaluation set."""

    kind: str = choice("hub", "hub")
    name: str = ""
    revision: str = "main"
    subset: str | None = None
    folder: str | None = None
    train: str = "train"
    evaluation: Mapping[str, str] = field(default_factory=lambda: {"iid": "test"})
    columns: Columns = field(default_factory=dict)
    pairs: int | None = number(None, at_least=2)
    shared_prompts: str = choice("error", "error", "drop", "allow")
    max_prompt_tokens: int = number(512, at_least=3)
    max_response_tokens: int = number(512, at_least=2)
    judge_share: float = number(0.0, at_least=0, below=1)
    seed: int = number(0, at_least=0)
    commit: str = setting("", scope="none", found=True)

    @property
    def sets(self) -> tuple[str, ...]:
        """The names of the evaluation sets."""
        return tuple(self.evaluation)


DATA: dict[str, type] = {"demo": DemoData, "local": LocalData, "hub": HubData}
DataSettings = DemoData | LocalData | HubData


@dataclass(frozen=True)
class EvaluationSource:
    """An evaluation set that is not the training data's own: by its name on the hub, or a file or folder here."""

    name: str = ""
    revision: str = "main"
    subset: str | None = None
    folder: str | None = None
    split: str = "test"
    columns: Columns = field(default_factory=dict)
    distribution: str = choice("ood", "iid", "ood")
    commit: str = setting("", scope="none", found=True)


@dataclass(frozen=True)
class EvaluationSettings:
    """What every trial is measured on: sets of the data and of other sources; null takes all, and all prompts of them."""

    sets: tuple[str, ...] | None = number(None, scope="response")
    prompts: int | None = number(None, at_least=2, scope="response")
    baseline_responses: int = number(4, at_least=1, scope="response")
    sources: Mapping[str, EvaluationSource] = nested(dict, scope="none")


# --- a trial


@dataclass(frozen=True)
class TrainSettings:
    """The one optimisation loop. Everything here but `micro_batch_size`, `evaluate_at`, checkpoints and `keep` determines
    the weights."""

    learning_rate: float = number(3e-4, above=0, symbol="learning rate", scale="log")
    epochs: float = number(1.0, above=0)
    batch_size: int = number(32, at_least=1)
    warmup_ratio: float = number(0.1, at_least=0, at_most=1)
    schedule: str = choice("linear", "constant", "linear", "cosine")
    weight_decay: float = number(0.0, at_least=0)
    adam_beta2: float = number(0.999, above=0, below=1)
    max_grad_norm: float = number(1.0, above=0)
    bucket_batches: int = number(16, at_least=1)
    threads: int = number(1, at_least=1, at_most=1024)
    prefix_sharing: bool = False
    micro_batch_size: int | None = number(None, at_least=1, scope="none")
    evaluate_at: tuple[float, ...] = number((1.0,), above=0, at_most=1, scope="response")
    checkpoint_minutes: float | None = number(10.0, above=0, scope="none")
    checkpoint_steps: int | None = number(None, at_least=1, scope="none")
    keep: str = choice("adapters", "nothing", "adapters", "best", "all", scope="none")


def steps_of(items: int, batch_size: int, epochs: float) -> int:
    """Optimisation steps in `epochs` passes over `items`, at least one."""
    return max(1, round(epochs * (items // batch_size)))


@dataclass(frozen=True)
class SampleSettings:
    """How responses are drawn when a judge is to read them."""

    temperature: float = number(1.0, above=0, scope="response")
    top_p: float = number(1.0, above=0, at_most=1, scope="response")
    max_new_tokens: int = number(48, at_least=1, scope="response")
    seed: int = number(0, at_least=0, scope="response")
    batch_size: int = number(256, at_least=1, scope="none")


# --- the judges


@dataclass(frozen=True)
class GoldJudgeSettings:
    """The demo world's true reward."""

    kind: str = choice("gold", "gold")


@dataclass(frozen=True)
class ProxyJudgeSettings:
    """The demo world's annotator: the true reward and, as in the labels, a liking for length."""

    kind: str = choice("proxy", "proxy")


@dataclass(frozen=True)
class BradleyTerrySettings:
    """A reward model trained on prompts that no trial sees (`data.judge_share` of them)."""

    kind: str = choice("bradley_terry", "bradley_terry")
    epochs: float = number(2.0, above=0)
    batch_size: int = number(32, at_least=1)
    learning_rate: float = number(3e-4, above=0)
    held_out: float = number(0.2, above=0, below=1)
    seed: int = number(0, at_least=0)


@dataclass(frozen=True)
class RewardModelSettings:
    """A sequence classifier with one output, by its name on the hub or its folder on this machine."""

    kind: str = choice("reward_model", "reward_model")
    name: str = ""
    revision: str = "main"
    dtype: str = choice("bfloat16", "bfloat16", "float32")
    template: str = choice("chat", "chat", "pair")
    max_tokens: int | None = number(None, at_least=8)
    trust_remote_code: bool = False
    batch_size: int = number(16, at_least=1, scope="none")
    parameters: float | None = number(None, above=0, scope="none")
    commit: str = setting("", scope="none", found=True)


@dataclass(frozen=True)
class PairwiseModelSettings:
    """A model that reads a prompt and two responses and says which is better, such as PairRM."""

    kind: str = choice("pairwise_model", "pairwise_model")
    name: str = ""
    revision: str = "main"
    dtype: str = choice("bfloat16", "bfloat16", "float32")
    template: str = "<|source|>{prompt}<|candidate1|>{first}<|candidate2|>{second}"
    max_tokens: int | None = number(None, at_least=8)
    opponents: int = number(1, at_least=1)
    trust_remote_code: bool = False
    batch_size: int = number(16, at_least=1, scope="none")
    parameters: float | None = number(None, above=0, scope="none")
    commit: str = setting("", scope="none", found=True)


@dataclass(frozen=True)
class LlmSettings:
    """A language model behind an OpenAI-compatible endpoint that compares two responses, in both orders."""

    kind: str = choice("llm", "llm")
    base_url: str = "https://api.openai.com/v1"
    model: str = ""
    key_from: str = setting("OPENAI_API_KEY", scope="none")
    instruction: str = ""
    wording: int = setting(1, found=True)  # of the instruction that we bring; raised when its words change
    temperature: float | None = number(0.0, at_least=0)
    max_tokens: int = number(16, at_least=1)
    opponents: int = number(1, at_least=1)
    concurrency: int = number(8, at_least=1, scope="none")
    attempts: int = number(6, at_least=1, scope="none")
    timeout: float = number(60.0, above=0, scope="none")


JUDGES: dict[str, type] = {
    "gold": GoldJudgeSettings,
    "proxy": ProxyJudgeSettings,
    "bradley_terry": BradleyTerrySettings,
    "reward_model": RewardModelSettings,
    "pairwise_model": PairwiseModelSettings,
    "llm": LlmSettings,
}
JudgeSettings = (
    GoldJudgeSettings
    | ProxyJudgeSettings
    | BradleyTerrySettings
    | RewardModelSettings
    | PairwiseModelSettings
    | LlmSettings
)
PAIRWISE = ("pairwise_model", "llm")
"""Kinds of judges that compare two responses and give no score to one."""


# --- where it runs and what is written down


@dataclass(frozen=True)
class TrialResources:
    """What one trial asks of the machine it runs on."""

    cpu: float = number(1.0, above=0, scope="none")
    gpu: float = number(0.0, at_least=0, scope="none")
    gpu_memory: float | None = number(None, above=0, scope="none")


@dataclass(frozen=True)
class ExecutorSettings:
    """Where trials run: on Ray (this machine, or a cluster by its address) or one after another in this process."""

    kind: str = choice("ray", "ray", "local", scope="none")
    address: str | None = None
    storage: str | None = setting(None, scope="none")
    workers: int | None = number(None, at_least=1, scope="none")
    fused: int | None = number(1, at_least=1, scope="none")
    trial_resources: TrialResources = field(default_factory=TrialResources)
    method_resources: Mapping[str, TrialResources] = nested(dict, scope="none")
    wait_minutes: float = number(0.0, at_least=0, scope="none")
    retries: int = number(3, at_least=0, scope="none")
    stop_after_failures: int = number(5, at_least=1, scope="none")
    stop_at_failed_share: float = number(0.5, above=0, at_most=1, scope="none")

    def request(self, method: str) -> TrialResources:
        """What a trial of a method asks for."""
        return self.method_resources.get(method, self.trial_resources)

    @property
    def requests(self) -> dict[str, TrialResources]:
        """Everything that trials ask for, by the setting that says so."""
        own = {f"executor.method_resources.{method}": asked for method, asked in self.method_resources.items()}
        return {"executor.trial_resources": self.trial_resources, **own}


@dataclass(frozen=True)
class TrackingSettings:
    """What is written down: MLflow, or nothing beyond the ledger."""

    kind: str = choice("mlflow", "mlflow", "none", scope="none")
    uri: str = "sqlite:///mlflow.db"


@dataclass(frozen=True)
class SearchSettings:
    """A search for each method's peak after its planned trials; what it tries enters no distribution."""

    kind: str = choice("none", "none", "tpe", scope="none")
    trials: int = number(20, at_least=1, scope="none")
    at_once: int = number(4, at_least=1, scope="none")
    seed: int = number(0, at_least=0, at_most=2**32 - 1, scope="none")


# --- the sweep


@dataclass(frozen=True)
class MethodSettings:
    """One method as the sweep holds it: the hyperparameters it starts from and its recommended grid."""

    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepSettings:
    """Which trials: a name, seeds, and blocks of configurations.

    A method without a block takes its recommended grid times `learning_rates`, which is therefore one axis for all.
    """

    name: str = ""
    seeds: tuple[int, ...] = (0,)
    learning_rates: tuple[float, ...] = number((1e-4, 3e-4, 1e-3), above=0, scale="log")
    primary_metric: str = "ood/win_rate_vs_sft"
    blocks: tuple[Mapping[str, Any], ...] = ()
    source: str = ""

    @property
    def primary_set(self) -> str:
        """The evaluation set of the primary metric."""
        return self.primary_metric.partition("/")[0]


@dataclass(frozen=True)
class Invocation:
    """How a configuration was asked for; it determines no number.

    Attributes:
        arguments: as typed for this command: what a command that is printed repeats.
        overrides: those that compose the configuration without an output folder, seen from `working_folder`.
        working_folder: where relative paths in the overrides start.
        composed: the configuration as YAML, before it was checked.
    """

    arguments: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    working_folder: str = ""
    composed: str = ""


@dataclass(frozen=True)
class Configuration:
    """Everything one sweep is made of, as plain frozen data."""

    sweep: SweepSettings
    methods: Mapping[str, MethodSettings]
    model: ModelSettings
    data: DataSettings
    evaluation: EvaluationSettings
    train: TrainSettings
    sample: SampleSettings
    judges: Mapping[str, JudgeSettings]
    executor: ExecutorSettings
    tracking: TrackingSettings
    search: SearchSettings = field(default_factory=SearchSettings)
    output_dir: str = "outputs"
    invocation: Invocation = field(default_factory=Invocation, compare=False, repr=False)

    @property
    def device(self) -> str:
        """What trials compute on."""
        return "cuda" if self.executor.trial_resources.gpu > 0 else "cpu"

    @property
    def sets(self) -> tuple[str, ...]:
        """The evaluation sets every trial is measured on: the data's own, then those of other sources."""
        return self.evaluation.sets or (*self.data.sets, *self.evaluation.sources)

    def distribution(self, name: str) -> str:
        """Whether an evaluation set is in distribution (`iid`) or out of it; the data's own say so by their names."""
        source = self.evaluation.sources.get(name)
        return source.distribution if source else "ood" if name.startswith("ood") else "iid"
