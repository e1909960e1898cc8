"""Fine-tuning: `--config=configs/finetune.py:task=sst2[,model=electra|deberta][,size=…][,sift=true]`.

    python -m electra_jax.finetune --config=configs/finetune.py:task=sst2,model=electra,size=base \\
        --workdir=runs/sst2 --init_from=runs/base,random:runs/base

`task`: GLUE's nine (cola sst2 mrpc stsb qqp mnli qnli rte wnli), xnli, squad1, squad2, trec6 and trec47, or
your own files: `local` (classification), `local_regression`, `local_tagging`, `local_embedding` (vectors for
search and similarity) and `local_squad` (SQuAD's format), with --config.task.train=FILE,
--config.task.validation=FILE and, except for the last, the names of the columns. Separate several files with
commas. TREC is downloaded. GLUE, XNLI and SQuAD are read as TFDS datasets: prepare them with tfds, or pass
the directory of a copy as --config.task.source.

`model=electra`: google-research/electra, configure_finetuning.py, finetune/, model/optimization.py, with its
layer-wise decay as published (it decays the top layer twice; `optimizer.top_exponent=1` is what was meant).
Its code uses 1e-4 for `small`; the paper's table says 3e-4, taken here. Weight decay is 0.01 as in the code;
the paper says 0.
`model=deberta`: microsoft/DeBERTa, experiments/glue/*.sh. A task without a script there takes MNLI's values
of its size, but warms up for a tenth of its steps: MNLI's warm-up is longer than the whole run on RTE. With
sift=true (scale-invariant fine-tuning, finetuning/sift.py; 2.7 times the operations of a step and twice its
memory) xsmall, small and base take the values that mnli.sh has for it.

Expected results are those of the encoder's paper; its recipe states them. Not run at their scale here.
"""

from typing import Any

from ml_collections import config_dict

from electra_jax.configuration.recipe_argument import parse_recipe_argument

# task: (TFDS name or sample, metrics, epochs of ELECTRA's code, type of task)
TASKS = {
    "cola": ("glue/cola", ("matthews",), 3, "classification"),
    "sst2": ("glue/sst2", ("accuracy",), 3, "classification"),
    "mrpc": ("glue/mrpc", ("f1", "accuracy"), 3, "classification"),
    "stsb": ("glue/stsb", ("pearson", "spearman"), 10, "regression"),
    "qqp": ("glue/qqp", ("f1", "accuracy"), 3, "classification"),
    "mnli": ("glue/mnli", ("accuracy",), 3, "classification"),
    "qnli": ("glue/qnli", ("accuracy",), 3, "classification"),
    "rte": ("glue/rte", ("accuracy",), 10, "classification"),
    "wnli": ("glue/wnli", ("accuracy",), 3, "classification"),
    "xnli": ("xnli", ("accuracy",), 3, "classification"),
    "trec6": ("sample:trec", ("accuracy",), 3, "classification"),
    "trec47": ("sample:trec", ("accuracy",), 3, "classification"),
    "local": ("", ("accuracy",), 3, "classification"),
    "local_regression": ("", ("pearson", "spearman"), 3, "regression"),
    "local_tagging": ("", (), 3, "tagging"),
    "squad1": ("squad/v1.1", ("exact_match", "f1"), 2, "question_answering"),
    "squad2": ("squad/v2.0", ("best_exact_match", "best_f1", "exact_match", "f1"), 2, "question_answering"),
    "local_squad": ("", ("exact_match", "f1"), 2, "question_answering"),
    "local_embedding": ("", (), 3, "embedding"),
}
# size: (learning rate, layer-wise decay)
ELECTRA = {"small": (3e-4, 0.8), "base": (1e-4, 0.8), "large": (5e-5, 0.9)}
# (task, size): (epochs, warm-up steps, learning rate, rows, dropout of the head, tokens)
DEBERTA = {
    ("mnli", "xsmall"): (3, 1000, 4.5e-5, 64, 0.1, 256),
    ("mnli", "small"): (3, 1500, 4.5e-5, 64, 0.2, 256),
    ("mnli", "base"): (3, 1000, 1.5e-5, 64, 0.1, 256),
    ("mnli", "large"): (2, 500, 7e-6, 64, 0.3, 256),
    ("qqp", "large"): (6, 1000, 1e-5, 64, 0.2, 320),
    ("qnli", "large"): (6, 200, 7e-6, 64, 0.2, 512),
    ("sst2", "large"): (8, 500, 6e-6, 32, 0.1, 128),
    ("cola", "large"): (10, 50, 5.5e-6, 32, 0.1, 64),
    ("stsb", "large"): (4, 50, 7e-6, 32, 0.1, 128),
    ("mrpc", "large"): (6, 50, 6e-6, 32, 0.2, 128),
    ("rte", "large"): (6, 50, 1e-5, 32, 0.3, 320),
}
# size: (values as above, weight of the penalty); experiments/glue/mnli.sh, deberta-v3-*-sift
SIFT = {
    "xsmall": ((10, 1500, 5e-5, 64, 0.1, 256), 3.0),
    "small": ((6, 1000, 3.5e-5, 64, 0.1, 256), 5.0),
    "base": ((6, 1000, 1.5e-5, 64, 0.1, 256), 5.0),
}
VAT_LAMBDA = 5.0  # elsewhere, as for xxlarge-v2
MODELS = {"electra": tuple(ELECTRA), "deberta": ("xsmall", "small", "base", "large")}

