"""The paths that the application serves and the documents describe.

Tested in `tests/transport/test_app.py`.
"""

SOCKET_PATH = "/v1/realtime_video/generate"
CLIPS_PATH = "/v1/clips"
WORLD_PATH = "/v1/world"
OPENINGS_PATH = "/v1/openings"
MODELS_PATH = "/v1/models"
MODEL_PATH = "/models"  # upstream's older form of the above
SERVER_INFO_PATH = "/server_info"
MODEL_INFO_PATH = "/model_info"
HEALTH_PATH = "/health"
HEALTHZ_PATH = "/healthz"
READYZ_PATH = "/readyz"
SESSIONS_PATH = "/v1/sessions"
ASYNCAPI_PATH = "/asyncapi.json"
OPENAPI_PATH = "/openapi.json"
