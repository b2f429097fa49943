"""The ledger's tables in Cloudflare D1: SQLite's, read in pages because an answer must not be large."""

from __future__ import annotations

from resettle.ledger import sqlite

NOW, TABLES, EXISTS, AGE = sqlite.NOW, sqlite.TABLES, sqlite.EXISTS, sqlite.AGE
FOR_UPDATE, AFTER_LOAD, TEXTS = sqlite.FOR_UPDATE, sqlite.AFTER_LOAD, sqlite.TEXTS
OF_ASKED, VIEW = sqlite.OF_ASKED, sqlite.VIEW
prefix, view_name, raws = sqlite.prefix, sqlite.view_name, sqlite.raws

ALONE = ""
"""Nobody can be kept out: of two that take one number, or the lock, the second one's batch fails."""
