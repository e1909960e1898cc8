"""Fetch TREC question classification as TSV: 5,452 questions to train on, 500 to test on.

python -m data_pipelines.sample.trec --out data/trec
"""

from collections.abc import Sequence

from data_pipelines.command_errors import errors_on_the_terminal
from data_pipelines.command_parsers import command_parser
from data_pipelines.path_flags import NEW_DIRECTORY, read_arguments
from data_pipelines.process_ends import signals_as_exit
from data_pipelines.sample import trec_questions

PATHS = {"out": NEW_DIRECTORY}


@errors_on_the_terminal(saves_result=True)
def main(argv: Sequence[str] | None = None) -> None:
    """Fetch, then print the files, the classes and the source."""
    parser = command_parser("data_pipelines.sample.trec", __doc__)
    parser.add_argument("--out", required=True, metavar="DIR", help="directory for train.tsv and test.tsv")
    args = read_arguments(parser, argv, PATHS)
    with signals_as_exit():
        paths = trec_questions.fetch(args.out)
    for split, path in paths.items():
        print(f"{path}  {trec_questions.SPLITS[split]} questions, {path.stat().st_size / 1e3:.0f} kB")
    print(f"classes: {len(trec_questions.COARSE)} coarse, {len(trec_questions.FINE)} fine")
    print(f"source: {trec_questions.SOURCE}")


if __name__ == "__main__":
    main()
