"""Exported embedding models in sentence-transformers 6 and 3: the vectors of the trained model."""

import jax
import numpy as np
import pytest
import sentence_transformers

from data_pipelines.tasks.encoding import encode_examples
from data_pipelines.tasks.examples import TextExample
from data_pipelines.tasks.unlabelled import Unlabelled
from electra_jax.distributed.mesh import make_mesh
from electra_jax.finetuning.encoders import load_encoder
from electra_jax.finetuning.model_files import load_model
from electra_jax.finetuning.models import TaskModel
from electra_jax.finetuning.padding import pad_rows
from electra_jax.huggingface.embedding_files import unit_vectors
from electra_jax.huggingface.export import CARD_FILE, cast_weights
from electra_jax.huggingface.published_models import ModelWeights
from electra_jax.prediction.models import load
from electra_jax.prediction.tasks import EmbeddingPredictor
from support import aside
from support.tiny import SPECIAL
from support.tiny_embeddings import LENGTH, VARIANTS
from support.tiny_task import ONE

# None of them is recorded; in one batch all but the last are padded, and the last is cut.
TEXTS = ["", "s", "abc dei hgf", "to be or not to be", "prst u kl mno " * 10]
TOLERANCE = 1e-5  # float32 in both libraries


def embedder(name, directory):
    """The model in float32, as sentence-transformers loads it."""
    trust = {"trust_remote_code": True} if name == "relative" else {}
    return sentence_transformers.SentenceTransformer(
        str(directory), device="cpu", local_files_only=True, **trust
    ).float()


def trained_vectors(name, source):
    """Unit vectors of the texts by the saved model, with its weights rounded as the export stores them."""
    _, pooling, _, dtype, _ = VARIANTS[name]
    saved = load_model(source)
    weights = cast_weights(ModelWeights(saved.encoder, saved.params), dtype)
    rows, _ = encode_examples(saved.tokenizer, [TextExample(text, None, None) for text in TEXTS], LENGTH)
    lengths = [len(row.ids) for row in rows]
    assert lengths == sorted(lengths) and lengths[-2] < lengths[-1] == LENGTH and lengths[0] == 2
    ids_BL = pad_rows([row.ids for row in rows], len(rows), SPECIAL.pad)
    model = TaskModel(weights.config, SPECIAL, "embedding", 0, "published", 0.0, pooling)
    return unit_vectors(
        jax.jit(lambda params: model.apply({"params": params}, ids_BL, False))(weights.params)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_sentence_transformers_computes_the_vectors_of_the_trained_model(name, embedding_exports):
    _, _, widths, _, class_name = VARIANTS[name]
    source, directory = embedding_exports(name)
    expected, model = trained_vectors(name, source), embedder(name, directory)
    assert type(model[0].model).__name__ == class_name
    assert (model.max_seq_length, model.similarity_fn_name) == (LENGTH, "cosine")
    for batch_size in (len(TEXTS), 1):
        vectors = model.encode(TEXTS, batch_size=batch_size, show_progress_bar=False)
        np.testing.assert_allclose(vectors, expected, atol=TOLERANCE, rtol=0)
    similarities = model.similarity(vectors, vectors).numpy()
    np.testing.assert_allclose(similarities, expected @ expected.T, atol=TOLERANCE, rtol=0)
    assert abs(expected[1:] - expected[:-1]).max(axis=1).min() > 100 * TOLERANCE  # the texts differ
    for width in widths:
        shorter = model.encode(TEXTS, truncate_dim=width, normalize_embeddings=True, show_progress_bar=False)
        np.testing.assert_allclose(shorter, unit_vectors(expected[:, :width]), atol=TOLERANCE, rtol=0)


@pytest.mark.slow
def test_sentence_transformers_3_agrees(embedding_exports):
    """The same checks, and the Python in a card, with the oldest version and transformers 4."""
    script = (
        "import sys, pathlib, sentence_transformers, transformers\n"
        "from electra_jax.conversion.export_run import verify_all\n"
        "assert transformers.__version__.startswith('4.'), transformers.__version__\n"
        "assert sentence_transformers.__version__.startswith('3.'), sentence_transformers.__version__\n"
        "failed = [path for path in sys.argv[1:] if not verify_all(pathlib.Path(path))]\n"
        "for path in sys.argv[1:2]:\n"
        "    for part in pathlib.Path(path, 'README.md').read_text().split('```python\\n')[1:]:\n"
        "        code = part.partition('```')[0].replace('path = \".\"', f'path = {path!r}')\n"
        "        exec(code, {})\n"
        "sys.exit(f'failed: {failed}' if failed else 0)\n"
    )
    names = ["relative", "electra", "deberta", "modern"]
    paths = [str(embedding_exports(name)[1]) for name in names]
    output = aside.run("transformers4", script, *paths)
    for check in ("sentence-transformers 3.0.1", "texts in one batch", "texts one by one"):
        assert output.count(f"ok     {check}") == len(names), output


@pytest.mark.slow
@pytest.mark.parametrize("name", ["electra", "deberta", "relative"])
def test_the_codes_of_the_card_agree(name, embedding_exports, capsys):
    """With sentence-transformers and with `transformers` alone."""
    directory = embedding_exports(name)[1]
    card, found = (directory / CARD_FILE).read_text(), []
    for part in card.split("```python\n")[1:]:
        names = {}
        exec(part.partition("```")[0].replace('path = "."', f"path = {str(directory)!r}"), names)
        found.append(names["vectors"])
    assert len(found) == 2
    np.testing.assert_allclose(found[1].numpy(), found[0], atol=TOLERANCE, rtol=0)
    assert "(3, 32)" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["electra", "modern"])
def test_an_export_is_read_here_again(name, embedding_exports, tmp_path):
    """To fine-tune it further, and to embed with `predict`."""
    source, directory = embedding_exports(name)
    saved, initial = load_model(source), load_encoder(str(directory), tmp_path / "tokenizer")
    encoder = {part: saved.params[part] for part in ("embeddings", "encoder")}
    jax.tree.map(np.testing.assert_array_equal, initial.params, encoder)
    exported, mesh = load(str(directory), None), make_mesh(ONE | {"data": -1})
    predictor = EmbeddingPredictor(exported, 8, mesh, width=0, normalize=True)
    records, _ = predictor.predict([Unlabelled("here", text) for text in TEXTS])
    vectors = np.array([record["embedding"] for record in records])
    np.testing.assert_allclose(vectors, trained_vectors(name, source), atol=TOLERANCE, rtol=0)
