"""Files of predictions: a table for every task, and the submission files of GLUE and SQuAD."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines.json_files import write_json
from data_pipelines.tasks.load import TaskData
from data_pipelines.whole_files import write_text
from electra_jax.finetuning.metrics import write_glue_predictions
from electra_jax.finetuning.span_decoding import Answer
from electra_jax.finetuning.squad_metrics import write_squad_predictions
from electra_jax.finetuning.task_finetuner import Finetuned
from electra_jax.finetuning.task_types import TaskType

# (dataset, test split) → file of a GLUE submission. GLUE's diagnostic set is predicted by a model of MNLI,
# with --config.task.test=tfds:glue/ax.
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
    ("glue/mnli_matched", "test"): "MNLI-m.tsv",
    ("glue/mnli_mismatched", "test"): "MNLI-mm.tsv",
    ("glue/ax", "test"): "AX.tsv",
}


def write_scores(directory: Path, finetuned: Finetuned) -> None:
    """Write training.json: the scores of a run while it was trained, and the step whose model was kept."""
    scores = [
        {"step": score.step, "loss": score.loss, "metrics": score.metrics} for score in finetuned.scores
    ]
    kept = finetuned.scores[-1].step if finetuned.kept_step is None else finetuned.kept_step
    write_json(directory / "training.json", {"kept_step": kept, "scores": scores})


def write_predictions(
    directory: Path,
    task_type: TaskType,
    task: dict[str, Any],
    data: TaskData,
    split: str,
    predictions: Sequence[Any],
) -> None:
    """Write the predictions of one split to `directory`.

    SPLIT.tsv has a line for each example: its index, and its label, number, tags or answer. The index counts
    the examples of the split from 0. A test set of GLUE, read by its name or from a directory, also gets its
    submission file. Questions also get SPLIT.json.

    If some questions of the split have no answer, those with a null score above config.task.null_threshold
    are left unanswered in both files, as where the split is scored, and SPLIT_null_odds.json has the null
    scores. Of a split without labels, the training questions tell whether some have no answer.

    Args:
      task: config.task.
      predictions: one per example, in the order of `data.splits[split]`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if task_type.name == "question_answering":
        predictions = _write_answers(directory, task, data, split, predictions)
    rows = [f"{index}\t{task_type.format_prediction(value)}\n" for index, value in enumerate(predictions)]
    write_text(directory / f"{split}.tsv", "index\tprediction\n" + "".join(rows))
    origin = data.origins.get(split)
    submission = origin and GLUE_SUBMISSION.get((origin.dataset, origin.split))
    if submission:
        write_glue_predictions(directory / submission, predictions, data.labels)


def _write_answers(
    directory: Path, task: dict[str, Any], data: TaskData, split: str, answers: Sequence[Answer]
) -> list[Answer]:
    """Write SPLIT.json and SPLIT_null_odds.json; return the answers, "" where a question is unanswered."""
    questions, threshold = data.splits[split], task["null_threshold"]
    known = questions if questions[0].is_labelled else data.splits["train"]
    may_abstain = any(question.is_impossible for question in known)
    write_squad_predictions(
        directory / f"{split}.json",
        [question.id for question in questions],
        [answer.text for answer in answers],
        [answer.null_score for answer in answers] if may_abstain else None,
        threshold,
    )
    return [
        answer._replace(text="") if may_abstain and answer.null_score > threshold else answer
        for answer in answers
    ]
