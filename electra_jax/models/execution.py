"""How layers are computed: config.train.layers, config.train.remat and config.train.attention."""

import dataclasses

LAYERS = ("unrolled", "scanned")
REMAT = ("none", "attention", "dense", "full")
ATTENTION = ("auto", "plain", "pallas")


@dataclasses.dataclass(frozen=True)
class LayerExecution:
    """How layers are computed, which does not affect results (models/layer_stack.py).

    "scanned" layers compile in the time of one. Their parameters are copied into stacked arrays, and the
    compiler cannot save memory across layers, so scanning is best combined with rematerialisation.

    Raises:
      ValueError: an unknown value.
    """

    layers: str  # config.train.layers: "unrolled" or "scanned"
    # config.train.remat: what the backward pass recomputes instead of storing. "none"; "attention", scores
    # and weights of attention; "dense", all but the products with parameters; "full", the whole layer, about
    # a third more work.
    remat: str
    # config.train.attention: the form of attention, except with a relative bias.
    # "pallas", kernels that keep the scores on the chip: of DeBERTa's attention for a TPU or GPU, of BERT's
    # and ModernBERT's for a TPU; "plain", products and shifts; "auto", the kernels on a TPU
    # that has them, where they can compute the shape and rows are long enough, else "plain", also on GPUs,
    # where the kernels have not been timed (models/attention_form.py). Pre-training alone gives it.
    attention: str = "plain"

    def __post_init__(self):
        for key, known in (("layers", LAYERS), ("remat", REMAT), ("attention", ATTENTION)):
            if getattr(self, key) not in known:
                raise ValueError(f"config.train.{key}: got {getattr(self, key)!r}, expected one of {known}.")

    @classmethod
    def of_training(cls, train: dict) -> "LayerExecution":
        """From `config.train`."""
        return cls(train["layers"], train["remat"], train["attention"])

    def check_kernels(self, position: str, attention_dropout: float) -> None:
        """Raises ValueError when `attention` is "pallas", and no device has kernels for an encoder with this
        config.model.position and attention_dropout."""
        if self.attention != "pallas" or position == "disentangled":
            return
        if position == "relative_bias":
            setting, reason = f"config.model.position={position!r}", "add no bias to the scores"
        elif position == "rotary" and attention_dropout:
            setting = f"config.model.attention_dropout={attention_dropout:g}"
            reason = "have no dropout in local layers"
        else:
            return
        raise ValueError(
            f"config.train.attention: got 'pallas', expected 'auto' or 'plain' with {setting}: the kernels "
            f"of BERT's attention {reason}."
        )

    @property
    def is_direct(self) -> bool:
        """Whether layers run one after another, without a loop or rematerialisation."""
        return self.layers == "unrolled" and self.remat == "none"


UNROLLED = LayerExecution("unrolled", "none")
