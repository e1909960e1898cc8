"""Speed of the input: text to rows by the builder, and rows to batches by the loader.

The text is invented: words with Zipf's frequencies. The builder is compared with `datasets` and `tokenizers`
as run_mlm.py of `transformers` uses them, if `datasets` is installed: both make rows of contiguous text from
the same documents and vocabulary, in one process.
"""

import contextlib
import importlib.util
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.corpus_builder import build_corpus
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.loader import Loader
from data_pipelines.mixture import DatasetSource, make_mixture
from data_pipelines.tokenizers.train import train_tokenizer
from data_pipelines.tokenizers.train_wordpiece import train_wordpiece
from data_pipelines.tokenizers.wordpiece import BertText
from electra_jax.benchmarks.timing import Contestant, time_in_turns, tokens_per_second
from electra_jax.benchmarks.training_step import Metrics
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import batch_sharding

LETTERS, NUM_WORDS, VOCABULARY = "etaoinshrdlucmfwypvbgkjqxz", 20_000, 8_192
LENGTHS, BATCH_SIZES = (128, 512), (64, 256, 1024)
# Read in a timed step of the loader: enough that what a loader reads ahead in the next one's turn is little.
ROWS_PER_STEP = 32_768
MIXTURES = {"one": (1.0,), "mixed": (3.0, 1.0)}  # name in the figures → weights


