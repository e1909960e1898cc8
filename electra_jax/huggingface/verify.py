"""Loads an exported model with `transformers` and compares it with what the export recorded (reference.py).

The model's directory contains everything that is needed, so this runs anywhere, with any version of
`transformers`.
"""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines.command_errors import shorten
from data_pipelines.json_files import Maybe, parse_json, read_json
from electra_jax.huggingface import embedding_checks, pretraining_checks, task_checks
from electra_jax.huggingface.array_files import ADVICE, read_safetensors, read_shapes
from electra_jax.huggingface.checks import Check, Reference, check_states, compare_config
from electra_jax.huggingface.code_cache import temporary_code_cache
from electra_jax.huggingface.embedding_files import EMBEDDING
from electra_jax.huggingface.export import CONFIG_FILE, REFERENCE_FILE, WEIGHTS_FILE
from electra_jax.huggingface.exported_files import (
    ARRAY_FILES,
    check_code,
    check_detector,
    check_reference,
    check_tokenizer_names_no_code,
    only_known_files,
)
from electra_jax.huggingface.published_models import ROLES
from electra_jax.huggingface.recorded_digests import DIGESTS, changed_arrays
from electra_jax.huggingface.sizes import check_layers, check_sizes
from electra_jax.models.inputs import SpecialTokens

LOADS = "transformers loads it"  # the name of a check
FILES_OF_A_MODEL = (REFERENCE_FILE, CONFIG_FILE, WEIGHTS_FILE)
CONFIG_FORM = {
    "architectures": [str],
    "model_type": str,
    "num_hidden_layers": int,
    "type_vocab_size": Maybe(int),
    "auto_map": Maybe({str: str}),
}
# Of the notes of every verification file, for `parse_json`.
NOTES_FORM = {
    DIGESTS: {str: {str: str}},
    "lines": [list],
    "dtype": str,
    "pad_token_id": int,
    "special_ids": Maybe(dict.fromkeys(SpecialTokens._fields, int)),
}
# A model may have these values beside those of its file: heads that are newly initialised.
MOST_GROWTH, MOST_NEW_VALUES = 2, 1 << 26
Lines = Sequence[tuple[str, list[int]]]  # texts and their ids, with [CLS] and [SEP]


def find_models(directory: Path) -> list[Path]:
    """The directories of exported models: `directory` itself, or its folders. One that lost the file with its
    recorded outputs is among them, if another has it.

    Raises:
      FileNotFoundError: there are none.
    """
    candidates = (directory, *(directory / role for role in ROLES))
    found = [path for path in candidates if any((path / name).exists() for name in FILES_OF_A_MODEL)]
    if not any((path / REFERENCE_FILE).is_file() for path in found):
        raise FileNotFoundError(
            f"{directory}: no {REFERENCE_FILE} in it or in its folders discriminator and generator; "
            "expected a directory made by `python -m electra_jax.convert export`."
        )
    return found


