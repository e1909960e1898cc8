"""Load an exported model with `transformers` and compare it with what was recorded at the export
(reference.py).

Everything needed lies in the model's own directory, so this runs anywhere, with any version of
`transformers`: the one module of the package that imports it and PyTorch.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.numpy import load_file

from electra_jax.huggingface import pretraining_checks, task_checks
from electra_jax.huggingface.checks import Check, Reference, check_states, compare_config, some
from electra_jax.huggingface.export import CONFIG_FILE, REFERENCE_FILE, WEIGHTS_FILE
from electra_jax.huggingface.published_models import ROLES
from electra_jax.huggingface.reference import digest


def find_models(directory: Path) -> list[Path]:
    """The exported models in `directory`, or itself.

    Raises:
      FileNotFoundError: there are none.
    """
    found = [
        path
        for path in (directory, *(directory / role for role in ROLES))
        if (path / REFERENCE_FILE).is_file()
    ]
    if not found:
        raise FileNotFoundError(
            f"{directory}: no {REFERENCE_FILE} in it nor in its folders discriminator and generator; "
            "expected a directory made by `python -m electra_jax.convert export`."
        )
    return found


def verify(directory: Path) -> list[Check]:
    """Every check of one model, in order; what cannot be loaded at all ends the list.

    Raises:
      ImportError: PyTorch or transformers is not installed.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ImportError(
            f"{error}: PyTorch and transformers are what the export is compared with. `pip install torch "
            "transformers`."
        ) from error

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    reference = read_reference(directory)
    kind = task_checks if "kind" in reference.notes else pretraining_checks
    config = json.loads((directory / CONFIG_FILE).read_text())
    checks = [
        compare_config(config, kind.wanted_config(directory, reference.notes)),
        *check_arrays(directory, reference),
    ]
    try:
        model, loading = load_model(transformers, directory, config)
    except Exception as error:  # whatever stops a user of `transformers` here is what this command is to find
        return [*checks, Check("transformers loads it", False, f"{type(error).__name__}: {error}")]
    problems = {
        problem: sorted(map(str, loading[problem]))
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if loading[problem]
    }
    said = ", ".join(f"{problem}: {some(names)}" for problem, names in problems.items())
    checks.append(
        Check(
            "transformers loads it",
            not problems,
            said
            or f"{type(model).__name__} of {transformers.__version__}: "
            "nothing missing, unexpected or of another size",
        )
    )
    with torch.no_grad():
        output = model(**model_inputs(torch, config, reference), output_hidden_states=True)
        checks.append(check_states([state.numpy() for state in output.hidden_states], reference.arrays))
        checks += kind.check_outputs(torch, model, output, directory, reference)
    checks.append(check_saved_again(directory, model))
    checks.append(check_tokenizer(transformers, directory, reference, has_code="auto_map" in config))
    return checks


def read_reference(directory: Path) -> Reference:
    """What was recorded at the export."""
    path = directory / REFERENCE_FILE
    with safe_open(path, framework="np") as file:
        notes = json.loads(file.metadata()["notes"])
    return Reference(load_file(path), notes)


def check_arrays(directory: Path, reference: Reference) -> list[Check]:
    """The weights' files: the arrays that were exported, each under its name."""
    checks = []
    for file, digests in reference.notes["digests"].items():
        if not (directory / file).is_file():
            checks.append(Check(file, False, "missing"))
            continue
        found = {name: digest(array) for name, array in load_file(directory / file).items()}
        problems = [
            f"{name} is "
            f"{'missing' if name not in found else 'new' if name not in digests else 'not what was exported'}"
            for name in sorted(found.keys() | digests.keys())
            if found.get(name) != digests.get(name)
        ]
        checks.append(Check(file, not problems, some(problems) or f"{len(digests)} arrays as exported"))
    return checks


def load_model(transformers, directory: Path, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model in float32, and what `transformers` says about loading it."""
    if "auto_map" in config:
        name = next(
            auto
            for auto, place in config["auto_map"].items()
            if place.endswith(f".{config['architectures'][0]}")
        )
        auto = getattr(transformers, name)
        model, loading = auto.from_pretrained(directory, output_loading_info=True, trust_remote_code=True)
    else:
        model, loading = getattr(transformers, config["architectures"][0]).from_pretrained(
            directory, output_loading_info=True
        )
    return model.float().eval(), loading


def model_inputs(torch, config: dict[str, Any], reference: Reference) -> dict[str, Any]:
    """The recorded rows as arguments of the model."""
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if config["type_vocab_size"] else [])]
    return {name: torch.from_numpy(reference.arrays[name]) for name in names}


def check_saved_again(directory: Path, model) -> Check:
    """`save_pretrained` keeps every parameter: nothing hangs on a name that the class does not know."""
    with tempfile.TemporaryDirectory() as again:
        model.save_pretrained(again)
        saved, exported = (set(load_file(Path(path) / WEIGHTS_FILE)) for path in (again, directory))
    # DebertaV2Model saves itself without the prefix that all its task models know it by.
    strip = lambda names: {name.removeprefix("deberta.") for name in names}
    problems = sorted(strip(saved) ^ strip(exported))
    return Check("saved again", not problems, some(problems) or f"the same {len(exported)} parameters")


def check_tokenizer(transformers, directory: Path, reference: Reference, *, has_code: bool) -> Check:
    """Token ids of the recorded lines. No tokenizer has code of its own, but what loads it asks the model's
    configuration."""
    name = "tokenizer"
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=has_code)
    except Exception as error:
        return Check(name, False, f"{type(error).__name__}: {error}")
    for text, wanted in reference.notes["lines"]:
        got = tokenizer(text)["input_ids"]
        if got != wanted:
            place = next(
                (i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b),
                min(len(got), len(wanted)),
            )
            return Check(
                name,
                False,
                f"ids of {text[:60]!r} differ from token {place} on: got {got[place : place + 8]}, "
                f"expected {wanted[place : place + 8]}",
            )
    return Check(name, True, f"the ids of {len(reference.notes['lines'])} lines")


def report(name: str, checks: list[Check]) -> bool:
    """Print a line a check; whether all passed."""
    print(name)
    for check in checks:
        print(f"  {'ok    ' if check.is_passed else 'FAILED'} {check.name:30s} {check.detail}")
    return all(check.is_passed for check in checks)
