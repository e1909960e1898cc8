"""Fine-tuned models in the task classes of `transformers` 5 and 4: exact outputs, all files or none, and
checks that find sabotage."""

import functools
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from data_pipelines.tasks.encoding import encode_examples
from data_pipelines.tasks.load import TaggedExample
from data_pipelines.tokenizers.load import load_tokenizer
from electra_jax import convert
from electra_jax.conversion.export_task import export_task
from electra_jax.finetuning.encoders import load_encoder
from electra_jax.finetuning.model_files import load_model, save_model
from electra_jax.finetuning.models import TaskModel
from electra_jax.huggingface import task_heads
from electra_jax.huggingface.card_parts import Publication
from electra_jax.huggingface.export import CARD_FILE, CONFIG_FILE, FINETUNING_FILE, WEIGHTS_FILE
from electra_jax.huggingface.task_checks import check_labels
from electra_jax.huggingface.verify import verify
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.inputs import derive_inputs
from electra_jax.training.state import unbox
from support import aside, tiny_export
from support.edits import edit_arrays, edit_json, edit_tokenizer
from support.paths import ROOT
from support.programs import HIGHEST, products, recorded_programs, rounded_products
from support.tiny import SPECIAL
from support.tiny_export import WIDE

LABELS = {
    "classification": ["low", "middle", "high"],
    "regression": [],
    "tagging": ["NOUN", "VERB", "ADJ", "X"],
    "question_answering": [],
}
NUM_OUTPUTS = {"classification": 3, "regression": 1, "tagging": 4, "question_answering": 2}
SCALE = 5.0
UNSAID = Publication(None, None, None)
ELECTRA, RELATIVE, DEBERTA = tiny_export.electra_model, tiny_export.relative_model, tiny_export.deberta_model
# name: (config.model of the encoder, task type, head, dtype, class)
VARIANTS = {
    "electra_classification": (
        ELECTRA(),
        "classification",
        "published",
        "float32",
        "ElectraForSequenceClassification",
    ),
    "electra_classification_inner": (
        ELECTRA(),
        "classification",
        "transformers",
        "float32",
        "ElectraForSequenceClassification",
    ),
    "electra_regression": (
        ELECTRA(),
        "regression",
        "published",
        "float32",
        "ElectraForSequenceClassification",
    ),
    "electra_regression_inner": (
        ELECTRA(),
        "regression",
        "transformers",
        "float32",
        "ElectraForSequenceClassification",
    ),
    "electra_tagging": (ELECTRA(), "tagging", "published", "float32", "ElectraForTokenClassification"),
    "electra_tagging_inner": (
        ELECTRA(),
        "tagging",
        "transformers",
        "float32",
        "ElectraForTokenClassification",
    ),
    "electra_questions": (
        ELECTRA(),
        "question_answering",
        "transformers",
        "float32",
        "ElectraForQuestionAnswering",
    ),
    # Like an imported BERT, without a projection of the embeddings; trained in bfloat16.
    "electra_wide": (
        ELECTRA(embedding_size=32, generator=WIDE, discriminator=WIDE, dtype="bfloat16"),
        "classification",
        "published",
        "float32",
        "ElectraForSequenceClassification",
    ),
    "electra_bfloat16": (
        ELECTRA(),
        "regression",
        "published",
        "bfloat16",
        "ElectraForSequenceClassification",
    ),
    "electra_typeless": (
        ELECTRA(type_vocab_size=0),
        "tagging",
        "published",
        "float32",
        "ElectraForTokenClassification",
    ),
    "relative_classification": (
        RELATIVE(),
        "classification",
        "published",
        "float32",
        "ElectraRelativeBiasForSequenceClassification",
    ),
    "relative_questions": (
        RELATIVE(positions=False, type_vocab_size=0),
        "question_answering",
        "transformers",
        "float32",
        "ElectraRelativeBiasForQuestionAnswering",
    ),
    "deberta_classification": (
        DEBERTA(),
        "classification",
        "published",
        "float32",
        "DebertaV2ForSequenceClassification",
    ),
    "deberta_regression": (
        DEBERTA(),
        "regression",
        "transformers",
        "float32",
        "DebertaV2ForSequenceClassification",
    ),
    "deberta_tagging": (DEBERTA(), "tagging", "published", "float32", "DebertaV2ForTokenClassification"),
    "deberta_questions": (
        DEBERTA(),
        "question_answering",
        "published",
        "float32",
        "DebertaV2ForQuestionAnswering",
    ),
    "deberta_bfloat16": (
        DEBERTA(),
        "classification",
        "published",
        "bfloat16",
        "DebertaV2ForSequenceClassification",
    ),
}
# Exports with an inner layer that the trained head does not have.
ADDED = (
    "electra_classification",
    "electra_regression",
    "electra_wide",
    "electra_bfloat16",
    "relative_classification",
)


