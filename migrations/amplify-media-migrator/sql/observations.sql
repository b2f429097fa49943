-- One row per sequentialId of a file's name, in order. A row whose observation is not there (yet) has no observation_id.
-- `home` is the observation in the object's key: the first one that is there. Where the file lies in the bucket already,
-- under any of its observations, that one stays: an observation that appears later must not cost a second upload.
with named as (
    select *, from_json(sequential_ids(name, '${names}', ${longest_range}), '["VARCHAR"]') as numbers
    from source
), seen as (
    select *, list_filter(
        list_transform(numbers, lambda n: lookup_observation(n)), lambda o: o is not null) as observations
    from named
), homed as (
    select *, coalesce(
        list_filter(observations, lambda o: lookup_stored('media/' || o || '/' || name) is not null)[1],
        observations[1]) as home
    from seen
), each as (
    select _unit, id, name, size, md5, home,
        unnest(numbers) as sequential_id, generate_subscripts(numbers, 1) as place
    from homed
)
select *,
    lookup_observation(sequential_id) as observation_id,
    'media/' || home || '/' || name as object_key,
    'https://${STORAGE_BUCKET}.s3.${AWS_REGION:-us-east-1}.amazonaws.com/media/' || home || '/' || url_encode(name) as url
from each
order by _unit, place
