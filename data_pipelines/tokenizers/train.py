"""Train a SentencePiece tokenizer on text: the same text and options give the same bytes on any machine."""

import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from data_pipelines.tokenizers.directory import MODEL_FILES, SpecialIds
from data_pipelines.tokenizers.sentencepiece import (
    FORMAT,
    NORMALIZATIONS,
    SPECIAL,
    SentencePieceTokenizer,
    normalize_text,
)
from data_pipelines.tokenizers.trained import (
    check_text_options,
    first_characters,
    has_trained,
    source_options,
    write_trained,
)

MODEL_TYPES = ("unigram", "bpe")
MAX_TRAINING_CHARS = 20_000_000
CHARACTER_COVERAGE = 0.9995  # of the text: the rarest characters get no piece
MAX_LINE_BYTES = 4000  # SentencePiece silently drops training lines above 4192 bytes
SCORE_STEPS = 64  # scores of a Unigram model are multiples of 1/64: see `_round_scores`
TRAINING_THREADS = 4  # fixed, since the model's bytes depend on it
UNKNOWN_SIGN = "▅"  # SentencePiece's sign for unknown characters; it silently drops lines that hold it
NO_PIECE = "\0"  # a character that SentencePiece puts into no piece
SPECIAL_PIECES = SpecialIds(pad="[PAD]", cls="[CLS]", sep="[SEP]", unk="[UNK]", mask="[MASK]")
BYTE_PIECE = "<0x[0-9A-F]{2}>"  # of byte_fallback


def train_tokenizer(
    documents: Iterable[str],
    directory: str,
    *,
    vocab_size: int,
    model_type: str = "unigram",
    byte_fallback: bool = False,
    normalization: str = "nfkc",
    character_coverage: float = CHARACTER_COVERAGE,
    max_training_chars: int = MAX_TRAINING_CHARS,
) -> SentencePieceTokenizer:
    """Train on the first `max_training_chars` characters of `documents` and save to `directory`.

    The directory appears complete or not at all. If it already holds a tokenizer trained with the same
    options, that one is returned and `documents` is not read.

    The names of the sources of `NamedDocuments` and how they are read are options, too.

    Raises:
      FileExistsError: `directory` holds something else, or a tokenizer of other options.
      ValueError: a wrong option, no text, or a vocabulary size that the text does not allow.
    """
    options = {
        "requested_vocab_size": vocab_size,
        "model_type": model_type,
        "byte_fallback": byte_fallback,
        "normalization": normalization,
        "character_coverage": character_coverage,
        "max_training_chars": max_training_chars,
        **source_options(documents),
    }
    _check_options(options)
    if has_trained(Path(directory), FORMAT, options):
        return SentencePieceTokenizer.load(directory)
    model_bytes = _train_model(_training_lines(documents, options), options)
    tokenizer = SentencePieceTokenizer(directory, model_bytes, normalization)
    write_trained(tokenizer, FORMAT, {MODEL_FILES[FORMAT]: model_bytes}, options)
    return tokenizer


def _check_options(options: dict) -> None:
    """Raises ValueError for an option that SentencePiece would accept silently or refuse without a reason."""
    if options["normalization"] not in NORMALIZATIONS:
        raise ValueError(
            f"normalization: got {options['normalization']!r}, expected one of {', '.join(NORMALIZATIONS)}"
        )
    if options["model_type"] not in MODEL_TYPES:
        raise ValueError(
            f"model_type: got {options['model_type']!r}, expected one of {', '.join(MODEL_TYPES)}"
        )
    fewest = len(SPECIAL) + (256 if options["byte_fallback"] else 0) + 1
    if options["requested_vocab_size"] < fewest:
        raise ValueError(
            f"vocab_size: got {options['requested_vocab_size']}, expected at least {fewest} (special "
            f"pieces{', 256 bytes' if options['byte_fallback'] else ''} and one more)"
        )
    check_text_options(options)


def _training_lines(documents: Iterable[str], options: dict) -> Iterator[str]:
    """Normalised lines of at most MAX_LINE_BYTES, in order, from the first `max_training_chars` characters.

    SentencePiece must not drop a line, nor the letters of "[MASK]" in the text, which it would cut out.
    """
    names = "|".join([*map(re.escape, SPECIAL_PIECES), *([BYTE_PIECE] if options["byte_fallback"] else [])])
    special = re.compile(f"(?:{names})")
    for text in first_characters(documents, options["max_training_chars"]):
        normal = normalize_text(text, options["normalization"]).replace(UNKNOWN_SIGN, NO_PIECE)
        normal = special.sub(lambda found: found[0][0] + NO_PIECE + found[0][1:], normal)
        yield from split_at_spaces(normal, MAX_LINE_BYTES)


