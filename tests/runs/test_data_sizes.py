"""Sizes that are 0 in a configuration are those of the data, and everything that a run writes has numbers."""

import json

import pytest

from configs import continued
from electra_jax.benchmarks.suites import SUITES
from electra_jax.comparison.pretraining import check_runs, with_values_of_data
from electra_jax.configuration.recipes import load_config
from electra_jax.configuration.resolve import resolve
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.runs.data_sizes import resolve_run, with_data_sizes


@pytest.fixture
def datasets(tmp_path):
    """Function that makes datasets without rows: name → vocabulary and row length."""

    def make(**sizes):
        for name, (vocab_size, length) in sizes.items():
            (tmp_path / name).mkdir()
            info = {
                "fingerprint": name,
                "tokenizer_fingerprint": "tokenizer",
                "special_ids": {"pad": 0, "cls": 1, "sep": 2, "unk": 3, "mask": 4},
                "vocab_size": vocab_size,
                "sequence_length": length,
                "packing": "documents",
                "sources": {},
                "splits": {},
            }
            (tmp_path / name / "corpus.json").write_text(json.dumps(info), encoding="utf-8")
        return [str(tmp_path / name) for name in sizes]

    return make


def recipe(argument, datasets=(), stages=(), **changes):
    """A recipe on some datasets; `changes` by key with "__" for the dots."""
    config = load_config(argument)
    if datasets:
        config.data.update(datasets=tuple(datasets), weights=(1.0,) * len(datasets))
    config.stages = stages
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config.to_dict()


def sizes(config):
    """(vocabulary, row length)."""
    return config["model"]["vocab_size"], config["data"]["sequence_length"]


def write_run(directory, config):
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"config": config, "data": []}), encoding="utf-8")
    return directory


@pytest.mark.parametrize(
    "argument",
    [
        "configs/electra.py:size=base",
        "configs/deberta_v3.py",
        "configs/mcl.py:size=small",
        "configs/debug.py",
    ],
)
def test_the_sizes_of_the_data_are_those_of_the_model(argument, datasets, tmp_path):
    config = recipe(argument, datasets(web=(8192, 128), books=(8192, 128)))
    resolved = resolve_run(config, tmp_path / "run")
    assert sizes(resolved.values) == sizes(resolved.stages[0].config) == (8192, 128)
    assert resolved.model.generator.vocab_size == resolved.model.discriminator.vocab_size == 8192
    assert "assumed" not in resolved.values and resolve(resolved.values).values == resolved.values
    # The table of positions does not follow the data.
    assert resolved.values["model"]["max_position_embeddings"] == config["model"]["max_position_embeddings"]


def test_a_size_that_is_given_stays(datasets, tmp_path):
    config = recipe(
        "configs/electra.py", datasets(web=(8192, 128)), model__vocab_size=9000, data__sequence_length=64
    )
    assert sizes(resolve_run(config, tmp_path / "run").values) == (9000, 64)  # open_inputs refuses the 64


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("configs/electra.py:size=small", (30522, 128)),
        ("configs/electra.py:size=large", (30522, 512)),
        ("configs/deberta_v3.py:size=base", (128_100, 512)),
        ("configs/deberta_v3.py:size=mdeberta", (251_000, 512)),
        ("configs/mcl.py:size=base", (64_000, 512)),
        ("configs/mcl.py:size=small", (64_000, 128)),
        ("configs/debug.py", (1024, 64)),
    ],
)
def test_without_data_the_sizes_are_the_published_ones(argument, expected):
    config = recipe(argument)
    assert sizes(config) == (0, 0)
    assert sizes(with_assumed_sizes(config)) == sizes(resolve(config).values) == expected


def test_the_sample_has_the_row_length_that_the_recipe_assumes(tmp_path):
    for argument, length in (("configs/electra.py:size=base", 512), ("configs/electra.py:size=small", 128)):
        assert sizes(resolve_run(recipe(argument), tmp_path / "run").values) == (8192, length)
    pretraining = recipe("configs/evaluate.py")["pretraining"]
    assert sizes(with_values_of_data(pretraining, tmp_path)) == (8192, 128)


