-- One row per verse or timestamp of a file, in order: the first timestamp is the file's first verse. A row that lacks
-- one of the two is left out, and counted.
with files as (
    select _unit, ${audio_file_id}, list_sort(try(from_json(timestamps, '["DOUBLE"]'))) as times,
        audio->>'path' as path, audio->>'file' as file, try_cast(audio->>'duration' as double) as length
    from (select *, lookup_audio(${audio_file_id}) as audio from source)
),
chapters as (
    select *, lookup_chapter(coalesce(lookup_book_by_id(split_part(path, '/', 1)),
            lookup_book_by_name(split_part(path, '/', 1)), lookup_book_by_number(split_part(path, '/', 1)))
            || '/' || split_part(path, '/', 2)) as chapter_id,
        case '${verse_range}' when 'file_name' then named_verse(file, 1) end as named_first,
        case '${verse_range}' when 'file_name' then named_verse(file, 2) end as named_last
    from files
),
spans as (
    select *, len(times) as timestamps, coalesce(named_first, 1) as first_verse,
        -- of a chapter that is not known, or a range that is none, nothing is left out: its file is held, and so are its verses
        coalesce(case when named_last < named_first then len(times) end, coalesce(named_last, lookup_last_verse(chapter_id)::integer) - coalesce(named_first, 1) + 1, len(times)) as verses
    from chapters
),
places as (
    select *, unnest(range(greatest(timestamps, verses))) as place from spans
)
select
    _unit, ${audio_file_id}, place, timestamps, verses,
    lookup_verse(chapter_id || '/' || (first_verse + place)) as verse_id,
    times[place + 1] as start_time,
    -- to the next timestamp; the last to the end of the file
    coalesce(times[place + 2] - times[place + 1], greatest(length - times[place + 1], ${shortest_tail}), ${shortest_tail}) as duration
from places
order by _unit, place
