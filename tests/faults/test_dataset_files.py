"""Files of a dataset that were damaged, lost, swapped or edited before a run starts on it."""

import json
import shutil

import pytest

from support.fault_runs import be_directory, flags, flip, truncate, zero
from support.faults import EXACT, REFUSED, Fault, contents, judge

SAMPLE = 3
ALLOWED = (EXACT, REFUSED)
TRAIN, VALIDATION = (f"electra_corpus-{name}.array_record-00000-of-00001" for name in ("train", "validation"))
OTHERS = ("dataset_info.json", "features.json", "token_counts.npy", "tokenizer/spm.model")
DAMAGES = {
    "removed": lambda path: path.unlink(),
    "empty": lambda path: truncate(path, 0),
    "half of it": lambda path: truncate(path, 0.5),
    "a directory": be_directory,
    "64 zeros": lambda path: zero(path, 0.02, 64),
    "all zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    **{f"a bit at {place:.1%}": lambda path, place=place: flip(path, place) for place in (0, 0.3, 0.7, 1)},
}
# Of a file of rows, whose first fifth holds them; only a part of the rows is read.
PLACES = (0, 0.0003, 0.001, 0.003, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.33, 0.34, 0.5, 0.99)


def damaged(name, damage):
    """Damage a file."""
    return lambda dataset: damage(dataset / name)


def flipped(name, place, bit):
    """Flip a bit of a file."""
    return lambda dataset: flip(dataset / name, place, bit)


def swapped(dataset):
    """The files of rows change places, and corpus.json fits."""
    (dataset / TRAIN).rename(dataset / "aside")
    (dataset / VALIDATION).rename(dataset / TRAIN)
    (dataset / "aside").rename(dataset / VALIDATION)
    sizes = {name: (dataset / name).stat().st_size for name in (TRAIN, VALIDATION)}
    edited(lambda info: [info["splits"][s]["shards"].update({n: sizes[n]}) for s, n in NAMES.items()])(
        dataset
    )


def replaced(name):
    """A file of the dataset that was built with another tokenizer."""
    return lambda dataset: shutil.copy(dataset.parent / "other" / name, dataset / name)


def edited(change):
    """Change the content of corpus.json."""

    def edit(dataset):
        info = json.loads((dataset / "corpus.json").read_text())
        change(info)
        (dataset / "corpus.json").write_text(json.dumps(info))

    return edit


def put(key, value):
    """corpus.json with another value."""
    return edited(lambda info: info.update({key: value}))


def put_in_split(key, value):
    """corpus.json with another value for the rows of training."""
    return edited(lambda info: info["splits"]["train"].update({key: value}))


NAMES = {"train": TRAIN, "validation": VALIDATION}
EDITS = {
    "fingerprint": put("fingerprint", "0" * 64),
    "tokenizer_fingerprint": put("tokenizer_fingerprint", "0" * 64),
    "[PAD] and [MASK] swapped": put("special_ids", {"pad": 4, "cls": 1, "sep": 2, "unk": 3, "mask": 0}),
    "vocab_size smaller": put("vocab_size", 64),
    "vocab_size larger": put("vocab_size", 1_000_000),
    "sequence_length smaller": put("sequence_length", 16),
    "sequence_length larger": put("sequence_length", 64),
    "packing electra": put("packing", "electra"),
    "packing contiguous": put("packing", "contiguous"),
    "packing unknown": put("packing", "none"),
    "sources": put("sources", {}),
    "no splits": put("splits", {}),
    "rows": put_in_split("rows", 900),
    "rows_by_shard": put_in_split("rows_by_shard", [900]),
    "rows_by_shard negative": put_in_split("rows_by_shard", [-951]),
    "no shards": put_in_split("shards", {}),
    "a shard elsewhere": put_in_split("shards", {"../other/" + TRAIN: 1}),
    "digests": put_in_split("digests", {TRAIN: "0" * 64}),
    "tokens": put_in_split("tokens", -1),
    "one more key": put("mine", 1),
}
# What the error names instead of corpus.json: that which does not fit it; "": the dataset.
NAMED = {"vocab_size smaller": "", "vocab_size larger": "config.model.vocab_size"}
FAULTS = [
    *(
        Fault(f"{name} {what}", damaged(name, damage), ALLOWED)
        for name in (TRAIN, VALIDATION, "corpus.json", *OTHERS)
        for what, damage in DAMAGES.items()
    ),
    *(
        Fault(f"{name} bit {number % 8} at {place:.2%}", flipped(path, place, number % 8), ALLOWED)
        for name, path in NAMES.items()
        for number, place in enumerate(PLACES)
    ),
    *(
        Fault(f"{name} of another tokenizer", replaced(name), ALLOWED)
        for name in (TRAIN, *OTHERS[:3], "corpus.json")
    ),
    Fault("rows of training and validation swapped", swapped, (REFUSED,)),
    *(
        Fault(f"corpus.json: {name}", edit, ALLOWED, NAMED.get(name, "corpus.json"))
        for name, edit in EDITS.items()
    ),
]


@pytest.fixture
def dataset(data, tmp_path):
    """A copy of the dataset, with the other one beside it."""
    shutil.copytree(data / "corpus", tmp_path / "corpus")
    (tmp_path / "other").symlink_to(data / "other")
    return tmp_path / "corpus"


def test_a_damaged_dataset_is_refused_or_read_exactly(
    fault, dataset, data, forks, settle, reference, tmp_path
):
    fault.do(dataset)
    before, run = contents(tmp_path), tmp_path / "run"
    fault = fault._replace(names=fault.names or str(dataset))
    words = flags(run, data, data__datasets=dataset)
    started = forks.run("electra_jax.pretrain", *words)
    # A run that meets a damaged row has started and keeps what it wrote; other damages are met before.
    kept = contents(run) if "cannot load the batch of" in started.text else {}
    settle(fault, run, started, before=kept)
    after = {path: digest for path, digest in contents(tmp_path).items() if not path.startswith("run/")}
    assert after == before
    if started.code and kept:
        shutil.rmtree(dataset)
        shutil.copytree(data / "corpus", dataset)
        assert judge(run, reference, forks.run("electra_jax.pretrain", *words)) == EXACT
