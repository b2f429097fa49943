"""A draft as files of a migration: migration.yaml with its marks as comments, README.md and .env.example."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from resettle.engine.drafting.draft import Draft, DraftedFlow, Mapped
from resettle.errors import ConfigError

FILE = "migration.yaml"
MARK = "TODO(resettle): "
"""How a doubt begins, in a comment of the draft."""

_PLAIN = re.compile(r"[A-Za-z_./][\w ./()*+|'<>=,-]*")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


@dataclass(frozen=True)
class Mark:
    """A doubt and where it is written; line and column count from 1. An open one is refused by `check`."""

    line: int
    column: int
    why: str
    open: bool


def marks(text: str) -> list[Mark]:
    """Every mark of a declaration, in its order."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        written, sign, why = line.partition(f"# {MARK}")
        if sign:
            found.append(Mark(number, len(written) + 1, why, "todo(" in written))
    return found


def declaration(name: str, connections: Mapping[str, Mapping[str, str]], draft: Draft) -> str:
    """The text of a migration.yaml; plain text, because a dumper would lose the comments."""
    lines = [
        "# A draft by `resettle init`. Settle what is marked TODO(resettle), take out the marks, then: resettle check",
        "# A value todo(...) is refused until it is replaced; the other marks are proposals to look at.",
        f"migration: {scalar(name)}",
        "",
        "connections:",
        *(f"  {connection}: {_flow_map(settings)}" for connection, settings in connections.items()),
        "",
        "environments:",
        "  local: {}",
        "  production:",
        "    guard: true    # writing needs the environment's name, typed or passed",
        "",
        *_without_partner(draft.source, draft.pairs.unpaired_source),
        *_without_partner(draft.target, draft.pairs.unpaired_target),
        "flows:",
    ]
    for flow in draft.flows:
        lines += [*_flow(flow, draft), ""]
    return "\n".join(lines).rstrip() + "\n"


def readme(name: str, draft: Draft, variables: Sequence[str]) -> str:
    """What the migration is, and how to go on."""
    rows = [f"| `{flow.pair.source.dataset}` | `{flow.pair.target.dataset}` | `{flow.name}` |" for flow in draft.flows]
    exports = "".join(f"export {variable}='...'\n" for variable in variables)
    table = "\n".join([f"| {draft.source} | {draft.target} | flow |", "|---|---|---|", *rows])
    return (
        f"# {name}\n\nDrafted by `resettle init`. The whole mapping is [migration.yaml](migration.yaml).\n\n{table}\n"
        + (f"\nRun in this folder, once the marks in migration.yaml are settled:\n\n```\n{exports}{NEXT}```\n")
    )


NEXT = """resettle check
resettle plan --out first.plan
resettle apply first.plan
resettle verify
"""


def example_variables(variables: Iterable[str]) -> str:
    """A .env.example: what has to be set, without a value."""
    lines = [f"{variable}=" for variable in variables]
    return "\n".join(["# Copy to .env, which must not be committed, and fill in; or export these.", *lines]) + "\n"


def scalar(text: str, *, inside: bool = False) -> str:
    """A text as YAML, quoted where it has to be; ``inside`` a {...} some more has to be."""
    odd = (
        text.lower() in _WORDS
        or re.match(r"\.(\d|inf|nan)", text, re.IGNORECASE)
        or text != text.strip()
        or (inside and re.search(r"[,\[\]{}]", text))
    )
    if _PLAIN.fullmatch(text) and not odd:
        return text
    return f"'{text}'" if '"' in text and "'" not in text and text.isprintable() else json.dumps(text)


def refuse_existing(folder: Path) -> None:
    """Raise ConfigError where the folder has a migration already: it is never overwritten."""
    if (folder / FILE).exists():
        raise ConfigError(f"{folder / FILE} is there already, nothing was written", hint="name another folder")


def write_files(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Write the files of a new migration and give their paths; what is there already stays as it is."""
    refuse_existing(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            (folder / name).write_text(text, "utf-8")
            written.append(folder / name)
    return written


def _flow_map(values: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {scalar(value, inside=True)}" for key, value in values.items()) + "}"


def _list(names: Sequence[str]) -> str:
    return scalar(names[0]) if len(names) == 1 else f"[{', '.join(scalar(name, inside=True) for name in names)}]"


def _flow(flow: DraftedFlow, draft: Draft) -> Iterator[str]:
    source, target = flow.pair.source.dataset, flow.pair.target.dataset
    yield _marked(f"  {flow.name}:", flow.order_doubt)
    yield _marked(f"    from: {scalar(f'{draft.source}.{source}')}", flow.pair.doubt)
    yield _marked(f"    unit: {_list(flow.unit)}", flow.unit_doubt)
    yield _marked(f"    into: {scalar(f'{draft.target}.{target}')}", None if flow.by else flow.by_doubt)
    if flow.by:
        yield _marked(f"    {flow.by}: {_list(flow.names)}", flow.by_doubt)
    if flow.columns:
        yield "    columns:"
    for mapped in flow.columns:
        yield _marked(f"      {scalar(mapped.column)}: {_value(mapped)}", mapped.doubt)
    for note in flow.notes:
        yield from _comment("    ", note)
    if flow.not_carried:
        yield from _comment("    ", f"not carried over from {source}: {', '.join(flow.not_carried)}")
    if flow.not_written:
        yield from _comment("    ", f"left to {target}: {', '.join(flow.not_written)}")


def _value(mapped: Mapped) -> str:
    return scalar(mapped.form) if isinstance(mapped.form, str) else _flow_map(mapped.form)


def _marked(line: str, doubt: str | None) -> str:
    return f"{line}    # {MARK}{_one_line(doubt)}" if doubt else line


def _without_partner(connection: str, names: Mapping[str, str | None]) -> Iterator[str]:
    if names:
        listed = [f"{name} (closest: {near})" if near else name for name, near in names.items()]
        yield from _comment("", f"In {connection}, without a partner, so not migrated here: {', '.join(listed)}")
        yield ""


def _comment(indent: str, text: str) -> Iterator[str]:
    for line in textwrap.wrap(_one_line(text), 110 - len(indent), break_long_words=False, break_on_hyphens=False):
        yield f"{indent}# {line}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
