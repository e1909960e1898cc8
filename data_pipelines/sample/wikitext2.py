"""Fetch WikiText-2 as JSON lines, one article a line: real text, small enough for a first training run.

python -m data_pipelines.sample.wikitext2 --out data/wikitext2
"""

from collections.abc import Sequence

from data_pipelines.command_errors import errors_on_the_terminal
from data_pipelines.command_parsers import command_parser
from data_pipelines.path_flags import NEW_DIRECTORY, read_arguments
from data_pipelines.process_ends import signals_as_exit
from data_pipelines.sample import wikitext2_articles

PATHS = {"out": NEW_DIRECTORY}


@errors_on_the_terminal(saves_result=True)
def main(argv: Sequence[str] | None = None) -> None:
    """Fetch, then print the files and the licence."""
    parser = command_parser("data_pipelines.sample.wikitext2", __doc__)
    parser.add_argument("--out", required=True, metavar="DIR", help="directory for the three .jsonl files")
    args = read_arguments(parser, argv, PATHS)
    with signals_as_exit():
        paths = wikitext2_articles.fetch(args.out)
    for split, path in paths.items():
        print(f"{path}  {wikitext2_articles.SPLITS[split][1]} articles, {path.stat().st_size / 1e6:.1f} MB")
    print(f"source: {wikitext2_articles.SOURCE}")


if __name__ == "__main__":
    main()
