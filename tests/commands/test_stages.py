"""Runs with stages: their data are read in order, and such a run is one run, which resumes exactly."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from configs import debug
from data_pipelines import opened_dataset
from data_pipelines.mixture import (
    DatasetSource,
    make_mixture,
    make_sequential,
)
from electra_jax.configuration.resolve import resolve
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context
from electra_jax.distributed.stopping import Stopped
from electra_jax.huggingface.card import RunRecord, make_card, read_record
from electra_jax.huggingface.card_parts import Publication
from electra_jax.models.config import make_pretraining_config
from electra_jax.objectives.electra import electra_flops
from electra_jax.runs import doctor_checks, pretraining
from electra_jax.runs import inputs as run_inputs
from electra_jax.runs.inputs import open_inputs
from electra_jax.runs.pretraining import pretrain
from electra_jax.runs.trained import TrainedRun, dataset_paths, load_run
from electra_jax.training.loop import TrainingLoop
from electra_jax.training.program import make_program
from electra_jax.training.writers import read_metrics
from support.run_records import checkpoints, comparable
from support.staged_run import (
    LENGTHENED,
    LONG,
    MASKED,
    RAMP,
    SHORT,
    configuration,
    make_corpora,
    three_stages,
)
from support.tiny import model_section


@pytest.fixture(scope="module")
def corpora(data, tmp_path_factory):
    """The directory with the datasets of `make_corpora`."""
    root = tmp_path_factory.mktemp("corpora")
    make_corpora(root, data)
    return root


def test_stages_have_one_state_and_pass_the_checks_of_doctor(corpora, tmp_path, monkeypatch):
    opened, looked_at, load = [], [], opened_dataset.load_dataset_info
    look = lambda path: looked_at.append(path) or load(path)
    monkeypatch.setattr(opened_dataset, "load_dataset_info", look)
    config = configuration(corpora, three_stages(corpora))
    finding = doctor_checks.check_run_inputs(config, tmp_path / "run", opened)
    assert finding.problem == "" and finding.text.startswith(
        "1 dataset, rows of 16; from step 9 on 2 datasets, rows of 32: "
    )
    assert sorted(looked_at) == sorted(
        str(corpora / name) for name in ("short", "long", "second") * 2
    )  # opened once a split
    (inputs,) = opened
    infos = [info for stage in inputs.stages[1:] for info in stage.mixture.infos]
    assert inputs.description["data"] == [info.fingerprint for info in infos] and len(infos) == 3
    with axis_context(inputs.mesh):
        states = [
            make_program(
                stage.config, inputs.objective, inputs.mesh, first_step=stage.first_step
            ).abstract_state
            for stage in inputs.stages
        ]
    assert states[0] == states[1] == states[2]
    assert doctor_checks.check_sizes(inputs, tmp_path / "run").problem == ""


@pytest.mark.parametrize(
    ("kind", "changes", "lengths"),
    [
        ("minimal_pairs", {}, [SHORT, LONG]),
        ("task", {}, [SHORT]),
        ("task", {"hidden_dropout": 0.25}, [SHORT, SHORT]),
    ],
    ids=["minimal pairs", "task", "task and another model"],
)
def test_stages_share_a_probe_unless_they_measure_otherwise(
    kind, changes, lengths, corpora, tmp_path, monkeypatch
):
    """Sentences are divided into rows of the stage; a task keeps its rows, so that its figures compare."""
    made, opened = [], []

    def open_probe(config, model, tokenizer, *others):
        # What `MinimalPairProbe` takes for the length of its rows.
        made.append(TrainedRun(tmp_path, {"config": config}, model, tokenizer, 0, None).row_length)
        return f"probe {len(made)}"

    monkeypatch.setattr(pretraining, "open_probe", open_probe)
    config = configuration(corpora, three_stages(corpora), probe__every=4, probe__kind=kind)
    assert doctor_checks.check_run_inputs(config, tmp_path / "run", opened).problem == ""
    *stages, last = opened[0].stages
    last = last._replace(config=last.config | {"model": last.config["model"] | changes})
    probes = pretraining.make_probes(opened[0]._replace(stages=(*stages, last)), tmp_path)
    assert made == lengths and probes == ["probe 1", "probe 1", f"probe {len(lengths)}"]


class Watched:
    """Makes `TrainingLoop`s, and remembers the rows and the length of the logging window at each step;
    `happens` maps a step to a function that is called after it."""

    def __init__(self, monkeypatch):
        self.ids, self.windows, self.happens = {}, {}, {}
        monkeypatch.setattr(pretraining, "TrainingLoop", self.make_loop)
        one = jax.devices()[:1]  # compiles for it in half the time
        monkeypatch.setattr(run_inputs, "make_mesh", lambda sizes: make_mesh(sizes, one))

    def make_loop(self, state, computation, batches, intervals, services):
        def train_step(state, ids):
            number = int(state.step)
            self.ids[number] = np.asarray(ids)
            state, window = computation.train_step(state, ids)
            self.windows[number] = int(window["steps"])
            self.happens.pop(number + 1, lambda: None)()
            return state, window

        watched = computation._replace(train_step=train_step)
        return TrainingLoop(state, watched, batches, intervals, services)


class PowerCut(Exception):
    pass


@pytest.fixture(scope="module")
def whole(corpora, tmp_path_factory):
    """(run directory, what was seen of it) of a run through all stages that nothing interrupted. Tests only
    read it."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as monkeypatch:
        watched = Watched(monkeypatch)
        pretrain(configuration(corpora, three_stages(corpora)), workdir)
    return workdir, watched


