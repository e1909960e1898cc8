"""Files of predictions: a table for every task, and what GLUE's and SQuAD's leaderboards take."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines.tasks.load import TaskData
from electra_jax.finetuning.metrics import write_glue_predictions
from electra_jax.finetuning.squad_metrics import write_squad_predictions
from electra_jax.finetuning.task_types import TaskType

# (dataset, test split) → file of a GLUE submission. GLUE's diagnostic set is given to MNLI as its split
# "test": --config.task.test=tfds:glue/ax.
GLUE_SUBMISSION = {
    ("glue/cola", "test"): "CoLA.tsv",
    ("glue/sst2", "test"): "SST-2.tsv",
    ("glue/mrpc", "test"): "MRPC.tsv",
    ("glue/stsb", "test"): "STS-B.tsv",
    ("glue/qqp", "test"): "QQP.tsv",
    ("glue/qnli", "test"): "QNLI.tsv",
    ("glue/rte", "test"): "RTE.tsv",
    ("glue/wnli", "test"): "WNLI.tsv",
    ("glue/mnli", "test_matched"): "MNLI-m.tsv",
    ("glue/mnli", "test_mismatched"): "MNLI-mm.tsv",
    ("glue/mnli", "test"): "AX.tsv",
}


def write_predictions(
    directory: Path,
    kind: TaskType,
    task: dict[str, Any],
    data: TaskData,
    split: str,
    predictions: Sequence[Any],
) -> None:
    """SPLIT.tsv in `directory`, a line an example: its index, and its label, number, tags or answer; and what
    leaderboards take: of GLUE's test sets its files, of questions SPLIT.json, with SPLIT_null_odds.json where
    some have no answer."""
    examples = data.splits[split]
    directory.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{index}\t{kind.spell(value)}\n" for index, value in enumerate(predictions))
    (directory / f"{split}.tsv").write_text("index\tprediction\n" + rows, encoding="utf-8")
    submission = GLUE_SUBMISSION.get((task["source"], split))
    if submission:
        write_glue_predictions(directory / submission, predictions, data.labels)
    if kind.name == "question_answering":
        may_be_impossible = any(question.is_impossible for question in data.splits["train"])
        write_squad_predictions(
            directory / f"{split}.json",
            [question.id for question in examples],
            [answer.text for answer in predictions],
            [answer.null_score for answer in predictions] if may_be_impossible else None,
            task["null_threshold"],
        )
