"""Which files of a bucket are copied to this machine to be read."""

import pytest

from electra_jax.runs import bucket_runs
from electra_jax.runs.bucket_runs import BUCKET_FILE, local_directory

RUN = ["config.json", "metrics.jsonl", "tokenizer/spm.model", "probe/a.json", "sample/text/a.jsonl"]
FINE_TUNING = ["config.json", "models/runs_a/model.json", "models/runs_a/tokenizer/spm.model"]
EXPORT = [
    f"{role}/{name}" for role in ("discriminator", "generator") for name in ("config.json", "spm.model")
]
NOT_READ = ["checkpoints/5/state", "plots/loss.png", "predictions/a/validation.tsv", "tensorboard/events"]


@pytest.mark.parametrize("name", ["run", "fine_tuning", "export"])
def test_what_commands_read_is_copied(name, monkeypatch):
    names = {"run": RUN, "fine_tuning": FINE_TUNING, "export": EXPORT}[name]

    def download(url, chosen, directory):
        for one in chosen:
            (directory / one).parent.mkdir(parents=True, exist_ok=True)
            (directory / one).write_text("")

    monkeypatch.setattr(bucket_runs, "sizes_under", lambda url: dict.fromkeys([*names, *NOT_READ], 0))
    monkeypatch.setattr(bucket_runs, "download", download)
    directory = local_directory(f"gs://bucket/{name}")
    found = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    assert found == {*names, BUCKET_FILE}