@pytest.mark.slow
def test_a_run_reads_the_data_of_its_stages(whole, corpora):
    _, watched = whole
    short = make_mixture([DatasetSource(str(corpora / "short"))], seed=0)
    read = np.concatenate([watched.ids[step] for step in range(LENGTHENED)])
    assert [len(watched.ids[step]) for step in range(12)] == [8] * RAMP + [16] * (12 - RAMP)
    np.testing.assert_array_equal(read, short.read(*short.rows_at(0, 8 * RAMP + 16 * (LENGTHENED - RAMP))))
    both = make_mixture(
        [
            DatasetSource(str(corpora / "long"), 1.0, order=1),
            DatasetSource(str(corpora / "second"), 2.0, order=2),
        ],
        seed=0,
    )
    read = np.concatenate([watched.ids[step] for step in range(LENGTHENED, 12)])
    np.testing.assert_array_equal(read, both.read(*both.rows_at(0, 16 * 3)))


@pytest.mark.slow
def test_windows_evaluations_and_what_the_run_keeps(whole, corpora):
    workdir, watched = whole
    rows = read_metrics(workdir)
    training, evaluation = (
        [row for row in rows if ("eval/mlm_loss" in row) == kind] for kind in (False, True)
    )
    assert [watched.windows[step] for step in range(12)] == [
        1,
        2,
        3,
        4,
        1,
        1,
        2,
        3,
        1,
        1,
        2,
        3,
    ]  # none of two stages
    run = load_run(workdir)
    assert [row["step"] for row in training] == [4, RAMP, 8, LENGTHENED, 12]
    for row in training:  # a token of a longer row costs more
        length = SHORT if row["step"] <= LENGTHENED else LONG
        objective = run.config["objective"] | ({"mask_prob": MASKED} if row["step"] > RAMP else {})
        assert row["model_flops_per_second"] == pytest.approx(
            3 * row["tokens_per_second"] * electra_flops(run.model, length, objective)
        )
    # (1 − step/5) · peak in the first stage; then the peak, and four steps of 1 − √x at the end of the run.
    peak = run.config["optimizer"]["learning_rate"]
    expected = [0.4 * peak, 0.2 * peak, peak, peak, (1 - (3 / 4) ** 0.5) * peak]
    assert [row["learning_rate"] for row in training] == pytest.approx(expected, rel=1e-5)
    held_out = make_sequential(
        [DatasetSource(str(corpora / name), split="validation") for name in ("long", "second")]
    )
    ids = held_out.read(*held_out.cut_to(32).rows_at(0, 32))  # two batches of 16, of both datasets
    assert [row["step"] for row in evaluation] == [LENGTHENED, 12]
    assert {row["eval/tokens"] for row in evaluation} == {float((ids != run.tokenizer.special.pad).sum())}
    assert checkpoints(workdir) == [RAMP, LENGTHENED, 12]
    assert dataset_paths(workdir, run.config, run.step) == [str(corpora / "long"), str(corpora / "second")]
    assert dataset_paths(workdir, run.config, LENGTHENED) == [str(corpora / "short")]
    card = make_card(
        "discriminator",
        run.model.discriminator,
        read_record(workdir, 12),
        Publication(None, None, None),
        is_exact=True,
        with_code=False,
    )
    assert (
        "12 steps of 8 rows of 16 tokens, 16 rows of 16 tokens from step 5, 16 rows of 32 tokens from step "
        f"9, peak learning rate {peak:g}, "
    ) in card
    assert card.count(" | 2, from step 9 | `") == 1


