"""What a run directory says of its run: config.json, datasets.json, parameters.txt, and the tokenizer."""

import dataclasses
import json
import sys
from pathlib import Path

from data_pipelines.buckets import absolute_place
from data_pipelines.json_files import write_json
from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.whole_files import write_text
from electra_jax.runs.inputs import RunInputs
from electra_jax.runs.trained import read_description
from electra_jax.training.parameter_table import parameter_table
from electra_jax.training.program import Program


def write_run_directory(inputs: RunInputs, program: Program, workdir: Path) -> None:
    """Write config.json, datasets.json, parameters.txt, and the tokenizer."""
    write_json(workdir / "config.json", inputs.description)
    # Commands that read the run later need the special ids and the vocabulary, even if the datasets moved.
    adopt_tokenizer(inputs.tokenizer, workdir / "tokenizer", lowercase=None)
    write_datasets(inputs, workdir)
    _write_parameters(inputs, program, workdir / "parameters.txt")


def write_datasets(inputs: RunInputs, workdir: Path) -> None:
    """Write datasets.json."""
    datasets = [
        {
            "path": absolute_place(source.path),
            "weight": source.weight,
            "first_step": stage.first_step,
            **dataclasses.asdict(info),
        }
        for stage in inputs.stages
        if not stage.keeps_datasets
        for source, info in zip(stage.mixture.sources, stage.mixture.infos, strict=True)
    ]
    write_json(workdir / "datasets.json", datasets)


def write_places(inputs: RunInputs, workdir: Path) -> None:
    """Record where the datasets of a complete run lie now, for the commands that read the run."""
    description = read_description(workdir)
    config, places = description["config"], {"datasets": inputs.config["data"]["datasets"]}
    moved = config | {"data": config["data"] | places, "stages": inputs.config["stages"]}
    if json.dumps(moved) != json.dumps(config):
        write_json(workdir / "config.json", description | {"config": moved})
        write_datasets(inputs, workdir)


def _write_parameters(inputs: RunInputs, program: Program, path: Path) -> None:
    """Write the table of the parameters and print its totals."""
    lines = parameter_table(
        program.abstract_state.params,
        program.logical_axes,
        inputs.config["optimizer"],
        inputs.objective.frozen,
    )
    write_text(path, "\n".join(lines) + "\n")
    print(f"{lines[-1]} (all in {path})", file=sys.stderr)
