-- The API's migration 0011: clients pull by seq, and never see a row without one.
ALTER TABLE sync_data ADD COLUMN seq INTEGER;
CREATE TABLE sync_sequence (id INTEGER PRIMARY KEY CHECK (id = 1), current_value INTEGER NOT NULL DEFAULT 0);
INSERT INTO sync_sequence (id, current_value) VALUES (1, 0);
CREATE UNIQUE INDEX idx_sync_data_seq_unique ON sync_data (seq);
