"""BM25 as a yardstick for embeddings: a search by words alone, on the same queries and texts.

The library is bm25s (Lù 2024, arXiv:2407.03618), which needs NumPy alone, with its defaults: Lucene's variant
with k1 = 1.5 and b = 0.75 on lower-case words of two letters and more. No stop words and no stemming, so that
it is the same for every language that has blanks between words.

Shapes: C texts that are searched, Q queries with a text that belongs to them.
"""

import functools
import logging
from collections.abc import Sequence

import numpy as np

from data_pipelines.installation import install_command
from data_pipelines.tasks.embedding_examples import EmbeddingExample
from data_pipelines.tasks.load import TaskData
from electra_jax.configuration.extras import missing_modules
from electra_jax.finetuning.retrieval import RETRIEVAL_METRICS, Found, Search, make_search
from electra_jax.finetuning.task_types import TaskType

EXTRA = "search"


def bm25_notes(task_type: TaskType, data: TaskData) -> list[str]:
    """A sentence for each split that is searched: how well BM25 does."""
    if not set(task_type.metrics) & set(RETRIEVAL_METRICS):
        return []
    if missing_modules(EXTRA):
        return [f"BM25 is not compared with, since bm25s is not installed. Run {install_command(EXTRA)}."]
    notes = []
    for split, examples in data.splits.items():
        if split != "train" and task_type.is_labelled(examples[0]):
            plan = make_search(examples)
            values = task_type.score(examples, bm25_search(examples, plan))
            words = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
            sizes = f"{len(set(plan.pairs_Q2[:, 0].tolist())):,} queries, {len(plan.searched_C):,} texts"
            notes.append(f"{split} ({sizes}): BM25, a search by words alone, has {words}")
    return notes


def bm25_search(examples: Sequence[EmbeddingExample], plan: Search) -> list[Found]:
    """As `search`, by the scores of BM25 instead of vectors. `plan` is that of the examples."""
    import bm25s  # of an extra

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # otherwise it reports every step
    words_of = functools.partial(bm25s.tokenize, stopwords=None, return_ids=False, show_progress=False)
    texts = list(plan.numbers)
    index, searched = bm25s.BM25(), words_of([texts[number] for number in plan.searched_C])
    has_words = any(searched)  # without any, the library divides by zero
    if has_words:
        index.index(searched, show_progress=False)
    ranks_Q = np.ones(len(plan.pairs_Q2), np.int64)
    queries = words_of([texts[number] for number in plan.pairs_Q2[:, 0]])
    for at, ((query, own), words) in enumerate(zip(plan.pairs_Q2, queries, strict=True)):
        scores_C = index.get_scores(words) if words and has_words else np.zeros(len(searched))
        is_nearer_C = scores_C >= scores_C[plan.searched_C == own]
        ranks_Q[at] += (is_nearer_C & (plan.searched_C != own) & (plan.searched_C != query)).sum()
    return [Found(float("nan"), ranks) for ranks in plan.ranks_of(examples, ranks_Q)]
