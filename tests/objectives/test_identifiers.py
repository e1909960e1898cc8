"""Names of source code that are masked as wholes, against regular expressions over the text of the rows."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from electra_jax.models.inputs import derive_inputs
from electra_jax.objectives.denoisers import Denoiser, PieceTables, choose_denoised_positions
from electra_jax.objectives.identifiers import choose_identifiers, identifier_tables, names_of
from electra_jax.objectives.reserved_words import RESERVED_WORDS
from support.tiny import SPECIAL, key

# Pieces that spell one name in several ways ("n" + "ame", "name"), words that begin with a digit, reserved
# words in one piece and in two. "▁": white space lies before it.
PIECES = [
    *("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"),
    *("n", "ame", "name", "▁name", "▁n", "_", "x", "▁x", "y2", "2", "▁2", "ret", "urn", "▁return", "return"),
    *("(", ")", "▁=", "▁", ".x", "▁é", "A", "▁class", "a" * 16, "_1", "2)", "▁n(", "urn)"),
]
BARE = [piece.removeprefix("▁") for piece in PIECES]
PARTS = ["" if piece.startswith("[") else re.match("[A-Za-z0-9_]*", piece)[0] for piece in BARE]
TABLES = identifier_tables(
    [
        (part, piece.startswith("▁"), part != bare)
        for part, piece, bare in zip(PARTS, PIECES, BARE, strict=True)
    ]
)
LENGTH, MANY = 64, 400


def random_rows(num_rows=MANY, seed=0):
    """Rows of one to three documents, some with padding behind them."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, len(PIECES), (num_rows, LENGTH)).astype(np.int32)
    ids[:, 0] = SPECIAL.cls
    for row in ids:
        for end in rng.choice(np.arange(8, LENGTH - 2), rng.integers(0, 3), replace=False):
            row[end], row[end + 1] = SPECIAL.sep, SPECIAL.cls
        end = rng.integers(LENGTH - 8, LENGTH)
        row[end], row[end + 1 :] = SPECIAL.sep, SPECIAL.pad
    return ids


def names_in(row):
    """(document, name) → the positions of its tokens, in order; by a regular expression over the text, in
    which a character that no name has stands between all that does not touch."""
    letters, places, document, documents = "", [], 0, []
    for position, number in enumerate(row):
        document += number == SPECIAL.cls
        text = PARTS[number] + "·" * (PARTS[number] != BARE[number])
        text = f" {text}" if PIECES[number].startswith("▁") else text
        letters += text
        places += [position] * len(text)
        documents += [document] * len(text)
    names = {}
    for word in re.finditer("[A-Za-z0-9_]+", letters):
        if not word[0][0].isdigit() and word[0] not in RESERVED_WORDS:
            positions = places[word.start() : word.end()]
            names.setdefault((documents[word.start()], word[0]), []).extend(sorted(set(positions)))
    return names


@functools.partial(jax.jit, static_argnums=2)
def draw(key, ids_BL, most):
    segments_BL = derive_inputs(ids_BL, SPECIAL, 1).segments_BL
    most_B1 = jnp.full((ids_BL.shape[0], 1), most, jnp.int32)
    return choose_identifiers(key, ids_BL, segments_BL, SPECIAL, TABLES, most_B1)


def test_names_are_those_of_the_text():
    ids = random_rows()
    hashes, is_name = jax.device_get(jax.jit(lambda ids: names_of(ids, SPECIAL, TABLES))(ids))
    spelled = {}
    for row, row_hashes, row_is_name in zip(ids, hashes, is_name, strict=True):
        names = names_in(row)
        assert sorted(itertools.chain(*names.values())) == np.flatnonzero(row_is_name).tolist()
        for (_, name), positions in names.items():
            spelled.setdefault(name, set()).update(row_hashes[positions].tolist())
    assert all(len(found) == 1 for found in spelled.values()) and len(spelled) > 1000
    assert len(set.union(*spelled.values())) == len(spelled)  # different names have different hashes
    assert {"name", "x", "namex"} <= set(spelled)


@pytest.mark.parametrize("most", [1, 4, 9, LENGTH])
def test_all_tokens_of_a_name_or_none(most):
    ids = random_rows()
    drawn = np.asarray(draw(key(1), ids, most))
    has_several = False
    for row, mask in zip(ids, drawn, strict=True):
        names = names_in(row)
        shares = {name: mask[positions].mean() for name, positions in names.items()}
        assert set(shares.values()) <= {0, 1}
        chosen = [positions for name, positions in names.items() if shares[name]]
        has_several |= any(
            len(np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)) > 1 for places in chosen
        )
        assert mask.sum() == sum(map(len, chosen)) <= most
        sizes = [len(positions) for positions in names.values()]
        if any(size <= most for size in sizes):
            assert mask.any()
        if most == LENGTH:
            assert all(shares.values())
    assert has_several == (most > 1)


