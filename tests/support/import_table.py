"""The table of who may import whom, which tests/test_import_map.py checks."""

OWN = ("electra_jax", "data_pipelines", "configs")
DATA = (
    "data_pipelines",
    "data_pipelines.cleaning",
    "data_pipelines.scoring",
    "data_pipelines.tokenizers",
    "data_pipelines.tasks",
    "data_pipelines.sample",
)
METHODS = (
    "electra_jax.models",
    "electra_jax.objectives",
    "electra_jax.distributed",
    "electra_jax.training",
    "electra_jax.training.trackers",
)

# Folder → the other folders whose modules it may import, also inside functions. A module belongs to the
# innermost folder of this table. Commands are not in it: they may import every folder but the recipes, and
# nothing may import a command.
MAY_IMPORT = {
    "configs": ("electra_jax.configuration", "electra_jax.models"),
    "data_pipelines": ("data_pipelines.tokenizers",),
    "data_pipelines.cleaning": ("data_pipelines",),
    "data_pipelines.scoring": ("data_pipelines", "data_pipelines.cleaning"),
    "data_pipelines.tokenizers": ("data_pipelines",),
    "data_pipelines.tasks": ("data_pipelines", "data_pipelines.tokenizers"),
    "data_pipelines.sample": ("data_pipelines", "data_pipelines.tokenizers", "data_pipelines.tasks"),
    "electra_jax.models": ("electra_jax.models.tpu", "electra_jax.models.gpu"),
    "electra_jax.models.tpu": ("electra_jax.models",),
    "electra_jax.models.gpu": ("electra_jax.models",),
    "electra_jax.objectives": ("electra_jax.models",),
    "electra_jax.distributed": (),
    "electra_jax.training": (
        "electra_jax.models",
        "electra_jax.objectives",
        "electra_jax.distributed",
        "electra_jax.training.trackers",
    ),
    "electra_jax.training.trackers": (),
    # It asks the registry which settings an objective has, and the schedules for their names.
    "electra_jax.configuration": (
        "electra_jax.models",
        "electra_jax.objectives",
        "electra_jax.distributed",
        "electra_jax.training",
        "data_pipelines",
    ),
    "electra_jax.huggingface": (
        "electra_jax.models",
        "electra_jax.objectives",
        "electra_jax.configuration",
        "data_pipelines",
        "data_pipelines.tokenizers",
    ),
    "electra_jax.planning": (*METHODS, "electra_jax.configuration"),
    # Probes fine-tune or score pairs during a run, and both also start from the encoders of a run.
    "electra_jax.runs": (
        *METHODS,
        *DATA,
        "electra_jax.configuration",
        "electra_jax.finetuning",
        "electra_jax.minimal_pairs",
    ),
    "electra_jax.finetuning": (
        *METHODS,
        *DATA,
        "electra_jax.configuration",
        "electra_jax.huggingface",
        "electra_jax.runs",
    ),
    "electra_jax.soups": (
        *METHODS,
        *DATA,
        "electra_jax.configuration",
        "electra_jax.finetuning",
        "electra_jax.runs",
    ),
    "electra_jax.comparison": (
        *METHODS,
        *DATA,
        "electra_jax.configuration",
        "electra_jax.finetuning",
        "electra_jax.minimal_pairs",
        "electra_jax.runs",
        "electra_jax.soups",
    ),
    "electra_jax.conversion": (
        *METHODS,
        *DATA,
        "electra_jax.configuration",
        "electra_jax.finetuning",
        "electra_jax.huggingface",
        "electra_jax.runs",
    ),
    "electra_jax.prediction": (
        *METHODS,
        *DATA,
        "electra_jax.configuration",
        "electra_jax.finetuning",
        "electra_jax.huggingface",
        "electra_jax.runs",
    ),
    # It scores the models that `predict` loads.
    "electra_jax.minimal_pairs": (
        *METHODS,
        *DATA,
        "electra_jax.configuration",
        "electra_jax.finetuning",
        "electra_jax.huggingface",
        "electra_jax.prediction",
        "electra_jax.runs",
    ),
    # It reads batches as minimal pairs are read.
    "electra_jax.frozen_features": (
        *METHODS,
        *DATA,
        "electra_jax.configuration",
        "electra_jax.finetuning",
        "electra_jax.huggingface",
        "electra_jax.minimal_pairs",
        "electra_jax.runs",
    ),
    # Its token views are those of `predict --demo`.
    "electra_jax.reports": (
        *METHODS,
        *DATA,
        "electra_jax.configuration",
        "electra_jax.prediction",
        "electra_jax.runs",
    ),
    "electra_jax.benchmarks": (
        *METHODS,
        *DATA,
        "electra_jax.configuration",
        "electra_jax.finetuning",
        "electra_jax.planning",
        "electra_jax.runs",
    ),
    # It also exports, and verifies what it exports.
    "electra_jax.benchmarks.accelerator": (
        *METHODS,
        *DATA,
        "electra_jax.benchmarks",
        "electra_jax.configuration",
        "electra_jax.conversion",
        "electra_jax.huggingface",
        "electra_jax.planning",
        "electra_jax.runs",
    ),
}
# Any folder may import these: every command may end early, shows progress, may miss a package, tells all that
# is wrong at once, may be started without a terminal, and reads or writes JSON. Names of chips depend on
# nothing.
EVERYWHERE = (
    "electra_jax.distributed.chips",
    "data_pipelines.command_errors",
    "data_pipelines.progress",
    "data_pipelines.installation",
    "data_pipelines.problems",
    "data_pipelines.json_files",
    "data_pipelines.standard_streams",
)
WITHOUT_JAX = ("configs", "data_pipelines", "launch")
MAY_USE_JAX = ("data_pipelines.loader",)  # places the batch on the devices
