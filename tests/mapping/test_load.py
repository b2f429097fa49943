"""A declaration is complained of at its file:line:column, with a suggestion; variables come from where they should."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from resettle.errors import ConfigError, MappingError
from resettle.mapping.load import Migration, load

GOOD = """\
migration: shop
vars: {zone: eu}
connections:
  old: {type: files, path: data}
  new: {type: sqlite, path: "${TARGET:-shop.sqlite}"}
environments:
  local: {}
  production:
    guard: true
    vars: {zone: us}
    connections:
      old: {type: dynamodb, region: "${zone}-east-1"}
      new: {busy_timeout: 5}
lookups:
  states: {file: states.csv, key: code, value: name}
flows:
  people:
    from: old.people
    unit: id
    into: new.people
    columns:
      id: id
      name: name
      state: {lookup: states, on: state}
  pets:
    from: old.pets
    unit: id
    outputs:
      pet:
        into: new.pets
        columns: {id: id, owner: {ref: people, on: owner}}
"""


def write(folder: Path, text: str = GOOD) -> Path:
    (folder / "migration.yaml").write_text(text, "utf-8")
    (folder / "states.csv").write_text("code,name\n")
    return folder


def complaint(folder: Path, old: str, new: str) -> MappingError:
    """The complaint about the good declaration with one thing changed."""
    assert old in GOOD
    with pytest.raises(MappingError) as caught:
        load(write(folder, GOOD.replace(old, new)))
    return caught.value


def test_a_good_declaration_loads(tmp_path: Path) -> None:
    migration = load(write(tmp_path))
    assert (migration.name, migration.environment, migration.guard) == ("shop", "local", False)
    assert list(migration.file.flows) == ["people", "pets"]
    assert load(tmp_path / "migration.yaml").name == "shop", "the file may be named as well as the folder"


@pytest.mark.parametrize(
    ("old", "new", "place", "message", "hint"),
    [
        ("    unit: id\n    into", "    unti: id\n    into", "19:11", "unknown key `unti`", "did you mean `unit`?"),
        ("migration: shop", "migraton: shop", "1:11", "unknown key `migraton`", "did you mean `migration`?"),
        ("{lookup: states, on: state}", "{lookup: states, no: state}", "24", None, None),
        ("from: old.people", "from: odl.people", "18:11", "unknown connection `odl`", "did you mean `old`?"),
        ("into: new.pets", "into: nwe.pets", "30:15", "unknown connection `nwe`", "did you mean `new`?"),
        ("from: old.people", "from: people", "18:11", "`people`: expected connection.dataset", None),
        ("ref: people", "ref: poeple", "31:", "unknown flow `poeple`", "did you mean `people`?"),
        ("ref: people", "ref: people.rows", "31:", "flow `people` has no output `rows`", "did you mean `row`?"),
        ("{lookup: states, on: state}", "{lookup: states}", "24:", "`on` is missing", None),
        ("{lookup: states, on: state}", "{state}", "24:", "unknown key `state`", "create, else, expect, lookup, mint"),
        ("{lookup: states, on: state}", "{value: 2024-01-01}", "24:", "`value`: expected text", "goes in quotes"),
        ("{lookup: states, on: state}", "5", "24:", "expected text", "a column's constant is `{value: ...}`"),
        ("{lookup: states, on: state}", "'x' || state", "24:", "not YAML", "goes in quotes"),
        ("lookup: states", "lookup: stats", "24:", "unknown lookup `stats`", "did you mean `states`?"),
        ("file: states.csv", "file: nosuch.csv", "15:18", "no such file: nosuch.csv", None),
        ("{file: states.csv, key", "{key", "15:", "a lookup has either `file:` or `from:`", None),
        ("    into: new.people\n", "", "17:", "a flow has either `into:`", None),
        (
            "into: new.pets",
            "into: new.pets\n        key: id\n        match: id",
            "29:",
            "one of `key:`, `match:` and `patch:`",
            None,
        ),
        ("path: data", "path: '${NOWHERE}'", "4:28", "the variable `NOWHERE` is not set", "export NOWHERE"),
        ("zone: eu", "zone: [eu", "", "not YAML", None),
        ("  old:", "\told:", "4:", "not YAML", None),
        ("    from: old.people\n", "", "17:", "`from` is missing", None),
        (
            "flows:",
            "verify: {exclusive: [new.people, new.pest]}\nflows:",
            "16:34",
            "no flow makes rows of `new.pest`",
            "did you mean `new.pets`?",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_a_suggestion(
    tmp_path: Path, old: str, new: str, place: str, message: str | None, hint: str | None
) -> None:
    error = complaint(tmp_path, old, new)
    assert f"migration.yaml:{place}" in str(error)
    if message:
        assert message in error.message
    if hint:
        assert hint in str(error.hint)


@pytest.mark.parametrize("text", ["", "- a\n", "just text\n"])
def test_what_is_no_mapping_at_all_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(MappingError, match="expected a mapping"):
        load(write(tmp_path, text))


def test_a_folder_without_a_declaration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path)


# -- environments --------------------------------------------------------------------------------------------


def test_an_environment_replaces_a_connection_or_adds_to_it(tmp_path: Path) -> None:
    migration = load(write(tmp_path), "production")
    assert migration.guard
    assert dict(migration.connections["old"]) == {"type": "dynamodb", "region": "us-east-1"}
    assert dict(migration.connections["new"]) == {"type": "sqlite", "path": "shop.sqlite", "busy_timeout": 5}


def test_an_unknown_environment_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path), "prodution")
    assert caught.value.hint == "did you mean `production`?"


def test_one_of_several_environments_must_be_named_unless_one_is_local(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, GOOD.replace("  local: {}", "  dev: {}")))
    assert "dev, production" in caught.value.message
    assert caught.value.hint == "pass --env NAME"


def test_the_variables_of_other_environments_need_not_be_set(tmp_path: Path) -> None:
    assert load(write(tmp_path, GOOD.replace("${zone}", "${ONLY_THERE}"))).environment == "local"
    with pytest.raises(MappingError, match="ONLY_THERE"):
        load(tmp_path, "production")


# -- variables -----------------------------------------------------------------------------------------------


def path(migration: Migration) -> str:
    return str(migration.connections["new"]["path"])


def test_a_variable_has_the_default_that_is_written_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert path(load(write(tmp_path))) == "shop.sqlite"
    monkeypatch.setenv("TARGET", "")
    assert path(load(tmp_path)) == "shop.sqlite", "as in a shell, empty counts as not set"


def test_variables_come_from_the_first_place_that_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    (tmp_path / ".env").write_text("TARGET=from-dotenv\n")
    assert path(load(tmp_path)) == "from-dotenv"
    monkeypatch.setenv("TARGET", "from-process")
    assert path(load(tmp_path)) == "from-process", "a file never overrides the real environment"
    write(tmp_path, GOOD.replace("zone: eu", "TARGET: from-vars"))
    assert path(load(tmp_path)) == "from-vars"
    write(tmp_path, GOOD.replace("zone: eu", "TARGET: from-vars").replace("local: {}", "local: {vars: {TARGET: own}}"))
    assert path(load(tmp_path)) == "own"
    assert path(load(tmp_path, variables={"TARGET": "from-command-line"})) == "from-command-line"


def test_variables_may_be_used_in_expressions_and_sql_files(tmp_path: Path) -> None:
    write(tmp_path, GOOD.replace("name: name\n", "name: name || '${zone}'\n"))
    (tmp_path / "rows.sql").write_text("SELECT * FROM source WHERE zone = '${zone}'")
    migration = load(tmp_path, variables={"zone": "asia"})
    assert migration.file.flows["people"].columns["name"] == "name || 'asia'"  # type: ignore[index]
    assert migration.sql_text("rows.sql") == "SELECT * FROM source WHERE zone = 'asia'"


def test_a_null_variable_is_null_in_sql(tmp_path: Path) -> None:
    write(tmp_path, GOOD.replace("zone: eu", "zone: null").replace("name: name\n", "name: ${zone}\n"))
    assert load(tmp_path).file.flows["people"].columns["name"] == "null"  # type: ignore[index]


def test_a_sql_file_outside_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.sql").write_text("SELECT 1")
    (tmp_path / "folder").mkdir()
    migration = load(write(tmp_path / "folder"))
    with pytest.raises(ConfigError, match="no such file"):
        migration.sql_text("../secret.sql")


def test_the_digest_of_a_flow_changes_with_all_that_shapes_it(tmp_path: Path) -> None:
    def digest(variables: dict[str, str] | None = None) -> str:
        return load(tmp_path, variables=variables).flow_digest("people")

    write(tmp_path)
    seen = [digest()]
    assert digest() == seen[0]
    write(tmp_path, GOOD.replace("name: name\n", "name: '${zone}'\n"))
    seen += [digest(), digest({"zone": "asia"})]
    (tmp_path / "states.csv").write_text("code,name\nx,y\n")
    seen += [digest()]
    (tmp_path / "functions.py").write_text("def f(x: str) -> str:\n    return x\n")
    seen += [digest()]
    assert len(set(seen)) == len(seen)
    (tmp_path / "README.md").write_text(dedent("changed"))
    assert digest() == seen[-1]
