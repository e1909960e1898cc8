"""The checks of verify.py that only embedding models have: the vectors of `transformers` with the pooling of
the task, those of sentence-transformers if it is installed, and the files by which that loads the model.

Shapes: B batch, L length, D hidden.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data_pipelines.json_files import check_form, misread
from electra_jax.huggingface.array_files import ADVICE
from electra_jax.huggingface.checks import Check, Reference, compare
from electra_jax.huggingface.embedding_files import EMBEDDING, check_module_files, unit_vectors
from electra_jax.huggingface.export import FINETUNING_FILE, REFERENCE_FILE
from electra_jax.huggingface.task_checks import described_config, read_description
from electra_jax.huggingface.task_heads import pooling_of

NAME = "sentence-transformers"  # of checks
VECTORS = "embeddings"  # the array of REFERENCE_FILE: of unit length, one for each row
# Of what a verification file notes, beside what verify.py requires: the texts of the rows, if these have any.
NOTES_FORM = {"kind": str, "texts": [str]}


def wanted_config(directory: Path, notes: dict[str, Any]) -> dict[str, Any]:
    """config.json as the fine-tuned model's description gives it. Raises as `task_checks.wanted_config`."""
    check_form(notes, NOTES_FORM, REFERENCE_FILE, ADVICE)
    return described_config(directory, notes)


def check_files(directory: Path, notes: dict[str, Any]) -> list[Check]:
    """Whether the files for sentence-transformers are those of the description; [] of other models."""
    if notes.get("kind") != EMBEDDING:
        return []
    try:
        encoder, description = read_description(directory)
        with misread(directory / FINETUNING_FILE, ADVICE):
            return check_module_files(directory, encoder, description)
    except (OSError, ValueError) as error:
        return [Check(FINETUNING_FILE, False, str(error))]


def check_outputs(torch, transformers, model, output, directory: Path, reference: Reference) -> list[Check]:
    """The vectors of the recorded rows and texts. `output` is that of `model` on the rows."""
    arrays, (_, description) = reference.arrays, read_description(directory)
    states_BLD = output.last_hidden_state.numpy()
    if pooling_of(description) == "mean":
        is_token_BL1 = arrays["attention_mask"][:, :, None]
        pooled_BD = (states_BLD * is_token_BL1).sum(axis=1) / is_token_BL1.sum(axis=1)
    else:
        pooled_BD = states_BLD[:, 0]
    checks = [compare(VECTORS, unit_vectors(pooled_BD), arrays[VECTORS])]
    if find_spec("sentence_transformers") is None:
        detail = f"not compared, since it is not installed: `pip install {NAME}`"
        return [*checks, Check(NAME, True, detail)]
    try:
        return checks + _sentence_transformers(torch, model, directory, reference)
    except Exception as error:  # any error that a user of sentence-transformers would get
        return [*checks, Check(NAME, False, f"{type(error).__name__}: {error}")]


def _sentence_transformers(torch, model, directory: Path, reference: Reference) -> list[Check]:
    """The recorded vectors against those of sentence-transformers, for rows of ids and for texts: in one
    batch, where the shorter ones are padded, and one by one."""
    import sentence_transformers

    embedder = sentence_transformers.SentenceTransformer(
        str(directory),
        device="cpu",
        local_files_only=True,
        trust_remote_code=hasattr(model.config, "auto_map"),  # of this project, see `exported_files`
    ).float()
    arrays, texts = reference.arrays, reference.notes["texts"]
    names = ["input_ids", "attention_mask"]
    names += ["token_type_ids"] if getattr(model.config, "type_vocab_size", 0) else []
    vectors = embedder({name: torch.from_numpy(arrays[name]) for name in names})["sentence_embedding"]
    found = {f"{NAME} {sentence_transformers.__version__}": vectors.numpy()}
    if texts:
        encode = lambda size: embedder.encode(texts, batch_size=size, show_progress_bar=False)
        found |= {"texts in one batch": encode(len(texts)), "texts one by one": encode(1)}
    return [compare(name, got, arrays[VECTORS]) for name, got in found.items()]