def verify(directory: Path, lines: Lines = ()) -> list[Check]:
    """Run every check of one model. If the model cannot be loaded, that is the last check.

    Args:
      directory: of the model.
      lines: texts and their ids on which its tokenizer is checked beside those that it contains.

    Raises:
      ImportError: PyTorch or transformers is not installed.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ImportError(
            f"{error}: verification needs PyTorch and transformers. `pip install torch transformers`."
        ) from error

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with temporary_code_cache(transformers):
        return _all_checks(torch, transformers, directory, lines)


def _all_checks(torch, transformers, directory: Path, lines: Lines) -> list[Check]:
    try:
        reference = read_reference(directory)
    except (OSError, ValueError) as error:
        return [Check(REFERENCE_FILE, False, str(error))]
    own_checks = _own_checks(reference.notes)
    checks = [
        check_reference(reference),
        check_code(directory),
        check_tokenizer_names_no_code(directory),
        *check_detector(directory, reference),
        *embedding_checks.check_files(directory, reference.notes),
    ]
    try:
        config = read_json(directory / CONFIG_FILE, CONFIG_FORM, advice=ADVICE)
        wanted = own_checks.wanted_config(directory, reference.notes)
        check_sizes(config)
    except (OSError, ValueError) as error:
        return [*checks, Check(CONFIG_FILE, False, str(error))]
    is_known = all(check.is_passed for check in checks) and is_loaded_alike(config, wanted)
    checks += [compare_config(config, wanted), *check_arrays(directory, reference)]
    has_code = "auto_map" in config
    if not is_known or (has_code and not all(check.is_passed for check in checks)):
        detail = "not loaded, since a check above failed: `transformers` might run code"
        return [*checks, Check(LOADS, False, detail)]
    with only_known_files(directory) as known:
        checks += _loaded_checks(torch, transformers, known, config, reference, own_checks)
        return checks + check_tokenizer(transformers, known, reference, lines, has_code=has_code)


def _own_checks(notes: dict[str, Any]):
    """The module with the checks of the kind of model that an export records."""
    if "kind" not in notes:
        return pretraining_checks
    return embedding_checks if notes["kind"] == EMBEDDING else task_checks


def is_loaded_alike(config: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether `transformers` loads a model with the class that an export has, and by nothing that an export
    does not have, such as a quantisation."""
    names = ("architectures", "model_type", "auto_map")
    return config.keys() <= wanted.keys() and all(config.get(name) == wanted.get(name) for name in names)


def _loaded_checks(
    torch, transformers, directory: Path, config: dict[str, Any], reference: Reference, own_checks
) -> list[Check]:
    """The checks of the model that `transformers` loads. If it cannot, that is the only one."""
    try:
        check_memory(torch, transformers, directory, config)
        model, loading = load_model(transformers, directory, config)
    except Exception as error:  # any error that a user of `transformers` would get
        return [Check(LOADS, False, f"{type(error).__name__}: {error}")]
    checks = [check_loading(transformers, model, loading)]
    try:
        with torch.no_grad():
            output = model(**model_inputs(torch, config, reference), output_hidden_states=True)
            states = [state.numpy() for state in output.hidden_states]
            checks.append(check_states(states, reference.arrays))
            checks += own_checks.check_outputs(torch, transformers, model, output, directory, reference)
    except Exception as error:  # PyTorch's and NumPy's, of recorded arrays that no model fits
        detail = f"cannot be compared with: {type(error).__name__}: {error}"
        return [*checks, Check(REFERENCE_FILE, False, detail)]
    return [*checks, check_saved_again(directory, model)]


def check_loading(transformers, model, loading: dict[str, Any]) -> Check:
    """Whether the file's arrays are exactly the model's parameters."""
    problems = []
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading[problem]:
            problems.append(f"{problem}: {shorten(sorted(map(str, loading[problem])))}")
    name = f"{type(model).__name__} of {transformers.__version__}"
    detail = ", ".join(problems) or f"{name}: no missing, unexpected or mismatched parameters"
    return Check(LOADS, not problems, detail)


def read_reference(directory: Path) -> Reference:
    """The content of verification.safetensors.

    Raises:
      OSError, ValueError: it cannot be read, or is of another form.
    """
    path = directory / REFERENCE_FILE
    arrays, metadata = read_safetensors(path)
    return Reference(arrays, parse_json(metadata.get("notes", "null"), NOTES_FORM, f"{path}, notes", ADVICE))


def check_arrays(directory: Path, reference: Reference) -> list[Check]:
    """For each weights file: whether it holds the arrays that were exported, and no others."""
    checks = []
    recorded = reference.notes[DIGESTS]
    for file in (name for name in ARRAY_FILES if name in recorded):  # `check_reference` refuses others
        wanted = recorded[file]
        try:
            problems = changed_arrays(read_safetensors(directory / file).arrays, wanted)
        except FileNotFoundError:
            checks.append(Check(file, False, "missing"))
            continue
        except (OSError, ValueError) as error:
            checks.append(Check(file, False, str(error)))
            continue
        checks.append(Check(file, not problems, shorten(problems) or f"{len(wanted)} arrays as exported"))
    return checks


