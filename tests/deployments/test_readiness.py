"""Conclusions from Serve's status, on statuses as its controller gives them."""

import asyncio
import threading

import pytest
from ray.exceptions import RayActorError
from ray.serve.schema import (
    ApplicationStatus,
    ApplicationStatusOverview,
    DeploymentStatus,
    DeploymentStatusOverview,
    DeploymentStatusTrigger,
    ProxyStatus,
    ReplicaState,
    ServeStatus,
)

from deployments.readiness import Outcome, Readiness, outcome_of, reason_of
from tests.waiting import until
from transport.wire.errors import WorldFailed

STARTING, RUNNING = {ReplicaState.STARTING: 1}, {ReplicaState.RUNNING: 1}
RECOVERING = {ReplicaState.RECOVERING: 1}
# As Serve writes it: colours, the tracebacks of a replica and of its rank.
FAILURE = """\
The deployment failed to start 3 times in a row. This may be due to a problem with its constructor.\
 See controller logs for details. Error:
\x1b[36mray::ServeReplica:lingbot:WorldGroup.initialize()\x1b[39m (pid=3, ip=10.0.0.1)
  File "/ray/replica.py", line 3521, in initialize
    await self._replica_impl.initialize(deployment_config)
RuntimeError: Traceback (most recent call last):
  File "/lingbot/files.py", line 77, in read_json
    raise WeightsError(f"{path}: {exc.strerror}") from exc
          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
lingbot.errors.WeightsError: /no/such/folder/config.json: No such file or directory
a second line of the same error: with a colon"""
REASON = "WeightsError: /no/such/folder/config.json: No such file or directory"


def group_status(
    states,
    *,
    status=DeploymentStatus.UPDATING,
    trigger=DeploymentStatusTrigger.CONFIG_UPDATE_STARTED,
    message="",
    app="lingbot",
    **changes,
):
    group = DeploymentStatusOverview(
        status=status,
        status_trigger=trigger,
        replica_states=states,
        message=message,
    )
    fields = {"status": ApplicationStatus.DEPLOYING, "message": "", "last_deployed_time_s": 0.0}
    application = ApplicationStatusOverview(**fields | changes, deployments={"WorldGroup": group})
    return ServeStatus(applications={app: application})


def failed(states, message=FAILURE):
    return group_status(states, status=DeploymentStatus.DEPLOY_FAILED, message=message)


def ask_each(*statuses, **options):
    """The answers of one Readiness while the controller gives these statuses or errors."""

    def answer():
        status = remaining.pop(0)
        if isinstance(status, Exception):
            raise status
        return status

    async def scenario():
        readiness = Readiness(
            "lingbot",
            "WorldGroup",
            status_period_s=0.0,
            answer_timeout_s=60,
            ask_status=answer,
            find_coming=lambda application, deployment, num_starting: True,
            **options,
        )
        answers = []
        while remaining:
            try:
                answers.append(await readiness.ask())
            except WorldFailed as failure:
                answers.append(str(failure))
        return answers

    remaining = list(statuses)
    return asyncio.run(scenario())


def test_a_group_is_ready_while_a_replica_runs():
    assert ask_each(
        ServeStatus(),
        group_status(STARTING),
        group_status(RUNNING),
        group_status(RUNNING | STARTING),
        group_status({ReplicaState.PENDING_MIGRATION: 1}),
        group_status(STARTING),
    ) == [False, False, True, True, True, False]


@pytest.mark.parametrize(
    "states, options, is_coming, is_adding",
    [
        (RUNNING | STARTING, {}, True, True),
        (RUNNING | {ReplicaState.UPDATING: 1}, {}, True, True),
        (RUNNING | STARTING, {}, False, False),  # it waits for resources
        (RUNNING, {}, True, False),
        (STARTING, {}, True, False),  # the first one is not another one
        (RUNNING | STARTING, {"status": DeploymentStatus.DEPLOY_FAILED}, True, False),
    ],
)
def test_another_replica_is_being_added_while_one_comes_up(states, options, is_coming, is_adding):
    asked = []

    def find_coming(application, deployment, num_starting):
        asked.append((application, deployment, num_starting))
        return is_coming

    async def scenario():
        readiness = Readiness(
            "lingbot",
            "WorldGroup",
            answer_timeout_s=60,
            ask_status=lambda: group_status(states, **options),
            find_coming=find_coming,
        )
        assert not readiness.is_adding
        await readiness.ask()
        return readiness.is_adding

    assert asyncio.run(scenario()) == is_adding
    assert asked in ([], [("lingbot", "WorldGroup", 1)])


def test_a_new_controller_changes_no_answer_before_it_has_heard_from_the_replicas():
    news = [RayActorError(), ServeStatus(), group_status(RECOVERING)]
    assert ask_each(group_status(RUNNING), *news) == [True] * 4
    assert ask_each(group_status(STARTING), *news) == [False] * 4


