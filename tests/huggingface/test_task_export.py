"""Fine-tuned models in the task classes of `transformers` 5 and 4: exact outputs and bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from data_pipelines.tasks.encoding import encode_examples
from data_pipelines.tasks.load import TaggedExample
from electra_jax.conversion.export_task import export_task
from electra_jax.finetuning.encoders import load_encoder
from electra_jax.finetuning.model_files import load_model
from electra_jax.finetuning.models import TaskModel
from electra_jax.huggingface import task_heads
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.inputs import derive_inputs
from support import aside, tiny_export
from support.tiny import SPECIAL
from support.tiny_task_exports import ADDED, LABELS, NUM_OUTPUTS, POOLING, SCALE, UNSAID, VARIANTS


def fresh_rows():
    """Three padded rows of random ids; one is a pair."""
    ids = (
        np.random.default_rng(3).integers(5, tiny_export.VOCAB, size=(3, tiny_export.LENGTH)).astype(np.int32)
    )
    ids[:, 0] = SPECIAL.cls
    for row, (middle, end) in enumerate([(9, tiny_export.LENGTH - 1), (4, 14), (20, 20)]):
        ids[row, [middle, end]] = SPECIAL.sep
        ids[row, end + 1 :] = SPECIAL.pad
    return ids


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_transformers_computes_the_outputs_of_the_trained_model(name, task_exports):
    """The class that the export names against the saved model, on rows that were not recorded."""
    section, kind, head, dtype, class_name = VARIANTS[name]
    source, directory = task_exports(name)
    saved, ids = load_model(source), fresh_rows()
    encoder = make_pretraining_config(section | {"dtype": "float32"}).discriminator
    pooling = POOLING.get(name, "cls")
    task_model = TaskModel(encoder, SPECIAL, kind, NUM_OUTPUTS[kind], head, 0.0, pooling)
    outputs = jax.jit(lambda params, ids: task_model.apply({"params": params}, ids, False))(
        saved.params, jnp.asarray(ids)
    )
    types = derive_inputs(jnp.asarray(ids), SPECIAL, encoder.type_vocab_size).token_types_BL
    arguments = {"input_ids": ids, "attention_mask": ids != 0}
    if encoder.type_vocab_size:
        arguments["token_type_ids"] = np.asarray(types)
    auto = getattr(transformers, class_name.replace("ElectraRelativeBias", "AutoModel"))
    trust = {"trust_remote_code": True} if name.startswith("relative") else {}
    model, loading = auto.from_pretrained(directory, output_loading_info=True, **trust)
    assert not any(loading[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        got = model.float().eval()(
            **{key: torch.from_numpy(value.astype(np.int64)) for key, value in arguments.items()}
        )
    # bfloat16 keeps 8 bits: about three digits of every weight.
    tolerance = 0.05 if dtype == "bfloat16" else 1e-5
    tolerance *= SCALE if kind == "regression" else 1.0
    scored = ids != 0 if kind in task_heads.OF_TOKENS else np.ones(3, bool)
    pairs = (
        [(got.start_logits, outputs.start_logits), (got.end_logits, outputs.end_logits)]
        if kind == "question_answering"
        else [(got.logits, outputs * SCALE if kind == "regression" else outputs)]
    )
    for logits, expected in pairs:
        np.testing.assert_allclose(
            logits.numpy()[scored], np.asarray(expected)[scored], atol=tolerance, rtol=0
        )
        assert np.std(np.asarray(expected)[scored]) > 0.01
    config = model.config
    assert config.architectures == [class_name]
    if LABELS[kind]:
        assert config.id2label == dict(enumerate(LABELS[kind])) and config.label2id == {
            label: index for index, label in enumerate(LABELS[kind])
        }
    if kind in task_heads.OF_SEQUENCES:
        assert config.problem_type == (
            "regression" if kind == "regression" else "single_label_classification"
        )
        assert config.num_labels == NUM_OUTPUTS[kind]
        dropout = config.cls_dropout if name.startswith("deberta") else config.classifier_dropout
        assert dropout == (0.0 if name in ADDED else 0.2)
        assert getattr(config, "classifier_pooling", "cls") == pooling


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("count", [1, 3, 16])
def test_the_added_layer_does_not_change_the_outputs(count, dtype, tolerance):
    """For small and large outputs of both signs, to the precision of the format, and with all units used."""
    source = np.random.default_rng(0)
    kernel, bias = (
        source.normal(size=(32, count)).astype(np.float32),
        source.normal(size=count).astype(np.float32),
    )
    inner, outer = task_heads.with_inner_layer({"classifier": {"kernel": kernel, "bias": bias}}).values()
    assert inner["kernel"].shape == (32, 32) and outer["kernel"].shape == (32, count)
    states = source.normal(size=(200, 32)) * np.geomspace(1e-3, 10, 200)[:, None]
    tensor = lambda array: torch.from_numpy(np.asarray(array, np.float32)).to(getattr(torch, dtype))
    x = tensor(states)
    got = torch.nn.functional.gelu(x @ tensor(inner["kernel"]) + tensor(inner["bias"])) @ tensor(
        outer["kernel"]
    )
    expected = (x @ tensor(kernel) + tensor(bias)).float().numpy()
    np.testing.assert_allclose(
        (got + tensor(outer["bias"])).float().numpy(), expected, rtol=tolerance, atol=tolerance
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["electra_classification", "electra_wide", "relative_questions", "deberta_questions"]
)
def test_an_export_can_be_fine_tuned_again(name, task_exports, tmp_path):
    source, directory = task_exports(name)
    initial, saved = load_encoder(str(directory), tmp_path / "tokenizer"), load_model(source)
    encoder = {part: saved.params[part] for part in ("embeddings", "encoder")}
    jax.tree.map(np.testing.assert_array_equal, initial.params, encoder)
    assert initial.tokenizer.fingerprint == saved.tokenizer.fingerprint
    assert (initial.config.num_layers, initial.config.hidden_size) == (
        saved.encoder.num_layers,
        saved.encoder.hidden_size,
    )


@pytest.mark.slow
def test_a_tagger_reads_words_as_it_was_trained_to(task_exports):
    words = ("under_score", "Ｆｕｌｌ", "it's", "here")
    [row], _ = encode_examples(
        load_model(task_exports("electra_tagging")[0]).tokenizer, [TaggedExample(words, (0, 1, 2, 3))], 128
    )
    tokens = transformers.AutoTokenizer.from_pretrained(task_exports("electra_tagging")[1])(
        list(words), is_split_into_words=True
    )
    assert tokens["input_ids"] == row.ids.tolist()
    assert [tokens.word_ids().index(word) for word in range(4)] == np.flatnonzero(row.label >= 0).tolist()


@pytest.mark.slow
def test_transformers_4_agrees(task_exports):
    """The same checks, and the Python in the cards, in a process that imports transformers 4."""
    script = (
        "import sys, pathlib, transformers\nfrom electra_jax.conversion.export_run import verify_all\n"
        "assert transformers.__version__.startswith('4.'), transformers.__version__\nfailed = [path for "
        "path in sys.argv[1:] if not verify_all(pathlib.Path(path))]\nfor path in sys.argv[1:]:\n    code "
        "= pathlib.Path(path, 'README.md').read_text().partition('```python\\n')[2].partition('```')[0]\n  "
        "  exec(code.replace('path = \".\"', f'path = {path!r}'), {})\nsys.exit(f'failed: {failed}' if "
        "failed else 0)\n"
    )
    paths = [str(task_exports(name)[1]) for name in VARIANTS]
    output = aside.run("transformers4", script, *paths)
    assert output.count("transformers loads it") == len(VARIANTS)


@pytest.mark.slow
def test_exporting_twice_gives_the_same_bytes(task_exports, tmp_path):
    source, directory = task_exports("electra_classification")
    export_task(source, tmp_path / "again", "float32", UNSAID)
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        path.name for path in (tmp_path / "again").iterdir()
    )
    for path in directory.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path
