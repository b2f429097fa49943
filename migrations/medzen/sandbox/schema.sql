-- The target as it stands before the migration: the three tables, their links and who may see what.
-- Needs the roles and the schema `auth` of a Supabase database.

CREATE TABLE video_call_sessions (
  id UUID PRIMARY KEY,
  appointment_id UUID NOT NULL,
  provider_id UUID NOT NULL,
  patient_id UUID NOT NULL,
  status TEXT NOT NULL,
  start_time TIMESTAMP WITH TIME ZONE,
  end_time TIMESTAMP WITH TIME ZONE,
  join_url TEXT,
  meeting_id TEXT,
  media_region TEXT,
  transcription_enabled BOOLEAN DEFAULT false,
  transcript_id UUID,
  transcript_language TEXT,
  soap_note_id UUID,
  finalization_status TEXT,
  created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
  updated_at TIMESTAMP WITH TIME ZONE DEFAULT NOW()
);

CREATE TABLE clinical_notes (
  id UUID PRIMARY KEY,
  session_id UUID NOT NULL REFERENCES video_call_sessions (id),
  appointment_id UUID NOT NULL,
  note_type TEXT NOT NULL DEFAULT 'SOAP',
  status TEXT NOT NULL,
  chief_complaint TEXT,
  subjective JSONB,
  objective JSONB,
  assessment JSONB,
  plan JSONB,
  ai_model TEXT,
  ai_generated_at TIMESTAMP WITH TIME ZONE,
  created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
  updated_at TIMESTAMP WITH TIME ZONE DEFAULT NOW()
);

CREATE TABLE video_call_audit_log (
  id UUID PRIMARY KEY,
  session_id UUID NOT NULL REFERENCES video_call_sessions (id),
  event_type TEXT NOT NULL,
  event_data JSONB,
  created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW()
);

-- Row-level security joins on these for every row that it shows.
CREATE INDEX ON clinical_notes (session_id);
CREATE INDEX ON video_call_audit_log (session_id);

ALTER TABLE video_call_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE clinical_notes ENABLE ROW LEVEL SECURITY;
ALTER TABLE video_call_audit_log ENABLE ROW LEVEL SECURITY;

-- A user signed in with Firebase has no auth.uid(): the edge functions check those before they ask.
CREATE POLICY sessions_of_the_two_parties ON video_call_sessions FOR ALL TO authenticated
  USING (auth.uid() IS NULL OR auth.uid() = patient_id OR auth.uid() = provider_id)
  WITH CHECK (auth.uid() IS NULL OR auth.uid() = patient_id OR auth.uid() = provider_id);

-- The subqueries run under the caller's own policies, so what is visible follows the session.
CREATE POLICY notes_of_a_visible_session ON clinical_notes FOR ALL TO authenticated
  USING (EXISTS (SELECT FROM video_call_sessions s WHERE s.id = session_id))
  WITH CHECK (EXISTS (SELECT FROM video_call_sessions s WHERE s.id = session_id));

CREATE POLICY audit_of_a_visible_session ON video_call_audit_log FOR SELECT TO authenticated
  USING (EXISTS (SELECT FROM video_call_sessions s WHERE s.id = session_id));

GRANT SELECT ON video_call_sessions TO anon;
GRANT SELECT, INSERT, UPDATE ON video_call_sessions, clinical_notes TO authenticated;
GRANT SELECT ON video_call_audit_log TO authenticated;
GRANT ALL ON video_call_sessions, clinical_notes, video_call_audit_log TO service_role;