def split_at_spaces(text: str, max_bytes: int) -> Iterator[str]:
    """Pieces of at most `max_bytes` UTF-8 bytes, cut at a space if possible, else between two characters."""
    data = text.encode("utf-8", "replace")
    start = 0
    while start < len(data):
        end = min(start + max_bytes, len(data))
        if end < len(data):
            space = data.rfind(b" ", start + 1, end + 1)
            if space > 0:
                end = space
            else:
                while data[end] & 0xC0 == 0x80:  # inside a character
                    end -= 1
        line = data[start:end].decode("utf-8").strip(" ")
        if line:
            yield line
        start = end


def _train_model(lines: Iterator[str], options: dict) -> bytes:
    """The serialised SentencePiece model."""
    first = next(lines, None)
    if first is None:
        raise ValueError("no text to train a tokenizer on: every document was empty; check the input files")
    model, raised = io.BytesIO(), []

    def guarded() -> Iterator[str]:  # SentencePiece ends, or takes what raises for what ends
        yield first
        try:
            yield from lines
        except (Exception, KeyboardInterrupt) as error:
            raised.append(error)
            raise

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=guarded(),
            model_writer=model,
            vocab_size=options["requested_vocab_size"],
            model_type=options["model_type"],
            byte_fallback=options["byte_fallback"],
            character_coverage=options["character_coverage"],
            normalization_rule_name="identity",
            num_threads=TRAINING_THREADS,
            shuffle_input_sentence=False,
            input_sentence_size=0,
            pad_id=SPECIAL.pad,
            bos_id=SPECIAL.cls,
            eos_id=SPECIAL.sep,
            unk_id=SPECIAL.unk,
            pad_piece=SPECIAL_PIECES.pad,
            bos_piece=SPECIAL_PIECES.cls,
            eos_piece=SPECIAL_PIECES.sep,
            unk_piece=SPECIAL_PIECES.unk,
            control_symbols=[SPECIAL_PIECES.mask],
            minloglevel=2,
        )
    except RuntimeError as error:
        if raised:
            raise raised[0] from None
        _raise_vocabulary_error(error, options["requested_vocab_size"])
    if raised:
        raise raised[0]
    return _round_scores(model.getvalue()) if options["model_type"] == "unigram" else model.getvalue()


def _round_scores(model_bytes: bytes) -> bytes:
    """The model with scores whose sums are exact in float32 up to 262,144, that is, for some 30,000 tokens.

    Scores are logarithms of probabilities. SentencePiece adds them in float32, other implementations in
    float64. Where two segmentations are equally good, "**" + "*" and "*" + "**", rounding errors would choose
    in SentencePiece, and the rule (the first found) elsewhere.
    """
    model = sentencepiece_model_pb2.ModelProto.FromString(model_bytes)
    for piece in model.pieces:
        piece.score = round(piece.score * SCORE_STEPS) / SCORE_STEPS
    return model.SerializeToString(deterministic=True)


def _raise_vocabulary_error(error: RuntimeError, vocab_size: int) -> None:
    """Raise `error` as a ValueError, with advice if it is about the vocabulary size."""
    message = str(error)
    too_high = re.search(r"Vocabulary size too high.*value <= (\d+)", message)
    if too_high:
        raise ValueError(
            f"vocab_size: got {vocab_size}, but the text is too small for it: at most {too_high[1]} pieces "
            f"can be learnt; ask for {too_high[1]} or fewer, or give more text"
        ) from error
    too_small = re.search(r"smaller than required_chars. \d+ vs (\d+)", message)
    if too_small:
        raise ValueError(
            f"vocab_size: got {vocab_size}, but the different characters of the text need at least "
            f"{too_small[1]} pieces; ask for more, or lower character_coverage"
        ) from error
    raise ValueError(
        f"SentencePiece cannot train on this text ({message.strip()}); check the input files, and that they "
        "hold more than white space and U+2581"
    ) from error
