"""`python -m electra_jax.soup`: averages, refusals, probes as scores, and readers of the result."""

import contextlib
import json
import shutil

import jax
import numpy as np
import pytest

from electra_jax.configuration.flags import load_config
from electra_jax.conversion import export_run as export_module
from electra_jax.finetuning import probes
from electra_jax.finetuning.encoders import load_encoder
from electra_jax.huggingface.published_models import to_published
from electra_jax.models.config import encoder_shape, make_pretraining_config
from electra_jax.objectives.registry import make_objective
from electra_jax.runs.trained import check_initial, load_run
from electra_jax.soups import averaging
from electra_jax.soups.averaging import SoupOptions, make_soup
from electra_jax.soups.ingredients import open_ingredient, open_ingredients
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.state import abstract_params
from electra_jax.training.writers import read_metrics
from support.commands import run_module
from support.tiny import SPECIAL
from support.tiny_export import PLAIN, electra_model, make_config
from support.tiny_run import LENGTH, NUM_STEPS

UNIFORM = SoupOptions("uniform", None, [], {}, different_starts=False)


@pytest.fixture(scope="module")
def base(data):
    """(whole configuration, parameters) of a tiny ELECTRA."""
    config = make_config(electra_model(discriminator=encoder_shape(16, 1) | {"num_heads": 2}), data)
    objective = make_objective(config, make_pretraining_config(config["model"]), SPECIAL)
    shapes, _ = abstract_params(objective, LENGTH)
    rng = np.random.default_rng(0)
    return config, jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)


def make_run(workdir, data, base, *states, tokenizer="tokenizer_corpus", **changes):
    """(run directory, parameters of each checkpoint) of a run that started as `base`.

    Args:
      workdir: the run directory.
      data: the datasets and tokenizers.
      base: (configuration, initial parameters).
      states: one for each checkpoint, steps 1, 2, …: "params", or "ema" for a checkpoint with a moving
        average, which is then returned.
      tokenizer: name of its directory.
      changes: of the configuration, by key with "__" for the dots.
    """
    config = json.loads(json.dumps(base[0]))
    for key, value in changes.items():
        *sections, name = key.split("__")
        section = config
        for each in sections:
            section = section[each]
        section[name] = value
    shutil.copytree(data / tokenizer, workdir / "tokenizer")
    (workdir / "config.json").write_text(json.dumps({"config": config, "data": []}))
    rng = np.random.default_rng(len(workdir.name) + sum(map(ord, workdir.name)))
    near = lambda: jax.tree.map(lambda x: x + rng.normal(0, 0.1, x.shape).astype(np.float32), base[1])
    trees = []
    with contextlib.closing(Checkpointer(str(workdir / "checkpoints"), keep=9)) as checkpointer:
        for step, kind in enumerate(states or ("params",), 1):
            state = {"params": near()} | ({"ema": near()} if kind == "ema" else {})
            checkpointer.save(step, state, {})
            trees.append(state[kind])
        checkpointer.wait()
    return workdir, trees


def assert_is_mean(params, trees):
    for ours, *leaves in zip(jax.tree.leaves(params), *map(jax.tree.leaves, trees), strict=True):
        np.testing.assert_allclose(ours, np.mean(leaves, axis=0, dtype=np.float64), atol=5e-7)


