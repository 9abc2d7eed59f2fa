-- A page of history is found in the indexes alone; of the table only the rows that are shown are read. In a large
-- table each row of a user lies on a page of its own, and a page was made of six times as many rows as it shows.

DROP INDEX transfers_from_account_id_idx;
DROP INDEX transfers_to_account_id_idx;

CREATE INDEX transfers_from_account_id_idx ON transfers (from_account_id, id) INCLUDE (to_account_id)
WHERE kind <> 'opening';
CREATE INDEX transfers_to_account_id_idx ON transfers (to_account_id, id) INCLUDE (from_account_id)
WHERE kind <> 'opening';
