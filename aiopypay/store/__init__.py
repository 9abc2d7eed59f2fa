"""The SQL: constants beside the thin functions that bind them. Every function is handed a connection."""
