"""Pages in the browser: one core, and a room for each page."""