def make_model(directory, data, model, kind, head, labels=None):
    """A fine-tuned model with random parameters; biases and LayerNorms differ from their initial values."""
    encoder = make_pretraining_config(model).discriminator
    labels = LABELS[kind] if labels is None else labels
    task_model = TaskModel(encoder, SPECIAL, kind, len(labels) or NUM_OUTPUTS[kind], head, 0.2)
    shapes = jax.eval_shape(
        lambda: unbox(task_model.init(jax.random.key(0), jnp.ones((1, 8), jnp.int32), False)["params"])
    )
    leaves, tree = jax.tree.flatten_with_path(shapes)
    source = np.random.default_rng(0)
    params = jax.tree.unflatten(
        tree,
        [
            np.float32(path[-1].key == "scale") + 0.1 * source.normal(size=leaf.shape).astype("f4")
            for path, leaf in leaves
        ],
    )
    task = {
        "kind": kind,
        "source": "",
        "train": "/some/where/train.tsv",
        "label_scale": SCALE,
        "max_length": 128,
        "metrics": ["accuracy"],
    }
    config = {
        "task": task,
        "model": {"head": head, "head_dropout": 0.2, "hidden_dropout": 0.1},
        "optimizer": {"learning_rate": 1e-4, "layer_decay": 0.8},
        "train": {"num_epochs": 3, "batch_size": 32},
    }
    description = {
        "task": task,
        "labels": labels,
        "config": config,
        "start": "random:/some/where/base",
        "seed": 7,
        "settings": {"optimizer.learning_rate": 1e-4},
        "metrics": {"accuracy": 0.8125},
    }
    save_model(directory, encoder, description, load_tokenizer(str(data / "tokenizer_corpus")), params)
    return directory


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    """Name → (fine-tuned model, its export), made on demand. The export was verified with transformers 5."""
    root = tmp_path_factory.mktemp("task_exports")

    @functools.cache
    def make(name):
        model, kind, head, dtype, _ = VARIANTS[name]
        source = make_model(root / "models" / name, data, model, kind, head)
        return source, export_task(source, root / name, dtype, UNSAID)

    return make


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
def test_transformers_computes_the_outputs_of_the_trained_model(name, made):
    """The class that the export names against the saved model, on rows that were not recorded."""
    section, kind, head, dtype, class_name = VARIANTS[name]
    source, directory = made(name)
    saved, ids = load_model(source), fresh_rows()
    encoder = make_pretraining_config(section | {"dtype": "float32"}).discriminator
    task_model = TaskModel(encoder, SPECIAL, kind, NUM_OUTPUTS[kind], head, 0.0)
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
def test_an_export_can_be_fine_tuned_again(name, made, tmp_path):
    source, directory = made(name)
    initial, saved = load_encoder(str(directory), tmp_path / "tokenizer"), load_model(source)
    encoder = {part: saved.params[part] for part in ("embeddings", "encoder")}
    jax.tree.map(np.testing.assert_array_equal, initial.params, encoder)
    assert initial.tokenizer.fingerprint == saved.tokenizer.fingerprint
    assert (initial.config.num_layers, initial.config.hidden_size) == (
        saved.encoder.num_layers,
        saved.encoder.hidden_size,
    )


def edit_labels(directory):
    edit_json(
        directory / CONFIG_FILE,
        id2label={"0": "middle", "1": "low", "2": "high"},
        label2id={"middle": 0, "low": 1, "high": 2},
    )


def edit_description(directory):
    """Swap labels everywhere except in the recorded predictions."""
    edit_labels(directory)
    edit_json(directory / FINETUNING_FILE, labels=["middle", "low", "high"])


def changed(name, change):
    return lambda directory: edit_arrays(
        directory / WEIGHTS_FILE, lambda arrays: arrays | {name: change(arrays[name])}
    )


def upside_down(array):
    return np.ascontiguousarray(array[::-1])


