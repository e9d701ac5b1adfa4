"""Models that judge answers, behind an OpenAI-compatible endpoint."""
