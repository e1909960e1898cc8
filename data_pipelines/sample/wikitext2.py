"""Fetch WikiText-2 as JSON lines, one article a line: real text, small enough for a first training run.

python -m data_pipelines.sample.wikitext2 --out data/wikitext2
"""

import argparse
from collections.abc import Sequence

from data_pipelines.bucket_flags import check_urls
from data_pipelines.command_errors import errors_on_the_terminal
from data_pipelines.home_directory import parse_arguments
from data_pipelines.sample import wikitext2_articles


@errors_on_the_terminal(saves_result=True)
def main(argv: Sequence[str] | None = None) -> None:
    """Fetch, then print the files and the licence."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.sample.wikitext2",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="directory for the three .jsonl files")
    args = parse_arguments(parser, argv)
    check_urls(vars(args))
    for split, path in wikitext2_articles.fetch(args.out).items():
        print(f"{path}  {wikitext2_articles.SPLITS[split][1]} articles, {path.stat().st_size / 1e6:.1f} MB")
    print(f"source: {wikitext2_articles.SOURCE}")


if __name__ == "__main__":
    main()