HEAD = "classifier.out_proj"
SABOTAGE = [
    (
        "electra_classification",
        changed("electra.encoder.layer.1.output.dense.weight", upside_down),
        {
            WEIGHTS_FILE: "electra.encoder.layer.1.output.dense.weight is not what was exported",
            "hidden states": "first differ after layer 1",
        },
    ),
    (
        "electra_classification",
        changed(f"{HEAD}.bias", lambda array: array + np.float32([0, 0.01, 0])),
        {WEIGHTS_FILE: f"{HEAD}.bias is not what was exported", "logits": "max"},
    ),
    (
        "electra_classification",
        edit_labels,
        {CONFIG_FILE: "id2label is {'0': 'middle'", "predicted labels": "expected "},
    ),
    ("electra_classification", edit_description, {"predicted labels": "expected "}),
    (
        "electra_classification",
        lambda d: edit_json(d / CONFIG_FILE, classifier_dropout=0.1),
        {CONFIG_FILE: "classifier_dropout is 0.1, trained with 0.0"},
    ),
    (
        "electra_classification",
        lambda d: edit_tokenizer(d / "tokenizer.json"),
        {"tokenizer": "differ from token"},
    ),
    (
        "electra_regression",
        changed(f"{HEAD}.weight", lambda array: array / np.float32(SCALE)),
        {"logits": "max"},
    ),
    (
        "electra_tagging",
        changed("classifier.weight", upside_down),
        {"logits": "max", "predicted labels": "expected "},
    ),
    (
        "deberta_questions",
        changed("qa_outputs.weight", upside_down),
        {"start logits": "max", "end logits": "max"},
    ),
    (
        "deberta_classification",
        lambda d: edit_arrays(
            d / WEIGHTS_FILE,
            lambda arrays: {key: value for key, value in arrays.items() if not key.startswith("pooler")},
        ),
        {"transformers loads it": "missing_keys: pooler.dense.bias, pooler.dense.weight"},
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sabotage", "found"), SABOTAGE)
def test_verify_names_the_change(name, sabotage, found, made, tmp_path, capsys):
    directory = tmp_path / name
    shutil.copytree(made(name)[1], directory)
    convert.main(["verify", str(directory)])
    assert "FAILED" not in capsys.readouterr().out
    sabotage(directory)
    failed = {check.name: check.detail for check in verify(directory) if not check.is_passed}
    for check, detail in found.items():
        assert detail in failed.get(check, ""), failed
    with pytest.raises(SystemExit, match="failed its verification"):
        convert.main(["verify", str(directory)])


def test_labels_with_nearly_equal_logits_may_differ():
    recorded = np.float32([[1.0, 1.00001, 0.0], [2.0, 0.0, 1.0]])
    check = check_labels(recorded[:, [1, 0, 2]], recorded, ["b", "a"], {0: "a", 1: "b", 2: "c"})
    assert not check.is_passed and check.detail == "got 'b', expected 'a'"
    assert check_labels(recorded[:1, [1, 0, 2]], recorded[:1], ["b"], {0: "a", 1: "b", 2: "c"}).is_passed


@pytest.mark.slow
def test_a_tagger_reads_words_as_it_was_trained_to(made):
    words = ("under_score", "Ｆｕｌｌ", "it's", "here")
    [row], _ = encode_examples(
        load_model(made("electra_tagging")[0]).tokenizer, [TaggedExample(words, (0, 1, 2, 3))], 128
    )
    tokens = transformers.AutoTokenizer.from_pretrained(made("electra_tagging")[1])(
        list(words), is_split_into_words=True
    )
    assert tokens["input_ids"] == row.ids.tolist()
    assert [tokens.word_ids().index(word) for word in range(4)] == np.flatnonzero(row.label >= 0).tolist()


USED = {
    "electra_classification": "[{'label': '",
    "electra_regression": "[{'label': 'LABEL_0', 'score': ",
    "relative_classification": "[{'label': '",
    "deberta_tagging": "[('Every', '",
    "deberta_questions": "",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", USED)
def test_the_card_is_right_and_its_code_runs(name, made, capsys):
    card = (made(name)[1] / CARD_FILE).read_text()
    assert "fresh weights in the shape of `base`" in card and "on `train.tsv` with seed 7" in card
    assert (
        "| accuracy | 0.8125 |" in card and "`optimizer.learning_rate=0.0001`" in card and "/some" not in card
    )
    assert all(f"`{label}`" in card for label in LABELS[VARIANTS[name][1]])
    assert ("`classifier_dropout` is 0" in card) == (name in ADDED)
    code = card.partition("```python\n")[2].partition("```")[0]
    exec(code.replace('path = "."', f"path = {str(made(name)[1])!r}"), {})
    said = capsys.readouterr().out
    assert said.startswith(USED[name]) and said.strip(), said


@pytest.mark.slow
def test_transformers_4_agrees(made):
    """The same checks, and the Python in the cards, in a process that imports transformers 4."""
    script = (
        "import sys, pathlib, transformers\nfrom electra_jax.conversion.export_run import verify_all\n"
        "assert transformers.__version__.startswith('4.'), transformers.__version__\nfailed = [path for "
        "path in sys.argv[1:] if not verify_all(pathlib.Path(path))]\nfor path in sys.argv[1:]:\n    code "
        "= pathlib.Path(path, 'README.md').read_text().partition('```python\\n')[2].partition('```')[0]\n  "
        "  exec(code.replace('path = \".\"', f'path = {path!r}'), {})\nsys.exit(f'failed: {failed}' if "
        "failed else 0)\n"
    )
    paths = [str(made(name)[1]) for name in VARIANTS]
    outcome = subprocess.run(
        [sys.executable, "-c", script, *paths],
        cwd=ROOT,
        env=aside.environment("transformers4"),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert outcome.stdout.count("transformers loads it") == len(VARIANTS)


@pytest.mark.slow
def test_exporting_twice_gives_the_same_bytes(made, tmp_path):
    source, directory = made("electra_classification")
    export_task(source, tmp_path / "again", "float32", UNSAID)
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        path.name for path in (tmp_path / "again").iterdir()
    )
    for path in directory.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path


def test_outputs_are_recorded_at_the_highest_precision_whatever_the_settings(data, tmp_path):
    source = make_model(tmp_path / "model", data, ELECTRA(dtype="bfloat16"), "classification", "transformers")
    with (
        recorded_programs(tmp_path / "programs") as programs,
        jax.default_matmul_precision("bfloat16"),
    ):
        assert export_task(source, tmp_path / "out", "float32", UNSAID)
    found = [product for program in programs for product in products(program)]
    assert len(found) > 10 and set(found) == {HIGHEST}


@pytest.mark.parametrize("mantissa_bits", [7, 10], ids=["bfloat16", "TF32"])
def test_an_export_recorded_with_rounded_products_is_refused(mantissa_bits, data, tmp_path):
    """As a GPU or a TPU multiplies unless it is told not to."""
    source = make_model(tmp_path / "model", data, ELECTRA(), "tagging", "published")
    with (
        rounded_products(mantissa_bits),
        pytest.raises(ValueError, match="failed its verification and was not kept"),
    ):
        export_task(source, tmp_path / "out", "float32", UNSAID)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_export_leaves_nothing(data, tmp_path, monkeypatch):
    """With a mistake in the conversion of the head."""
    source = make_model(tmp_path / "model", data, ELECTRA(), "classification", "published")
    with_inner_layer = task_heads.with_inner_layer

    def mistaken(head):
        head = with_inner_layer(head)
        return head | {"classifier": head["classifier"] | {"kernel": abs(head["classifier"]["kernel"])}}

    monkeypatch.setattr(task_heads, "with_inner_layer", mistaken)
    with pytest.raises(ValueError, match="failed its verification and was not kept"):
        export_task(source, tmp_path / "out", "float32", UNSAID)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_cannot_be_exported_is_refused(data, tmp_path):
    run = tmp_path / "run"
    questions = make_model(run / "models" / "questions", data, ELECTRA(), "question_answering", "published")
    names = [f"label {index}" for index in range(17)]
    many = make_model(run / "models" / "many", data, ELECTRA(), "classification", "published", names)
    classifier = make_model(run / "models" / "classifier", data, ELECTRA(), "classification", "published")
    out = ["export", f"--out={tmp_path / 'out'}"]
    for arguments, message in (
        (
            [f"--workdir={questions}"],
            "ELECTRA's own head for questions.* the head of ElectraForQuestionAnswering"
            ".* --config.model.head=transformers",
        ),
        (
            [f"--workdir={many}"],
            "ELECTRA's own head, 32 wide, for 17 labels, expected at most 16.* "
            "--config.model.head=transformers",
        ),
        (
            [f"--workdir={classifier}", "--step=0", "--custom_code"],
            "--step, --custom_code: given for .*, a fine-tuned model",
        ),
        (
            [f"--workdir={classifier}", "--inexact_generator"],
            "--inexact_generator: given for .*, a fine-tuned model",
        ),
        ([f"--workdir={run}"], f"expected one of its models: {classifier}, {many}, {questions}"),
        ([f"--workdir={classifier}", f"--out={run}"], "run exists. Choose another --out"),
    ):
        with pytest.raises(SystemExit, match=message):
            convert.main([*out, *arguments])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.slow
def test_the_command_exports_a_model(data, tmp_path, capsys):
    source = make_model(tmp_path / "model", data, DEBERTA(), "regression", "published")
    convert.main(
        [
            "export",
            f"--workdir={source}",
            f"--out={tmp_path / 'out'}",
            "--license=apache-2.0",
            "--language=en",
            "--data_license=CC BY 4.0",
        ]
    )
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == str(tmp_path / "out") and "FAILED" not in said
    card = (tmp_path / "out" / CARD_FILE).read_text()
    assert (
        "license: apache-2.0" in card
        and "language: en" in card
        and "Licence of the task's data: CC BY 4.0." in card
    )
