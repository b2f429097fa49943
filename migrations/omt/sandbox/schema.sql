-- The target as it stands before the migration: the tables of the new backend that the migration reads or writes,
-- with their keys, checks, triggers and policies. `location` of projects (PostGIS) is left out.
CREATE TYPE upload_status AS ENUM ('pending', 'uploading', 'completed', 'failed');
CREATE TYPE publish_status AS ENUM ('pending', 'published', 'archived');
CREATE TYPE check_status AS ENUM ('pending', 'approved', 'rejected', 'requires_review');
CREATE TYPE media_type AS ENUM ('audio', 'video', 'image');
CREATE TYPE project_status AS ENUM ('precreated', 'active', 'completed', 'cancelled');
CREATE TYPE funding_status AS ENUM ('unfunded', 'partially_funded', 'fully_funded');
CREATE TYPE language_level AS ENUM ('family', 'language', 'dialect', 'mother_tongue');
CREATE TYPE testament AS ENUM ('old', 'new');

CREATE TABLE users (id uuid PRIMARY KEY, first_name text, email text UNIQUE);
CREATE TABLE regions (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL);
CREATE TABLE language_entities (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  parent_id uuid REFERENCES language_entities (id) ON DELETE SET NULL,
  name text NOT NULL, level language_level NOT NULL, deleted_at timestamptz);
CREATE TABLE language_aliases (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  language_entity_id uuid NOT NULL REFERENCES language_entities (id) ON DELETE CASCADE,
  alias_name text NOT NULL, deleted_at timestamptz);
CREATE TABLE language_entity_sources (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  language_entity_id uuid NOT NULL REFERENCES language_entities (id) ON DELETE CASCADE,
  source text NOT NULL, version text, is_external boolean NOT NULL DEFAULT false,
  external_id_type text, external_id text, created_by uuid REFERENCES users (id),
  CHECK ((is_external AND external_id IS NOT NULL) OR (NOT is_external AND created_by IS NOT NULL)));

CREATE TABLE bible_versions (id text PRIMARY KEY, name text NOT NULL UNIQUE);
CREATE TABLE books (
  id text PRIMARY KEY, name text NOT NULL, book_number integer NOT NULL, testament testament,
  bible_version_id text NOT NULL REFERENCES bible_versions (id) ON DELETE CASCADE,
  UNIQUE (bible_version_id, book_number), UNIQUE (bible_version_id, name));
CREATE TABLE chapters (
  id text PRIMARY KEY, book_id text NOT NULL REFERENCES books (id) ON DELETE CASCADE,
  chapter_number integer NOT NULL, total_verses integer NOT NULL, global_order bigint,
  UNIQUE (book_id, chapter_number));
CREATE TABLE verses (
  id text PRIMARY KEY, chapter_id text NOT NULL REFERENCES chapters (id) ON DELETE CASCADE,
  verse_number integer NOT NULL, global_order bigint,
  UNIQUE (chapter_id, verse_number));

CREATE TABLE projects (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  name text NOT NULL UNIQUE, description text,
  source_language_entity_id uuid NOT NULL REFERENCES language_entities (id) ON DELETE CASCADE,
  target_language_entity_id uuid NOT NULL REFERENCES language_entities (id) ON DELETE CASCADE,
  region_id uuid REFERENCES regions (id) ON DELETE SET NULL,
  created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(), deleted_at timestamptz,
  created_by uuid REFERENCES users (id) ON DELETE SET NULL,
  funding_status funding_status NOT NULL DEFAULT 'unfunded',
  project_status project_status NOT NULL DEFAULT 'precreated');
CREATE TABLE audio_versions (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  language_entity_id uuid NOT NULL REFERENCES language_entities (id) ON DELETE CASCADE,
  bible_version_id text NOT NULL REFERENCES bible_versions (id) ON DELETE CASCADE,
  project_id uuid REFERENCES projects (id) ON DELETE SET NULL, name text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(), deleted_at timestamptz,
  created_by uuid REFERENCES users (id) ON DELETE SET NULL,
  UNIQUE (language_entity_id, bible_version_id, name));
