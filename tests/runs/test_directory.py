"""What may change when a run resumes: the settings in the table, and where the datasets lie."""

import json
import os
import re

import pytest
from flax.traverse_util import flatten_dict

from configs import deberta_v3, debug, electra, finetune, mcl
from electra_jax.configuration.resolve import resolve
from electra_jax.finetuning.task_files import fingerprint_files
from electra_jax.runs.directory import MAY_CHANGE, README, check_run_directory, may_change
from support.paths import ROOT

WEB, BOOKS, NEWS = "1" * 64, "2" * 64, "3" * 64  # fingerprints
CONTENT = {"web": WEB, "books": BOOKS, "news": NEWS, "copy_of_web": WEB}
RECIPES = [resolve(recipe.get_config().to_dict()).values for recipe in (debug, deberta_v3, electra, mcl)]
RECIPES.append(finetune.get_config("task=local").to_dict())


def description(datasets=("web",), stages=(), content=None, **changes):
    """config.json of a run; its data as `open_inputs` describes them. `changes` by key with "__" for the
    dots."""
    config = debug.get_config()
    config.data.update(datasets=datasets, weights=tuple(range(1, len(datasets) + 1)))
    config.stages = stages
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    resolved, data, before = resolve(config.to_dict()), [], None
    for stage in resolved.stages:
        if stage.config["data"] != before:
            names = [os.path.basename(path.rstrip("/")) for path in stage.config["data"]["datasets"]]
            data += [(CONTENT | (content or {}))[name] for name in names]
        before = stage.config["data"]
    return {"config": resolved.values, "data": data}


def check(tmp_path, run, now):
    """Raises what a resumed run would."""
    (tmp_path / "config.json").write_text(json.dumps(run), encoding="utf-8")
    check_run_directory(tmp_path, now)


def stages(*datasets, **changes):
    """A second stage with other datasets."""
    return (
        (100, {"data.datasets": datasets, "data.weights": tuple(range(1, len(datasets) + 1)), **changes}),
    )


@pytest.mark.parametrize(
    ("run", "now"),
    [
        ({}, {"datasets": ("/scratch/web",)}),
        ({"datasets": ("/data/web",)}, {"datasets": ("../data/web/",)}),
        ({"datasets": ("web", "books")}, {"datasets": ("a/web", "b/books")}),
        # Of the same content; the copies may even lie beside each other.
        ({"datasets": ("web", "copy_of_web")}, {"datasets": ("copy_of_web", "web")}),
        ({"stages": stages("web", "books")}, {"datasets": ("a/web",), "stages": stages("a/web", "a/books")}),
        # One of the two places is forgotten, where both still hold the data.
        ({"stages": stages("web", "books")}, {"datasets": ("a/web",), "stages": stages("web", "a/books")}),
        # A stage that names the datasets of the stage before, or does not.
        ({"stages": stages("web")}, {"datasets": ("a/web",), "stages": stages("web")}),
        (
            {"stages": ((100, {"data.datasets": "web", "train.batch_size": 64}),)},
            {"datasets": ("a/web",), "stages": ((100, {"train.batch_size": 64}),)},
        ),
        (
            {"stages": ((100, {"train.batch_size": 64}),)},
            {"stages": ((100, {"train.batch_size": 64, "train.num_microbatches": 4}),)},
        ),
        ({}, {"data__prefetch": 0, "train__num_microbatches": 8}),
        ({"checkpoint__init_from": "there"}, {"checkpoint__init_from": os.path.abspath("there") + "/"}),
        ({"checkpoint__init_from": "there:5"}, {"checkpoint__init_from": "there"}),
        ({"checkpoint__init_from": "there"}, {"checkpoint__init_from": "./there:5"}),
    ],
)
def test_a_run_resumes_when_the_places_of_its_data_change(run, now, tmp_path):
    check(tmp_path, description(**run), description(**now))


