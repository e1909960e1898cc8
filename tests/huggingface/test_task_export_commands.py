"""The command that exports a fine-tuned model: what it refuses, and the model cards that it writes."""

import pytest

from electra_jax import convert
from electra_jax.huggingface.export import CARD_FILE
from support.tiny_task_exports import ADDED, DEBERTA, ELECTRA, LABELS, VARIANTS, make_model

USED = {
    "electra_classification": "[{'label': '",
    "electra_regression": "[{'label': 'LABEL_0', 'score': ",
    "relative_classification": "[{'label': '",
    "deberta_tagging": "[('Every', '",
    "deberta_questions": "",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", USED)
def test_the_card_is_right_and_its_code_runs(name, task_exports, capsys):
    card = (task_exports(name)[1] / CARD_FILE).read_text()
    assert "fresh weights in the shape of `base`" in card and "on `train.tsv` with seed 7" in card
    assert (
        "| accuracy | 0.8125 |" in card and "`optimizer.learning_rate=0.0001`" in card and "/some" not in card
    )
    assert all(f"`{label}`" in card for label in LABELS[VARIANTS[name][1]])
    assert ("`classifier_dropout` is 0" in card) == (name in ADDED)
    code = card.partition("```python\n")[2].partition("```")[0]
    capsys.readouterr()  # an export that was only now made has printed its verification
    exec(code.replace('path = "."', f"path = {str(task_exports(name)[1])!r}"), {})
    said = capsys.readouterr().out
    assert said.startswith(USED[name]) and said.strip(), said


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
        'license: "apache-2.0"' in card
        and 'language: "en"' in card
        and "Licence of the task's data: CC BY 4.0." in card
    )
