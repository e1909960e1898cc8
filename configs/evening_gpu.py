"""An encoder that one GPU trains in an evening, from ten million words to a billion:
`--config=configs/evening_gpu.py[:objective=deberta_v3|electra|mlm][,regime=data_limited]`.

    bash launch/evening_gpu.sh runs/evening mine.jsonl --validation held_out.jsonl

The script trains a tokenizer of 16,384 pieces on the text, builds rows of 256, trains with this recipe and
exports. It is configs/laptop.py with more of everything: ten layers of 384, which is the shape of Ettin's 32m
(models/published_sizes.py), five of them in the generator, and 2 billion tokens. Optimizer, learning rate,
share of masked tokens and initial values are those of the laptop, where they were compared with others; at
this size nothing has been compared, and no GPU has run it yet. What `plan` expects of it is in
configs/README.md#an-evening.
"""

from ml_collections import config_dict

from configs import laptop
from electra_jax.models.config import encoder_shape

WIDTH, LAYERS = 384, 10
GATED = {"intermediate_size": 576}


def get_config(arg: str | None = None) -> config_dict.ConfigDict:
    """The recipe. The argument chooses another objective, and a regime, as that of configs/laptop.py.

    Raises:
      ValueError: an unknown objective or regime.
    """
    config = laptop.get_config(arg)
    config.model.embedding_size = WIDTH
    # Half as deep as the discriminator, as DeBERTaV3's.
    config.model.generator = config_dict.ConfigDict(encoder_shape(WIDTH, LAYERS // 2) | GATED)
    config.model.discriminator = config_dict.ConfigDict(encoder_shape(WIDTH, LAYERS) | GATED)
    config.assumed.update(vocab_size=16_384, sequence_length=256)  # as evening_gpu.sh builds the dataset
    config.train.update(num_steps=30_000, batch_size=256)  # 65,536 tokens a step
    config.optimizer.warmup_steps = 1000
    config.eval.update(every=1000, batch_size=256, max_batches=32)
    config.checkpoint.update(every=1000)
    return config
