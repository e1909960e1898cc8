"""Lines that describe a tokenizer on the terminal."""

from collections.abc import Sequence

from data_pipelines.tokenizers.load import Tokenizer


def size_lines(tokenizer: Tokenizer) -> list[str]:
    """Directory, vocabulary size and special ids."""
    special_ids = ", ".join(f"{role} {number}" for role, number in tokenizer.special._asdict().items())
    return [
        f"tokenizer        {tokenizer.directory}",
        f"vocabulary       {tokenizer.num_pieces} pieces, {tokenizer.vocab_size} embedding rows",
        f"special ids      {special_ids}",
    ]


def quality_lines(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Pieces per word, share of unknown pieces and a sample, measured on `texts`; [] if they hold no text."""
    words = sum(len(text.split()) for text in texts)
    ids = [i for row in tokenizer.encode_batch(texts) for i in row]
    if not ids:
        return []
    sample = next(text for text in texts if text.strip())[:120]
    return [
        f"pieces per word  {len(ids) / max(words, 1):.3f}   ({len(texts)} documents)",
        f"unknown pieces   {ids.count(tokenizer.special.unk) / len(ids):.4%}",
        f"sample           {' '.join(tokenizer.pieces(sample))}",
    ]
