"""The endpoints by which SGLang-Diffusion's clients and gateways learn what a server serves.

The fields and their types are those of upstream. Those about ranks and precisions are null, because
only the replica group knows them.
"""

import time
from importlib.metadata import version

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from transport.paths import MODEL_INFO_PATH, MODEL_PATH, MODELS_PATH, SERVER_INFO_PATH
from transport.wire.errors import quote
from transport.wire.world import WorldInfo

PIPELINE = "LingBotWorldCausalDMDPipeline"  # upstream's name for this architecture
TASK = "I2V"  # image to video


class ModelDescription(Struct, frozen=True, kw_only=True):
    """The body of `GET /models`."""

    model_path: str
    task_type: str = TASK
    pipeline_name: str = PIPELINE
    pipeline_class: str = PIPELINE
    num_gpus: int | None = None
    dit_precision: str | None = None
    vae_precision: str | None = None


class ModelCard(Struct, frozen=True, kw_only=True):
    """A model as OpenAI's clients read it, with upstream's fields."""

    id: str
    object: str = "model"
    created: int  # Unix time at which this server started
    owned_by: str = "lingbot-serve"
    root: str
    parent: str | None = None
    max_model_len: int | None = None
    num_gpus: int | None = None
    task_type: str = TASK
    dit_precision: str | None = None
    vae_precision: str | None = None
    pipeline_name: str = PIPELINE
    pipeline_class: str = PIPELINE


class ModelList(Struct, frozen=True):
    """The body of `GET /v1/models`."""

    data: list[ModelCard]
    object: str = "list"


class ServerInfo(Struct, frozen=True, kw_only=True):
    """The body of `GET /server_info`."""

    model_path: str
    served_model_name: str
    tp_size: int = 1  # the ranks of a group share a world by Ulysses, without tensor parallelism
    dp_size: int = 1
    version: str


class ModelInfo(Struct, frozen=True, kw_only=True):
    """The body of `GET /model_info`."""

    model_path: str
    is_generation: bool = True
    model_type: str = "diffusion"
    architectures: list[str]
    has_image_understanding: bool = True
    has_audio_understanding: bool = False
    task_type: str = TASK
    is_image_gen: bool = False


class ModelReason(Struct, frozen=True, kw_only=True):
    message: str
    type: str = "invalid_request_error"
    param: str = "model"
    code: str = "model_not_found"


class ModelFailure(Struct, frozen=True):
    """Why there is no such model, as OpenAI's clients read it."""

    error: ModelReason


def model_routes(info: WorldInfo) -> list[Route]:
    """The served model has the name of its preset."""
    name = info.preset
    card = ModelCard(id=name, root=name, created=int(time.time()))
    server = ServerInfo(model_path=name, served_model_name=name, version=version("lingbot-serve"))

    async def model(request: Request) -> Response:
        wanted = request.path_params["name"]
        if wanted == name:
            return _json(card)
        text = f"{quote(wanted)} is not a model, expected {name!r}"
        return _json(ModelFailure(ModelReason(message=text)), status_code=404)

    return [
        _route(MODELS_PATH, ModelList([card])),
        Route(f"{MODELS_PATH}/{{name}}", model),
        _route(MODEL_PATH, ModelDescription(model_path=name)),
        _route(SERVER_INFO_PATH, server),
        _route(MODEL_INFO_PATH, ModelInfo(model_path=name, architectures=[PIPELINE])),
    ]


def _route(path: str, body: Struct) -> Route:
    async def describe(request: Request) -> Response:
        return _json(body)

    return Route(path, describe)


def _json(body: Struct, *, status_code: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status_code, media_type="application/json")
