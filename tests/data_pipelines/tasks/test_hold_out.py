"""A part of the training examples as the validation split."""

import pytest

from data_pipelines.tasks.hold_out import with_validation
from data_pipelines.tasks.load import load_task
from support.task_settings import classification, write


def table(tmp_path, texts):
    rows = "".join(f"{text}\t{'good' if number % 2 else 'bad'}\n" for number, text in enumerate(texts))
    return write(tmp_path / "train.tsv", f"text\tlabel\n{rows}")


def load(train, fraction, **changes):
    columns = {"text": "text", "label": "label", "validation_fraction": fraction}
    return load_task(classification(train=train, **columns, **changes))


def test_a_share_of_the_training_examples_is_held_out_always_the_same(tmp_path):
    train = table(tmp_path, [f"text {number}" for number in range(50)])
    whole, divided = load(train, 0.0), load(train, 0.2)
    assert list(divided.splits) == ["train", "validation"]
    assert [len(divided.splits[split]) for split in divided.splits] == [40, 10]
    assert divided == load(train, 0.2)
    assert divided.labels == whole.labels
    for examples in divided.splits.values():
        assert examples == [example for example in whole.splits["train"] if example in examples]
    assert sorted([*divided.splits["train"], *divided.splits["validation"]]) == sorted(whole.splits["train"])
    held_out = [whole.splits["train"].index(example) for example in divided.splits["validation"]]
    assert held_out != list(range(10)) and held_out != list(range(40, 50))  # files are often sorted


def test_the_same_text_is_in_one_split_only(tmp_path):
    train = table(tmp_path, [f"text {number % 10}" for number in range(60)])
    splits = load(train, 0.3).splits
    texts = {split: {example.text for example in examples} for split, examples in splits.items()}
    assert not texts["train"] & texts["validation"]
    assert (len(texts["train"]), len(splits["validation"])) == (7, 18)


def test_a_pair_and_the_same_in_the_other_order_are_in_one_split_only(tmp_path):
    pairs = [(f"one {number}", f"two {number}") for number in range(10)]
    rows = "".join(f"{a}\t{b}\t1\n{b}\t{a}\t0\n" for a, b in pairs)
    train = write(tmp_path / "train.tsv", f"text\tpair\tlabel\n{rows}")
    splits = load(train, 0.3, pair="pair").splits
    found = {
        split: {frozenset((example.text, example.pair)) for example in examples}
        for split, examples in splits.items()
    }
    assert not found["train"] & found["validation"]
    assert (len(splits["train"]), len(splits["validation"])) == (14, 6)


def test_a_test_split_stays(tmp_path):
    train = table(tmp_path, ["one", "two", "three", "four"])
    splits = load(train, 0.25, test=train).splits
    assert [(split, len(examples)) for split, examples in splits.items()] == [
        ("train", 3),
        ("validation", 1),
        ("test", 4),
    ]


def test_small_splits_keep_an_example_each(tmp_path):
    train = table(tmp_path, ["one", "two"])
    for fraction in (0.01, 0.99):
        assert [len(examples) for examples in load(train, fraction).splits.values()] == [1, 1]


@pytest.mark.parametrize("split", ["validation", "validation_matched", "dev"])
def test_a_second_validation_split_is_an_error(split):
    with pytest.raises(
        ValueError, match=rf"validation_fraction: got 0\.1, but the data has the split {split}"
    ):
        with_validation({"train": [], split: []}, 0.1)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 10.0, float("nan")])
def test_wrong_shares_are_errors(tmp_path, fraction):
    with pytest.raises(ValueError, match=r"validation_fraction: got .*expected a share between 0 and 1"):
        load(table(tmp_path, ["one", "two"]), fraction)


def test_one_text_cannot_be_divided(tmp_path):
    with pytest.raises(ValueError, match="has 1 different texts, expected 2 or more"):
        load(table(tmp_path, ["one", "one"]), 0.1)