def test_every_stage_has_the_row_length_of_its_datasets(datasets, tmp_path):
    short, long, longest = datasets(short=(512, 64), long=(512, 128), longest=(512, 256))
    stages = (
        (10, {"train.batch_size": 8}),
        (20, {"data.datasets": long}),
        (30, {"data.datasets": (long, long), "data.weights": (1, 3)}),
        (40, {"data.datasets": longest, "data.weights": 1, "data.sequence_length": 256}),
        (50, {"data.datasets": short, "data.sequence_length": 0}),
    )
    config = recipe("configs/debug.py", [short], stages)
    resolved = resolve_run(config, tmp_path / "run")
    lengths = [stage.config["data"]["sequence_length"] for stage in resolved.stages]
    assert lengths == [64, 64, 128, 128, 256, 64]
    assert [changes.get("data.sequence_length") for _, changes in resolved.values["stages"]] == [
        None,
        128,
        None,
        256,
        64,
    ]
    assert resolve(json.loads(json.dumps(resolved.values))).values == resolved.values
    # A row length that is given holds until a stage gives another.
    given = recipe("configs/debug.py", [short], stages[:2], data__sequence_length=64)
    assert resolve_run(given, tmp_path / "run").stages[2].config["data"]["sequence_length"] == 64
    assert [stage.config["data"]["sequence_length"] for stage in resolve(config).stages][-2:] == [256, 64]


def test_a_run_of_an_older_version_keeps_its_vocabulary(datasets, tmp_path):
    web = datasets(web=(8192, 128))
    old = with_assumed_sizes(recipe("configs/electra.py:objective=electric", web))
    old["objective"] = old["objective"] | {"vocab_chunk_size": 256}
    run = write_run(tmp_path / "run", old)
    resolved = resolve_run(recipe("configs/electra.py:objective=electric", web), run)
    assert sizes(resolved.values) == (30522, 128)
    assert resolved.values["objective"]["vocab_chunk_size"] == 256
    # With other objectives 0 means the whole vocabulary at once, in a run that began otherwise, too.
    other = resolve_run(recipe("configs/electra.py", web), run)
    assert other.values["objective"]["vocab_chunk_size"] == 0
    write_run(tmp_path / "comparison" / "electra" / "seed_0", old)
    compared = with_values_of_data(recipe("configs/electra.py", web), tmp_path / "comparison")
    assert sizes(compared) == (30522, 128)


def test_a_run_that_began_with_a_decay_that_its_schedule_does_not_read_goes_on(datasets, tmp_path):
    config = recipe("configs/electra.py", datasets(web=(8192, 128)), optimizer__final_share=0.1)
    with pytest.raises(ValueError, match=r"^config\.optimizer\.final_share: got 0\.1 with"):
        resolve_run(config, tmp_path / "run")
    run = write_run(tmp_path / "run", with_assumed_sizes(config))
    assert resolve_run(config, run).values["optimizer"]["final_share"] == 0.1
    check_runs([{run: with_assumed_sizes(config)}])
    with pytest.raises(ValueError, match=rf"^{tmp_path}/other: config\.optimizer\.final_share"):
        check_runs([{tmp_path / "other": with_assumed_sizes(config)}])


def test_a_run_that_starts_from_another_has_its_vocabulary(datasets, tmp_path):
    web, long = datasets(web=(8192, 128), long=(8192, 512))
    first = write_run(tmp_path / "first", with_assumed_sizes(recipe("configs/electra.py", [web])))
    recipes = (
        recipe("configs/electra.py", [long], checkpoint__init_from=str(first)),
        recipe(f"configs/continued.py:run={first}", [long]),
    )
    for config in recipes:
        assert sizes(with_data_sizes(config, [tmp_path / "second"])) == (30522, 512)
    assert sizes(resolve(continued.get_config(f"run={first}").to_dict()).values) == (30522, 128)


@pytest.mark.parametrize(("vocab_size", "chunk_size"), [(512, 128), (8192, 2048), (50_000, 2048)])
def test_objectives_that_need_chunks_get_them_for_the_vocabulary_of_the_data(
    vocab_size, chunk_size, datasets, tmp_path
):
    web = datasets(web=(vocab_size, 128))
    for name in ("electric", "all_tokens_mlm"):
        config = recipe(f"configs/electra.py:objective={name}", web)
        assert config["objective"]["vocab_chunk_size"] == 0
        resolved = resolve_run(config, tmp_path / "run")
        assert resolved.values["objective"]["vocab_chunk_size"] == chunk_size
        given = recipe(f"configs/electra.py:objective={name}", web, objective__vocab_chunk_size=100)
        assert resolve_run(given, tmp_path / "run").values["objective"]["vocab_chunk_size"] == 100
    assert (
        resolve_run(recipe("configs/electra.py", web), tmp_path / "run").values["objective"][
            "vocab_chunk_size"
        ]
        == 0
    )


