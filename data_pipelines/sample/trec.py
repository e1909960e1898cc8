"""Fetch TREC question classification as TSV: 5,452 questions to train on, 500 to test on.

python -m data_pipelines.sample.trec --out data/trec
"""

import argparse
from collections.abc import Sequence

from data_pipelines.bucket_flags import check_urls
from data_pipelines.command_errors import errors_on_the_terminal
from data_pipelines.home_directory import parse_arguments
from data_pipelines.sample import trec_questions


@errors_on_the_terminal(saves_result=True)
def main(argv: Sequence[str] | None = None) -> None:
    """Fetch, then print the files, the classes and the source."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.sample.trec",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="directory for train.tsv and test.tsv")
    args = parse_arguments(parser, argv)
    check_urls(vars(args))
    for split, path in trec_questions.fetch(args.out).items():
        print(f"{path}  {trec_questions.SPLITS[split]} questions, {path.stat().st_size / 1e3:.0f} kB")
    print(f"classes: {len(trec_questions.COARSE)} coarse, {len(trec_questions.FINE)} fine")
    print(f"source: {trec_questions.SOURCE}")


if __name__ == "__main__":
    main()
