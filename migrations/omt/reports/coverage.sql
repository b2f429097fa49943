-- What arrived, project by project, counted on the tables themselves: the coverage views leave out what is not published.
-- psql "$SUPABASE_DB_URL" -v env=dev -f reports/coverage.sql
WITH ours AS (
  SELECT target_key::uuid AS id, name, output FROM resettle.rows JOIN resettle.flows USING (flow)
  WHERE migration = 'omt' AND environment = :'env' AND (name, output) IN (('projects', 0), ('media_files', 1))
),
files AS (
  SELECT v.project_id, m.id, m.chapter_id, m.file_size, m.duration_seconds,
    last.verse_number - first.verse_number + 1 AS verses,
    (SELECT count(*) FROM media_files_verses t WHERE t.media_file_id = m.id AND t.deleted_at IS NULL) AS timed
  FROM media_files m
  JOIN audio_versions v ON v.id = m.audio_version_id
  JOIN verses first ON first.id = m.start_verse_id
  JOIN verses last ON last.id = m.end_verse_id
  WHERE m.deleted_at IS NULL AND m.id IN (SELECT id FROM ours WHERE name = 'media_files')
)
SELECT p.name AS project, count(f.id) AS files, count(DISTINCT f.chapter_id) AS chapters,
  coalesce(sum(f.verses), 0)::bigint AS verses_in_files, coalesce(sum(f.timed), 0)::bigint AS verses_timed,
  count(f.id) FILTER (WHERE f.timed < f.verses) AS files_not_wholly_timed,
  round((coalesce(sum(f.duration_seconds), 0) / 3600)::numeric, 2) AS hours, coalesce(sum(f.file_size), 0)::bigint AS bytes
FROM projects p LEFT JOIN files f ON f.project_id = p.id
WHERE p.id IN (SELECT id FROM ours WHERE name = 'projects')
GROUP BY p.id, p.name ORDER BY p.name;
