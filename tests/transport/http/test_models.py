import pytest

PIPELINE = "LingBotWorldCausalDMDPipeline"


def test_openai_clients_list_and_retrieve_the_model(server):
    listed = server.http.get("/v1/models").json()
    assert listed["object"] == "list"
    (card,) = listed["data"]
    assert (card["id"], card["object"], card["task_type"]) == ("fake", "model", "I2V")
    assert isinstance(card["created"], int)
    assert server.http.get("/v1/models/fake").json() == card


@pytest.mark.parametrize("name", ["none", "x" * 5000])
def test_another_model_gets_openai_s_error(server, name):
    answer = server.http.get(f"/v1/models/{name}")
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == (
        "invalid_request_error",
        "model",
        "model_not_found",
    )
    assert error["message"].endswith("is not a model, expected 'fake'")
    assert len(error["message"]) < 100


def test_upstream_s_comfyui_nodes_read_the_model(server):
    """They read these fields of /models, or of the first card in older and newer releases."""
    about = server.http.get("/models").json()
    assert (about["model_path"], about["task_type"]) == ("fake", "I2V")
    assert about["pipeline_name"] == about["pipeline_class"] == PIPELINE
    (card,) = server.http.get("/v1/models").json()["data"]
    for field in ("task_type", "pipeline_name", "num_gpus", "dit_precision", "vae_precision"):
        assert card[field] == about[field]


def test_upstream_s_gateway_discovers_the_server(server):
    about = server.http.get("/server_info").json()
    assert about.pop("version").count(".") == 2
    assert about == {
        "model_path": "fake",
        "served_model_name": "fake",
        "tp_size": 1,
        "dp_size": 1,
    }
    assert server.http.get("/model_info").json() == {
        "model_path": "fake",
        "is_generation": True,
        "model_type": "diffusion",
        "architectures": [PIPELINE],
        "has_image_understanding": True,
        "has_audio_understanding": False,
        "task_type": "I2V",
        "is_image_gen": False,
    }
