"""The stages of a run: one door each. They meet on disk, never in imports."""