@pytest.mark.parametrize(
    ("run", "now", "message"),
    [
        (
            {"datasets": ("web", "books")},
            {"datasets": ("a/books", "a/web")},
            r"  config\.data\.datasets: you gave the datasets of the run in another order, a/books,a/web, "
            r"expected a/web,a/books\n",
        ),
        (
            {},
            {"content": {"web": NEWS}},
            r"  config\.data\.datasets: web has other content \(fingerprint 333333333333…\) than the dataset "
            r"that the run reads, web \(111111111111…\)\n",
        ),
        ({}, {"datasets": ("a/books",)}, r"  config\.data\.datasets: a/books has other content"),
        (
            {"datasets": ("web", "books")},
            {"datasets": ("web", "books"), "data__weights": (2, 1)},
            r"  config\.data\.weights: the run has \[1\.0, 2\.0\], you gave \[2\.0, 1\.0\]\n",
        ),
        (
            {},
            {"datasets": ("web", "books")},
            r"  config\.data\.datasets: the run has \['web'\], you gave \['web', 'books'\]\n",
        ),
        (
            {"stages": stages("web", "books")},
            {"stages": stages("web", "news")},
            r"settings:\n  config\.stages, from step 100 on, data\.datasets: news has other content",
        ),
        # A stage inherits them: one line.
        (
            {"stages": ((100, {"train.batch_size": 64}),)},
            {"datasets": ("books",), "stages": ((100, {"train.batch_size": 64}),)},
            r"settings:\n  config\.data\.datasets: books has other content .*\nUse another",
        ),
        (
            {"stages": stages("web", "books")},
            {"stages": ()},
            r"settings:\n  config\.stages: the run has \[\[100, .*you gave \[\]\nUse another",
        ),
        ({"stages": stages("web")}, {"stages": stages("web", **{"train.batch_size": 64})}, r"config\.stages"),
        (
            {"checkpoint__init_from": "there"},
            {"checkpoint__init_from": "elsewhere"},
            r"checkpoint\.init_from: the run has 'there', you gave 'elsewhere'\. Give the former, even if",
        ),
        (
            {"checkpoint__init_from": "there:5"},
            {"checkpoint__init_from": "there:6"},
            r"checkpoint\.init_from: the run has 'there:5', you gave 'there:6'\. Give the former",
        ),
    ],
)
def test_other_data_are_another_run(run, now, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        check(tmp_path, description(**run), description(**now))
    assert str(caught.value).endswith(f": {README}.")


def test_each_setting_of_a_recipe_may_change_or_is_an_error(tmp_path):
    matched = set()
    for config in RECIPES:
        whole = json.loads(json.dumps(config))
        files = {"files": {split: [WEB] for split in ("train", "validation", "test")}}
        (tmp_path / "config.json").write_text(json.dumps({"config": whole} | files), encoding="utf-8")
        for key in flatten_dict(whole).keys() - {("model", "disentangled"), ("objective", "name")}:
            changed = json.loads(json.dumps(whole))
            section = changed
            for name in key[:-1]:
                section = section[name]
            other = "elsewhere" if isinstance(section[key[-1]], str) else 12345
            section[key[-1]] = [[1, {"train.batch_size": 7}]] if key == ("stages",) else other
            name = ".".join(("config", *key))
            if may_change(name):
                check_run_directory(tmp_path, {"config": changed} | files)
                matched.add(name)
            else:
                with pytest.raises(ValueError, match=rf"(?m)^  {re.escape(name)}: the run has "):
                    check_run_directory(tmp_path, {"config": changed} | files)
    for pattern in (pattern for settings in MAY_CHANGE for pattern in settings.keys):
        assert any(name.startswith(f"config.{pattern.removesuffix('*')}") for name in matched), pattern


def test_the_readme_has_the_table_of_the_code(golden):
    path, anchor = README.split("#")
    text = (ROOT / path).read_text(encoding="utf-8")
    rows = [
        f"| {', '.join(f'`{key}`' for key in settings.keys)} | {settings.reason} |" for settings in MAY_CHANGE
    ]
    header = "| may change | what it is |\n|---|---|\n"
    table = header + "\n".join(rows) + "\n"
    assert f"## {anchor.capitalize()}\n" in text
    before, found, rest = text.partition(header)
    assert found, "the table is missing"
    after = rest[rest.index("\n\n") + 1 :]
    if golden.update:
        (ROOT / path).write_text(before + table + after, encoding="utf-8")
    else:
        assert text == before + table + after, (
            "README and MAY_CHANGE differ; if MAY_CHANGE is right: "
            f"python -m pytest --update-golden {golden.test_file}"
        )


def test_an_experiment_knows_its_files_by_their_content(tmp_path):
    def experiment(directory, text="good\tyes\n", name="train.tsv"):
        path = tmp_path / directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        config = finetune.get_config("task=local").to_dict()
        config["task"] |= {"train": f"{path}, tfds:glue/sst2", "validation": str(path)}
        return {"config": config, "files": fingerprint_files(config["task"])}

    run = experiment("here")
    for name in ("train.tsv", "of.2024.TSV"):
        check(tmp_path, run, experiment("there", name=name))
    with pytest.raises(
        ValueError, match=r"config\.task\.train: .*here/train\.tsv, tfds:glue/sst2 has other co"
    ):
        check(tmp_path, run, experiment("here", "bad\tno\n"))
    with pytest.raises(ValueError, match=r"config\.task\.validation: .*train\.csv has other content"):
        check(tmp_path, run, experiment("here", name="train.csv"))  # would be read otherwise
    gone = experiment("there")
    gone["config"]["task"]["test"] = "nowhere.tsv"
    with pytest.raises(ValueError, match=r"config\.task\.test: nowhere\.tsv has other content .*, no file\n"):
        check(tmp_path, run, gone | {"files": gone["files"] | {"test": [WEB]}})
    (tmp_path / "there" / "train.tsv").unlink()  # `load_task` has the error for this
    check(tmp_path, run, gone | {"files": fingerprint_files(gone["config"]["task"])})

    older = {"config": run["config"]}  # without fingerprints
    check(tmp_path, older, run)
    with pytest.raises(
        ValueError, match=r"config\.task\.train: the run has '.*here/train\.tsv, .*', you gave"
    ):
        check(tmp_path, older, experiment("there"))
