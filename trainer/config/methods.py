"""The training methods by name. Adding one is a file in `trainer/methods/` and a line in `METHODS`."""

from __future__ import annotations

from dataclasses import dataclass

CHATS_AND_TEXTS = ("messages", "conversations", "instruction", "prompt_completion", "text")

TEXT_MODEL, SEEING_MODEL = "AutoModelForCausalLM", "AutoModelForImageTextToText"
"""The classes of transformers that load a model that writes, and one that sees, too."""
LABELLED = ("labelled_pair", "labelled_chat", "labelled_text")


@dataclass(frozen=True, slots=True)
class Method:
    """What is known of one method without importing anything heavy."""

    module: str
    """Where it is; imported only when it is used."""
    title: str
    """Its name in full."""
    config: str
    """The class of its arguments, as module:Class."""
    formats: tuple[str, ...]
    """How the rows of its datasets may be laid out, in the order in which they are recognised."""
    # Adapters start from zero and take a rate about ten times that of all weights.
    learning_rates: tuple[float, float] = (2e-4, 2e-5)
    """The default with adapters, and for all weights."""
    sequences: int = 1
    """How many sequences per row are in memory at once."""
    is_classifier: bool = False
    """Whether the model gets a head of scores instead of one over the vocabulary: a single one, or one
    for each class."""
    has_beta: bool = True
    """Whether it weighs what it learns against something else, such as staying what it was."""
    compares: bool = False
    """Whether it holds the model against a reference, which is the model as it was."""
    losses: tuple[str, ...] = ()
    """The values of `loss_type`, by TRL's names; the first is its default."""

    @property
    def generates(self) -> bool:
        """Whether the model writes answers while it learns, and rewards say how good they are."""
        return self.formats == ("prompts",)

    @property
    def has_classes(self) -> bool:
        """Whether rows have labels, and the model learns which of them fit."""
        return self.formats == LABELLED

    @property
    def learns_from_tokens(self) -> bool:
        """Whether rows become token ids and labels beforehand; else TRL takes them as examples."""
        return self.formats[0] in CHATS_AND_TEXTS

    def learning_rate(self, *, adapters: bool) -> float:
        """Return the default: with adapters, or for all weights."""
        return self.learning_rates[0 if adapters else 1]

    def auto_class(self, *, adapters: bool) -> str:
        """Return the name of the class that loads its result: of PEFT, or of transformers."""
        task = "SequenceClassification" if self.is_classifier else "CausalLM"
        return f"{'AutoPeftModel' if adapters else 'AutoModel'}For{task}"


DPO_LOSSES = (
    *("sigmoid", "sigmoid_norm", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "bco_pair"),
    *("sppo_hard", "aot", "aot_unpaired", "apo_zero", "apo_down", "discopop", "sft"),
)

METHODS = {
    "classify": Method(
        "trainer.methods.classify",
        "classification",
        "transformers:TrainingArguments",
        LABELLED,
        (1e-4, 2e-5),
        is_classifier=True,
        has_beta=False,
    ),
    "cpt": Method(
        "trainer.methods.cpt", "continued pretraining", "trl:SFTConfig", ("text",), has_beta=False
    ),
    "dpo": Method(
        "trainer.methods.dpo",
        "direct preference optimisation",
        "trl:DPOConfig",
        ("preference",),
        (1e-5, 1e-6),
        sequences=2,
        losses=DPO_LOSSES,
        compares=True,
    ),
    "grpo": Method(
        "trainer.methods.grpo",
        "group relative policy optimisation",
        "trl:GRPOConfig",
        ("prompts",),
        (1e-5, 1e-6),
        losses=("dapo", "grpo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
        compares=True,
    ),
    "kto": Method(
        "trainer.methods.kto",
        "Kahneman-Tversky optimisation",
        "trl:KTOConfig",
        ("unpaired", "preference"),
        (1e-5, 1e-6),
        losses=("kto", "apo_zero_unpaired"),
        compares=True,
    ),
    "orpo": Method(
        "trainer.methods.orpo",
        "odds ratio preference optimisation",
        # TRL moved it there, and may change it in any release.
        "trl.experimental.orpo:ORPOConfig",
        ("preference",),
        (8e-5, 8e-6),
        sequences=2,
    ),
    "ppo": Method(
        "trainer.methods.ppo",
        "proximal policy optimisation",
        "trainer.methods.ppo_parts.config:PPOConfig",
        ("prompts",),
        (1e-5, 1e-6),
        compares=True,
    ),
    "reward": Method(
        "trainer.methods.reward",
        "reward modelling",
        "trl:RewardConfig",
        ("preference",),
        (1e-4, 1e-5),
        sequences=2,
        is_classifier=True,
        has_beta=False,
    ),
    "rloo": Method(
        "trainer.methods.rloo",
        "REINFORCE leave-one-out",
        "trl:RLOOConfig",
        ("prompts",),
        (1e-5, 1e-6),
        compares=True,
    ),
    "sft": Method(
        "trainer.methods.sft",
        "supervised fine-tuning",
        "trl:SFTConfig",
        CHATS_AND_TEXTS,
        has_beta=False,
    ),
}
"""The methods by the names that TRL gives them, where it has them."""
NUM_GENERATIONS = {"grpo": 8, "rloo": 2}
"""The methods that compare answers to one prompt, and how many by default."""
