"""A run whose sizes and length follow from its data, and which is then made longer and shorter."""

import json
import shutil

import pytest

from electra_jax.configuration.flags import load_config
from electra_jax.runs.doctor_checks import check_run_inputs
from electra_jax.runs.pretraining import pretrain
from electra_jax.runs.provenance import read_sessions
from electra_jax.runs.trained import load_run, read_description
from electra_jax.training.writers import read_metrics
from support.run_records import checkpoints
from support.tiny_run import LENGTH, VOCAB, values

LEFT_TO_THE_DATA = {"model.vocab_size": 0, "data.sequence_length": 0}


def configuration(data, **changes):
    config = load_config("configs/debug.py")
    config.update_from_flattened_dict(
        values(data, **changes) | LEFT_TO_THE_DATA | {"data.datasets": (str(data / "corpus"),)}
    )
    return config.to_dict()


def num_rows(data):
    return json.loads((data / "corpus" / "corpus.json").read_text())["splits"]["train"]["rows"]


@pytest.mark.slow
def test_a_run_has_the_sizes_of_its_data_and_is_made_longer_and_shorter(one_device, data, tmp_path, capsys):
    workdir, kept = tmp_path / "run", {"checkpoint__keep": 20, "log__progress": False}
    num_epochs = 19.5 * 16 / num_rows(data)  # 20 steps of 16 rows
    first = configuration(data, train__num_epochs=num_epochs, **kept)
    assert pretrain(first, workdir)["steps"] == 20
    config = read_description(workdir)["config"]
    assert (config["model"]["vocab_size"], config["data"]["sequence_length"]) == (VOCAB, LENGTH)
    assert (config["train"]["num_steps"], config["train"]["num_epochs"]) == (20, 0.0)
    assert load_run(workdir).params["embeddings"]["word_embeddings"]["embedding"].shape[0] == VOCAB
    assert pretrain(first, workdir)["steps"] == 20  # the same command

    longer = configuration(data, train__num_steps=30, **kept)
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"num_steps: the run has 20, you gave 30\. .*--change_num_steps"):
        pretrain(longer, workdir)
    with pytest.raises(ValueError, match=r"num_steps: the run has 20, you gave 30\. "):
        check_run_inputs(longer, workdir, [])
    assert check_run_inputs(longer, workdir, [], changes_length=True).problem == ""
    assert (workdir / "config.json").read_bytes() == before
    capsys.readouterr()
    assert pretrain(longer, workdir, changes_length=True)["steps"] == 30
    # The recipe's rate of 2e-3 and its product of warm-up and decay.
    line = "20 steps are done; the run now has 30 instead of 20. The last learning-rate schedule now ends at"
    assert line in (err := capsys.readouterr().err) and "0.000667 at this step instead of 0." in err
    rates = {row["step"]: row["learning_rate"] for row in read_metrics(workdir) if "learning_rate" in row}
    assert sorted(rates) == [4, 8, 12, 16, 20, 24, 28]
    assert rates[28] == pytest.approx(2e-3 * (1 - 27 / 30), rel=1e-5)
    assert [one.get("num_steps") for one in read_sessions(workdir)] == [None, [20, 30]]
    assert read_description(workdir)["config"]["train"]["num_steps"] == 30

    with pytest.raises(ValueError, match=r"num_steps: got 25, expected 30 or more: .*checkpoint of step 30"):
        pretrain(configuration(data, train__num_steps=25, **kept), workdir, changes_length=True)
    shutil.rmtree(workdir / "checkpoints" / "30")  # as if it had been stopped at step 20
    shorter = configuration(data, train__num_steps=25, **kept)
    assert pretrain(shorter, workdir, changes_length=True)["steps"] == 25
    assert pretrain(shorter, workdir)["steps"] == 25 and checkpoints(workdir) == [10, 20, 25]

    # To end where the newest checkpoint and an evaluation are, with later rows as after a crash.
    shutil.rmtree(workdir / "checkpoints" / "25")
    ended = configuration(data, train__num_steps=20, **kept)
    assert pretrain(ended, workdir, changes_length=True)["steps"] == 20
    assert read_description(workdir)["config"]["train"]["num_steps"] == 20
    assert read_sessions(workdir)[-1]["num_steps"] == [25, 20]
    assert max(row["step"] for row in read_metrics(workdir)) == 20
    assert pretrain(ended, workdir)["steps"] == 20
