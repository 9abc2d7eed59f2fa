"""Stand-in: working without the database. What is accepted here is kept safe and booked later, exactly once."""