def test_the_mean_of_runs_of_steps_and_of_moving_averages(data, base, tmp_path):
    one, first = make_run(
        tmp_path / "one", data, base, "params", "params", "params", stages=[[2, {"train.batch_size": 8}]]
    )
    two, second = make_run(tmp_path / "two", data, base, "ema", objective__disc_weight=9.0, data__seed=3)
    record = make_soup([f"{one}:1", f"{one}", str(two)], tmp_path / "soup", UNIFORM)
    run = load_run(tmp_path / "soup")
    assert_is_mean(run.params, [first[0], first[2], second[0]])
    assert run.step == 0 and run.config["stages"] == [] and run.config["train"]["batch_size"] == 32
    assert run.config["checkpoint"]["init_from"] == "" and run.config["data"]["datasets"] == [
        str(data / "corpus")
    ]
    table = run.params["embeddings"]["word_embeddings"]["embedding"]
    assert len(table.devices()) == 8 and table.dtype == np.float32
    assert record == json.loads((tmp_path / "soup" / "soup.json").read_text())
    assert [
        (each["workdir"], each["step"], each["weight"], each["score"]) for each in record["ingredients"]
    ] == [(str(one), 1, 1 / 3, None), (str(one), 3, 1 / 3, None), (str(two), 1, 1 / 3, None)]
    assert record["start"]["config.train.seed"] == 0 and record["score"] is None and record["trials"] == []
    # Its settings are those of the first checkpoint's stage. A soup can be an ingredient of another.
    make_soup([f"{one}:3", f"{two}:1", f"{one}:1"], tmp_path / "again", UNIFORM)
    again = load_run(tmp_path / "again")
    assert again.config["train"]["batch_size"] == 8
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-7), again.params, run.params)
    make_soup([str(tmp_path / "soup"), f"{one}:1"], tmp_path / "of_soups", UNIFORM)
    assert_is_mean(load_run(tmp_path / "of_soups").params, [jax.device_get(run.params), first[0]])
    # Nothing unfinished is left.
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"one", "two", "soup", "again", "of_soups"}
    # It records the length of its rows, as imports do, whose files may state another one than their recipe.
    assert run.description["trained_length"] == run.row_length
    (tmp_path / "soup" / "config.json").write_text(json.dumps(run.description | {"trained_length": 999}))
    assert open_ingredient(tmp_path / "soup", None).trained_length == 999


def test_it_records_the_shortest_rows_of_its_ingredients(tmp_path, data, base, monkeypatch):
    run, _ = make_run(tmp_path / "run", data, base, "params", "params")

    def open_different(runs, **options):
        first, second = open_ingredients(runs, **options)
        return [first._replace(trained_length=64), second._replace(trained_length=48)]

    monkeypatch.setattr(averaging, "open_ingredients", open_different)
    make_soup([f"{run}:1", f"{run}:2"], tmp_path / "soup", UNIFORM)
    assert load_run(tmp_path / "soup").description["trained_length"] == 48


REFUSED = {
    "one checkpoint": (
        ["a"],
        {},
        ValueError,
        r"--runs: got the checkpoints \['.*/a:2'\], expected two or more different",
    ),
    "one of them twice": (["a", "b", "a:2"], {}, ValueError, r"expected two or more different ones"),
    "no such step": (
        ["a:3", "a"],
        {},
        FileNotFoundError,
        r"expected a checkpoint of step 3, found those of \[1, 2\]",
    ),
    "no run": (["a", "nothing"], {}, FileNotFoundError, "nothing: expected a run directory"),
    "another model": (
        ["a", "model"],
        {},
        ValueError,
        r"/a:2 and .*/model:1 are different models, expected the same:\n"
        r"  config\.model\.layer_norm_epsilon: 1e-12 and 0\.001\nLeave",
    ),
    "another tokenizer": (
        ["a", "tokenizer"],
        {},
        ValueError,
        r"have different tokenizers \(\w{16}… and \w{16}…\)",
    ),
    "other modules": (
        ["a", "mlm"],
        {},
        ValueError,
        r"objective\.name 'electra' and 'mlm'\) have different parameters, exp"
        r"(.|\n)*  discriminator/\S+: \(.*\) and None\n(.|\n)*… and \d+ more\nLeave one",
    ),
    "another seed": (
        ["a", "seed"],
        {},
        ValueError,
        r"started from different or unknown parameters(.|\n)*  config\.train\.seed: 0 and 1\n"
        r"(.|\n)*give --different_starts",
    ),
    "another initializer": (
        ["a", "initializer"],
        {},
        ValueError,
        r"  config\.model\.initializer: 'published' and 'local'",
    ),
    "a run from elsewhere": (
        ["a", "from_b"],
        {},
        ValueError,
        r"  config\.checkpoint\.init_from: None and '/b'\n",
    ),
    "two from elsewhere": (
        ["from_b", "from_c"],
        {},
        ValueError,
        r"  config\.checkpoint\.init_from: '/b' and '/c'\n",
    ),
    "second stages with other detection heads": (
        ["stage_0", "stage_1"],
        {},
        ValueError,
        r"started from different or unknown parameters(.|\n)*:\n  config\.train\.seed: 0 and 1\n",
    ),
    "two imports": (["import_b", "import_c"], {}, ValueError, r"  imported from: 'b' and 'c'\n"),
    "greedy without a score": (
        ["a", "b"],
        {"method": "greedy"},
        ValueError,
        "--score is missing: --method=greedy chooses",
    ),
    "a score that ranks nothing": (
        ["a", "b"],
        {"score": "heldout_unigram_cross_entropy"},
        ValueError,
        "--score: got 'heldout_uni",
    ),
    "a score of no kind": (
        ["a", "b"],
        {"score": "mlm_loss"},
        ValueError,
        r"got 'mlm_loss', expected heldout_METRIC",
    ),
    "no held-out rows": (
        ["lost", "b"],
        {"score": "heldout_mlm_loss"},
        FileNotFoundError,
        "no directory /lost, expected",
    ),
    "rows of others": (
        ["a", "b"],
        {"score": "heldout_mlm_loss", "datasets": ["{data}/other"]},
        ValueError,
        r"--datasets: .*other was built with another tokenizer",
    ),
    "no such probe": (
        ["a", "b"],
        {"score": "probe_x", "probe": {"trian": "f"}},
        ValueError,
        "--probe: got trian, expected",
    ),
}


