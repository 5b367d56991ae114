"""The page: static files, no build step."""
