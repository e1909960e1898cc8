"""Fine-tuning in PyTorch: its steps agree with ours; its command."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers

from data_pipelines.json_files import write_json
from data_pipelines.tasks.encoding import EncodedExample
from data_pipelines.tasks.windows import Window
from electra_jax.benchmarks import torch_finetuning
from electra_jax.benchmarks.torch_task import load_module, train
from electra_jax.configuration.flags import load_config
from electra_jax.distributed.mesh import make_mesh
from electra_jax.finetuning.batches import num_training_steps, training_batches
from electra_jax.finetuning.encoders import load_encoder
from electra_jax.finetuning.experiment_directory import RESULTS_FILE
from electra_jax.finetuning.results import Result, to_json
from electra_jax.finetuning.task_types import make_task_type
from electra_jax.finetuning.trainer import Trainer
from electra_jax.huggingface.names import BERT, DEBERTA_V2, ELECTRA, to_file
from support.commands import run_module
from support.tiny import SPECIAL
from support.tiny_run import VOCAB

ONE = {"data": 1, "fsdp": 1, "tensor": 1}
FAMILIES = {"electra": ELECTRA, "deberta": DEBERTA_V2, "bert": BERT}


SHAPE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
MODELS = {
    "electra": lambda: transformers.ElectraModel(transformers.ElectraConfig(**SHAPE, embedding_size=16)),
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**SHAPE)),
    "deberta": lambda: transformers.DebertaV2Model(
        transformers.DebertaV2Config(
            **SHAPE,
            type_vocab_size=0,
            relative_attention=True,
            position_biased_input=False,
            max_relative_positions=32,
            position_buckets=16,
            norm_rel_ebd="layer_norm",
            share_att_key=True,
            pos_att_type=["p2c", "c2p"],
        )
    ),
}


@pytest.fixture(scope="module")
def directories(data, tmp_path_factory):
    """Family → Hugging Face directory of a tiny model, none of whose parameters is 0 or 1."""
    found = {}
    for family, make in MODELS.items():
        found[family] = tmp_path_factory.mktemp("models") / family
        shutil.copytree(data / "tokenizer_corpus", found[family])
        torch.manual_seed(0)
        model = make()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(found[family])
    return found


def make_rows(kind):
    """Twenty rows of one or two texts, of different lengths: two and a half batches of eight."""
    source = np.random.default_rng(0)
    rows = []
    for index in range(20):
        first, second = (source.integers(5, VOCAB, size=source.integers(3, 9)) for _ in range(2))
        ids = np.concatenate(
            [[1], first, [2], *([second, [2]] if index % 2 or kind == "question_answering" else [])]
        )
        ids = ids.astype(np.int32)
        if kind == "question_answering":
            inside = len(first) + 2
            label = (
                None
                if index == 5
                else np.array([0, 0, 1] if index % 4 == 0 else [inside, inside + 2, 0], np.int32)
            )
            rows.append(
                Window(
                    ids,
                    label,
                    index,
                    inside,
                    np.zeros((len(second), 2), np.int32),
                    np.ones(len(second), bool),
                )
            )
        else:
            label = {
                "classification": index % 3,
                "regression": float(index),
                "tagging": np.where(ids > 20, ids % 3, -1).astype(np.int32),
            }[kind]
            rows.append(EncodedExample(ids, label, index))
    return rows


def make_settings(kind, head, **optimizer):
    """Settings of configs/finetune.py without dropout; warm-up, clipping and weight decay show within three
    steps."""
    config = load_config("configs/finetune.py:task=trec6").to_dict()
    config["task"] |= {
        "kind": kind,
        "labels": ("a", "b", "c") if kind in ("classification", "tagging") else (),
        "metrics": (),
        "label_scale": 10.0,
    }
    config["model"] |= {"head": head, "head_dropout": 0.0, "hidden_dropout": 0.0, "attention_dropout": 0.0}
    config["optimizer"] |= {
        "learning_rate": 2e-3,
        "layer_decay": 0.8,
        "top_exponent": 2,
        "warmup_steps": 2,
        "weight_decay": 0.5,
        "clip_norm": 0.5,
    } | optimizer
    config["train"] |= {"num_epochs": 1, "batch_size": 8}
    return config


def copy_head(module, head):
    """Copy our head's parameters into PyTorch's."""
    with torch.no_grad():
        for name, ours in head.items():
            theirs = module.head.get_submodule(name)
            theirs.weight.copy_(torch.from_numpy(np.array(ours["kernel"]).T))
            theirs.bias.copy_(torch.from_numpy(np.array(ours["bias"])))


def named_as_in_torch(family, params):
    """Our parameters under TaskModule's names."""
    encoder = to_file(
        FAMILIES[family], "discriminator", {part: params[part] for part in ("embeddings", "encoder")}
    )
    named = {
        f"encoder.{name.removeprefix(FAMILIES[family].prefix)}": value for name, value in encoder.items()
    }
    for name, layer in params["head"].items():
        named |= {
            f"head.{name}.weight": np.asarray(layer["kernel"]).T,
            f"head.{name}.bias": np.asarray(layer["bias"]),
        }
    return named


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "kind", "head", "optimizer"),
    [
        ("electra", "classification", "published", {}),
        (
            "electra",
            "classification",
            "transformers",
            {"schedule": "warmup_then_decay", "bias_correction": True},
        ),
        (
            "deberta",
            "classification",
            "published",
            {"schedule": "warmup_then_decay", "warmup_steps": 0, "warmup_share": 0.34},
        ),
        ("electra", "regression", "published", {"top_exponent": 1}),
        ("bert", "tagging", "published", {}),
        ("deberta", "question_answering", "published", {}),
    ],
)
def test_three_steps_agree_with_our_own_training(family, kind, head, optimizer, directories, tmp_path):
    config, rows = make_settings(kind, head, **optimizer), make_rows(kind)
    initial = load_encoder(str(directories[family]), tmp_path / "tokenizer")
    assert initial.special == SPECIAL
    functions = make_task_type(config["task"] | {"null_threshold": 0.0}, config["task"]["labels"])
    trainer = Trainer(
        initial.config, SPECIAL, functions, config, len(rows), make_mesh(ONE, jax.devices()[:1])
    )
    losses, step = [], trainer.train_step

    def recorded(*arguments):
        params, opt_state, value = step(*arguments)
        losses.append(float(value))
        return params, opt_state, value

    trainer.train_step = recorded
    ours = named_as_in_torch(family, trainer.run(initial.params, 0, rows, {}).params)

    module = load_module(str(directories[family]), kind, functions.num_outputs, SPECIAL, config["model"])
    copy_head(module, trainer.init_params(jax.random.key(0))["head"])
    start = {name: value.numpy().copy() for name, value in module.state_dict().items()}
    batches = training_batches(functions, rows, 8, 1, 0, SPECIAL.pad)
    their_losses = [*train(module, kind, batches, num_training_steps(20, 8, 1), config, SPECIAL)]
    assert len(losses) == 3
    np.testing.assert_allclose(their_losses, losses, atol=1e-5, rtol=0)
    theirs = {name: value.detach().numpy() for name, value in module.named_parameters()}
    assert theirs.keys() == ours.keys()
    # A softmax does not change when a constant is added to all its inputs: these biases have no gradient.
    unseen = ("key.bias", "key_proj.bias")
    unseen += ("1.output.LayerNorm.bias", "classifier.bias") if kind == "question_answering" else ()
    for name, value in theirs.items():
        np.testing.assert_allclose(value, ours[name], atol=2e-5, rtol=0, err_msg=name)
        assert np.abs(value - start[name]).max() > 1e-4 or name.endswith(unseen), name