def test_the_card_has_the_settings_of_all_stages_that_were_read():
    config = debug.get_config().to_dict()
    config["train"]["num_steps"], config["optimizer"]["warmup_steps"] = 3_000, 1_000
    second = {"optimizer.schedule": "warmup_constant", "optimizer.learning_rate": 3e-4}
    third = {"optimizer.schedule": "warmup_constant", "optimizer.warmup_steps": 0}
    config["stages"] = ((1_500, second | {"objective.mask_prob": 0.3}), (2_800, third))
    publication, model = Publication(None, None, None), make_pretraining_config(model_section())
    for step, text in (
        (1_500, "rate 0.002, 1,000 steps of warm-up, masking 15%, seed"),
        (2_800, "rate 0.002 then 0.0003, 1,000 steps of warm-up, masking 15% then 30%, seed"),
        (3_000, "rate 0.002 then 0.0003, 1,000 then 0 steps of warm-up, masking 15% then 30%, seed"),
    ):
        record = RunRecord(config, step, None, None, [], [], None)
        card = make_card(
            "discriminator", model.discriminator, record, publication, is_exact=True, with_code=False
        )
        assert f"peak learning {text}" in card


@pytest.mark.slow
def test_other_stages_are_another_run(whole, corpora):
    workdir, _ = whole
    for stages in (
        (),
        three_stages(corpora)[:1],
        ((RAMP + 1, {"train.batch_size": 16}), three_stages(corpora)[1]),
    ):
        with pytest.raises(
            ValueError, match=r"belongs to a run with other settings:\n  config\.stages: the run has \[\[5, "
        ):
            open_inputs(resolve(configuration(corpora, stages)), workdir)
    shutil.copytree(workdir, workdir.with_name("older"))
    path = workdir.with_name("older") / "config.json"
    older = json.loads(path.read_text())
    older["config"] = configuration(corpora) | {"checkpoint": older["config"]["checkpoint"]}
    older["data"] = older["data"][:1]
    del older["config"]["stages"]  # of a run made before there were any
    del older["config"]["assumed"]  # of recipes alone
    path.write_text(json.dumps(older))
    assert len(open_inputs(resolve(configuration(corpora)), path.parent).stages) == 1


