"""The OpenAPI document, derived from the routes and their types; and the page that shows it."""
