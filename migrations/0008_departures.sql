-- How many nodes have been removed again: a node that finds another number than it remembers was not alone meanwhile,
-- so that it reads anew what it remembers. Whoever changes which nodes there are locks this row first.
ALTER TABLE installation ADD COLUMN departures BIGINT NOT NULL DEFAULT 0;
