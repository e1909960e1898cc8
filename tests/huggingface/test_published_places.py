"""No file of an export tells where a run and its data lay, who made it, or on which machine."""

import json
import socket

import pytest

from data_pipelines.json_files import write_json
from electra_jax.conversion import export_run as export_module
from electra_jax.conversion.export import export
from electra_jax.huggingface.export import FINETUNING_FILE, TRAINING_FILE
from electra_jax.huggingface.public_names import name_of, public_command, public_description
from support.tiny_export import PLAIN, electra_model, make_run
from support.tiny_task_exports import ELECTRA, make_model

SECRETS = ("zqx_user", "zqx_machine", "acme_customer", "secret_bucket")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A directory of a user, who is logged in, and exports without verification."""
    monkeypatch.setattr(export_module, "verify_if_possible", lambda *_: None)  # tested elsewhere
    monkeypatch.setenv("HOME", str(tmp_path / "zqx_user"))
    for name in ("USER", "LOGNAME"):
        monkeypatch.setenv(name, "zqx_user")
    monkeypatch.setattr(socket, "gethostname", lambda: "zqx_machine")
    (tmp_path / "zqx_user").mkdir()
    return tmp_path / "zqx_user"


def found_in(directory, *words):
    """(file, word) of every word that a file of an export contains."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert len(files) > 6
    return [(path.name, word) for path in files for word in words if word.encode() in path.read_bytes()]


