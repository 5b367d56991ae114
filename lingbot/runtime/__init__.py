"""The engine, its sessions, and the worker that executes commands in order."""