# Of embeddings. Rows and temperature are those of SimCSE without labels (Gao et al. 2021, appendix A); the
# mean of the states is what Sentence-BERT found best (Reimers and Gurevych 2019, section 6).
EMBEDDING_ROWS, EMBEDDING_POOLING, EMBEDDING_LENGTH, TEMPERATURE = 64, "mean", 256, 0.05

# What the settings below do not replace.
DEFAULTS: dict[str, dict[str, Any]] = {
    "task": {
        "kind": "",  # classification, regression, tagging, question_answering or embedding
        "source": "",  # a TFDS dataset or "sample:trec"; "": the files below
        "train": "",
        "validation": "",
        "test": "",
        "validation_fraction": 0.0,  # this share of the training examples becomes the validation split
        "text": "",  # names or numbers of the columns
        "pair": "",
        "label": "",
        "labels": (),  # (): those of the training split
        # XNLI: `language` (en, de, …) is that of the evaluation splits. XNLI has no training split: with
        # task.train="tfds:glue/mnli" it is zero-shot; translate-train is task.train="tfds:xtreme_xnli" with
        # train_language the same, or "all" for all languages.
        "language": "",
        "train_language": "en",
        # The first chooses the best model. (): of tagging span_f1 and tagging_accuracy if the tags are BIO or
        # BIOES, else tagging_accuracy; of other tasks those of their `local` recipe.
        "metrics": (),
        "max_length": 128,
        "max_train_examples": 0,  # chosen at random, always the same; 0: all
        "max_eval_examples": 0,  # of each split to evaluate on that has labels, chosen as for training
        # Of embeddings: columns of texts that do not belong to the text, separated by commas.
        "negatives": "",
        "temperature": TEMPERATURE,  # that similarities are divided by in training
        "matryoshka": (),  # widths: the first 64 dimensions, say, are also trained to be an embedding
        "label_scale": 1.0,  # regression divides its numbers by it for training
        "swaps_pairs": False,  # train on every pair in both orders
        "max_query_length": 64,  # tokens kept of a question
        "doc_stride": 128,  # tokens from one window of the context to the next
        "null_threshold": 0.0,  # questions with a higher no-answer score are left unanswered
    },
    "model": {
        # "published", or "transformers": the head of its classes, which can be exported. They differ for
        # ELECTRA only.
        "head": "published",
        # What classification and regression read: "cls", the state of [CLS], as published; or "mean", that of
        # all tokens: in transformers only ModernBERT's heads can read the mean; other families cannot be
        # exported with it.
        "pooling": "cls",
        "num_layers": 0,  # the first layers of the encoder that are kept; 0: all
        # Embeddings have no head. Of the heads for questions only ModernBERT's has dropout.
        "head_dropout": 0.1,
        "hidden_dropout": 0.1,
        "attention_dropout": 0.1,
        "dtype": "float32",
    },
    "optimizer": {
        "learning_rate": 1e-4,
        "layer_decay": 1.0,  # learning-rate multiplier from one layer to the layer below
        "top_exponent": 1,  # how often the top layer is decayed
        "schedule": "warmup_times_decay",
        "warmup_steps": 0,  # 0: warmup_share of the run
        "warmup_share": 0.1,
        "decay_steps": 0,  # these three apply to schedules with a constant rate, as in pre-training
        "decay_share": 0.1,
        "final_share": 0.0,
        "name": "adam",  # as in pre-training, with the keys that follow
        "beta1": 0.9,
        "beta2": 0.999,
        "epsilon": 1e-6,
        "weight_decay": 0.01,
        "weight_decay_follows": "rate",
        "bias_correction": False,
        "update_clip": 1.0,
        "muon_momentum": 0.95,
        "muon_rms": 0.2,
        "clip_norm": 1.0,
    },
    # Scale-invariant fine-tuning. vat_lambda is the weight of its penalty; 0: without it.
    "sift": {"vat_lambda": 0.0, "learning_rate": 1e-4, "init_perturbation": 1e-2},
    "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
    "train": {
        "num_epochs": 3,
        "batch_size": 32,
        # Steps from one evaluation on the validation split to the next; 0: one after every epoch.
        "validate_every": 0,
        # Which model a run ends with: "last", as in the papers, or "best", the one with the best score on the
        # validation split, by the first of task.metrics. A split called test never chooses.
        "keep": "last",
        "compilation_cache": "parent",  # where compiled programs are kept, as in pre-training
    },
    "log": {"progress": True},
}


