"""The default options of `convert import`."""

from electra_jax.conversion.import_checkpoint import ImportOptions

DEFAULT = ImportOptions(
    source_format="huggingface",
    generator=None,
    recipe=None,
    tokenizer=None,
    new_tokenizer=None,
    missing_generator="first_layers",
    embedding_sharing=None,
    seed=0,
)
