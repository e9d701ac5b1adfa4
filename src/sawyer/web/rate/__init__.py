"""`sawyer rate`: people judge answers in the browser."""
