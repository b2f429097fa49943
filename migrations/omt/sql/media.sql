-- One row per audio file. What is unknown to the target (a book, a chapter, a verse) is held by its column.
with named as (
    select *, ${file_key} as file, clean_name(${file_key}) as file_name,
        chapter_path(bookChapter, book, chapter) as path,
        -- never the clock of a later run: the record's own moment, else its translation's, else that of the first run
        coalesce(epoch_ms(instant(createdAt))::varchar, nullif(regexp_extract(translationId, '_(\d{13})$', 1), ''),
            epoch_ms(migration_time)::varchar) as moment
    from source
),
placed as (
    select *, coalesce(
        coalesce(lookup_book_by_id(split_part(path, '/', 1)), lookup_book_by_name(split_part(path, '/', 1)),
            lookup_book_by_number(split_part(path, '/', 1))) || '/' || split_part(path, '/', 2), '?') as chapter_path
    from named
),
chapters as (
    select *, lookup_chapter(chapter_path) as chapter_id,
        case '${verse_range}' when 'file_name' then named_verse(file_name, 1) end as named_first,
        case '${verse_range}' when 'file_name' then named_verse(file_name, 2) end as named_last
    from placed
)
select
    _unit, id, translationId, version, chapter_path, chapter_id, file, file_name,
    coalesce(named_first, 1) as first_verse,
    coalesce(named_last, lookup_last_verse(chapter_id)::integer) as last_verse,
    concat(moment, '-', case when lookup_first_of_name(concat(createdAt, '/', case when createdAt is null then translationId end,
        '/', file_name)) <> id then left(sha256(id), 8) || '-' end, file_name) as object_key,
    lookup_size(file)::bigint as size,
    case '${compare}' when 'checksum' then lookup_md5(file) end as md5,
    case when try_cast(duration as double) > 0 then try_cast(duration as double) end as duration_seconds,
    lookup_mime_type(lower(regexp_extract(file_name, '\.([A-Za-z0-9]+)$', 1))) as mime_type
from chapters
