"""The suite `input`: builder and loader are timed on one invented text, and the peer makes the same rows."""

import sys
import types

from electra_jax.benchmarks import input as module
from electra_jax.benchmarks.input import input_figures, make_documents, make_peer
from electra_jax.configuration.flags import load_config


def test_the_text_is_the_same_at_every_call():
    first, second = make_documents(3), make_documents(3)
    assert first == second and len(first) == 3 and all(len(text.split()) == 200 for text in first)


def test_every_form_of_reading_has_its_figures(monkeypatch):
    monkeypatch.setattr(module, "VOCABULARY", 512)
    monkeypatch.setattr(module, "BATCH_SIZES", (8, 16))
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)  # without `datasets`
    config = load_config("configs/debug.py").to_dict()
    figures = input_figures(config, rounds=1, steps=2, num_documents=100, rows=32)
    assert figures.pop("peer_datasets_and_tokenizers_tokens_per_second") is None
    assert all(value > 0 for name, value in figures.items() if name.endswith("_per_cpu_second"))
    speeds = {name for name in figures if name.endswith("_per_second")}
    assert speeds == {
        *(f"builder_{name}_tokens_per_second" for name in ("sentencepiece", "wordpiece")),
        *(
            f"loader_{name}_{size}x{length}_rows_per_second"
            for name in ("one", "mixed")
            for size in (8, 16)
            for length in (128, 512)
        ),
    }
    for name in speeds:
        start = name.removesuffix("_tokens_per_second").removesuffix("_rows_per_second")
        assert 0 < figures[f"{start}_lower_quartile"] <= figures[name] <= figures[f"{start}_upper_quartile"]


class OneBatch:
    """A stand-in for datasets.Dataset whose `map` takes all examples at once."""

    def __init__(self, columns, fingerprint):
        assert fingerprint
        self.columns, self.column_names = columns, list(columns)

    def map(self, function, *, batched, remove_columns, load_from_cache_file, **names):
        assert batched and not load_from_cache_file and remove_columns == self.column_names
        assert set(names) == {"cache_file_name", "new_fingerprint"}
        return OneBatch(function(self.columns), names["new_fingerprint"])

    def __len__(self):
        return len(self.columns["input_ids"])


def test_the_peer_groups_all_tokens_into_rows(monkeypatch, tmp_path):
    """With a stand-in for `datasets`, which the tests do not need: its `map` is a plain call."""
    table = types.SimpleNamespace(InMemoryTable=types.SimpleNamespace(from_pydict=dict))
    stand_in = types.SimpleNamespace(Dataset=OneBatch, table=table, disable_progress_bars=lambda: None)
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    documents = make_documents(20)
    tokenizer = module.train_wordpiece(
        documents, str(tmp_path / "wordpiece"), vocab_size=300, text=module.BertText(lowercase=True)
    )
    tokens = sum(map(len, tokenizer.encode_batch(documents)))
    special = 2 * len(documents)  # [CLS] and [SEP] of each
    assert make_peer(tmp_path, documents)() == (tokens + special) // 128 > 10
