-- The tables of the course product that this migration reads and writes, as they stand before it.
CREATE TABLE organization (
  id UUID PRIMARY KEY DEFAULT gen_random_uuid(), name VARCHAR NOT NULL,
  "siteName" TEXT UNIQUE, "customDomain" TEXT UNIQUE);
CREATE TABLE profile (
  id UUID PRIMARY KEY DEFAULT gen_random_uuid(), fullname TEXT NOT NULL, username TEXT NOT NULL UNIQUE);
CREATE TABLE "group" (
  id UUID PRIMARY KEY DEFAULT gen_random_uuid(), name VARCHAR NOT NULL, description TEXT,
  created_at TIMESTAMPTZ DEFAULT now(), updated_at TIMESTAMPTZ DEFAULT now(),
  organization_id UUID REFERENCES organization (id));
CREATE TABLE course (
  id UUID PRIMARY KEY DEFAULT gen_random_uuid(), title VARCHAR NOT NULL, description VARCHAR NOT NULL,
  group_id UUID REFERENCES "group" (id), slug VARCHAR UNIQUE, status TEXT NOT NULL DEFAULT 'ACTIVE',
  metadata JSONB NOT NULL DEFAULT '{}', created_at TIMESTAMPTZ DEFAULT now(), updated_at TIMESTAMPTZ DEFAULT now());
CREATE TABLE lesson (
  id UUID PRIMARY KEY DEFAULT gen_random_uuid(), title VARCHAR NOT NULL,
  course_id UUID NOT NULL REFERENCES course (id), teacher_id UUID REFERENCES profile (id), section_id UUID,
  note VARCHAR, video_url VARCHAR, slide_url VARCHAR, videos JSONB DEFAULT '[]', documents JSONB DEFAULT '[]',
  "order" BIGINT, is_unlocked BOOLEAN DEFAULT false, slug VARCHAR,
  created_at TIMESTAMPTZ DEFAULT now(), updated_at TIMESTAMPTZ DEFAULT now());
CREATE TABLE assets (
  id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  organization_id UUID NOT NULL REFERENCES organization (id) ON DELETE CASCADE,
  kind VARCHAR NOT NULL DEFAULT 'video', provider VARCHAR NOT NULL DEFAULT 'upload',
  storage_provider VARCHAR NOT NULL DEFAULT 's3', storage_key TEXT, hls_manifest_key TEXT, hls_audio_key TEXT,
  source_url TEXT, mime_type TEXT, byte_size BIGINT, checksum TEXT, title TEXT, description TEXT,
  thumbnail_url TEXT, thumbnail_candidates TEXT[] NOT NULL DEFAULT '{}', duration_seconds INTEGER,
  aspect_ratio TEXT, is_external BOOLEAN NOT NULL DEFAULT false, status VARCHAR NOT NULL DEFAULT 'active',
  metadata JSONB DEFAULT '{}', created_by_profile_id UUID REFERENCES profile (id) ON DELETE SET NULL,
  created_at TIMESTAMPTZ NOT NULL DEFAULT now(), updated_at TIMESTAMPTZ DEFAULT now(),
  CONSTRAINT assets_org_provider_key UNIQUE (organization_id, provider, storage_key));
CREATE TABLE asset_usages (
  id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  organization_id UUID NOT NULL REFERENCES organization (id) ON DELETE CASCADE,
  asset_id UUID NOT NULL REFERENCES assets (id) ON DELETE CASCADE,
  target_type VARCHAR NOT NULL, target_id TEXT NOT NULL, slot_type VARCHAR NOT NULL DEFAULT 'lesson_video',
  slot_key TEXT, position INTEGER, created_by_profile_id UUID REFERENCES profile (id) ON DELETE SET NULL,
  created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  CONSTRAINT asset_usages_once UNIQUE (asset_id, target_type, target_id, slot_type, slot_key, position));