def test_what_nobody_knows_is_an_error(tmp_path):
    config = recipe("configs/electra.py")
    for key, message in (
        ("vocab_size", r"config\.model\.vocab_size: got 0, .*--config\.model\.vocab_size=N"),
        ("sequence_length", r"config\.data\.sequence_length: got 0, .*--config\.data\.sequence_length=N"),
    ):
        with pytest.raises(ValueError, match=message):
            resolve(config | {"assumed": config["assumed"] | {key: 0}})
    del config["assumed"]  # a recipe of an older version
    with pytest.raises(ValueError, match=r"config\.model\.vocab_size: got 0"):
        resolve(config)
    missing = recipe("configs/electra.py", [str(tmp_path / "missing")])
    with pytest.raises(FileNotFoundError, match=r"missing: no corpus\.json"):
        resolve_run(missing, tmp_path / "run")


def test_benchmarks_take_recipes_whose_sizes_are_known():
    for suite in SUITES.values():
        assert min(sizes(with_assumed_sizes(recipe(suite.default_config)))) > 0


def test_what_is_wrong_with_values_and_with_data_comes_together(datasets, tmp_path):
    web = datasets(web=(8192, 128))
    config = recipe(
        "configs/electra.py",
        [*web, str(tmp_path / "missing")],
        data__weights=(1.0,),
        data__sequence_length=64,
        model__vocab_size=1000,
        eval__every=0,
    )
    with pytest.raises(ValueError, match=r"^5 things are wrong:\n") as error:
        resolve_run(config, tmp_path / "run")
    for message in (
        "config.eval.every: got 0, expected 1 or more",
        "config.data.weights: got (1.0,) for 2 datasets",
        "config.data.sequence_length: got 64, but the datasets hold rows of 128. Set",
        "config.model.vocab_size: got 1000, but the datasets' tokenizer has 8192",
        "missing: no corpus.json",
    ):
        assert message in str(error.value)
    # Steps are not computed from values that are not allowed.
    for wrong, message in (
        ({"train__num_epochs": 3.0, "train__batch_size": 0}, r"^config\.train\.batch_size: got 0"),
        ({"train__num_tokens": 1e9, "train__batch_size": 0}, r"^config\.train\.batch_size: got 0"),
        ({"train__num_tokens": float("inf")}, r"^config\.train\.num_tokens: got inf"),
        ({"train__num_epochs": -1.0}, r"^config\.train\.num_epochs: got -1\.0"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            resolve_run(recipe("configs/electra.py", web, **wrong), tmp_path / "run")
        assert "things are wrong" not in str(error.value)
    # Tokens make steps with the row length of the data: without it a long warm-up is no mistake.
    long = {"train__num_tokens": 1e9, "optimizer__warmup_steps": 20_000}
    with pytest.raises(FileNotFoundError, match=r"^\S*missing: no corpus\.json"):
        resolve_run(recipe("configs/mcl.py", [str(tmp_path / "missing")], **long), tmp_path / "run")
    # Epochs need the data, too; where these cannot be read, that alone is reported.
    config = recipe("configs/electra.py", [str(tmp_path / "missing")], train__num_epochs=3.0)
    with pytest.raises(FileNotFoundError, match=r"missing: no corpus\.json"):
        resolve_run(config, tmp_path / "run")


def test_wrong_datasets_are_one_problem_though_their_sizes_are_wanted_too(tmp_path):
    config = recipe("configs/electra.py", stages=((10, {"data.datasets": "sample:a,sample:b"}),))
    where = r"^config\.stages, in the stage from step 10 on: "
    with pytest.raises(ValueError, match=where + r"config\.data\.weights: got \(1\.0,\) for 2 datasets"):
        resolve_run(config, tmp_path / "run")
    config["data"]["datasets"] = ()
    with pytest.raises(ValueError, match=r"^config\.data\.datasets: got none"):
        resolve_run(config | {"stages": ()}, tmp_path / "run")


def test_another_tokenizer_comes_together_with_other_mistakes(datasets, tmp_path):
    one, other = datasets(web=(8192, 128), books=(8192, 128))
    path = tmp_path / "books" / "corpus.json"
    path.write_text(path.read_text().replace('"tokenizer"', '"another"'))
    config = recipe("configs/electra.py", [one, other], eval__every=0)
    with pytest.raises(ValueError, match=r"^2 things are wrong:\n") as error:
        resolve_run(config, tmp_path / "run")
    assert "must have the same sequence_length and tokenizer, got" in str(error.value)
    assert f"{other}: sequence_length 128, tokenizer another" in str(error.value)


def test_a_fine_tuning_is_no_run_to_start_from(tmp_path):
    initial = write_run(tmp_path / "tuned", {"task": {}, "train": {}})
    config = recipe("configs/electra.py", checkpoint__init_from=str(initial))
    with pytest.raises(ValueError, match=r"^config\.checkpoint\.init_from: got '\S+tuned', a fine-tuning"):
        resolve_run(config, tmp_path / "run")