@pytest.mark.slow
def test_a_run_interrupted_anywhere_resumes_exactly(whole, corpora, tmp_path, monkeypatch):
    workdir, watched = tmp_path / "run", Watched(monkeypatch)

    def stopped():
        os.kill(os.getpid(), signal.SIGTERM)

    def cut():
        raise PowerCut

    config = configuration(corpora, three_stages(corpora))
    # Within a window; between two stages; one step later; and killed two steps after the next boundary.
    for step, event, error, saved in (
        (3, stopped, Stopped, 3),
        (RAMP, stopped, Stopped, RAMP),
        (RAMP + 1, stopped, Stopped, RAMP + 1),
        (LENGTHENED + 2, cut, PowerCut, LENGTHENED),
    ):
        watched.happens = {step: event}
        with pytest.raises(error):
            pretrain(config, workdir)
        assert checkpoints(workdir)[-1] == saved
    pretrain(config, workdir)
    assert comparable(workdir) == comparable(whole[0])
    for one, other in zip(
        *(jax.tree.leaves(load_run(path).params) for path in (workdir, whole[0])), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_dataset_is_continued_wherever_it_lies(corpora, tmp_path):
    shutil.copytree(corpora / "long", tmp_path / "copy")
    (tmp_path / "link").symlink_to(tmp_path / "copy")

    def rows(*places):
        """The rows of three stages that read one dataset at these places."""
        first, *others = places
        changes = [{"data.datasets": str(place), "train.batch_size": 16} for place in others]
        config = configuration(
            corpora,
            tuple(zip((RAMP, LENGTHENED), changes, strict=True)),
            data__datasets=(str(first),),
            data__sequence_length=LONG,
        )
        opened = open_inputs(resolve(config), tmp_path / "run").stages
        return [stage.mixture.rows_at(0, 8)[1].tolist() for stage in opened]

    expected = rows(*[corpora / "long"] * 3)
    assert expected[0] != expected[1] != expected[2]
    assert rows(tmp_path / "copy", f"{tmp_path}/copy/", tmp_path / "link") == expected


@pytest.mark.slow
def test_a_run_resumes_where_its_datasets_moved_and_in_microbatches(whole, corpora, tmp_path, monkeypatch):
    workdir, watched = tmp_path / "run", Watched(monkeypatch)
    watched.happens = {3: lambda: os.kill(os.getpid(), signal.SIGTERM)}
    with pytest.raises(Stopped):
        pretrain(configuration(corpora, three_stages(corpora)), workdir)
    moved = tmp_path / "moved"
    shutil.copytree(corpora, moved)
    config = configuration(moved, three_stages(moved), train__num_microbatches=2, data__prefetch=0)
    pretrain(config, workdir)
    assert watched.ids.keys() == whole[1].ids.keys()
    for step, ids in whole[1].ids.items():
        np.testing.assert_array_equal(watched.ids[step], ids)
    for row, other in zip(comparable(workdir), comparable(whole[0]), strict=True):
        assert row == pytest.approx(other, rel=1e-5, abs=1e-5)
    assert dataset_paths(workdir, config, 12) == [str(moved / "long"), str(moved / "second")]

    # A complete run takes note of the place, and of nothing else.
    before = (workdir / "metrics.jsonl").read_bytes()
    shutil.move(moved, tmp_path / "again")
    moved = tmp_path / "again"
    pretrain(configuration(moved, three_stages(moved), train__num_microbatches=4), workdir)
    assert dataset_paths(workdir, config, 12) == [str(moved / "long"), str(moved / "second")]
    recorded = json.loads((workdir / "config.json").read_text())["config"]
    assert recorded["data"]["datasets"] == [str(moved / "short")]
    assert recorded["train"]["num_microbatches"] == 2
    assert (workdir / "metrics.jsonl").read_bytes() == before

    built_again = json.loads((moved / "long" / "corpus.json").read_text()) | {"fingerprint": "0" * 64}
    (moved / "long" / "corpus.json").write_text(json.dumps(built_again))
    with pytest.raises(ValueError, match=r"from step 9 on, data\.datasets: .*long has other content"):
        pretrain(configuration(moved, three_stages(moved)), workdir)
    shutil.rmtree(moved / "long")
    with pytest.raises(FileNotFoundError, match=r"no such dataset directory: .*/again/long"):
        pretrain(configuration(moved, three_stages(moved)), workdir)
