-- What the product's later migration 0001 makes of the unique constraint: an asset is attached to a target once.
ALTER TABLE asset_usages DROP CONSTRAINT asset_usages_once;
ALTER TABLE asset_usages ADD CONSTRAINT asset_usages_once UNIQUE (asset_id, target_type, target_id, slot_type, slot_key);
