"""An export without its verification by `transformers`, for tests that damage it and need no more."""

import json

from data_pipelines.json_files import write_json
from support import tiny_export


def make(root, data):
    """DIR with "discriminator" and "generator" of a tiny ELECTRA."""
    run, _ = tiny_export.make_run(root / "run", data, tiny_export.electra_model())
    tiny_export.export_unverified(run, root / "export")
    return root / "export"


def edit_config(directory, name="config.json", **changes):
    """Change fields of a JSON file; None removes one."""
    path = directory / name
    fields = json.loads(path.read_text()) | changes
    write_json(path, {key: value for key, value in fields.items() if value is not None})


def edit_training(directory, **changes):
    """Change keys of training_config.json, "section__key"."""
    path = directory / "training_config.json"
    described = json.loads(path.read_text())
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            described["config"][section][name] = value
        else:
            described["config"][section] = value
    path.write_text(json.dumps(described))
