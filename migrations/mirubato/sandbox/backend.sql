-- The backend's database after its migrations 0001 to 0010, as far as this migration reads it.
CREATE TABLE IF NOT EXISTS users (
  id TEXT PRIMARY KEY,
  email TEXT UNIQUE NOT NULL,
  display_name TEXT,
  primary_instrument TEXT NOT NULL DEFAULT 'PIANO' CHECK (primary_instrument IN ('PIANO', 'GUITAR')),
  created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
  updated_at DATETIME DEFAULT CURRENT_TIMESTAMP,
  auth_provider TEXT DEFAULT 'magic_link' CHECK (auth_provider IN ('magic_link', 'google')),
  google_id TEXT
);

CREATE TABLE practice_sessions (
  id TEXT PRIMARY KEY,
  user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  instrument TEXT NOT NULL,
  sheet_music_id TEXT,
  session_type TEXT NOT NULL CHECK (session_type IN ('FREE_PRACTICE', 'GUIDED_PRACTICE', 'ASSESSMENT')),
  started_at DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP,
  completed_at DATETIME,
  paused_duration INTEGER DEFAULT 0,
  accuracy_percentage REAL,
  notes_attempted INTEGER DEFAULT 0,
  notes_correct INTEGER DEFAULT 0,
  sync_version INTEGER DEFAULT 1,
  checksum TEXT,
  updated_at DATETIME DEFAULT CURRENT_TIMESTAMP,
  deleted_at DATETIME,
  device_id TEXT
);

CREATE TABLE logbook_entries (
  id TEXT PRIMARY KEY,
  user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  timestamp INTEGER NOT NULL,
  duration INTEGER NOT NULL,
  type TEXT NOT NULL,  -- the real CHECK is upper case; rows of another case came in before it
  instrument TEXT NOT NULL,
  pieces TEXT DEFAULT '[]',
  techniques TEXT DEFAULT '[]',
  goal_ids TEXT DEFAULT '[]',
  notes TEXT,
  mood TEXT CHECK (mood IN ('FRUSTRATED', 'NEUTRAL', 'SATISFIED', 'EXCITED')),
  tags TEXT DEFAULT '[]',
  session_id TEXT REFERENCES practice_sessions (id) ON DELETE SET NULL,
  metadata TEXT,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  sync_version INTEGER DEFAULT 1,
  checksum TEXT,
  deleted_at DATETIME,
  device_id TEXT
);

CREATE TABLE goals (
  id TEXT PRIMARY KEY,
  user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  title TEXT NOT NULL,
  description TEXT,
  target_date INTEGER,
  progress REAL DEFAULT 0 CHECK (progress >= 0 AND progress <= 100),
  milestones TEXT DEFAULT '[]',
  status TEXT DEFAULT 'ACTIVE' CHECK (status IN ('', 'ACTIVE', 'COMPLETED', 'PAUSED', 'CANCELLED')),
  linked_entries TEXT DEFAULT '[]',
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  completed_at INTEGER,
  sync_version INTEGER DEFAULT 1,
  checksum TEXT,
  deleted_at DATETIME,
  device_id TEXT
);

CREATE TABLE deleted_entities (
  id TEXT PRIMARY KEY,
  user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  entity_type TEXT NOT NULL,
  entity_id TEXT NOT NULL,
  deleted_at DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP
);

CREATE INDEX idx_logbook_entries_updated_at ON logbook_entries (updated_at);
CREATE INDEX idx_goals_updated_at ON goals (updated_at);
CREATE INDEX idx_practice_sessions_updated_at ON practice_sessions (updated_at);
CREATE INDEX idx_deleted_entities_user_id ON deleted_entities (user_id);
