-- A token that ended with its user's deactivation stays ended when the user is active again: how often that happened is
-- part of what a token fits. Those who never were deactivated keep their tokens.

ALTER TABLE users ADD deactivations BIGINT NOT NULL DEFAULT 0;

CREATE FUNCTION count_deactivation() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.deactivations := OLD.deactivations + 1;
    RETURN NEW;
END
$$;

CREATE TRIGGER users_count_deactivation BEFORE UPDATE ON users
FOR EACH ROW WHEN (old.is_active AND NOT new.is_active) EXECUTE FUNCTION count_deactivation();

-- Of earlier ones only those are known that last.
UPDATE users SET deactivations = 1 WHERE NOT is_active;
