-- The Idempotency-Key under which a user registered: the same registration sent again is answered as the first one.
-- Its scope is the name, so the name's index finds it. Those who registered without one have none.
ALTER TABLE users ADD COLUMN registration_key TEXT;
