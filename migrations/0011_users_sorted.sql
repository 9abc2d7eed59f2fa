-- Administrators list users sorted by what they like, and many may have registered: each order is read from an index,
-- and so is who is an administrator, or not active, among all the others.
CREATE INDEX users_created_at_idx ON users (created_at, id);
CREATE INDEX users_updated_at_idx ON users (updated_at, id);
CREATE INDEX users_updated_at_desc_idx ON users (updated_at DESC NULLS LAST, id DESC);
CREATE INDEX users_is_admin_idx ON users (is_admin, id);
CREATE INDEX users_is_active_idx ON users (is_active, id);