def check_memory(torch, transformers, directory: Path, config: dict[str, Any]) -> None:
    """Raises ValueError if the model would be much larger than its weights, which `transformers` would only
    notice after making the rest. It is made without memory here."""
    shapes = read_shapes(directory / WEIGHTS_FILE)
    check_layers(config["num_hidden_layers"], shapes)
    name, options = loader_of(config)
    loader = getattr(transformers, name)
    described = transformers.AutoConfig.from_pretrained(directory, **options)
    with torch.device("meta"):
        model = loader.from_config(described, **options) if options else loader(described)
    needed = sum(value.numel() for value in model.state_dict().values())
    stored = sum(map(math.prod, shapes.values()))
    if needed > MOST_GROWTH * stored + MOST_NEW_VALUES:
        raise ValueError(
            f"{CONFIG_FILE} describes a model of {needed:,} values, but {WEIGHTS_FILE} has {stored:,}"
        )


def loader_of(config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name of the class in `transformers` that loads a model, and the options of its from_pretrained."""
    architecture = config["architectures"][0]
    if "auto_map" not in config:
        return architecture, {}
    classes = config["auto_map"].items()
    name = next(auto for auto, place in classes if place.endswith(f".{architecture}"))
    return name, {"trust_remote_code": True}


def load_model(transformers, directory: Path, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model in float32, and the loading report of `transformers`."""
    name, options = loader_of(config)
    loader = getattr(transformers, name)
    model, loading = loader.from_pretrained(directory, output_loading_info=True, **options)
    return model.float().eval(), loading


def model_inputs(torch, config: dict[str, Any], reference: Reference) -> dict[str, Any]:
    """The recorded rows, as arguments of the model."""
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if config.get("type_vocab_size") else [])]
    return {name: torch.from_numpy(reference.arrays[name]) for name in names}


def check_saved_again(directory: Path, model) -> Check:
    """Whether `save_pretrained` writes every parameter, so that none has a name unknown to the class."""
    with tempfile.TemporaryDirectory() as again:
        model.save_pretrained(again)
        saved, exported = (set(read_shapes(Path(path) / WEIGHTS_FILE)) for path in (again, directory))
    # An encoder alone saves itself without the prefix that its parameters have in the task models.
    strip = lambda names: {name.removeprefix(f"{model.base_model_prefix}.") for name in names}
    problems = sorted(strip(saved) ^ strip(exported))
    return Check("saved again", not problems, shorten(problems) or f"the same {len(exported)} parameters")


def check_tokenizer(
    transformers, directory: Path, reference: Reference, lines: Lines, *, has_code: bool
) -> list[Check]:
    """Token ids of the recorded lines, of `lines`, and of the recorded words of a tagger. `has_code`: no
    tokenizer has code, but AutoTokenizer asks for trust if the model has."""
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=has_code)
    except Exception as error:
        return [Check("tokenizer", False, f"{type(error).__name__}: {error}")]
    words = reference.notes.get("words")
    return [
        check_lines(tokenizer, reference.notes["lines"]),
        *([check_lines(tokenizer, lines, "tokenizer on held-out text")] if lines else []),
        *([task_checks.check_words(tokenizer, words)] if words else []),
    ]


def check_lines(tokenizer, lines: Lines, name: str = "tokenizer") -> Check:
    """Token ids of texts."""
    if not lines:
        return Check(name, True, "loads; its ids are not compared, since the export contains no text")
    for text, wanted in lines:
        got = tokenizer(text)["input_ids"]
        if got != wanted:
            pairs = enumerate(zip(got, wanted, strict=False))
            place = next((index for index, (a, b) in pairs if a != b), min(len(got), len(wanted)))
            detail = (
                f"ids of {text[:60]!r} differ from token {place} on: got {got[place : place + 8]}, "
                f"expected {wanted[place : place + 8]}"
            )
            return Check(name, False, detail)
    return Check(name, True, f"the ids of {len(lines)} lines")


def report(name: str, checks: list[Check]) -> bool:
    """Print one line for each check; returns whether all passed."""
    print(name)
    for check in checks:
        print(f"  {'ok    ' if check.is_passed else 'FAILED'} {check.name:30s} {check.detail}")
    return all(check.is_passed for check in checks)