def get_config(arg: str | None = None) -> config_dict.ConfigDict:
    """The settings of one task for one size of one family.

    Raises:
      ValueError: an unknown task, model, size or value of sift.
    """
    chosen = parse_recipe_argument(arg, task="trec6", model="electra", size="small", sift="false")
    task, model, size, has_sift = chosen["task"], chosen["model"], chosen["size"], chosen["sift"] == "true"
    for key, known in (
        ("task", TASKS),
        ("model", MODELS),
        ("size", MODELS.get(model, ())),
        ("sift", ("true", "false")),
    ):
        if chosen[key] not in known:
            raise ValueError(
                f"config argument {key}: got {chosen[key]!r}, expected one of {', '.join(known)}."
            )
    source, metrics, epochs, task_type = TASKS[task]
    config = config_dict.ConfigDict(DEFAULTS)
    config.task.update(kind=task_type, source=source, metrics=metrics)
    config.train.num_epochs = epochs
    config.sift.vat_lambda = VAT_LAMBDA if has_sift else 0.0
    if source == "sample:trec":
        config.task.update(text="text", label={"trec6": "coarse", "trec47": "fine"}[task])
    if model == "electra":
        _apply_electra(config, task, size)
    else:
        _apply_deberta(config, task, size, has_sift=has_sift)
    if task_type == "question_answering":
        config.task.max_length = 512
    if task_type == "embedding":
        config.task.max_length = EMBEDDING_LENGTH
        config.model.pooling = EMBEDDING_POOLING
        config.train.batch_size = EMBEDDING_ROWS
    return config


def _apply_electra(config: config_dict.ConfigDict, task: str, size: str) -> None:
    learning_rate, decay = ELECTRA[size]
    config.optimizer.update(learning_rate=learning_rate, layer_decay=decay, top_exponent=2)
    config.task.label_scale = 5.0 if task == "stsb" else 1.0
    config.task.swaps_pairs = task in ("mrpc", "stsb")  # double_unordered
    # That of its submission; a logit, with its own head.
    config.task.null_threshold = -2.75 if task == "squad2" else 0.0


def _apply_deberta(config: config_dict.ConfigDict, task: str, size: str, *, has_sift: bool) -> None:
    has_script = (task, size) in DEBERTA
    values = DEBERTA[task if has_script else "mnli", size]
    if has_sift and size in SIFT:
        has_script = task == "mnli"
        values, config.sift.vat_lambda = SIFT[size]
    epochs, warmup, rate, rows, dropout, length = values
    if not has_script:
        warmup = 0  # optimizer.warmup_share of the run
    config.optimizer.update(learning_rate=rate, warmup_steps=warmup, schedule="warmup_then_decay")
    config.train.update(num_epochs=epochs, batch_size=rows)
    config.model.head_dropout = dropout
    config.task.max_length = length
