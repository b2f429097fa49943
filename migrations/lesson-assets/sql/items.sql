-- One row per media item of lesson.videos, then of lesson.documents, in order.
-- A list that is no list gives one row without a position. `problem` says why a row is left out.
with lists as (
    select _unit, id, course_id, teacher_id, 1 as list_number, 'lesson_video' as slot, 'video' as usual_kind, videos as list
    from source
    union all
    select _unit, id, course_id, teacher_id, 2, 'lesson_document', 'document', documents
    from source
),
places as (
    select *, unnest(case when json_kind(list) = 'array' then range(json_array_length(list)::bigint) else [null] end) as position
    from lists
    where list is not null or '${null_list}' = 'malformed'
),
items as (
    select *, case when position is null then list else coalesce(json_at(list, position::varchar), 'null') end as item
    from places
),
members as (
    select *, coalesce(json_kind(item), 'null') as item_kind,
        item->'type' as type_json, item->'key' as key_json, item->'link' as link_json, item->'metadata' as metadata_json
    from items
),
texts as (
    select *,
        position is null or item_kind <> 'object'
            or not regexp_full_match(concat(left(type_json, 1), left(key_json, 1), left(link_json, 1)), '"*') as malformed,
        case when type_json like '"%' then type_json->>'$' end as type,
        case when key_json like '"%' then key_json->>'$' end as full_key,
        case when link_json like '"%' then regexp_replace(link_json->>'$', '^\s+|\s+$', '', 'g') end as full_link,
        case when json_kind(metadata_json) = 'object' then metadata_json else '{}' end as metadata
    from members
),
needs as (
    select *,
        case when regexp_matches(full_key, '\S') then full_key end as key,
        nullif(full_link, '') as link,
        -- scheme, host, query string and fragment are no part of a file's name
        regexp_replace(regexp_replace(full_link, '[?#].*$', ''), '^[A-Za-z][A-Za-z0-9+.-]*://[^/]*', '') as link_path,
        item->>'fileName' as file_name, item->>'name' as document_name,
        coalesce(item->>'size', metadata->>'size') as size,
        metadata->>'duration' as duration
    from texts
),
providers as (
    select *,
        case
            when slot = 'lesson_document' then case when key is not null then 'upload' else 'external_url' end
            when type in ('upload', 'youtube', 'generic') then type
            when '${unknown_type}' = 'guess' and key is not null then 'upload'
            when '${unknown_type}' = 'guess' and link is not null then 'external_url'
        end as provider
    from needs
),
sources as (
    select *,
        case when provider = 'upload' then key end as storage_key,
        case
            when provider = 'upload' then case when '${upload_source_url}' = 'link' then link end
            when provider = 'youtube' and '${youtube}' = 'canonical' then coalesce('https://www.youtube.com/watch?v=' || nullif(
                regexp_extract(link, '^(?i:https?://)?(?i:(?:www|m|music)\.)?(?:(?i:youtu\.be)/|(?i:youtube(?:-nocookie)?\.com)/(?:(?:embed|shorts|live)/|watch\?(?:[^#]*&)?v=))([A-Za-z0-9_-]{11})(?:[?&#/].*)?$', 1), ''), link)
            else link
        end as source_url,
        -- in this order: the type that the item names, its metadata, the names it has, its key or its address
        coalesce(
            case when slot = 'lesson_document' then nullif(regexp_extract(lower(type), '^\s*([a-z0-9.+-]+/[a-z0-9.+-]+)', 1), '') end,
            case when slot = 'lesson_document' then lookup_mime_of_extension(lower(trim(type, ' .'))) end,
            nullif(regexp_extract(lower(metadata->>'mimeType'), '^\s*([a-z0-9.+-]+/[a-z0-9.+-]+)', 1), ''),
            lookup_mime_of_extension(regexp_extract(lower(file_name), '\.([a-z0-9]+)\s*$', 1)),
            lookup_mime_of_extension(regexp_extract(lower(document_name), '\.([a-z0-9]+)\s*$', 1)),
            lookup_mime_of_extension(regexp_extract(lower(case when provider = 'upload' then key else link_path end), '\.([a-z0-9]+)$', 1))
        ) as mime_type
    from providers
)
select
    _unit, id, teacher_id, slot, position, item, '/' || position || '/assetId' as pointer,
    lookup_organization_of_group(lookup_group_of_course(course_id)) as organization_id,
    try_cast(item->>'assetId' as uuid) as known_asset,
    provider, storage_key, source_url, mime_type,
    coalesce(
        case when mime_type is null then usual_kind end,
        nullif(lookup_kind_of_mime(mime_type), 'other'),
        nullif(regexp_extract(mime_type, '^(video|audio|image)/', 1), ''),
        case when mime_type like 'text/%' then 'document' end,
        case '${unfamiliar_mime}' when 'usual' then usual_kind else 'other' end
    ) as kind,
    coalesce(blank_null(metadata->>'title'), blank_null(file_name), blank_null(document_name)) as title,
    metadata->>'description' as description,
    metadata->>'thumbnailUrl' as thumbnail_url,
    metadata->>'aspectRatio' as aspect_ratio,
    -- a size or a length that is no plain number is unknown; a length is rounded to whole seconds
    case when regexp_full_match(size, '[0-9]+(\.0+)?') then try_cast(split_part(size, '.', 1) as bigint) end as byte_size,
    case when regexp_full_match(duration, '[0-9]{1,12}(\.[0-9]+)?') then try_cast(
        split_part(duration, '.', 1)::bigint + (split_part(duration, '.', 2) >= '5')::bigint as integer) end as duration_seconds,
    metadata,
    case
        when malformed then 'malformed'
        when provider is null then 'unsupported_type'
        when provider = 'upload' and storage_key is null then 'missing_key'
        when provider <> 'upload' and link is null then 'missing_link'
    end as problem
from sources
order by _unit, list_number, position