@pytest.fixture(scope="module")
def pantry(data, base, tmp_path_factory):
    """Run directories by name. Most of them cannot be averaged with "a"."""
    root = tmp_path_factory.mktemp("pantry")
    # Dropout does not change the meaning of parameters.
    make_run(root / "a", data, base, "params", "params", model__hidden_dropout=0.1)
    make_run(root / "b", data, base)
    make_run(root / "model", data, base, model__layer_norm_epsilon=1e-3)
    make_run(root / "tokenizer", data, base, tokenizer="tokenizer_other")
    make_run(root / "mlm", data, base, objective__name="mlm")
    make_run(root / "seed", data, base, train__seed=1)
    make_run(root / "initializer", data, base, model__initializer="local")
    make_run(root / "lost", data, base, data__datasets=["/lost"])
    # Their parameters are not read, and may be those of another model.
    stage = make_config(dict(base[0]["model"]), data, "two_stage"), base[1]
    for name, seed in (("stage_0", 0), ("as_stage_0", 0), ("stage_1", 1)):
        make_run(root / name, data, stage, train__seed=seed, checkpoint__init_from="/first")
    for name in ("b", "c"):
        make_run(root / f"from_{name}", data, base, checkpoint__init_from=f"/{name}")
        run, _ = make_run(root / f"import_{name}", data, base)
        (run / "config.json").write_text(
            json.dumps(json.loads((run / "config.json").read_text()) | {"imported_from": name})
        )
    return root


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_soups_are_refused_before_parameters_are_read(case, pantry, data, tmp_path, monkeypatch):
    runs, options, error, message = REFUSED[case]
    if "datasets" in options:
        options = options | {"datasets": [path.format(data=data) for path in options["datasets"]]}
    monkeypatch.setattr(averaging, "restore_params", None)
    with pytest.raises(error, match=message):
        make_soup([str(pantry / run) for run in runs], tmp_path / "soup", UNIFORM._replace(**options))
    assert not [*tmp_path.iterdir()]


def test_second_stages_that_started_alike_can_be_averaged(pantry):
    runs = [str(pantry / run) for run in ("stage_0", "as_stage_0")]
    first, _ = open_ingredients(runs, different_starts=False)
    assert first.start == {
        "config.checkpoint.init_from": "/first",
        "config.train.seed": 0,
        "config.model.initializer": "published",
        "config.model.initializer_range": 0.02,
    }


def test_existing_directories_are_kept_and_different_starts_can_be_allowed(pantry, data, tmp_path):
    (tmp_path / "soup").mkdir()
    with pytest.raises(
        FileExistsError, match=r"--workdir: .*soup exists, expected a directory to make\. Choose another"
    ):
        make_soup([str(pantry / "a"), str(pantry / "b")], tmp_path / "soup", UNIFORM)
    assert not [*(tmp_path / "soup").iterdir()]
    apart, runs = UNIFORM._replace(different_starts=True), [str(pantry / "a"), str(pantry / "seed")]
    assert make_soup(runs, tmp_path / "apart", apart)["start"] is None
    shutil.copytree(tmp_path / "apart", tmp_path / "as_well")
    for other, start in ((pantry / "a", "  config.train.seed: None and 0\n"), (tmp_path / "as_well", "")):
        with pytest.raises(
            ValueError,
            match=rf"different or unknown parameters(.|\n)*{start}  of a soup: 'several starts' and ",
        ):
            make_soup([str(tmp_path / "apart"), str(other)], tmp_path / "again", UNIFORM)


