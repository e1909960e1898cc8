"""A row of the registry: all that the rest of the project needs of an objective."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.base import Objective
from electra_jax.objectives.metrics import SumMetrics

Settings = Mapping[str, Any]  # config.objective
Make = Callable[[PretrainingConfig, Settings, SpecialTokens], Objective]
NOTHING: Mapping[str, Any] = MappingProxyType({})


class FirstStage(NamedTuple):
    """The run that an objective must start from, where it is the second of two stages."""

    objective: str  # config.objective.name of the first stage
    modules: Mapping[str, str]  # module of the second stage → module of the first that it continues
    copies: Mapping[str, str]  # the same, for modules of the first stage that two modules start from


class ObjectiveRow(NamedTuple):
    """One training method."""

    name: str  # config.objective.name
    title: str  # in model cards: "TITLE: 1,000 steps of …"
    # (model, config.objective, special ids) → the training method. Raises ValueError for settings that it
    # cannot work with.
    make: Make
    # (model, sequence length, config.objective) → forward FLOPs per token of text, matrix products alone
    # (models/flops.py). A training step is counted as three times that.
    flops: Callable[[PretrainingConfig, int, Settings], float]
    metrics: tuple[SumMetrics, ...]  # metrics of the sums that its phases give
    paper: str = ""  # reference for model cards, Markdown
    in_ablations: bool = True  # whether `compare --suite=ablations` trains it, with ELECTRA's architecture

    # Keys of config.objective that this objective reads and not all others do → their defaults.
    settings: Settings = NOTHING
    # Keys of config.objective that recipes of all objectives have and this one does not read, such as
    # "disc_weight" without detection: a flag for one is an error (configuration/objectives.py). With a fixed
    # distribution in the generator's place they are those of fixed_generators.py.
    not_read: tuple[str, ...] = ()
    # Changes a whole configuration, made for ELECTRA, to what this objective requires.
    adapt: Callable[[Any], None] = lambda config: None
    # Whether it predicts every position, so that the vocabulary must be taken in chunks. Then
    # config.objective.vocab_chunk_size=0 means a suitable size, and not the whole vocabulary at once.
    needs_chunks: bool = False
    # `make` with a fixed distribution in the generator's place (fixed_generators.py); None: it needs a model.
    make_with_fixed_generator: Make | None = None
    # The objective whose parameters have the same modules but for `not_published`, so that a run of one can
    # start from a run of the other; "": none.
    parameters_of: str = ""
    # Whether config.objective.generator="model" is trained. If not, its parameters are those of a
    # discriminator alone, as with a fixed distribution.
    trains_generator: bool = True
    first_stage: FirstStage | None = None  # the run that it must start from
    # `parameter_form`s of the runs that can be its teachers (teachers.py); (): it has no teachers.
    teachers_of: tuple[str, ...] = ()

    # Name in words → (config.objective, share of the run's steps that is done) → value, of what follows the
    # progress of the run beside the learning rate.
    schedules: Mapping[str, Callable[[Mapping[str, Any], Any], Any]] = NOTHING

    # What may be concluded from its metrics (training/alarms.py): whether it minimises mlm_loss, if it has
    # that; the losses of which the first that it has should fall on held-out text; and whether its metrics
    # rtd_… are of the masked tokens alone.
    minimizes_mlm: bool = True
    held_out: tuple[str, ...] = ("mlm_loss", "rtd_loss")
    judges_masked_only: bool = False

    # Whether the encoder of the discriminator's shape predicts tokens. It is then published as a generator.
    predicts_tokens: bool = False
    fills_masks: bool = True  # whether that published generator was trained on [MASK]
    # Whether the discriminator's logit is the log odds that a token was replaced; if not, it is an energy:
    # the larger, the less likely the token is in its context.
    logit_is_log_odds: bool = True
    card_model: str = "ELECTRA"  # in the heading of model cards: "# ELECTRA discriminator"
    card_text: str = ""  # opening paragraph of model cards; "": the usual text of discriminator and generator
    not_published: tuple[str, ...] = ()  # top-level modules that exports leave out
    not_published_note: str = ""  # what `convert export` prints after "Not exported: "; "": nothing
    # The objective that continues training from an imported export; "": this one. Another one where exports
    # leave out modules that training needs.
    continues_as: str = ""