def test_heads_are_initialised_as_ours(directories):
    torch.manual_seed(0)
    std = {}
    for family in ("electra", "deberta"):
        model = make_settings("classification", "transformers")["model"] | {"head_dropout": 0.25}
        layers = load_module(str(directories[family]), "classification", 3, SPECIAL, model).head
        std[family] = [layers.get_submodule(name).weight.std().item() for name in ("pooler", "classifier")]
        rates = [layer.p for layer in layers if isinstance(layer, torch.nn.Dropout)]
        assert rates == ([0.25, 0.25] if family == "electra" else [0.25])
    np.testing.assert_allclose(
        std["electra"], [0.02 * 0.88, (2 / 35) ** 0.5], rtol=0.15
    )  # cut at two deviations; Glorot's
    np.testing.assert_allclose(std["deberta"], [0.02, 0.02], rtol=0.15)


def test_the_encoder_has_the_configured_dropout(directories):
    model = make_settings("tagging", "published")["model"] | {"hidden_dropout": 0.3, "attention_dropout": 0.2}
    encoder = load_module(str(directories["electra"]), "tagging", 3, SPECIAL, model).encoder
    assert {module.p for module in encoder.modules() if isinstance(module, torch.nn.Dropout)} == {0.3, 0.2}


@pytest.fixture()
def arguments(data, tmp_path):
    """Flags of a small task in files: whether a text's first word is in the first half of the vocabulary."""
    words = sorted({word for line in (data / "train.txt").read_text().splitlines() for word in line.split()})[
        :60
    ]
    source = np.random.default_rng(0)
    for split, number in (("train", 64), ("validation", 20)):
        rows = [
            f"{' '.join(chosen)}\t{'low' if words.index(chosen[0]) < 30 else 'high'}\n"
            for chosen in (source.choice(words, size=4) for _ in range(number))
        ]
        (tmp_path / f"{split}.tsv").write_text("".join(rows))
    return {
        "task.train": str(tmp_path / "train.tsv"),
        "task.validation": str(tmp_path / "validation.tsv"),
        "task.text": "0",
        "task.label": "1",
        "train.num_epochs": 1,
    }


