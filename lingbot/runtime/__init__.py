"""The engine, its sessions, and the worker that runs commands in order."""