def input_figures(
    config: dict[str, Any], *, rounds: int, steps: int, num_documents: int = 5_000, rows: int = ROWS_PER_STEP
) -> Metrics:
    """Tokens a second of the builder and rows a second of the loader: medians and quartiles; and for each
    second of CPU time, which a busy machine changes less.

    Args:
      config: its `data.prefetch` and `mesh` are those of the loader.
      steps: timed steps of the loader in a turn; of the builder, a step is a whole corpus, and one is timed.
      num_documents: of the text, with 200 words each.
      rows: read in a timed step of the loader.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        documents = make_documents(num_documents)
        (root / "text.txt").write_text("\n\n".join(documents), encoding="utf-8")
        train_tokenizer(documents, str(root / "sentencepiece"), vocab_size=VOCABULARY)
        train_wordpiece(
            documents, str(root / "wordpiece"), vocab_size=VOCABULARY, text=BertText(lowercase=True)
        )
        figures = _builder_figures(root, documents, rounds)
        for length in LENGTHS:
            _build(root, "wordpiece", length)
        return figures | _loader_figures(root, config, rounds, steps, rows)


def make_documents(number: int) -> list[str]:
    """Documents of 200 words, the same at every call."""
    source = random.Random(0)
    letter_weights = [1 / rank for rank in range(1, len(LETTERS) + 1)]
    words = [
        "".join(source.choices(LETTERS, letter_weights, k=source.randint(2, 9))) for _ in range(NUM_WORDS)
    ]
    weights = np.cumsum(1 / np.arange(1, NUM_WORDS + 1)).tolist()
    return [" ".join(source.choices(words, cum_weights=weights, k=200)) for _ in range(number)]


def _build(root: Path, tokenizer: str, length: int) -> int:
    """Build root/TOKENIZER-LENGTH again; returns the number of its training tokens."""
    directory = root / f"{tokenizer}-{length}"
    shutil.rmtree(directory, ignore_errors=True)
    settings = CorpusSettings(
        train=(str(root / "text.txt"),),
        validation_fraction=0.01,
        tokenizer=str(root / tokenizer),
        sequence_length=length,
        packing="contiguous",
    )
    return build_corpus(str(directory), settings).splits["train"]["tokens"]


def _builder_figures(root: Path, documents: list[str], rounds: int) -> Metrics:
    names = ("sentencepiece", "wordpiece")
    steps = {f"builder_{name}": _Metered(lambda name=name: _build(root, name, LENGTHS[0])) for name in names}
    tokens = {f"builder_{name}": _build(root, name, LENGTHS[0]) for name in names}
    peer = "peer_datasets_and_tokenizers"
    if importlib.util.find_spec("datasets") is not None:
        steps[peer], tokens[peer] = _Metered(make_peer(root, documents)), tokens["builder_wordpiece"]
    figures = _measure(steps, tokens, "tokens", rounds=rounds, steps=1, description="builder")
    if peer in steps:
        key = "tokens_per_cpu_second"
        figures["builder_wordpiece_times_peer"] = (
            figures[f"builder_wordpiece_{key}"] / figures[f"{peer}_{key}"]
        )
    else:
        figures[f"{peer}_tokens_per_second"] = None  # `datasets` is not installed
    return figures


def make_peer(root: Path, documents: list[str]) -> Callable[[], object]:
    """The same rows with `datasets`, in one process; nothing is taken from its cache."""
    import datasets
    import tokenizers

    datasets.disable_progress_bars()
    tokenizer = tokenizers.Tokenizer.from_file(str(root / "wordpiece" / "tokenizer.json"))
    length = LENGTHS[0]

    def tokenise(examples: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        return {"input_ids": [one.ids for one in tokenizer.encode_batch(examples["text"])]}

    def group(examples: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        ids = [number for row in examples["input_ids"] for number in row]
        return {"input_ids": [ids[at : at + length] for at in range(0, len(ids) // length * length, length)]}

    def step() -> object:
        with tempfile.TemporaryDirectory() as cache:
            # Fingerprints are given: computing them is no part of the work, and fails with some PyArrow.
            table = datasets.table.InMemoryTable.from_pydict({"text": documents})
            made = datasets.Dataset(table, fingerprint="documents")
            for number, function in enumerate((tokenise, group)):
                made = made.map(
                    function,
                    batched=True,
                    remove_columns=made.column_names,
                    cache_file_name=f"{cache}/{number}.arrow",
                    load_from_cache_file=False,
                    new_fingerprint=f"step{number}",
                )
            return len(made)

    return step


def _loader_figures(root: Path, config: dict[str, Any], rounds: int, steps: int, rows: int) -> Metrics:
    sharding = batch_sharding(make_mesh(config["mesh"]))
    read, numbers = {}, {}
    with contextlib.ExitStack() as stack:
        for length in LENGTHS:
            for name, weights in MIXTURES.items():
                # The same files twice are read as two datasets are.
                sources = [DatasetSource(str(root / f"wordpiece-{length}"), weight) for weight in weights]
                mixture = make_mixture(sources, seed=0)
                for batch_size in BATCH_SIZES:
                    loader = Loader(
                        mixture,
                        batch_size=batch_size,
                        sharding=sharding,
                        prefetch=config["data"]["prefetch"],
                    )
                    key, batches = f"loader_{name}_{batch_size}x{length}", max(1, rows // batch_size)
                    read[key] = _Metered(_reading(stack.enter_context(loader), batches).__next__)
                    numbers[key] = batches * batch_size
        return _measure(read, numbers, "rows", rounds=rounds, steps=steps, description="loader")


def _reading(loader: Loader, batches: int) -> Iterator[None]:
    """Reads the next `batches` batches each time."""
    step = 0
    while True:
        for _ in range(batches):
            loader.batch_at(step)
            step += 1
        yield


class _Metered:
    """A step that counts its CPU time."""

    def __init__(self, step: Callable[[], object]):
        self._step, self.calls, self.seconds = step, 0, 0.0

    def __call__(self) -> None:
        began = time.process_time()
        self._step()
        self.seconds += time.process_time() - began
        self.calls += 1


def _measure(
    metered: dict[str, _Metered], numbers: dict[str, int], unit: str, *, description: str, **turns: int
) -> Metrics:
    """Speeds of steps that each do `numbers` of a unit."""
    contestants = [Contestant(name, step) for name, step in metered.items()]
    seconds = time_in_turns(contestants, description=description, **turns)
    figures: Metrics = {}
    for name, step in metered.items():
        speed = tokens_per_second(seconds[name], numbers[name])
        figures |= {
            f"{name}_{unit}_per_second": speed["median"],
            f"{name}_lower_quartile": speed["lower_quartile"],
            f"{name}_upper_quartile": speed["upper_quartile"],
            f"{name}_{unit}_per_cpu_second": numbers[name] * step.calls / step.seconds,
        }
    return figures
