"""The page of a report: one HTML file that needs no network.

Jinja escapes everything that it is given. A content security policy names the page's own scripts by their
digests, so that no other text can run, and forbids every connection.
"""

import base64
import hashlib
import json
import re
import time
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.whole_files import printable
from electra_jax.reports import overview
from electra_jax.reports.charts import Chart, ChartMaker, mark_colours, styles
from electra_jax.reports.panels import choose_panels
from electra_jax.reports.recipe_difference import differences_between, flat
from electra_jax.reports.run_view import RunView
from electra_jax.reports.token_blocks import blocks_of, verdict_counts
from electra_jax.reports.token_views import TokenViews

FOLDER = Path(__file__).parent
MAX_TEXT = 2_000  # letters of one text from a file
# Letters of these categories are invisible or change how their neighbours are drawn: control, format
# (direction of writing among them), private, surrogate, line and paragraph separators.
HIDDEN = ("Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp")
JOINERS = "\u200c\u200d"  # words of some scripts need them


class Page(NamedTuple):
    """What a page shows."""

    runs: Mapping[str, RunView]
    tokens: Mapping[str, TokenViews]


def visible(text: Any) -> Any:
    """`text` with hidden letters spelled out, such as ⟨U+202E⟩, and the end of a very long text cut off.
    Markup of the templates stays."""
    if hasattr(text, "__html__") or not isinstance(text, str):
        return text
    if len(text) > MAX_TEXT:
        text = f"{text[:MAX_TEXT]} … ({len(text):,} letters)"
    return "".join(
        f"⟨U+{ord(letter):04X}⟩"
        if letter not in JOINERS and unicodedata.category(letter) in HIDDEN
        else letter
        for letter in text
    )


def render(page: Page) -> str:
    """The HTML of a page.

    Raises:
      ImportError: Bokeh is not installed.
    """
    from bokeh.embed import components
    from bokeh.resources import Resources

    maker = ChartMaker(page.runs, visible)
    metrics = {name for run in page.runs.values() for name in run.curves}
    panels = choose_panels(metrics)
    main, more = ([maker.make(panel) for panel in group] for group in panels)
    charts = main + more
    start, divisions = (
        components([chart.figure for chart in charts], wrap_script=False) if charts else ("", ())
    )
    library = Resources(mode="inline", components=["bokeh"], minified=True).js_raw
    scripts = [
        _as_script(text)
        for text in (*library, start, (FOLDER / "page.js").read_text(encoding="utf-8"))
        if text
    ]
    drawn = list(zip(charts, divisions, strict=True))
    environment = _environment()
    html = environment.get_template("page.html").render(
        title=", ".join(page.runs),
        made=time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        policy=_policy(scripts),
        style=environment.filters["unescaped"]((FOLDER / "page.css").read_text(encoding="utf-8")),
        scripts=[environment.filters["unescaped"](text) for text in scripts] if charts else [],
        main=[_drawn(environment, *one) for one in drawn[: len(main)]],
        more=[_drawn(environment, *one) for one in drawn[len(main) :]],
        runs=[_run(page, name) for name in page.runs],
        marks=mark_colours(page.runs),
        figures=overview.figures_table(page.runs),
        differences=_difference_table(page.runs) if len(page.runs) > 1 else None,
    )
    return printable(html)


def _environment() -> Any:
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER, encoding="utf-8"),
        autoescape=True,
        finalize=visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unescaped"] = markupsafe.Markup  # for the page's own scripts, style and charts
    return environment


def _drawn(environment: Any, chart: Chart, division: str) -> dict[str, Any]:
    return {
        "title": chart.title,
        "summary": chart.summary,
        "outside": chart.outside,
        "division": environment.filters["unescaped"](division),
    }


def _run(page: Page, name: str) -> dict[str, Any]:
    """What the sections of one run show."""
    run, tokens = page.runs[name], page.tokens[name]
    return {
        "name": name,
        "place": run.place,
        "state": overview.state_of(run),
        "style": styles(list(page.runs))[name],
        "label": overview.label(page.runs, name) if len(page.runs) > 1 else "",
        "problems": list(dict.fromkeys(run.problems)),
        "reference": _reference(run),
        "events": overview.events_table(run),
        "evaluations": overview.evaluations_table(run),
        "sessions": overview.sessions_table(run),
        "datasets": overview.datasets_table(run),
        "recipe": run.recipe,
        "settings": _settings_table(run),
        "config": overview.Table(
            ["setting", "value"], [[key, _value(value)] for key, value in sorted(flat(run.config).items())]
        ),
        "token_source": tokens.source,
        "sentences": blocks_of(tokens.views),
        "counts": _count_table(tokens),
    }


def _reference(run: RunView) -> str:
    if run.reference is None or run.tokens_per_step is None:  # then no band is drawn
        return ""
    seeds, differences = len(run.reference.seeds), run.reference.differences
    same = "with the same settings and data"
    other = f"with other settings or data ({len(differences)}): {'; '.join(differences)}"
    return f"Band: {seeds} seeds of {run.reference.recipe}, {other if differences else same}."


def _settings_table(run: RunView) -> overview.Table:
    rows = [
        [one.key, *map(_value, one.values), "flag" if one.is_given else ""] for one in run.recipe.settings
    ]
    return overview.Table(["setting", "recipe", "this run", "given by"], rows)


def _difference_table(runs: Mapping[str, RunView]) -> overview.Table:
    found = differences_between([run.config for run in runs.values()])
    return overview.Table(["setting", *runs], [[one.key, *map(_value, one.values)] for one in found])


def _count_table(tokens: TokenViews) -> overview.Table:
    counted = verdict_counts(tokens.views)
    names = list(counted[0][1]) if counted else []
    return overview.Table(
        ["step", *names], [[f"{step:,}", *map(str, counts.values())] for step, counts in counted]
    )


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _as_script(text: str) -> str:
    """A script that cannot end its element: in strings and patterns of JavaScript "\\/" is "/"."""
    text = printable(text).replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\\0")
    return re.sub(r"<(?=/script|!--|script)", r"\\x3c", text, flags=re.IGNORECASE)


def _policy(scripts: Sequence[str]) -> str:
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
