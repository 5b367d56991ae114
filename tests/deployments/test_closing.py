"""The config that ends all worlds, and whether it has reached the replicas."""

import copy

from ray.serve.schema import ServeDeploySchema

from deployments.closing import closing, has_arrived, only_transport

APPLICATION = {
    "name": "lingbot",
    "import_path": "deployments.app:build",
    "args": {"preset": "pocket"},
    "deployments": [
        {
            "name": "Transport",
            "graceful_shutdown_timeout_s": 86400,
            "user_config": {"limits": {"max_sockets": 3}},
        },
        {"name": "WorldGroup", "autoscaling_config": {"max_replicas": 8}},
    ],
}


def test_only_live_options_change_and_sockets_outlive_the_worlds():
    before = copy.deepcopy(APPLICATION)
    closed = closing(APPLICATION, "bye")
    assert before == APPLICATION
    ServeDeploySchema.model_validate({"applications": [closed]})
    transport, group = closed["deployments"]
    assert transport["user_config"] == {"limits": {"max_sockets": 3}, "closing": "bye"}
    assert "user_config" not in group and group["autoscaling_config"] == {"max_replicas": 8}
    assert transport["graceful_shutdown_timeout_s"] > group["graceful_shutdown_timeout_s"]
    assert {key: closed[key] for key in ("name", "import_path", "args")} == {
        key: APPLICATION[key] for key in ("name", "import_path", "args")
    }


def details(drain_s, status):
    deployment = {"deployment_config": {"graceful_shutdown_timeout_s": drain_s}, "status": status}
    return {"applications": {"lingbot": {"deployments": {"WorldGroup": deployment}}}}


def test_a_config_has_arrived_when_serve_has_read_it_and_the_replicas_have_it():
    config = [
        {
            "name": "lingbot",
            "deployments": [{"name": "WorldGroup", "graceful_shutdown_timeout_s": 2.0}],
        }
    ]
    assert not has_arrived(details(86400.0, "HEALTHY"), config)
    assert not has_arrived(details(2.0, "UPDATING"), config)
    assert has_arrived(details(2.0, "HEALTHY"), config)


def test_a_group_that_waits_for_a_node_does_not_delay_the_end():
    drain_times = {"deployment_config": {"graceful_shutdown_timeout_s": 2.0}}
    deployments = {
        "Transport": drain_times | {"status": "HEALTHY"},
        "WorldGroup": drain_times | {"status": "UPSCALING"},
    }
    config = {
        "name": "lingbot",
        "deployments": [{"name": name, "graceful_shutdown_timeout_s": 2.0} for name in deployments],
    }
    now = {"applications": {"lingbot": {"deployments": deployments}}}
    assert not has_arrived(now, [config])
    assert has_arrived(now, [only_transport(config)])
