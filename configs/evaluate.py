"""What pre-training is worth on tasks:
`--config=configs/evaluate.py:data=DIR[,model=electra|deberta,size=…][,tasks=ud+squad][,…]`.

    python -m electra_jax.evaluate --config=configs/evaluate.py:data=DIR --workdir=runs/evaluate --seeds=3

Pre-trains the tiny model of configs/debug.py on WikiText-2 (vocabulary 8,192, rows of 128) by replaced token
detection, and by masked language modelling with the same FLOPs. Fine-tunes both, and randomly initialised
weights, on tasks whose files are in DIR:

    sst2/train.tsv, dev.tsv                                            sentence TAB label, no header
    cola/in_domain_train.tsv, in_domain_dev.tsv, out_of_domain_dev.tsv as CoLA publishes them
    ud_english_ewt/dev.conllu.gz, test.conllu.gz                       part of speech; the first trains
    squad_format/new_wiki_v1.0.json.gz, nyt_v1.0.json.gz, reddit_v1.0.json.gz
                                                                       SQuAD's format; the last is held out
    glue/rte.train.jsonl.gz, rte.valid.jsonl.gz, also mnli and qqp     BabyLM's subsets of GLUE
    trec/train.tsv, test.tsv                                           what `electra-jax trec` writes

The task `local` is your own: give its files and columns, as --config.tasks.local.task.train=FILE and so on.
Every task is a section of `tasks` with all settings of configs/finetune.py. `model` and `size` choose the
presets; without them the settings are ours for tiny models: a learning rate of 1e-3, no layer-wise decay, no
dropout in the encoder. `tasks` chooses from all of them; without it, they are those before `glue`. With
--init_from=DIR,DIR nothing is pre-trained: these initial models are compared. Questions, 4,000 for training
and 2,000 held out, take windows of 128 tokens and the head of `transformers`, which is faster.

With `validation_fraction=0.1` that share of each task's training examples is held out. A --sweep then chooses
its settings on them, and the held-out files above are only reported, as the split "test".
"""

from pathlib import Path

from ml_collections import config_dict

from electra_jax.configuration.recipe_argument import parse_recipe_argument
from electra_jax.configuration.recipes import load_config

HERE = Path(__file__).parent
DEFAULT_TASKS = "sst2+cola+ud+squad"


def get_config(arg: str | None = None) -> config_dict.ConfigDict:
    """The configuration of the pre-training, its objectives, and the tasks.

    Raises:
      ValueError: an unknown task, model or size, or a fraction that is no number.
    """
    chosen = parse_recipe_argument(
        arg, data="data/tasks", model="", size="base", tasks=DEFAULT_TASKS, validation_fraction="0"
    )
    names = chosen["tasks"].split("+")
    if unknown := [name for name in names if name not in TASKS]:
        raise ValueError(
            f"config argument tasks: got {unknown[0]!r}, expected one or more of {', '.join(TASKS)}, joined "
            "by +."
        )
    pretraining = load_config(str(HERE / "debug.py"))
    pretraining.data.datasets = ("sample:wikitext2",)
    pretraining.assumed.update(vocab_size=8192, sequence_length=128)
    pretraining.train.num_steps = 4000
    pretraining.eval.every = pretraining.checkpoint.every = 1000
    tasks = {name: _task(name, Path(chosen["data"]), chosen["model"], chosen["size"]) for name in names}
    if share := _fraction(chosen["validation_fraction"]):
        for config in tasks.values():
            held_out = config.task.validation or config.task.test
            config.task.update(test=held_out, validation="", validation_fraction=share)
    return config_dict.create(pretraining=pretraining, objectives=("mlm", "electra"), tasks=tasks)


def _task(name: str, data: Path, model: str, size: str) -> config_dict.ConfigDict:
    task, files, settings = TASKS[name]
    preset = f",model={model},size={size}" if model else ""
    config = load_config(f"{HERE / 'finetune.py'}:task={task}{preset}")
    config.task.update(
        {split: ",".join(str(data / path) for path in paths) for split, paths in files.items()}
    )
    config.task.update(settings)
    if not model:
        config.optimizer.update(learning_rate=1e-3, layer_decay=1.0)
        config.model.update(hidden_dropout=0.0, attention_dropout=0.0)
    if task == "local_squad":
        config.model.head = "transformers"
    return config


def _fraction(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"config argument validation_fraction: got {text!r}, expected a share such as 0.1."
        ) from None


def _glue(name: str, text: str, pair: str, **settings) -> tuple[dict[str, list[str]], dict]:
    """Files and settings of a task with two texts."""
    files = {"train": [f"glue/{name}.train.jsonl.gz"], "validation": [f"glue/{name}.valid.jsonl.gz"]}
    return files, {"text": text, "pair": pair, "label": "label"} | settings


# name: (task of configs/finetune.py, files, settings of config.task)
TASKS = {
    "sst2": (
        "local",
        {"train": ["sst2/train.tsv"], "validation": ["sst2/dev.tsv"]},
        {"text": "0", "label": "1"},
    ),
    "cola": (
        "local",
        {
            "train": ["cola/in_domain_train.tsv"],
            "validation": ["cola/in_domain_dev.tsv", "cola/out_of_domain_dev.tsv"],
        },
        {"text": "3", "label": "1", "metrics": ("matthews",)},
    ),
    "ud": (
        "local_tagging",
        {"train": ["ud_english_ewt/dev.conllu.gz"], "validation": ["ud_english_ewt/test.conllu.gz"]},
        {},
    ),
    "squad": (
        "local_squad",
        {
            "train": ["squad_format/new_wiki_v1.0.json.gz", "squad_format/nyt_v1.0.json.gz"],
            "validation": ["squad_format/reddit_v1.0.json.gz"],
        },
        {
            "max_length": 128,
            "doc_stride": 64,
            "metrics": ("f1", "exact_match"),
            "max_train_examples": 4000,
            "max_eval_examples": 2000,
        },
    ),
    "rte": ("local", *_glue("rte", "sentence1", "sentence2")),
    "mnli": ("local", *_glue("mnli", "premise", "hypothesis")),
    "qqp": ("local", *_glue("qqp", "question1", "question2", metrics=("f1", "accuracy"))),
    "trec": (
        "local",
        {"train": ["trec/train.tsv"], "test": ["trec/test.tsv"]},
        {"text": "text", "label": "coarse"},
    ),
    "local": ("local", {}, {}),
}