def test_a_run(data, home):
    workdir, _ = make_run(home / "acme_customer" / "run", data, electra_model())
    config = json.loads((workdir / "config.json").read_text())["config"]
    other = f"{home}/a folder (acme_customer)/of acme_customer = x/other corpus"
    config["data"]["datasets"] = [
        f"{home}/acme_customer/corpus",
        "../acme_customer/more",
        "gs://secret_bucket/c",
    ]
    config["data"]["weights"] = [1.0, 1.0, 1.0]
    config["checkpoint"]["init_from"] = f"{home}/runs/first/"
    config["probe"] |= {"config": f"{home}/own/finetune.py:task=x", "train": f"{home}/a.tsv,{home}/b.tsv"}
    config["probe"]["minimal_pairs"] = f"{home}/blimp"
    config["stages"] = [[5, {"data.datasets": [other], "data.weights": [1.0]}]]
    write_json(
        workdir / "config.json",
        {
            "config": config,
            "data": [],
            "imported_from": f"{home}/MiniLM",
            "imported": [f"discriminator: 3 arrays from {home}/MiniLM/model.safetensors"],
        },
    )
    session = {
        "started": "2026-01-01T00:00:00Z",
        "start_step": 0,
        "command": [
            *("python", "-m", "electra_jax.pretrain", f"--config={home}/x/configs/electra.py:size=small"),
            f"--config.data.datasets={home}/of acme_customer (old)/corpus,gs://secret_bucket/c",
            f"--config.stages=[(5, {{'data.datasets': ('{other}',)}})]",
            "--coordinator=zqx_machine:1234",
            f"--workdir={workdir}",
        ],
        "devices": "1 × cpu",
        "versions": {"jax": "1"},
        "commit": None,
    }
    longer = session | {"start_step": 1, "num_steps": [4_000, 6_000]}
    (workdir / "sessions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in (session, longer)))
    export(workdir, None, home / "out", PLAIN)
    assert found_in(home / "out", *SECRETS, str(home.parent)) == []
    card = (home / "out" / "discriminator" / "README.md").read_text()
    assert (
        "python -m electra_jax.pretrain --config=configs/electra.py:size=small "
        "--config.data.datasets=corpus,c "
        "'--config.stages=[(5, {'\"'\"'data.datasets'\"'\"': ('\"'\"'other corpus'\"'\"',)})]' "
        "--coordinator=HOST:PORT --workdir=run"
    ) in card
    assert "Resumed with 6,000 steps in place of 4,000 (`--change_num_steps`)." in card
    modes = {path.stat().st_mode & 0o777 for path in (home / "out").rglob("*") if path.is_file()}
    assert len(modes) == 1, "weights have the permissions of every other file"
    assert "Imported from MiniLM." in card and "continued from first, with" in card
    published = json.loads((home / "out" / "generator" / TRAINING_FILE).read_text())["config"]
    assert published["data"]["datasets"] == ["corpus", "more", "c"]
    assert published["checkpoint"]["init_from"] == "first" and published["probe"]["train"] == "a.tsv,b.tsv"
    assert published["stages"] == [[5, {"data.datasets": ["other corpus"], "data.weights": [1.0]}]]
    assert published["model"] == config["model"] and published["optimizer"] == config["optimizer"]


@pytest.mark.parametrize(
    "place", ["{home}/acme_customer/{name}", "~/acme_customer/{name}", "../acme_customer/{name}"]
)
def test_a_fine_tuned_model(data, home, place):
    source = make_model(home / "model", data, ELECTRA(), "classification", "published", ["/m/01", "b/c", "~"])
    where = lambda name: place.format(home=home, name=name)
    described = json.loads((source / "model.json").read_text())
    del described["has_checksums"]  # what is edited below has others
    (source / "checksums.json").unlink()
    task = described["task"] | {
        "train": f"{where('a.tsv')},{where('b.tsv')}",
        "validation": where("v.tsv"),
        "test": where("t.tsv"),
    }
    described |= {"task": task, "start": where("base"), "config": described["config"] | {"task": task}}
    (source / "model.json").write_text(json.dumps(described))
    export(source, None, home / "out", PLAIN)
    assert found_in(home / "out", *SECRETS, str(home.parent)) == []
    described = json.loads((home / "out" / FINETUNING_FILE).read_text())
    assert described["labels"] == ["/m/01", "b/c", "~"] and described["start"] == "base"
    assert described["task"]["train"] == "a.tsv,b.tsv" == described["config"]["task"]["train"]
    card = (home / "out" / "README.md").read_text()
    assert "the encoder of `base` on `a.tsv`, `b.tsv` with seed 7" in card and "`/m/01`" in card


def test_names_of_places():
    for place, name in {
        "": "",
        "corpus": "corpus",
        "data/corpus/": "corpus",
        "/a b/c d": "c d",
        "s3://bucket/data/corpus": "corpus",
        "random:/a/run": "random:run",
        "tfds:glue/sst2": "tfds:glue/sst2",
        "tfds:wikipedia/20230601.en:1.0.0@train[:10%]": "tfds:wikipedia/20230601.en:1.0.0@train[:10%]",
        "tfds:/home/me/customer/texts@train": "tfds:texts@train",
        "tfds:~/customer/texts": "tfds:texts",
        "sample:wikitext2": "sample:wikitext2",
        "/home/me/x/configs/finetune.py:task=trec6": "configs/finetune.py:task=trec6",
        "configs/finetune.py:task=trec6": "configs/finetune.py:task=trec6",
        "configs/continued.py:run=/home/me/a run": "configs/continued.py:run=a run",
        "/home/me/own.py:run=runs/customer/b,size=base": "own.py:run=b,size=base",
        "/home/me/own.py/b": "b",
        "a/b, /c/d": "b,d",
    }.items():
        assert name_of(place) == name


def test_what_is_no_place_stays():
    groups = [["encoder/layer_0/.*", 1.0, 0.0], ["/bias$", 1.0, 0.0]]
    description = {"config": {"optimizer": {"groups": groups}, "train": {"seed": 1}}, "labels": ["/a"]}
    assert public_description(description) == description
    words = [
        "--coordinator",
        "machine:1",
        "--workdir",
        "/home/me/b",
        "--config.a=[1, '/c d/e', {'x/y': 0.5}]",
    ]
    expected = """--coordinator HOST:PORT --workdir b '--config.a=[1, '"'"'e'"'"', {'"'"'x/y'"'"': 0.5}]'"""
    assert public_command(words) == expected
    command = ["python", '--config.optimizer.groups=(("a/b",1,1),)', "--config.train.num_steps=10"]
    assert (
        public_command([*command, "-coordinator=machine:1"])
        == "python '--config.optimizer.groups=((\"a/b\",1,1),)' --config.train.num_steps=10 "
        "-coordinator=HOST:PORT"
    )