@pytest.mark.slow
def test_the_command_resumes_and_compares(directories, arguments, environment, tmp_path):
    start, beside, workdir = str(directories["electra"]), tmp_path / "ours", tmp_path / "torch"
    config = load_config("configs/finetune.py:task=local").to_dict()
    for key, value in arguments.items():
        section, _, name = key.partition(".")
        config[section][name] = value
    # Our own results as electra_jax.finetune writes them, also of another encoder.
    beside.mkdir()
    write_json(beside / "config.json", {"config": config})
    accuracies = {f"random:{start}": 0.5, start: 0.6}
    write_json(
        beside / RESULTS_FILE,
        to_json(
            [
                Result(name, seed, {"accuracy": value})
                for name, value in accuracies.items()
                for seed in range(3)
            ]
        ),
    )

    first = torch_finetuning.finetune_in_torch(config, workdir, start, range(1))
    assert [(result.model, result.seed) for result in first] == [(f"transformers:{start}", 0)]
    kept = json.loads((workdir / "results.json").read_text())
    assert kept == to_json(first) and 0 <= kept[0]["metrics"]["accuracy"] <= 1
    # An impossible value is kept, so seed 0 is not run again.
    write_json(workdir / "results.json", [kept[0] | {"metrics": {"accuracy": 0.123}}])
    done = run_module(
        "electra_jax.benchmarks.torch_finetuning",
        "--config=configs/finetune.py:task=local",
        f"--init_from={start}",
        "--seeds=3",
        f"--workdir={workdir}",
        f"--beside={beside}",
        "--config.log.progress=False",
        *(f"--config.{key}={value}" for key, value in arguments.items()),
        environment=environment,
    )
    assert done.returncode == 0, done.stderr
    *lines, path = done.stdout.splitlines()
    assert Path(path) == workdir / "results.json"
    results = json.loads(Path(path).read_text())
    assert [result["seed"] for result in results] == [0, 1, 2] and results[0]["metrics"] == {
        "accuracy": 0.123
    }
    title = f"accuracy, mean difference to {start} (lowest–highest difference)"
    assert lines[0] == f"| | seeds | accuracy | {title} |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        f"| {start}",
        f"| random:{start}",
        f"| transformers:{start}",
    ]
    difference = np.mean([result["metrics"]["accuracy"] for result in results]) - 0.6
    assert lines[4].split(" | ")[-1].startswith(f"{difference:+.3f} (")


def test_settings_that_do_not_match_are_rejected(directories, arguments, tmp_path):
    start, workdir = str(directories["electra"]), tmp_path / "torch"
    config = load_config("configs/finetune.py:task=local").to_dict()
    write_json(tmp_path / "config.json", {"config": {}})  # as in the directory of a run
    with pytest.raises(ValueError, match=r"--init_from=.*: got no .*config.json of a Hugging Face model"):
        torch_finetuning.finetune_in_torch(config, workdir, str(tmp_path), range(1))
    other = config | {"optimizer": config["optimizer"] | {"weight_decay_follows": "schedule"}}
    with pytest.raises(ValueError, match=r"weight_decay_follows: got 'schedule', expected 'rate'"):
        torch_finetuning.finetune_in_torch(other, workdir, start, range(1))
    other = load_config("configs/finetune.py:task=local,model=deberta,size=base,sift=true").to_dict()
    with pytest.raises(ValueError, match=r"config\.sift\.vat_lambda: got 5\.0, expected 0\.0: this training"):
        torch_finetuning.finetune_in_torch(other, workdir, start, range(1))
    with pytest.raises(FileNotFoundError, match=r"there is no results\.json, expected the --workdir"):
        torch_finetuning.read_beside(tmp_path, config, start)
    write_json(tmp_path / "results.json", [])
    write_json(tmp_path / "config.json", {"config": config | {"train": config["train"] | {"batch_size": 8}}})
    with pytest.raises(ValueError, match=r"config\.train\.batch_size: the run has 8, you gave 32"):
        torch_finetuning.read_beside(tmp_path, config, start)
    model = make_settings("question_answering", "published")["model"]
    with pytest.raises(ValueError, match=r"config\.model\.head: got 'published', expected 'transformers'"):
        load_module(start, "question_answering", 2, SPECIAL, model)
    config = make_settings("classification", "published", schedule="constant")
    module = load_module(start, "classification", 3, SPECIAL, config["model"])
    functions = make_task_type(config["task"], config["task"]["labels"])
    batches = training_batches(functions, make_rows("classification"), 8, 1, 0, SPECIAL.pad)
    with pytest.raises(
        ValueError, match=r"config\.optimizer\.schedule: got 'constant', expected warmup_times_decay or"
    ):
        next(train(module, "classification", batches, 3, config, SPECIAL))
