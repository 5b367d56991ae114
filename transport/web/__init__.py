"""The browser player: static files, no build step."""