def test_another_applications_groups_are_not_ours():
    assert ask_each(group_status(RUNNING, app="other")) == [False]


def test_a_start_that_serve_has_given_up_is_told_with_its_reason_until_a_group_runs():
    text = f"the world failed to start: {REASON}"
    answers = ask_each(
        group_status(STARTING, message=FAILURE),  # Serve still tries
        failed({ReplicaState.STOPPING: 1}),
        ServeStatus(),
        failed(RUNNING),  # a redeploy failed, and the old groups go on
        group_status(STARTING),
    )
    assert answers == [False, text, text, True, False]


@pytest.mark.parametrize(
    "trigger, failed",
    [
        (DeploymentStatusTrigger.REPLICA_STARTUP_FAILED, True),
        (DeploymentStatusTrigger.HEALTH_CHECK_FAILED, False),  # Serve replaces the replica
    ],
)
def test_a_scaling_from_zero_that_failed_too_often_is_told_too(trigger, failed):
    status = group_status({}, status=DeploymentStatus.UNHEALTHY, message=FAILURE, trigger=trigger)
    (answer,) = ask_each(status)
    assert answer == (f"the world failed to start: {REASON}" if failed else False)


def test_the_reason_names_the_deployment_that_failed():
    (text,) = ask_each(failed({ReplicaState.STOPPING: 1}), subject="the text encoder")
    assert text == f"the text encoder failed to start: {REASON}"


def test_the_controller_is_asked_once_for_all_callers():
    asked = []

    def ask_status():
        asked.append(1)
        return group_status(RUNNING)

    async def scenario():
        readiness = Readiness("lingbot", "WorldGroup", answer_timeout_s=60, ask_status=ask_status)
        return await asyncio.gather(*(readiness.ask() for _ in range(20)))

    assert asyncio.run(scenario()) == [True] * 20
    assert len(asked) == 1


def test_resources_that_no_node_has_are_a_failure_until_a_replica_runs():
    def find_reason(application, deployment, status):
        asked.append((application, deployment))
        return "no node can hold it" if status.message == "slow" else None

    asked = []
    statuses = [group_status(STARTING), group_status(STARTING, message="slow")]
    answers = ask_each(*statuses, group_status(RUNNING, message="slow"), find_reason=find_reason)
    assert answers == [False, "the world failed to start: no node can hold it", True]
    assert asked == [("lingbot", "WorldGroup")] * 2
    assert outcome_of(statuses[1], find_reason=find_reason) == Outcome("no node can hold it")
    assert outcome_of(statuses[0], find_reason=find_reason) is None


def test_a_controller_that_does_not_answer_delays_nobody_for_long():
    release, asked, answered = threading.Event(), [], []

    def ask_status():
        asked.append(1)
        if len(asked) > 1:
            release.wait(60)
        answered.append(1)
        return group_status(RUNNING)

    async def scenario():
        readiness = Readiness(
            "lingbot",
            "WorldGroup",
            status_period_s=0.0,
            answer_timeout_s=60,
            ask_status=ask_status,
        )
        answers = [await readiness.ask()]
        readiness._answer_timeout_s = 0.05
        answers += [await readiness.ask() for _ in range(3)]
        await until(lambda: len(asked) == 2)  # a question at a time
        assert len(answered) == 1
        release.set()
        return answers

    assert asyncio.run(scenario()) == [True] * 4


@pytest.mark.parametrize(
    "message, reason",
    [
        (FAILURE, REASON),
        ("The deployment failed.\nThe actor died.\nmore", "The actor died."),
        ("Only one line", "Only one line"),
        ("", "no reason was given"),
    ],
)
def test_a_reason_is_the_error_at_the_end_of_the_traceback(message, reason):
    assert reason_of(message) == reason


def test_an_outcome_waits_for_groups_and_proxies():
    going_on = group_status(STARTING)
    running = group_status(RUNNING, status=DeploymentStatus.HEALTHY)
    running.applications["lingbot"].status = ApplicationStatus.RUNNING
    assert outcome_of(ServeStatus()) is outcome_of(going_on) is outcome_of(running) is None
    running.proxies = {"node": ProxyStatus.STARTING}
    assert outcome_of(running) is None
    running.proxies = {"node": ProxyStatus.HEALTHY}
    assert outcome_of(running) == Outcome(None)


def test_an_outcome_is_the_reason_of_a_failure():
    status = failed(STARTING)
    status.applications["lingbot"].status = ApplicationStatus.DEPLOY_FAILED
    assert outcome_of(status) == Outcome(REASON)
    status.applications["lingbot"].deployments.clear()
    status.applications["lingbot"].message = "ConfigError: args.threats: unknown key"
    assert outcome_of(status) == Outcome("ConfigError: args.threats: unknown key")