def test_a_probe_has_the_settings_of_the_run_and_the_given_values(pantry, tmp_path, monkeypatch):
    asked = []

    class Probe:
        def __init__(self, config, model, tokenizer, mesh, directory):
            asked.append(
                (
                    config["probe"]["max_examples"],
                    config["probe"]["train"],
                    config["probe"]["num_epochs"],
                    directory,
                )
            )

        def __call__(self, params):
            return {"frozen_accuracy": float(params["embeddings"]["word_embeddings"]["embedding"][0, 0])}

    monkeypatch.setattr(probes, "Probe", Probe)
    options = SoupOptions(
        "greedy", "probe_frozen_accuracy", [], {"max_examples": "7", "train": "file"}, different_starts=False
    )
    record = make_soup(
        [str(pantry / "a"), str(pantry / "a:1"), str(pantry / "b")], tmp_path / "soup", options
    )
    ((examples, train, epochs, directory),) = asked
    assert (examples, train, epochs, directory.name) == (7, "file", 3, "probe")
    scores = [each["score"] for each in record["ingredients"]]
    assert [each["weight"] for each in record["ingredients"]] == [
        float(score == max(scores)) for score in scores
    ]
    assert record["score"] == {
        "name": "probe_frozen_accuracy",
        "value": max(scores),
        "probe": {"max_examples": "7", "train": "file"},
    }
    assert len(record["trials"]) == 2 and not any(trial["is_kept"] for trial in record["trials"])
    with pytest.raises(
        ValueError, match=r"'probe_f1', which .* does not measure; expected one of probe_frozen_accuracy\."
    ):
        make_soup(
            [str(pantry / "a"), str(pantry / "b")], tmp_path / "other", options._replace(score="probe_f1")
        )
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_the_command_makes_a_greedy_soup_that_other_commands_read(
    finished, environment, tmp_path, monkeypatch
):
    run, made = finished[0], tmp_path / "soup"
    outcome = run_module(
        "electra_jax.soup",
        f"--runs={run},{run}:{NUM_STEPS - 10}",
        f"--workdir={made}",
        "--method=greedy",
        "--score=heldout_mlm_loss",
        environment=environment,
    )
    assert outcome.returncode == 0, outcome.stderr
    record = json.loads((made / "soup.json").read_text())
    newest, older = record["ingredients"]
    trained = [
        row["eval/mlm_loss"]
        for row in read_metrics(run)
        if row["step"] == NUM_STEPS and "eval/mlm_loss" in row
    ]
    assert newest["score"] == pytest.approx(trained[0], abs=1e-6) and newest["score"] < older["score"]
    (trial,) = record["trials"]
    assert trial["is_kept"] == (trial["score"] <= newest["score"]) and trial["to"] == [f"{run}:{NUM_STEPS}"]
    lines = outcome.stdout.splitlines()
    assert lines[0] == f"{newest['weight']:.3f}  {run}:{NUM_STEPS}" and lines[-1] == str(made)
    assert f"[2/2] {run}:{NUM_STEPS - 10}: heldout_mlm_loss {older['score']:.4f}" in outcome.stderr

    average = load_run(made)
    encoder = jax.tree.map(
        np.asarray, to_published(average.params, average.model)["discriminator"].params["encoder"]
    )
    jax.tree.map(
        np.testing.assert_array_equal, load_encoder(str(made), tmp_path / "cache").params["encoder"], encoder
    )
    config = load_config(f"configs/continued.py:run={made}").to_dict()
    check_initial(str(made), config, average.tokenizer.fingerprint)
    monkeypatch.setattr(export_module, "verify_if_possible", lambda *_: None)  # tested elsewhere
    export_module.export_run(made, None, tmp_path / "export", PLAIN)
    card = (tmp_path / "export" / "discriminator" / "README.md").read_text()
    kept = sum(each["weight"] > 0 for each in record["ingredients"])
    assert (
        f"The mean of the parameters of {kept} checkpoint" in card
        and "chosen out of 2 as a greedy soup (Wortsman" in card
    )
    assert "python -m electra_jax.soup" in card
