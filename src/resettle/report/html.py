"""The report: what verify found and what the ledger remembers, as one HTML page that needs no network and no script.

It is made to be sent on: a verdict first, then what became of every record, what was checked, and who wrote when. It
holds keys of records, as `verify` prints them, and of their values what `verify` was told to show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any

from resettle.engine.verify import FlowChecked, Verified
from resettle.report.summary import RUN, held_words

LISTED = 50
"""Findings that are listed; all are counted."""
MOST_RUNS = 20
"""Runs that are listed, the latest."""
MOST_FIGURES = 6
"""Runs whose own figures are shown, the latest."""

_FATES = ("migrated", "held", "skipped", "not applied")
_UNSETTLED = ("held", "failed", "partial", "skipped")

_STYLE = """
:root { color-scheme: light; --ink: #1b2430; --soft: #5d6b7c; --line: #dfe4ea; --good: #1a7f4b; --warn: #b26a00;
  --bad: #b3261e; --idle: #9aa7b5; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: #f4f6f8; margin: 0; }
main { max-width: 68rem; margin: 2rem auto; padding: 2rem 2.5rem; background: #fff; border: 1px solid var(--line);
  border-radius: 10px; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.05rem; margin: 2.2rem 0 .6rem; }
p { margin: .3rem 0; } .soft, th, footer { color: var(--soft); }
.verdict { margin: 1.4rem 0; padding: 1rem 1.2rem; border-left: 6px solid; border-radius: 6px; background: #f8fafb; }
.verdict strong { font-size: 1.25rem; display: block; }
.verdict.good { border-color: var(--good); } .good strong, td.good { color: var(--good); }
.verdict.warn { border-color: var(--warn); } .warn strong { color: var(--warn); }
.verdict.bad { border-color: var(--bad); } .bad strong, td.bad { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 600; font-size: .85rem; }
th, td { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
th { white-space: nowrap; } td:not(.number):not(:first-child) { min-width: 9rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { display: flex; height: .4rem; min-width: 16rem; margin: .3rem 0 .2rem; border-radius: 3px; overflow: hidden;
  background: var(--line); }
.bar i { display: block; } .migrated { background: var(--good); } .held { background: var(--warn); }
.skipped { background: var(--idle); } .not-applied { background: var(--bad); }
td.good, td.bad { font-weight: 600; }
footer { margin-top: 2.5rem; font-size: .85rem; }
@media print { body { background: #fff; } main { border: 0; margin: 0; padding: 0; max-width: none; } }
"""


@dataclass(frozen=True)
class About:
    """Which migration a report is about, and when and by what it was made."""

    migration: str
    environment: str
    description: str
    places: Mapping[str, str]
    """By flow: where from, where to."""
    scope: str
    """What was left out of the comparison, as the end of a sentence; empty if nothing was."""
    made_at: datetime
    version: str


def page(
    about: About, verified: Verified, units: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]
) -> str:
    """The whole page. ``units`` as `Ledger.count_units` gives them, ``runs`` as rows of `summary.run_row`."""
    title = f"{about.migration} ({about.environment})"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(about.description)}</p>' if about.description else "",
        _verdict(verified),
        _section("What became of every record", _flows(about, verified.flows)),
        _section("Held, failed and skipped", _unsettled(about, units)),
        _section("Differences", _findings(verified)),
        _section("Checks", _checks(verified)),
        _section("Figures of the runs", _figures(runs)),
        _section("Runs", _runs(runs)),
        f"<footer>Made {about.made_at:%Y-%m-%d %H:%M} UTC by resettle {escape(about.version)}. The source was read"
        f" and shaped again and compared with what the target holds now{escape(about.scope)}; no count of an earlier"
        " run was believed.</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main></body></html>\n"
    )


def _verdict(verified: Verified) -> str:
    """One sentence for who reads no further, and what it rests on."""
    if verified.counts:
        kinds = ", ".join(f"{count:,} {_words(kind)}" for kind, count in verified.counts.most_common())
        kind, said = "bad", f"Not everything is as it should be: {kinds}."
    elif verified.held:
        kind, said = "warn", f"All that was migrated arrived. {held_words(verified.held)}, for somebody to decide."
    else:
        kind, said = "good", "Everything arrived."
    read, rows = sum(flow.read for flow in verified.flows), sum(flow.rows for flow in verified.flows)
    cells = sum(flow.cells for flow in verified.flows)
    passed = sum(ok for _, ok, _ in verified.checks)
    rests = f"{read:,} source records read again, {rows:,} rows ({cells:,} cells) compared with the target"
    checks = f", {passed:,} of {len(verified.checks):,} checks passed" if verified.checks else ""
    return f'<div class="verdict {kind}"><strong>{escape(said)}</strong>{rests}{checks}.</div>'


def _flows(about: About, flows: Sequence[FlowChecked]) -> str:
    lines = []
    for flow in flows:
        fates = (flow.read - flow.held - flow.skipped - flow.not_applied, flow.held, flow.skipped, flow.not_applied)
        widths = [(name, 100 * count / flow.read) for name, count in zip(_FATES, fates, strict=True) if count > 0]
        bar = "".join(f'<i class="{name.replace(" ", "-")}" style="width:{width:.4g}%"></i>' for name, width in widths)
        there = ", ".join(f"{name} {count:,}" for name, count in flow.in_target.items())
        place = escape(about.places.get(flow.flow, ""))
        below = "<br>".join(part for part in (place, f"now there: {escape(there)}" if there else "") if part)
        name = f'{escape(flow.flow)}<div class="bar">{bar}</div><span class="soft">{below}</span>'
        numbers = "".join(_number(count) for count in (flow.read, *fates, flow.rows))
        lines.append(f"<tr><td>{name}</td>{numbers}</tr>")
    titles = [f"#{name}" for name in ("source records", *_FATES, "rows compared")]
    return _table(("flow", *titles), lines)


def _unsettled(about: About, units: Sequence[Mapping[str, Any]]) -> str:
    counted: Counter[tuple[str, str, str]] = Counter()
    for one in units:
        if one["status"] in _UNSETTLED:
            counted[(one["flow"], one["status"], one["reason"] or "")] += one["count"]
    flows = list(about.places)
    places = sorted(counted, key=lambda place: (flows.index(place[0]) if place[0] in flows else len(flows), *place))
    return _table(("flow", "status", "reason", "#records"), [_row((*place, counted[place])) for place in places])


def _findings(verified: Verified) -> str:
    shown = verified.findings[:LISTED]
    lines = [_row((_words(one.kind), one.flow, one.unit or "", one.detail)) for one in shown]
    more = verified.counts.total() - len(shown)
    rest = f'<p class="soft">and {more:,} more: <code>resettle verify</code></p>' if more > 0 else ""
    return _table(("what", "flow", "record", "in which way"), lines) + rest


def _checks(verified: Verified) -> str:
    lines = [
        f'<tr><td class="{"good" if passed else "bad"}">{"passed" if passed else "FAILED"}</td>'
        f"<td>{escape(name)}</td><td>{escape(detail)}</td></tr>"
        for name, passed, detail in verified.checks
    ]
    return _table(("", "check", ""), lines)


def _figures(runs: Sequence[Mapping[str, Any]]) -> str:
    """What the declaration's `summary:` counted, in a column for each of the latest runs that have such figures."""
    figures: dict[tuple[str, str], dict[int, int]] = {}
    for run in runs:
        for one in (run["summary"] or {}).get("flows", []):
            for name, count in one.get("summary", {}).items():
                figures.setdefault((one["flow"], name), {})[run["run"]] = count
    numbers = sorted({number for counts in figures.values() for number in counts})[-MOST_FIGURES:]
    lines = [_row((*place, *(counts.get(number, "") for number in numbers))) for place, counts in figures.items()]
    return _table(("flow", "figure", *(f"#run {number}" for number in numbers)), lines)


def _runs(runs: Sequence[Mapping[str, Any]]) -> str:
    return _table(RUN, [_row([str(run[name]) for name in RUN]) for run in runs[:MOST_RUNS]])


def _section(title: str, body: str) -> str:
    return f'<h2>{title}</h2>\n<div class="scroll">{body}</div>' if body else ""


def _table(titles: Iterable[str], lines: Sequence[str]) -> str:
    """A table, or nothing if it has no lines; `#` before a title is for numbers."""
    if not lines:
        return ""
    heads = "".join(
        f'<th class="number">{escape(title[1:])}</th>' if title.startswith("#") else f"<th>{escape(title)}</th>"
        for title in titles
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>\n" + "\n".join(lines) + "\n</tbody></table>"


def _row(cells: Iterable[object]) -> str:
    parts = (_number(cell) if isinstance(cell, int) else f"<td>{escape(str(cell))}</td>" for cell in cells)
    return f"<tr>{''.join(parts)}</tr>"


def _number(count: int) -> str:
    return f'<td class="number">{count:,}</td>'


def _words(name: str) -> str:
    return name.replace("_", " ")
