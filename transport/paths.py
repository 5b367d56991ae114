"""The paths that the application serves and the documents describe.

Tested in `tests/transport/test_app.py`.
"""

SOCKET_PATH = "/v1/realtime_video/generate"
CLIPS_PATH = "/v1/clips"
WORLD_PATH = "/v1/world"
OPENINGS_PATH = "/v1/openings"
HEALTH_PATH = "/health"
ASYNCAPI_PATH = "/asyncapi.json"
OPENAPI_PATH = "/openapi.json"