CREATE TABLE media_files (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  language_entity_id uuid NOT NULL REFERENCES language_entities (id) ON DELETE CASCADE,
  media_type media_type NOT NULL,
  file_size bigint CHECK (file_size > 0), duration_seconds real CHECK (duration_seconds > 0),
  upload_status upload_status DEFAULT 'pending', publish_status publish_status DEFAULT 'pending',
  check_status check_status DEFAULT 'pending', version integer NOT NULL DEFAULT 1,
  is_bible_audio boolean NOT NULL DEFAULT false,
  start_verse_id text REFERENCES verses (id) ON DELETE SET NULL,
  end_verse_id text REFERENCES verses (id) ON DELETE SET NULL,
  audio_version_id uuid REFERENCES audio_versions (id) ON DELETE SET NULL,
  chapter_id text REFERENCES chapters (id) ON DELETE SET NULL,
  object_key text, storage_provider text DEFAULT 'r2', original_filename text, file_type text,
  created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(), deleted_at timestamptz,
  created_by uuid REFERENCES users (id) ON DELETE SET NULL,
  CONSTRAINT check_bible_audio_verse_range CHECK (is_bible_audio OR (start_verse_id IS NULL AND end_verse_id IS NULL)),
  CONSTRAINT check_end_verse_has_start CHECK (end_verse_id IS NULL OR start_verse_id IS NOT NULL));
CREATE TABLE media_files_verses (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  media_file_id uuid NOT NULL REFERENCES media_files (id) ON DELETE CASCADE,
  verse_id text NOT NULL REFERENCES verses (id) ON DELETE CASCADE,
  start_time_seconds real NOT NULL CHECK (start_time_seconds >= 0),
  duration_seconds real NOT NULL CHECK (duration_seconds > 0),
  denormalized_audio_version_id uuid REFERENCES audio_versions (id),
  created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(), deleted_at timestamptz,
  created_by uuid REFERENCES users (id) ON DELETE SET NULL,
  UNIQUE (media_file_id, verse_id));
CREATE TABLE progress_refresh_queue (kind text NOT NULL, version_id uuid NOT NULL, PRIMARY KEY (kind, version_id));

-- triggers: the time of every update, what is denormalised, and which version's progress must be counted again
CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END $$;
CREATE FUNCTION set_denormalized_audio_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  SELECT audio_version_id INTO NEW.denormalized_audio_version_id FROM media_files WHERE id = NEW.media_file_id;
  RETURN NEW;
END $$;
CREATE FUNCTION enqueue_progress_refresh() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE version uuid := CASE TG_TABLE_NAME WHEN 'media_files' THEN to_jsonb(NEW) ->> 'audio_version_id'
  ELSE to_jsonb(NEW) ->> 'denormalized_audio_version_id' END;
BEGIN
  IF version IS NOT NULL THEN
    INSERT INTO progress_refresh_queue VALUES ('audio', version) ON CONFLICT DO NOTHING;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER updated BEFORE UPDATE ON projects FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER updated BEFORE UPDATE ON audio_versions FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER updated BEFORE UPDATE ON media_files FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER updated BEFORE UPDATE ON media_files_verses FOR EACH ROW EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER denormalize BEFORE INSERT ON media_files_verses FOR EACH ROW EXECUTE FUNCTION set_denormalized_audio_version();
CREATE TRIGGER enqueue AFTER INSERT OR UPDATE ON media_files FOR EACH ROW EXECUTE FUNCTION enqueue_progress_refresh();
CREATE TRIGGER enqueue AFTER INSERT OR UPDATE ON media_files_verses FOR EACH ROW EXECUTE FUNCTION enqueue_progress_refresh();

-- coverage counts what is completed and published: nothing of a fresh migration
CREATE MATERIALIZED VIEW mv_audio_version_progress_summary AS
  SELECT v.id AS audio_version_id, count(DISTINCT m.chapter_id) AS chapters, count(DISTINCT mv.verse_id) AS verses
  FROM audio_versions v
  LEFT JOIN media_files m ON m.audio_version_id = v.id AND m.deleted_at IS NULL
    AND m.upload_status = 'completed' AND m.publish_status = 'published'
  LEFT JOIN media_files_verses mv ON mv.media_file_id = m.id AND mv.deleted_at IS NULL
  GROUP BY v.id;
CREATE UNIQUE INDEX ON mv_audio_version_progress_summary (audio_version_id);
CREATE FUNCTION refresh_progress_materialized_views_full() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN REFRESH MATERIALIZED VIEW mv_audio_version_progress_summary; END $$;

-- row-level security: everybody reads; who writes must have made the row. The service role passes by.
DO $$
DECLARE name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['projects', 'audio_versions', 'media_files', 'media_files_verses', 'language_entities',
    'language_aliases', 'language_entity_sources', 'bible_versions', 'books', 'chapters', 'verses', 'users'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('CREATE POLICY reads ON %I FOR SELECT USING (true)', name);
    IF name IN ('projects', 'audio_versions', 'media_files', 'media_files_verses') THEN
      EXECUTE format('CREATE POLICY makes ON %I FOR INSERT WITH CHECK (created_by = auth.uid())', name);
      EXECUTE format('CREATE POLICY changes ON %I FOR UPDATE USING (created_by = auth.uid())', name);
    END IF;
  END LOOP;
END $$;
GRANT ALL ON ALL TABLES IN SCHEMA public TO anon, authenticated, service_role;