def test_every_name_that_fits_is_as_likely():
    """Six names of one token, one of two tokens at two places, one that is too large; at most four tokens. A
    name is drawn if the tokens of the names before it, and its own, are at most four."""
    number = {piece: index for index, piece in enumerate(PIECES)}
    places = [["A"], ["x"], ["y2"], ["name"], ["_1"], ["a" * 16], ["n", "A"], ["n", "A"]]
    row = [SPECIAL.cls]
    for words in places:
        row += [number[word] for word in words] + [number["("]]
    row += [number["▁n"], number["("]] * 5 + [SPECIAL.sep]
    ids = np.tile(np.array(row, np.int32), (6000, 1))
    drawn = np.asarray(draw(key(2), ids, 4))
    sizes = {name: len(positions) for (_, name), positions in names_in(row).items()}
    assert sorted(sizes.values()) == [1] * 6 + [4, 5]
    singles = [positions for positions in names_in(row).values() if len(positions) == 1]
    counts = drawn[:, [position for (position,) in singles]].sum(0)
    # The large name comes first in one of seven orders, and is then alone; else it stops the drawing where
    # it stands, behind one to six single names, of which at most four are drawn.
    expected = 6000 * sum(min(before, 4) for before in range(1, 7)) / 7 / 6
    assert (abs(counts - expected) < 5 * expected**0.5).all()
    assert not drawn[:, [position for position, one in enumerate(row) if one == number["▁n"]]].any()
    (four,) = [positions for positions in names_in(row).values() if len(positions) == 4]
    assert abs(drawn[:, four[0]].sum() - 6000 / 7) < 5 * (6000 / 7) ** 0.5


def test_a_name_of_two_documents_is_two_names():
    x, bracket = PIECES.index("x"), PIECES.index("(")
    document = [SPECIAL.cls, x, bracket, x, SPECIAL.sep]
    drawn = np.asarray(draw(key(3), np.tile(np.array(document * 2, np.int32), (300, 1)), 2))
    assert {tuple(np.flatnonzero(mask)) for mask in drawn} == {(1, 3), (6, 8)}


def choose(ids, denoisers, pieces):
    ids = jnp.asarray(ids, jnp.int32)
    positions, weights = jax.device_get(
        choose_denoised_positions(
            key(4), ids, derive_inputs(ids, SPECIAL, 1), SPECIAL, 0.15, denoisers=denoisers, pieces=pieces
        )
    )
    is_masked = np.zeros(ids.shape, bool)
    np.put_along_axis(is_masked, positions, True, axis=1)
    return positions, weights, is_masked & (np.arange(LENGTH) > 0)


def test_rows_without_a_name_that_fits_are_masked_by_tokens():
    """With the share of tokens that the denoiser has, in a program that knows no pieces, too."""
    ids = random_rows(40)
    ids[:20][ids[:20] > 4] = PIECES.index("(")
    denoisers = (Denoiser(1.0, 0.2, 1.0, "identifiers"),)
    positions, weights, is_masked = choose(ids, denoisers, PieceTables(identifiers=TABLES))
    most = np.round(0.2 * (ids > 4).sum(1))
    np.testing.assert_array_equal(is_masked.sum(1), weights.sum(1))
    assert positions.shape == (40, int(0.205 * LENGTH))
    assert (weights.sum(1) <= most).all() and (weights.sum(1)[:20] == most[:20]).all()
    for row, mask in zip(ids[20:], is_masked[20:], strict=True):
        assert {mask[places].mean() for places in names_in(row).values()} == {0, 1}
    *_, blind = choose(ids, denoisers, PieceTables())
    np.testing.assert_array_equal(blind[:20], is_masked[:20])
    np.testing.assert_array_equal(blind.sum(1), most)


def test_other_rows_of_a_mixture_are_as_without_it():
    ids = random_rows()
    plain = (Denoiser(1.0, 0.2, 3.0, "tokens"), Denoiser(1.0, 0.2, 1.0, "tokens"))
    mixed = (plain[0], plain[1]._replace(units="identifiers"))
    *_, expected = choose(ids, plain, PieceTables())
    *_, masked = choose(ids, mixed, PieceTables(identifiers=TABLES))
    is_same = (masked == expected).all(axis=1)
    assert MANY * 0.4 < is_same.sum() < MANY * 0.6
